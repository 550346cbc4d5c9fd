"""A small GPT writes Shakespeare, letter by letter: 800,000 weights, 2,000 steps, under two minutes.

    python examples/23_char_gpt.py [--seed 0]

A language model gives each possible next letter a probability, given all letters before it.  To write, draw a letter
with these probabilities, append it, and ask again.  All that a GPT does is this; the large ones take pieces of words
for letters, and a good part of the internet for Shakespeare.  The network here is nanoGPT's (Karpathy 2022) for a
computer without a GPU, and so are the 2,000 steps of 12 windows.  nanoGPT comes to a loss of 1.88, which this must
reach.  (The text lies where the environment variable TINYNET_DATA says; what is missing is downloaded, 1 MB.)

    x                  (N, 64)       12 windows of 64 letters from anywhere in the text; a letter is a number
    Embedding          (N, 64, 128)  a vector for each of the 65 letters and signs, learnt
    PositionEmbedding  (N, 64, 128)  plus a vector for each of the 64 positions, learnt too: attention by itself
                                     would not know which letter came first
    TransformerBlock   (N, 64, 128)  four times: look back, then think.  See below
    LayerNorm          (N, 64, 128)
    TiedDense          (N, 64, 65)   65 logits at each position: how well the vector there matches the vector of each
                                     letter.  It is the Embedding's matrix once more, E: z = h E.T, so that a letter has
                                     one vector, whether it is read or written

A block adds twice to what comes in (h stands for "a vector at each position"):

    h <- h + attention(LayerNorm(h))      each position gathers from the positions before it (example 22); four heads
    h <- h + Dense(GELU(Dense(LayerNorm(h))))     each position for itself: 128 numbers -> 512 -> 128

"Causal" means that no position sees a later one.  So the output at position t is a prediction from the letters 0 to t
alone, and one pass over 64 letters is 64 exercises: predict letter 1 from 1 letter, letter 2 from 2, ..., letter 64
from 64.  The loss is the mean cross-entropy (example 04) over all of them: by how many nats (example 06) the next
letter surprises.

What is usual in training such a network, and why:

    warm-up and cosine   the learning rate rises over 100 steps, while Adam's running means are still of few gradients,
                         and falls along half a cosine wave after that.  It rises to 2e-3; with nanoGPT's 1e-3, the
                         loss ended at 1.90
    weight decay         shrinks matrices only (AdamW); for biases and the scales of LayerNorm it would be of no use
    clipping             a gradient longer than 1 is cut to length 1: one strange batch shall not throw the weights away
    small start          weights normal with deviation 0.02; those that write into the sum h, 8 in all (two a block),
                         with 0.02 / sqrt(8), so that h, the sum of 8 such parts, starts as large as one

How good is a loss of 1.88?  The picture has the answers of simpler models for comparison, each fitted to the same
training text and judged on the same held-out tenth: all letters equally likely; each as likely as it is frequent; as
frequent after the letter before it, after the two, and after the three before it (counts, and one more for each
letter, so that none is impossible).  With four before it that would be a table of 65^5, a billion numbers, for a text
of a million.  And beside it is what the network writes at the beginning, on the way, and at the end.
"""

import textwrap
import time

import gallery
import numpy as np

import tinynet as tn

LENGTH, WIDTH, HEADS, BLOCKS = 64, 128, 4, 4


def network(letters, seed):
    embedding = tn.Embedding(letters, WIDTH)
    blocks = [tn.TransformerBlock(HEADS, causal=True, bias=False) for _ in range(BLOCKS)]
    end = [tn.LayerNorm(bias=False), tn.TiedDense(embedding)]
    model = tn.Sequential([embedding, tn.PositionEmbedding(LENGTH), *blocks, *end], input_shape=LENGTH, seed=seed)
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        if p.value.ndim == 2:
            p.value = rng.normal(0, 0.02, p.value.shape)
    for block in blocks:
        for part in block.layers:  # attention, and the two Denses: of each, the last matrix writes into h
            part.parameters[-1].value /= np.sqrt(2 * BLOCKS)
    return model


def windows(text, starts):
    """x, y (N, 64): the letters from each of the starts, and those that follow them, which are to be predicted."""
    places = starts[:, None] + np.arange(LENGTH)
    return text[places], text[places + 1]


def loss_on(model, text):
    """The mean loss over a whole text, window after window."""
    x, y = windows(text, np.arange(0, len(text) - LENGTH, LENGTH))
    return tn.softmax_cross_entropy(model.predict(x), y, grad=False)[0]


def write(model, start, count, seed, temperature=0.8):
    """`start`, whole numbers, and `count` letters more, each drawn by what the model says after the last 64.

    tn.generate does it without reading all of them again for each letter, in texts of up to 64.
    """
    text, rng = list(start), np.random.default_rng(seed)
    for _ in range(count):
        z = model.forward([text[-LENGTH:]])[0, -1].astype(np.float64)
        p = np.exp((z - z.max()) / temperature)
        text.append(rng.choice(len(p), p=p / p.sum()))
    return text


def loss_of_counts(text, held_out, letters, before):
    """The loss on `held_out` of a model that counted, in `text`, which letter follows which `before` letters."""
    counts = np.ones((letters,) * (before + 1), np.float32)
    np.add.at(counts, runs(text, before + 1), 1)
    found = runs(held_out, before + 1)
    return -np.log(counts[found] / counts.sum(axis=-1)[found[:-1]]).mean()


def runs(text, length):
    """The first, second, ... letter of each run of so many letters in a text."""
    return tuple(text[i : len(text) - length + 1 + i] for i in range(length))


def main():
    options = gallery.options(__doc__, seed=0)  # of the initial weights, of the windows, and of what is written
    steps, every, batch = (100, 50, 12) if options.quick else (2000, 500, 12)
    texts = tn.data.shakespeare()
    letters = sorted(set(texts[0]))
    text, held_out = (np.searchsorted(letters, list(part)) for part in texts)
    if options.quick:
        held_out = held_out[:20_000]
    names = ["by frequency", "by the letter before", "by the two before", "by the three before"]
    simple = {name: loss_of_counts(text, held_out, len(letters), k) for k, name in enumerate(names)}
    print("held out, by counting:", ", ".join(f"{name} {loss:.3f}" for name, loss in simple.items()))

    model = network(len(letters), options.seed)
    print(f"{model.flat_values.size:,} weights, {len(text):,} letters to learn from")
    optimizer = tn.AdamW(model, betas=(0.9, 0.99), weight_decay=0.1, clip_norm=1.0)
    schedule = tn.cosine(2e-3, steps, warmup=steps // 20, final=1e-4)
    rng = np.random.default_rng(options.seed)
    speech = np.searchsorted(letters, list("\nKING:\n"))
    losses, looks, written, seconds = [], [], {}, 0.0
    for step in range(steps + 1):
        if step % every == 0:
            looks.append((step, loss_on(model, held_out)))
            print(f"step {step:4}  held out {looks[-1][1]:.3f}", flush=True)
            if step in (0, every, steps):
                written[step] = "".join(letters[i] for i in write(model, speech, 600, options.seed))
        if step == steps:
            break
        start = time.perf_counter()
        x, y = windows(text, rng.integers(len(text) - LENGTH, size=batch))
        z = model.forward(x, training=True)
        loss, dz = tn.softmax_cross_entropy(z, y)
        model.backward(dz)
        optimizer.lr = schedule(step)
        optimizer.step()
        seconds += (time.perf_counter() - start) * (
            step > 0
        )  # where kernels are not compiled yet, the first step does it
        losses.append(loss)
    final = looks[-1][1]
    print(
        f"{steps} steps in {seconds / 60:.1f} minutes: {(steps - 1) * batch * LENGTH / seconds:,.0f} letters a second"
    )
    print(f"held out {final:.3f} nats: as unsure as of {np.exp(final):.1f} letters that are equally likely")
    print("it writes:", written[steps], sep="\n")
    if not options.quick:
        assert final <= 1.88, f"expected what nanoGPT reaches, 1.88, got {final:.3f}"
    assert final < simple[names[0 if options.quick else 3]]

    figure = tn.plots.figure(13, 5.6)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])
    curves = left.subplots()
    smooth = np.mean(np.reshape(losses, (-1, 10)), axis=1)
    curves.plot(np.arange(5, steps, 10), smooth, color=tn.plots.BLUE, lw=1, alpha=0.6, label="windows it learns from")
    curves.plot(*np.transpose(looks), "o-", color=tn.plots.ORANGE, label="held-out text")
    for name, loss in (("all letters alike", np.log(len(letters))), *simple.items()):
        curves.axhline(loss, color=tn.plots.GREY, lw=0.8, ls="--")
        curves.text(steps, loss + 0.03, name, ha="right", color=tn.plots.GREY, fontsize=9)
    curves.legend(frameon=False, loc=(0.38, 0.76))
    gallery.plain(curves, "How much the next letter surprises", xlabel="steps", ylabel="loss in nats", ylim=(1, 4.4))
    for panel, (step, passage) in zip(right.subplots(1, 3), written.items(), strict=True):
        panel.set_axis_off()
        panel.set_title(f"after {step:,} steps", fontsize=11)
        lines = [piece for line in passage.strip().split("\n") for piece in textwrap.wrap(line, 30) or [""]]
        panel.text(0, 1, "\n".join(lines[:34]), va="top", family="monospace", fontsize=7.5, parse_math=False)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
