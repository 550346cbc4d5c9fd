"""Fine-tuning: what a network has learnt from photographs, put to work on X-rays of which few have labels.

    python examples/28_fine_tune.py [--seeds 3]        reads CIFAR-10 and PneumoniaMNIST; takes a minute or two

CheXNet (example 27) did not start from random weights, but from those of a network that knew photographs: its first
layers had found edges and textures, and these are in X-rays, too.  Here is the same on a small scale.  A network learns
ten classes of CIFAR-10's photographs, in grey.  Then it is to tell pneumonia from health, from 10 labelled X-rays of
each, or from 100.

    x (N, 28, 28, 1)  -- body -->  h (N, 64)  -- head -->  z        body: five times Conv2D, BatchNorm and ReLU, and the
                                                                    mean over positions; head: Dense

The head is replaced: Dense(10) knew aeroplanes and frogs, a new Dense(2) of random weights begins.  The body is carried
over: its weights, and what else BatchNorm has learnt, the running means and variances, which model.buffers() names.
What shall happen to it then?  Five ways, with the same labels, batches, steps and learning rate:

    from scratch   random weights, for comparison
    frozen         layer.trainable = False: h stays what it was, and only the head learns.  No gradient in front of the
                   head is of use, so none is computed: backward ends at the head, and a step takes half as long or
                   less.  A frozen BatchNorm normalises by its running statistics, those of the photographs
    whole          everything learns.  In the first steps, the random head sends random gradients into a body that
                   knew something
    lr_factor      layer.lr_factor = 0.1: the body learns at a tenth of the learning rate, and is shaken less
    gradual        the body is frozen at first, and thaws from the end on: after a quarter of the steps its last layers,
                   after half of them its middle, after three quarters all (Howard and Ruder 2018, for texts)

trainable and lr_factor may be set at any time, between two steps, too.

Each is judged by its AUROC (example 27) on the 624 test images, for three seeds: a seed decides which X-rays have
labels, the head's first weights, and the batches.  What is found, as means of the seeds:

                    10 + 10 labels    100 + 100 labels    time of a step
    from scratch             0.883               0.930        15 ms
    frozen                   0.907               0.924         5 ms
    whole                    0.903               0.951        15 ms
    lr_factor                0.910               0.946        15 ms
    gradual                  0.910               0.954        11 ms

Photographs of frogs and lorries are worth something to X-rays: two to three points.  With 10 labels of each kind, that
is less than what the choice of the X-rays makes out, of which the seeds' dots in the picture tell; who has only three
seeds can't say which way is best.  With 100, what is frozen is no better than from scratch: the head can only choose
among what photographs taught.  The three whose bodies learn, too, stand above both, and too close to each other to be
ranked.  (Times are of one processor of many tasks; their ratio counts.)
"""

import time

import gallery
import numpy as np

import tinynet as tn

LABELS = 10, 100  # of each kind
WAYS = {
    "from scratch": tn.plots.GREY,
    "frozen": tn.plots.BLUE,
    "whole": tn.plots.RED,
    "lr_factor": tn.plots.GREEN,
    "gradual": tn.plots.ORANGE,
}


def block(filters, stride=1):
    return [tn.Conv2D(filters, 3, stride=stride, padding="same", bias=False), tn.BatchNorm(), tn.ReLU()]


def network(outputs, seed, known=None):
    """A body and a head of random weights; or, with a network that is `known`, with the body of that."""
    body = [*block(16), *block(32, 2), *block(32), *block(64, 2), *block(64), tn.GlobalAvgPool2D()]
    model = tn.Sequential([*body, tn.Dense(outputs)], input_shape=(28, 28, 1), seed=seed)
    if known is not None:
        size = sum(parameter.value.size for layer in body for parameter in layer.parameters)
        model.flat_values[:size] = known.flat_values[:size]
        for mine, learnt in zip(model.buffers().values(), known.buffers().values(), strict=True):
            mine[...] = learnt  # running means and variances
    return model


def train(model, x, y, steps, seed, thaw=None):
    """On random batches of moved and mirrored images; thaw maps steps to layers that learn from then on."""
    rng, optimizer = np.random.default_rng(seed), tn.AdamW(model, weight_decay=0.01)
    schedule = tn.cosine(3e-3, steps, warmup=steps // 10)
    for step in range(steps):
        for layer in (thaw or {}).get(step, []):
            layer.trainable = True
        rows = rng.integers(len(x), size=32)
        images = tn.data.random_shift(tn.data.random_flip(x[rows], rng), rng, pixels=2)
        _, dz = tn.softmax_cross_entropy(model.forward(images, training=True), y[rows])
        model.backward(dz)
        optimizer.lr = schedule(step)
        optimizer.step()
    return model


def fine_tune(way, known, x, y, steps, seed):
    model = network(2, seed, None if way == "from scratch" else known)
    body, thaw = model.layers[:-1], None
    for layer in body:
        layer.trainable = way not in ("frozen", "gradual")
        layer.lr_factor = 0.1 if way == "lr_factor" else 1.0
    if way == "gradual":
        thaw = {steps // 4: body[9:], steps // 2: body[3:9], 3 * steps // 4: body[:3]}
    return train(model, x, y, steps, seed, thaw)


def normalised(x, *others):
    """All of them less the mean of x, over its deviation."""
    mean, deviation = x.mean(), x.std()
    return [(images - mean) / deviation for images in (x, *others)]


def photographs():
    """CIFAR-10 in grey, without the two outermost pixels."""
    (x, y), (x_test, y_test) = tn.data.cifar10()
    x, x_test = normalised(*(images[:, 2:-2, 2:-2].mean(axis=3, keepdims=True) for images in (x, x_test)))
    return x, y, x_test[:2000], y_test[:2000]


def main():
    options = gallery.options(__doc__, seeds=3)
    quick, seeds = options.quick, 1 if options.quick else options.seeds
    x, y, x_test, y_test = photographs()
    known = train(network(10, 0), x, y, 20 if quick else 1500, seed=0)
    print(f"photographs: {tn.accuracy(known.predict(x_test), y_test):.1%} of ten classes right", flush=True)

    (x, y), _, (x_test, y_test) = tn.data.pneumonia_mnist()
    x, x_test = normalised(x, x_test)
    steps = 20 if quick else 150
    found, seconds = np.empty((len(LABELS), len(WAYS), seeds)), np.zeros(len(WAYS))
    for k, labels in enumerate(LABELS):
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(y))
            rows = np.concatenate([order[y[order] == kind][:labels] for kind in (0, 1)])
            for w, way in enumerate(WAYS):
                began = time.process_time()
                model = fine_tune(way, known, x[rows], y[rows], steps, seed)
                seconds[w] += time.process_time() - began
                z = model.predict(x_test)
                found[k, w, seed] = tn.metrics.auroc(z[:, 1] - z[:, 0], y_test)
    print(f"AUROC, mean of {seeds} seeds (least, most), and a step's time on a processor")
    print(f"{'':14}" + "".join(f"{f'{n} + {n} labels':>25}" for n in LABELS))
    for w, way in enumerate(WAYS):
        cells = "".join(f"{of.mean():10.3f} ({of.min():.3f}, {of.max():.3f})" for of in found[:, w])
        print(f"{way:14}{cells}{1000 * seconds[w] / (len(LABELS) * seeds * steps):8.1f} ms")
    scratch, frozen, whole, factor, gradual = found.mean(axis=2).T  # each of 10 and of 100 labels
    if not quick and seeds == 3:
        assert seconds[1] < 0.7 * seconds[2], "what is frozen needs no gradients"
        assert min(frozen[0], whole[0], factor[0], gradual[0]) > scratch[0] + 0.005, (
            "photographs help where labels are few"
        )
        assert min(whole[1], factor[1], gradual[1]) > scratch[1] + 0.005, "and where there are more"
        assert frozen[1] < min(whole[1], factor[1], gradual[1]) - 0.005, "but then, a body should learn, too"

    figure = tn.plots.figure(11, 4.2)
    panel = figure.subplots()
    for w, (way, colour) in enumerate(WAYS.items()):
        at = np.arange(len(LABELS)) + 0.16 * (w - 2)
        panel.plot(np.repeat(at, seeds), found[:, w].ravel(), "o", color=colour, alpha=0.5)
        panel.plot(at, found[:, w].mean(axis=1), "_", ms=38, mew=3, color=colour, label=way)
    panel.set_xticks(range(len(LABELS)), [f"{n} labelled X-rays of each kind" for n in LABELS])
    panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), markerscale=0.5)
    low = np.floor(20 * found.min() - 0.5) / 20
    gallery.plain(panel, f"Pneumonia or not: mean of {seeds} seeds, and each of them", ylabel="AUROC", ylim=(low, 1))
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
