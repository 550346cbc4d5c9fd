"""Labels cost money: which images are most worth labelling?

    python examples/16_choose_what_to_label.py          reads MNIST (example 08 says from where)

Images are often plenty, and somebody who says what they show is not.  Here 5,000 digits of MNIST lie in a pool, without
labels (the labels are there, but looking at one has its price).  It begins with 50 random ones, labelled.  A network is
trained on what has labels, looks at the rest, and says which 50 it would like to know next; and so on, until 500 have
labels.  This is called active learning.  The network is trained anew in each round, so that nothing but the choice
differs, and is judged by 10,000 other digits.  It gives each image of the pool probabilities p (10,) and features h,
the 128 hidden numbers of its first layer.  Four ways to choose:

    random      50 at random: what the others must beat at the same number of labels
    entropy     those with the highest entropy, -sum_c p[c] log p[c]: the network has no idea (example 06)
    margin      those with the smallest margin between the two highest of p: it hesitates between two answers
    core-set    those that lie farthest, by |h - h'|, from everything that has a label: unlike what it knows
                (Sener and Savarese 2018).  One at a time: each choice counts as labelled for the next,

                    next = argmax_n  min over labelled or chosen k  |h[n] - h[k]|       h (N, 128)

                so that no image is left far from a labelled one.  The largest distance that is left, the radius, is at
                most twice what the best choice of so many would leave (Gonzalez 1985)

The first two ask where the decision is, and the 50 may resemble each other.  The third asks for variety, and never for
what the network thinks of an image.  All start with the same 50 labels, for each of three seeds; a band in the picture
goes from the worst to the best.

What comes out, on these digits and with this network:

    margin      wins at every number of labels.  300 chosen ones are worth more than 500 random ones
    entropy     loses at first.  After 50 labels the network is bad at knowing what it doesn't know: the images of which
                it has no idea are thin and pale, many of them the same digit.  Later it is second
    core-set    keeps its promise, a radius a quarter below that of random choices, and yet is no better than these.
                h grows with the ink, so the farthest images are the boldest, and these aren't the most useful.  What a
                distance means depends on the features; Sener and Savarese had those of a deep network that was trained
                on thousands of labels, where other things count than ink
"""

import gallery
import numpy as np

import tinynet as tn

COLOURS = {
    "random": tn.plots.GREY,
    "entropy": tn.plots.ORANGE,
    "margin": tn.plots.BLUE,
    "core-set": tn.plots.GREEN,
}


def train(x, t, epochs, seed):
    model = tn.Sequential([tn.Flatten(), tn.Dense(128, activation="relu"), tn.Dense(10)], (28, 28, 1), seed)
    optimizer = tn.Adam(model, lr=2e-3)
    tn.fit(model, x, t, loss="softmax_cross_entropy", optimizer=optimizer, epochs=epochs, batch_size=25, progress=False)
    return model


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def distances(h, others):
    """|h[n] - others[k]| for all n and k, (N, K)."""
    squares = (h * h).sum(axis=1)[:, None] + (others * others).sum(axis=1) - 2 * h @ others.T
    return np.sqrt(np.maximum(squares, 0))


def farthest(h, labelled, count):
    """`count` rows of h (N, 128), each the farthest from those before it and from the labelled."""
    nearest, chosen = distances(h, h[labelled]).min(axis=1), []
    for _ in range(count):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distances(h, h[chosen[-1:]])[:, 0])
    return chosen


def features(model, x):
    return model.layers[1].forward(model.layers[0].forward(x))


def choose(way, model, x, labelled, count, rng):
    """`count` indices of x that have no label yet."""
    free = np.setdiff1d(np.arange(len(x)), labelled)
    if way == "random":
        return rng.permutation(free)[:count]
    if way == "core-set":
        return farthest(features(model, x), labelled, count)
    p = softmax(model.predict(x[free]).astype(np.float64))
    if way == "entropy":
        return free[np.argsort(-tn.information.entropy(p), kind="stable")[:count]]
    best = np.sort(p, axis=1)
    return free[np.argsort(best[:, -1] - best[:, -2], kind="stable")[:count]]


def main():
    options = gallery.options(__doc__)
    (x, t), (x_test, t_test) = tn.data.mnist()
    pool, step, most, seeds, epochs = (2000, 50, 150, 1, 30) if options.quick else (5000, 50, 500, 3, 40)
    x, t = x[:pool], t[:pool]
    budgets = np.arange(step, most + 1, step)
    found = {way: np.empty((seeds, len(budgets))) for way in COLOURS}
    first, ink, radius = {}, {}, {}  # of the first choice: images, their mean pixel, largest distance left
    for way in COLOURS:
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            labelled = rng.permutation(pool)[:step]
            for k, budget in enumerate(budgets):
                model = train(x[labelled], t[labelled], epochs, seed)
                found[way][seed, k] = tn.accuracy(model.predict(x_test), t_test)
                if budget < most:
                    labelled = np.concatenate([labelled, choose(way, model, x, labelled, step, rng)])
                if k == 0:
                    h = features(model, x)
                    radius.setdefault(way, []).append(distances(h, h[labelled]).min(axis=1).max())
                    ink.setdefault(way, []).append(x[labelled[step:]].mean() / x.mean())
                    first.setdefault(way, x[labelled[step:]])
            assert len(np.unique(labelled)) == most, "no image is labelled twice"

    print(f"test accuracy, mean of {seeds} seeds\nlabels  " + "".join(f"{n:8}" for n in budgets))
    mean = {way: accuracy.mean(axis=0) for way, accuracy in found.items()}
    for way in COLOURS:
        print(f"{way:8}" + "".join(f"{a:8.1%}" for a in mean[way]))
    print("\nthe first 50    ink, all images being 100 %    radius")
    for way in COLOURS:
        print(f"{way:8}{np.mean(ink[way]):29.0%}{np.mean(radius[way]):18.1f}")
    enough = min(budgets[mean["margin"] >= mean["random"][-1]], default=np.inf)
    print(f"\nit takes {enough} labels chosen by margin to do as well as with {most} random ones")

    assert max(radius["core-set"]) < min(radius["random"]), "core-set leaves no image far from a labelled one"
    assert np.mean(ink["core-set"]) > 1.3, "and asks for bold digits"
    assert mean["margin"].mean() > mean["random"].mean(), "margin wins"
    if not options.quick:
        assert np.all(mean["margin"][1:] > mean["random"][1:]), "at every number of labels"
        assert (found["margin"] - found["random"])[:, -1].min() > 0.02, "and in the end whatever the seed"
        assert enough <= 350
        assert np.mean(ink["entropy"]) < 0.8, "entropy asks for pale digits at first"
        assert mean["entropy"][1] < mean["random"][1], "and loses"
        assert mean["entropy"][-1] > mean["random"][-1], "later it wins"
        assert mean["core-set"][-1] < mean["random"][-1] + 0.01, "core-set is no better than random choices"

    figure = tn.plots.figure(13, 5.4)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15], wspace=0.04)
    curves = left.subplots()
    for way, accuracy in found.items():
        curves.plot(budgets, mean[way], color=COLOURS[way], lw=2, label=way)
        curves.fill_between(budgets, accuracy.min(axis=0), accuracy.max(axis=0), color=COLOURS[way], alpha=0.15, lw=0)
    curves.legend(frameon=False, loc="lower right")
    gallery.plain(curves, f"Mean and range of {seeds} seeds", xlabel="labels", ylabel="test accuracy")
    for part, (way, images) in zip(right.subfigures(4, 1), first.items(), strict=True):
        part.suptitle(f"what {way} asks for first", size=10, color=COLOURS[way])
        for panel, image in zip(part.subplots(2, 14).flat, images, strict=False):
            panel.imshow(image[:, :, 0], cmap="Greys", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_color(tn.plots.PALE)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
