"""Rare labels: what a weight for them does, what the focal loss does, and what is only a matter of the threshold.

    python examples/10_imbalance.py [--epochs 10]

CheXNet (Rajpurkar et al. 2017) looks for 14 diseases in an X-ray of the chest, a yes or no for each.  Of 112,120 images
1 in 6 shows an infiltration, but only 227 a hernia (Wang et al. 2017).  Here the images are composites of MNIST's real
digits, none to four of them in four places, and the 14 labels are the ten digits, and 2, 3, 4 and 7 mirrored, as some
children write them.  40 % of the images have a 0, and then each label is rarer than the one before, down to 0.5 % with
a mirrored 7.  (The data lie where TINYNET_DATA says; what is missing is downloaded, 11 MB.)

The network is a small DenseNet, as CheXNet is a large one: each block leaves its input x as it is, and puts beside it
8 more channels that it makes of it, f(x), by a convolution, batch normalisation and ReLU (examples 08 and 09):

    Concat    y = [x, f(x)]       x (N, H, W, C)   f(x) (N, H, W, 8)   y (N, H, W, C + 8)

At the end stand 14 logits z (N, 14), and p = 1 / (1 + exp(-z)) is the probability of each label.  Four losses, for
targets t, 1 for yes, each the mean over all images and labels:

    cross-entropy     -t log p - (1 - t) log(1 - p)                         dz = (1 - t) p - t (1 - p)
    pos_weight w      -w t log p - (1 - t) log(1 - p)                       dz = (1 - t) p - w t (1 - p)
    focal loss        -t (1 - p)^2 log p - (1 - t) p^2 log(1 - p)           looks away from what is right already

Let n+ of the training images have a label and n- not.  The usual advice is w = n- / n+, so that the few yes weigh as
much as the many no.  CheXNet weighted so when it looked for pneumonia alone, and not at all for the 14 together.

How is a rare label judged?  Who always says no is right in 99.5 % of the images, so accuracy tells nothing.  With the
precision, which share of the said yes is true, and the recall, which share of the true yes is said:

    F1 = 2 precision recall / (precision + recall)                          a yes is said where p > 0.5, so z > 0

Macro F1 is its mean over labels, rare ones counting as much as frequent ones.  But 0.5 is only a convention, and
weights move what lies above it.  Say an image has the label with probability q.  The loss it can expect,
-w q log p - (1 - q) log(1 - p), is lowest for

    p = w q / (w q + 1 - q)       or       logit p = logit q + log w

So in a network that has learnt all there is to learn, w only adds log w to a logit, and w = n- / n+ says yes from q =
n+ / N on: as soon as the label is likelier than in an image that nobody has looked at.  That finds most of them, among
a crowd of false alarms.  (Best for F1 is a yes from q = F1 / 2 on, F1 being the best that can be had; Lipton, Elkan and
Naryanaswamy 2014.)  Hence two more measures, which no such shift changes.  "Tuned" is F1 with a threshold for each
label, the best one on other composites, which are made of 10,000 training digits that were kept back.  The average
precision, AP, needs none: sort the images by z, take for each true yes the precision among the images up to it, and of
those the mean.

What is found on 10,000 composites of MNIST's test digits:

  - n- / n+ is too much for a threshold of 0.5: of what it says of the five rarest labels, most is false, and macro F1
    over all 14 is lower than without weights.  The square root of n- / n+ finds the middle.
  - But weights are no mere shift: AP, too, is higher with them.  In the sum of all gradients that of a rare label is
    faint, and weights make it heard while there is still time to learn.  Hence more epochs help as well: with --epochs
    40 all are better, and nearer to each other.
  - The focal loss (Lin et al. 2017), often recommended for rare labels, does little for them.  (Its factor alpha, which
    weighs yes against no, is left out here; the 0.25 that its authors found best for detectors would weigh yes less.)
"""

from functools import partial

import gallery
import numpy as np

import tinynet as tn

NAMES = [*"0123456789", "2m", "3m", "4m", "7m"]  # m: mirrored
FREQUENCY = 0.4 * 80 ** (-np.arange(14) / 13)
RARE = slice(9, 14)


def composites(digits, labels, count, rng):
    """About `count` images (N, 28, 28, 1) of digits at half their size, and which labels they have (N, 14)."""
    small = digits.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    small = [small[labels == d] for d in range(10)] + [small[labels == d, :, ::-1] for d in (2, 3, 4, 7)]
    y = rng.random((count, 14)) < FREQUENCY
    y = y[y.sum(axis=1) <= 4]  # there is no room for more
    x = np.zeros((len(y), 28, 28, 1), np.float32)
    for image, present in zip(x, y, strict=True):
        for label, place in zip(np.flatnonzero(present), rng.permutation(4), strict=False):
            row, column = 14 * (place // 2), 14 * (place % 2)
            image[row : row + 14, column : column + 14] = small[label][rng.integers(len(small[label]))]
    return x, y


def densenet():
    def block():
        return tn.Concat([tn.Conv2D(8, 3, padding="same", bias=False), tn.BatchNorm(), tn.ReLU()])

    first = [tn.Conv2D(16, 5, padding="same", activation="relu"), tn.MaxPool2D(2), block(), block(), block()]
    then = [tn.Conv2D(32, 1, activation="relu"), tn.MaxPool2D(2), block(), block(), block()]
    return tn.Sequential([*first, *then, tn.GlobalMaxPool2D(), tn.Dense(14)], input_shape=(28, 28, 1), seed=0)


def f1(said, y):
    return 2 * (said & y).sum(axis=0) / (said.sum(axis=0) + y.sum(axis=0))


def by_rank(z, y):
    """For each label, of the images in the order of falling z: z, y, and how many yes there are up to each."""
    order = np.argsort(-z, axis=0, kind="stable")
    z, y = np.take_along_axis(z, order, axis=0), np.take_along_axis(y, order, axis=0)
    return z, y, y.cumsum(axis=0), np.arange(1, len(z) + 1)[:, None]


def best_thresholds(z, y):
    z, y, found, said = by_rank(z, y)
    return z[(2 * found / (said + y.sum(axis=0))).argmax(axis=0), range(14)]


def average_precision(z, y):
    _, y, found, said = by_rank(z, y)
    return (found / said * y).sum(axis=0) / y.sum(axis=0)


def main():
    options = gallery.options(__doc__, epochs=10)
    count, epochs = (1500, 2) if options.quick else (8000, options.epochs)
    rng, (train, test) = np.random.default_rng(0), tn.data.mnist()
    x, y = composites(train[0][:50000], train[1][:50000], count, rng)
    x_kept, y_kept = composites(train[0][50000:], train[1][50000:], 2000 if options.quick else 6000, rng)
    x_test, y_test = composites(*test, 2000 if options.quick else 10000, rng)
    yes = y.sum(axis=0)
    print(f"of {len(x)} images:", ", ".join(f"{name}: {n}" for name, n in zip(NAMES, yes, strict=True)))
    ratio = (len(y) - yes) / np.maximum(yes, 1)
    losses = {
        "cross-entropy": (tn.sigmoid_cross_entropy, tn.plots.BLUE),
        "pos_weight n- / n+": (partial(tn.sigmoid_cross_entropy, pos_weight=ratio), tn.plots.RED),
        "pos_weight sqrt(n- / n+)": (partial(tn.sigmoid_cross_entropy, pos_weight=np.sqrt(ratio)), tn.plots.GREEN),
        "focal loss": (partial(tn.sigmoid_focal, alpha=None), tn.plots.ORANGE),
    }

    found = {}  # of each loss five measures of every label: (5, 14)
    print(f"{'':26}{'all 14 labels':^24}{'the 5 rarest':^42}")
    print(f"{'':26}" + "".join(f"{name:>8}" for name in ("F1", "tuned", "AP") * 2) + "  precision  recall")
    for name, (loss, _) in losses.items():
        model = densenet()
        tn.fit(
            model,
            x,
            y,
            loss=loss,
            optimizer=tn.Adam(model),
            schedule=tn.one_cycle(1e-2, steps=epochs * -(-len(x) // 64)),
            epochs=epochs,
            progress=False,
        )
        z = model.predict(x_test)
        said, tuned = z > 0, z >= best_thresholds(model.predict(x_kept), y_kept)
        right = (said & y_test).sum(axis=0)
        precision, recall = right / np.maximum(said.sum(axis=0), 1), right / y_test.sum(axis=0)
        of_labels = [f1(said, y_test), f1(tuned, y_test), average_precision(z, y_test), precision, recall]
        found[name] = np.array(of_labels)
        means = [*found[name][:3].mean(axis=1), *found[name][:, RARE].mean(axis=1)]
        print(f"{name:26}" + "".join(f"{mean:8.3f}" for mean in means[:6]) + f"{means[6]:11.3f}{means[7]:8.3f}")

    plain, full, root, focal = (of[:, RARE].mean(axis=1) for of in found.values())
    assert full[4] > plain[4] + 0.05, "weights find more of what is rare"
    if not options.quick and epochs == 10:
        assert root[0] > plain[0] + 0.1, "and the right ones raise the F1 of rare labels"
        assert root[0] > full[0] + 0.05, "where n- / n+ is too much"
        assert full[3] < 0.5, "for most of what it says of them is false"
        assert min(full[1:3] - plain[1:3]) > 0.03, "but once the threshold is chosen, n- / n+ helps as well"
        assert min(root[1:3] - plain[1:3]) > 0.05, "and so do the lesser ones: it is no mere shift"
        assert focal[0] < root[0] - 0.05, "the focal loss is no substitute"

    figure = tn.plots.figure(14, 5)
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1.1, 1.5, 1.2])
    left.suptitle("Images with a rare label (m: mirrored)", fontsize=11)
    shown = np.flatnonzero(y_test[:, RARE].any(axis=1) & (y_test.sum(axis=1) > 2))[:9]
    for panel, i in zip(left.subplots(3, 3).flat, shown, strict=True):
        panel.imshow(x_test[i, :, :, 0], cmap="Greys")
        panel.set_title(", ".join(NAMES[label] for label in np.flatnonzero(y_test[i])), size=9)
        panel.set(xticks=[], yticks=[])
    each, bars = middle.subplots(), right.subplots()
    for k, (name, (_, colour)) in enumerate(losses.items()):
        each.plot(found[name][0], "o-", color=colour, ms=4, label=name)
        bars.bar(np.arange(3) + 0.2 * (k - 1.5), found[name][:3, RARE].mean(axis=1), 0.18, color=colour)
    each.set_xticks(range(14), [f"{name}: {n:,}" for name, n in zip(NAMES, yes, strict=True)], rotation=90)
    each.legend(frameon=False, fontsize=9)
    bars.set_xticks(range(3), ["F1, yes from\np = 0.5 on", "F1, threshold\nchosen", "average\nprecision"])
    gallery.plain(each, "F1 of each label, yes from p = 0.5 on", ylim=(0, 1), xlabel="label: training images with it")
    gallery.plain(bars, "Three measures of the five rarest labels", ylim=(0, 1))
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
