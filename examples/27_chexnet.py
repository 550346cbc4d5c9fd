"""Pneumonia in X-rays: a DenseNet, a weighted cross-entropy, how far its figures can be trusted, and where it looks.

    python examples/27_chexnet.py [--data chest] [--epochs 6]        takes some minutes, and far longer with 14 labels

CheXNet (Rajpurkar et al. 2017) reads X-rays of the chest: is there pneumonia, yes or no?  This is its method at a
scale that a laptop trains: PneumoniaMNIST, 4,708 X-rays of children's chests, of 28 x 28 pixels.  (The file lies where
TINYNET_DATA says, else it is downloaded, 4 MB.  `--data chest` takes the adults' X-rays and 14 labels that CheXNet was
trained on, as small as these: 78,468 images, some 80 MB.)

The network.  A layer of a DenseNet (Huang et al. 2017) leaves its input as it is, and puts new channels beside it:

    y = [x, f(x)]    x (N, H, W, C)    f: BatchNorm, ReLU, Conv2D of 3 x 3    f(x) (N, H, W, 8)    y (N, H, W, C + 8)

So the last layer still sees what the first one made.  Backward, x has touched y twice: dx is what comes back for its
copy, and what comes back through f, added up; no layer is far from the loss.  Four such layers are a block; between
blocks, a transition mixes the channels by a convolution of 1 x 1 and halves height and width.  CheXNet's DenseNet-121
has 58 such layers of 32 channels each, 7 million weights, and was trained on photographs beforehand; this one has 12
of 8 channels, 34,000 weights, and starts from nothing.  (tn.zoo.densenet builds the large one.)

The loss.  Of the images that one trains on, n+ have pneumonia and n- have not.  CheXNet weighs yes and no,

    L = -w+ t log p - w- (1 - t) log(1 - p)          w+ = n- / (n+ + n-)     w- = n+ / (n+ + n-)

At the start, with p = 1/2 for all, the ill add n+ w+ log 2 to the loss, and the healthy n- w- log 2, which is the same
number: always to say yes, or always no, gains nothing.  In tinynet's terms, whose pos_weight stands before t log p
alone and whose weight before all, weight = w- and pos_weight = w+ / w-.  CheXNet needed that for the rare yes: 1 image
of 100.  Here 3 of 4 have pneumonia, and the weights work for the no.  Example 10 derives what they do to a network that
has learnt all there is: they add log(w+ / w-) to each logit, a mere shift of the threshold.

The figures.  AUROC, the area under the ROC curve, is the probability that an image with pneumonia gets a higher logit
than one without: 0.5 by chance, 1 at best, whatever the threshold.  F1 (example 10) needs a threshold: here the one
with the highest F1 on images that were kept back for that (validation).  How far can such a figure be trusted, from
624 test images?  The bootstrap (Efron 1979) draws 624 images from these 624, with repetition, computes the figure, and
does it again, 1,000 times.  The middle 95 % of what came out is the interval.  For a difference of two networks, both
are judged on the same draw: where the interval of the difference holds 0, none is shown.

    CheXNet, pneumonia in 420 X-rays of 224 x 224:     F1 0.435 (0.387, 0.481); radiologists 0.387 (0.330, 0.442)

What is found here looks far better, and is another task: children of one hospital, most of them ill, each label given
by physicians who looked at the image.  CheXNet learnt from labels that a program had read from reports, on X-rays of
adults with any of 14 findings or none.  Figures of two data sets cannot be compared, and no figure of 28 x 28 pixels
tells how a hospital would fare.  What can be learnt from them:

  - No difference of AUROC is shown between the losses: -0.000 (-0.004, +0.004).  At p = 0.5, the weighted one knows
    77 of 100 healthy ones, the other 62: the shift that was foreseen.
  - The validation images flatter: AUROC 0.996 there, and 0.970 (0.957, 0.981) on the test images.  Both were kept back,
    but the validation images are a random share of those that the network could train on; the test images were put
    together apart, and fewer of them are ill, 62 of 100 instead of 74.
  - So the threshold that has the highest F1 there, 0.985, has 0.900 (0.877, 0.920) here, and p = 0.5 would have 0.925.
    The interval knows nothing of that: it tells what other images of the same kind would give, and no more.

Where does it look?  Grad-CAM (Selvaraju et al. 2017) weighs each channel of the last 7 x 7 positions by how much the
logit grows with it, and draws where channels that speak for pneumonia are active.  The logit of this network is a mean
over positions of a weighted sum of channels, so these are Dense's weights themselves, over 49, as in CheXNet's own
maps.  They show where, and not why; 7 x 7 is a coarse grid, and each position has seen a large part of the image.  (The
X-rays are drawn as negatives: what is dark in them, air in the lungs, is bright.)
"""

from functools import partial

import gallery
import numpy as np

import tinynet as tn

FINDINGS = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
    *("consolidation", "edema", "emphysema", "fibrosis", "pleural thickening", "hernia"),
)


def densenet(labels, blocks=3, layers=4, growth=8):
    def normalised(convolution):
        return [tn.BatchNorm(), tn.ReLU(), convolution]

    parts, channels = [tn.Conv2D(2 * growth, 3, padding="same", bias=False)], 2 * growth
    for block in range(blocks):
        if block > 0:  # a transition
            channels //= 2
            parts += [*normalised(tn.Conv2D(channels, 1, bias=False)), tn.AvgPool2D(2)]
        for _ in range(layers):
            parts.append(tn.Concat(normalised(tn.Conv2D(growth, 3, padding="same", bias=False))))
            channels += growth
    ending = [tn.BatchNorm(), tn.ReLU(), tn.GlobalAvgPool2D(), tn.Dense(labels)]
    return tn.Sequential(parts + ending, input_shape=(28, 28, 1), seed=0)


def mirrored_and_moved(x, rng):
    return tn.data.random_shift(tn.data.random_flip(x, rng), rng, pixels=2)


def f1_of_thresholds(z, t):
    """Each threshold that a logit makes, and the F1 of saying yes from there on."""
    precision, recall, thresholds = tn.metrics.precision_recall_curve(z, t)
    return thresholds, 2 * precision * recall / np.maximum(precision + recall, 1e-9)


def best_threshold(z, t):
    thresholds, values = f1_of_thresholds(z, t)
    return thresholds[values.argmax()]


def judge(z_validation, t_validation, z, t, repeats):
    """Of one label, with logits (N,): its figures on the test images, and their intervals."""
    threshold = best_threshold(z_validation, t_validation)
    said = z >= threshold
    interval = partial(tn.metrics.bootstrap_interval, repeats=repeats)
    return {
        "AUROC": tn.metrics.auroc(z, t),
        "AUROC interval": interval(tn.metrics.auroc, z, t),
        "AUROC, validation": tn.metrics.auroc(z_validation, t_validation),
        "threshold": threshold,
        "F1": tn.metrics.f1(said, t),
        "F1 interval": interval(tn.metrics.f1, said, t),
        "F1, validation": tn.metrics.f1(z_validation >= threshold, t_validation),
        "F1 at 0.5": tn.metrics.f1(z > 0, t),
        "healthy recognised": (z[~t] <= 0).mean(),
    }


def table(names, found):
    lines = [f"{'':20}{'AUROC (95 %)':>24}{'validation':>12}{'F1 (95 %)':>22}{'validation':>12}{'F1, p > 0.5':>13}"]
    for name, of in zip(names, found, strict=True):
        (low, high), (low1, high1) = of["AUROC interval"], of["F1 interval"]
        lines.append(
            f"{name:20}{of['AUROC']:9.3f} ({low:.3f}, {high:.3f}){of['AUROC, validation']:11.3f} "
            f"{of['F1']:8.3f} ({low1:.3f}, {high1:.3f}){of['F1, validation']:11.3f}{of['F1 at 0.5']:12.3f}"
        )
    return "\n".join(lines)


def main():
    options = gallery.options(__doc__, epochs=6, data=("pneumonia", "chest"))
    pneumonia, quick = options.data == "pneumonia", options.quick
    parts = tn.data.pneumonia_mnist() if pneumonia else tn.data.chest_mnist()
    parts = [(x[:400], y[:400]) if quick else (x, y) for x, y in parts]
    x, y, x_validation, y_validation, x_test, y_test = (array for part in parts for array in part)
    y, y_validation, y_test = (labels.reshape(len(labels), -1) == 1 for labels in (y, y_validation, y_test))
    known = np.all([labels.any(axis=0) & ~labels.all(axis=0) for labels in (y, y_validation, y_test)], axis=0)
    y, y_validation, y_test = y[:, known], y_validation[:, known], y_test[:, known]
    names = ["pneumonia"] if pneumonia else [name for name, there in zip(FINDINGS, known, strict=True) if there]
    mean, deviation = x.mean(), x.std()
    x, x_validation, x_test = ((images - mean) / deviation for images in (x, x_validation, x_test))
    epochs, repeats = (1, 50) if quick else (options.epochs, 1000)

    share = y.mean(axis=0)  # n+ / (n+ + n-) of each label
    weighted = partial(tn.sigmoid_cross_entropy, weight=share, pos_weight=(1 - share) / share)
    print(f"{len(x):,} X-rays; share of yes:", ", ".join(f"{n} {s:.1%}" for n, s in zip(names, share, strict=True)))
    models, logits, found = {}, {}, {}
    for loss_name, loss in (("weighted", weighted), ("not weighted", tn.sigmoid_cross_entropy)):
        model = densenet(len(names))
        tn.fit(
            model,
            x,
            y,
            loss=loss,
            optimizer=tn.AdamW(model, weight_decay=1e-4),
            schedule=tn.one_cycle(3e-3, steps=epochs * -(-len(x) // 64)),
            epochs=epochs,
            augment=mirrored_and_moved,
            progress=False,
        )
        z_validation, z = model.predict(x_validation), model.predict(x_test)
        models[loss_name], logits[loss_name] = model, (z_validation, z)
        found[loss_name] = [
            judge(z_validation[:, k], y_validation[:, k], z[:, k], y_test[:, k], repeats) for k in range(len(names))
        ]
        print(f"\n{loss_name}, {model.flat_values.size:,} weights\n{table(names, found[loss_name])}", flush=True)

    def difference(a, b, t):
        return tn.metrics.auroc(a, t) - tn.metrics.auroc(b, t)

    a, b = logits["weighted"][1], logits["not weighted"][1]
    low, high = tn.metrics.bootstrap_interval(difference, a, b, y_test, repeats=repeats)
    print(f"\nAUROC, weighted less not weighted: {difference(a, b, y_test):+.3f} ({low:+.3f}, {high:+.3f})")
    k = int(np.argmax([of["AUROC"] for of in found["weighted"]]))  # the label that the picture shows
    of, plain = found["weighted"][k], found["not weighted"][k]
    healthy, healthy_plain = of["healthy recognised"], plain["healthy recognised"]
    print(f"healthy recognised at p = 0.5: {healthy:.1%}, not weighted {healthy_plain:.1%}")

    model, (z_validation, z), t = models["weighted"], (each[:, k] for each in logits["weighted"]), y_test[:, k]
    maps = tn.plots.class_activation(model, x_test[:5], k)
    A, dense = x_test[:5], model.layers[-1]
    for layer in model.layers[:-2]:
        A = layer.forward(A)  # at last (5, 7, 7, C), in front of the mean over positions
    w = dense.parameters[0].value[:, k]  # (C,)
    assert np.allclose(maps, np.maximum(A @ w, 0) / A[0, ..., 0].size, atol=1e-5), "a map is Dense's weights' own"
    if pneumonia and not quick:
        assert of["AUROC"] > 0.93, "ill and healthy are told apart"
        assert low < 0 < high, "no difference between the losses is shown"
        assert healthy > healthy_plain + 0.03, "weights for the no find more of the healthy"
        assert of["AUROC, validation"] > of["AUROC interval"][1], "validation flatters"
        assert of["F1, validation"] > of["F1 interval"][1] + 0.02, "and its threshold does not fit the test"

    figure = tn.plots.figure(12, 4)
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1, 1, 1.05])
    roc, curve = left.subplots(), middle.subplots()
    for name, colour, scores, labels in (
        ("validation", tn.plots.GREY, z_validation, y_validation[:, k]),
        ("test", tn.plots.BLUE, z, t),
    ):
        false, true, _ = tn.metrics.roc_curve(scores, labels)
        roc.plot(false, true, color=colour, lw=2, label=f"{name}: {tn.metrics.auroc(scores, labels):.3f}")
        thresholds, values = f1_of_thresholds(scores, labels)
        curve.plot(tn.sigmoid(thresholds), values, color=colour, lw=2, label=name)
    roc.plot([0, 1], [0, 1], color=tn.plots.GREY, ls="--", lw=1)
    roc.legend(frameon=False, loc="lower right", title="AUROC")
    gallery.plain(roc, f"{names[k]}: ROC curve")
    roc.set(xlabel="of the healthy, said to be ill", ylabel="of the ill, found")
    curve.axvline(tn.sigmoid(np.array([of["threshold"]]))[0], color=tn.plots.RED, lw=1, ls="--", label="chosen")
    curve.legend(frameon=False, loc="lower center")
    gallery.plain(curve, "F1 of each threshold", xlabel="yes from p = ... on", ylim=(0.5 if pneumonia else 0, 1))
    draw_cases(right, model, x_test, z, t, k, of["threshold"])
    gallery.finish(figure, options)


def draw_cases(part, model, x, z, t, k, threshold, columns=2):
    """Grad-CAM of X-rays that are found, missed and said wrongly to be ill: of each kind, those in the middle."""
    said = z >= threshold
    ill, healthy = t.sum(), (~t).sum()
    kinds = {f"found, of {ill} ill": said & t, "missed": ~said & t, f"false alarms, of {healthy} healthy": said & ~t}
    for row, (kind, chosen) in zip(part.subfigures(len(kinds), 1), kinds.items(), strict=True):
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(z[rows])][len(rows) // 2 :][:columns]
        row.suptitle(f"{chosen.sum()} {kind}", fontsize=10)
        if len(rows) > 0:
            tn.plots.grad_cam(model, x[rows], k, on=row, columns=columns, names=["logit"] * (k + 1))


if __name__ == "__main__":
    main()
