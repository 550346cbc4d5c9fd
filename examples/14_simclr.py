"""Learning to see without labels: contrastive pre-training, then ten labels a class.

    python examples/14_simclr.py [--seeds 3]          reads MNIST (example 08 says from where)

Images are cheap and labels are not.  What can a network learn from 20,000 images that nobody has labelled?  SimCLR's
answer (Chen et al. 2020): which changes of an image do not matter.

Two views are made of each of N images, each turned, stretched, slanted and moved at random in its own way; the
picture's first panel shows some.  (Images are MNIST's digits, halved to 14 x 14 pixels to save time.)  The network
has a body, which will be kept, and a head, which will be thrown away:

    x (2N, 14, 14, 1)  -- body -->  h (2N, 256)  -- head -->  e (2N, 64)       rows i and i + N are views of image i

h and e are called embeddings: places in space that stand for an image.  The cosine of the angle between two embeddings
says how much alike the network finds two views.  The task: given view i, pick its partner among the 2N - 1 others.

    S[i,j] = cosine(e[i], e[j]) / tau                            tau, the temperature, is 0.2 here
    L      = mean of -log softmax(S[i])[partner of i]            leaving out j = i; a softmax cross-entropy (example 07)

This is tn.nt_xent ("normalised temperature-scaled cross-entropy").  Partners are drawn together and all others are
pushed apart; how an image was turned can't help, since it differs between partners, so embeddings forget it.  What the
class of an image is, nobody has said; but images of one class are hard to tell apart, and come to lie near each other.

Then the head is replaced by Dense(10), and body and all are trained on 10 to 50 labelled images a class with a
cross-entropy, which is called fine-tuning.  Beside it, the same network from scratch: same labels, same batches, same
steps, but a body of random weights.  A body's weights are the first ones of model.flat_values, so that one assignment
carries them over.

Look at the result honestly.  With 10 labels a class the pre-trained body is clearly better.  With 50 the gain is small:
the more the labels say, the less is left to know beforehand.  And there is a rival.  The dashed curves train on views
in place of the images, as the pre-training did.  That teaches from scratch the same thing, which changes do not matter,
and takes most of the gain away.  Pre-training pays where labels are few, and where it is done once for many tasks.

The two middle panels draw h in two dimensions, before and after.  Their axes are the two directions in which the
embeddings, less their mean, vary most, called principal components: the first two rows of V.T in the singular value
decomposition h - mean = U S V.T.  The colours are the classes, which the pre-training has not seen.
"""

import gallery
import numpy as np

import tinynet as tn

LABELS = 10, 20, 50  # a class


def network(head, seed, body=None):
    """A body and a head of random weights; or, if a network is given as `body`, with the body of that."""
    layers = [
        tn.Conv2D(32, 3, padding="same", activation="relu"),
        tn.MaxPool2D(2),
        tn.Conv2D(64, 3, padding="same", activation="relu"),
        tn.MaxPool2D(2),
        tn.Flatten(),
        tn.Dense(256, activation="relu"),
    ]
    model = tn.Sequential(layers + head, input_shape=(14, 14, 1), seed=seed)
    if body is not None:
        size = sum(parameter.value.size for layer in layers for parameter in layer.parameters)
        model.flat_values[:size] = body.flat_values[:size]
    return model


def pretrain(x, epochs, seed, N=256):
    """Train on the images x alone; returns the network and the mean loss of each epoch."""
    model, rng = network([tn.Dense(128, activation="relu"), tn.Dense(64)], seed), np.random.default_rng(seed)
    steps = len(x) // N
    losses, optimizer, schedule = [], tn.Adam(model), tn.optim.cosine(2e-3, epochs * steps, epochs * steps // 20)
    for _ in range(epochs):
        for rows in rng.permutation(len(x))[: steps * N].reshape(steps, N):
            views = gallery.warped(x[np.concatenate([rows, rows])], rng)
            loss, gradient = tn.nt_xent(model.forward(views, training=True), temperature=0.2)
            model.backward(gradient)
            optimizer.lr = schedule(optimizer.steps)
            optimizer.step()
            losses.append(loss)
    return model, np.reshape(losses, (epochs, steps)).mean(axis=1)


def finetune(body, x, y, steps, on_views, seed):
    """Train a body, or one of random weights if it is None, with a new head on labelled images or on views of them."""
    model, rng = network([tn.Dense(10)], seed, body), np.random.default_rng(seed)
    optimizer, schedule = tn.Adam(model), tn.optim.cosine(2e-3, steps)
    for _ in range(steps):
        rows = rng.integers(len(x), size=64)
        images = gallery.warped(x[rows], rng) if on_views else x[rows]
        model.backward(tn.softmax_cross_entropy(model.forward(images, training=True), y[rows])[1])
        optimizer.lr = schedule(optimizer.steps)
        optimizer.step()
    return model


def draw_embeddings(panel, model, x, y, title):
    h = network([], 0, model).predict(x).astype(np.float64)
    u, s, _ = np.linalg.svd(h - h.mean(axis=0), full_matrices=False)
    at, share = u[:, :2] * s[:2], (s[:2] ** 2).sum() / (s**2).sum()  # at (N, 2), the same as (h - mean) V[:, :2]
    panel.scatter(*at.T, c=y, cmap="tab10", s=5, lw=0)
    for digit in range(10):
        paper = {"facecolor": "white", "alpha": 0.8, "lw": 0, "boxstyle": "circle,pad=0.15"}
        panel.text(*np.median(at[y == digit], axis=0), str(digit), ha="center", va="center", bbox=paper)
    gallery.plain(panel, title, xlabel=f"two principal components:\n{share:.0%} of the variance", aspect="equal")
    panel.set(xticklabels=[], yticklabels=[], adjustable="datalim")


def main():
    options = gallery.options(__doc__, seeds=3)
    (x, y), (x_test, y_test) = tn.data.mnist()
    x, x_test = (a.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4)) for a in (x, x_test))
    images, epochs, steps, seeds = (2560, 2, 60, 1) if options.quick else (20_000, 6, 300, options.seeds)

    found = np.empty((2, 2, seeds, len(LABELS)))  # [on views, pre-trained, seed, labels]: test accuracy
    for seed in reversed(range(seeds)):  # so that the body of seed 0 is left to be drawn
        body, losses = pretrain(x[:images], epochs, seed)
        print(f"seed {seed}: contrastive loss, epoch by epoch", *losses.round(2), flush=True)
        assert losses[-1] < losses[0] < np.log(2 * 256 - 1), "partners are found better than by guessing"
        order = np.random.default_rng(seed).permutation(len(y))
        for k, labels in enumerate(LABELS):
            rows = np.concatenate([order[y[order] == digit][:labels] for digit in range(10)])
            for on_views, known in np.ndindex(2, 2):
                model = finetune(body if known else None, x[rows], y[rows], steps, on_views, seed)
                found[on_views, known, seed, k] = tn.accuracy(model.predict(x_test), y_test)

    gain = found[:, 1] - found[:, 0]  # (2, seeds, labels)
    print(f"test accuracy, mean of {seeds} seeds: labels a class" + "".join(f"{n:8}" for n in LABELS))
    for on_views, name in enumerate(("on the images as they are", "on views of the images")):
        for known, kind in enumerate(("from scratch", "pre-trained")):
            print(f"{f'{kind}, {name}':46}" + "".join(f"{a:8.1%}" for a in found[on_views, known].mean(axis=0)))
        print(f"{'gain, in percentage points':46}" + "".join(f"{100 * g:+8.1f}" for g in gain[on_views].mean(axis=0)))
        print(f"{'the least gain of a seed':46}" + "".join(f"{100 * g:+8.1f}" for g in gain[on_views].min(axis=0)))
    if not options.quick:  # two epochs over an eighth of the images show how it runs, and no gain to rely on
        assert gain[0].min() > 0, "pre-training helps, whatever the seed and the number of labels"
        assert gain[0, :, 0].mean() > 0.02, "most with few labels"
        assert gain[0, :, -1].mean() < gain[0, :, 0].mean() / 2, "and less with many"
        assert gain[1, :, 0].mean() < gain[0, :, 0].mean() / 2, "augmentation takes most of the gain away"

    figure = tn.plots.figure(15, 4.4)
    grid, before, after, curves = figure.subfigures(1, 4, width_ratios=[0.75, 1, 1, 1.15])
    grid.suptitle("Digits, each beside two views of it", fontsize=11)
    views = gallery.warped(np.repeat(x_test[:6], 2, axis=0), np.random.default_rng(0)).reshape(6, 2, 14, 14)
    for row, image, pair in zip(grid.subplots(6, 3), x_test[..., 0], views, strict=False):
        for panel, shown in zip(row, [image, *pair], strict=True):
            panel.imshow(shown, cmap="Greys", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_color(tn.plots.PALE)
    draw_embeddings(before.subplots(), network([], 0), x_test[:1500], y_test[:1500], "Embeddings before")
    draw_embeddings(after.subplots(), body, x_test[:1500], y_test[:1500], "Embeddings after, without a label")
    panel = curves.subplots()
    for on_views, known in np.ndindex(2, 2):
        values, colour = found[on_views, known], tn.plots.BLUE if known else tn.plots.ORANGE
        label = ("pre-trained" if known else "from scratch") + on_views * ", on views"
        panel.fill_between(LABELS, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
        panel.semilogx(LABELS, values.mean(axis=0), "o" + "-" * (1 + on_views), ms=4, color=colour, label=label)
    panel.legend(frameon=False, loc="lower right")
    title = f"Fine-tuned: mean and range of {seeds} seeds"
    gallery.plain(panel, title, xlabel="labels a class", ylabel="test accuracy")
    panel.minorticks_off()
    panel.set_xticks(LABELS, LABELS)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
