"""Pictures: how a training went, what a model makes of images, how good and how honest it is, how losses compare.

Every function returns a matplotlib Figure and, given `path`, also saves it (.png, .svg, .pdf).  `on=` takes a
Figure or a SubFigure to draw on, so that several make one picture.  pyplot is never touched: no window opens,
no backend is chosen or changed, and it works without a display.  matplotlib is imported when first needed.
"""

import math

import numpy as np

from tinynet import metrics
from tinynet.layers.base import positive_int
from tinynet.losses.hinge import hinge
from tinynet.losses.mean_squared_error import mean_squared_error
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.sigmoid_focal import sigmoid_focal

BLUE, ORANGE, GREEN, PURPLE, RED = "#3b6fb6", "#e08a2c", "#3f9b5f", "#8a5fb0", "#c8403a"
GREY, PALE = "#8b8f97", "#e2e5e9"


def figure(width=8.0, height=4.5):
    """An empty Figure of so many inches, whose parts make room for each other's labels."""
    from matplotlib.figure import Figure

    result = Figure(figsize=(width, height), layout="constrained", facecolor="white", dpi=120)
    result.get_layout_engine().set(w_pad=0.1, h_pad=0.05)
    return result


def training_curves(history, path=None, *, on=None):
    """Loss against epoch, and below it the metrics if there are any: training thin, validation thick.

    history is what fit returned, or any mapping of names to lists with one number an epoch.  The axis of the
    loss is logarithmic where the loss fell more than tenfold.
    """
    curves = {name: values for name, values in history.items() if name not in ("lr", "seconds")}
    if not curves or not all(len(values) for values in curves.values()):
        raise ValueError("training_curves: the history has no epochs to draw")
    names = [name for name in curves if not name.startswith("val_")]
    metrics = [name for name in names if name != "loss"]
    on = _drawing_on(on, (6.4, 5.6 if metrics else 3.6))
    panels = on.subplots(2 if metrics else 1, 1, sharex=True, squeeze=False)[:, 0]
    _curves(panels[0], curves, ["loss"] if "loss" in names else names, [BLUE])
    panels[0].set_ylabel("loss")
    positive = [v for name in ("loss", "val_loss") for v in curves.get(name, ()) if v > 0 and math.isfinite(v)]
    if positive and max(positive) > 10 * min(positive):
        panels[0].set_yscale("log")
    if metrics:
        _curves(panels[1], curves, metrics, [GREEN, ORANGE, PURPLE, RED])
        panels[1].set_ylabel(metrics[0] if len(metrics) == 1 else "metrics")
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return _finished(on, path)


def image_grid(images, labels, predictions=None, path=None, *, on=None, columns=8, names=None):
    """Images in rows, each with its predicted label above; where that is wrong, in red, with the true one.

    images (N, H, W), (N, H, W, 1) or (N, H, W, 3), floats in [0, 1] or bytes: grey ones are drawn as ink on paper, dark
    where the value is high.  labels (N,) are whole numbers; predictions (N,) too, or scores (N, C), or None to show the
    labels alone.  `names` gives each class a word instead of its number.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3) or len(images) == 0:
        raise ValueError(f"image_grid: images must be (N, H, W), (N, H, W, 1) or (N, H, W, 3), got {images.shape}")
    if labels.shape != (len(images),):
        raise ValueError(f"image_grid: labels must be ({len(images)},), one for each image, got {labels.shape}")
    positive_int(columns, "image_grid: columns")
    if predictions is not None:
        predictions = np.asarray(predictions)
        if predictions.ndim == 2:
            predictions = predictions.argmax(axis=1)
        if predictions.shape != labels.shape:
            raise ValueError(f"image_grid: predictions must be {labels.shape} or (N, C), got {predictions.shape}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    on = _drawing_on(on, (columns * 0.95, rows * 1.2))
    word = (lambda label: names[int(label)]) if names is not None else (lambda label: str(int(label)))
    panels = on.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(images) :]:
        panel.set_axis_off()
    brightest = 255 if images.dtype == np.uint8 else 1
    for k, panel in enumerate(panels[: len(images)]):
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_color(PALE)
        panel.imshow(images[k], cmap="Greys", vmin=0, vmax=brightest, interpolation="nearest")
        text, colour = word(labels[k]), "black"
        if predictions is not None and predictions[k] != labels[k]:
            text, colour = f"{word(predictions[k])}, is {word(labels[k])}", RED
        panel.set_title(text, fontsize=10, color=colour, pad=4)
    return _finished(on, path)


def confusion_matrix(predictions, labels, path=None, *, on=None, names=None, classes=None):
    """What was taken for what: a row for each true class, a column for each predicted one, a number in each cell.

    predictions, labels and classes are as in metrics.confusion_matrix.  The darker a cell, the larger its share of the
    row: blue where the prediction is right, red where it is wrong.  `names` gives each class a word instead of its
    number.  Above 25 classes the numbers are left out.
    """
    from matplotlib.colors import to_rgb

    table = metrics.confusion_matrix(predictions, labels, classes=classes)
    C = len(table)
    if names is not None and len(names) < C:
        raise ValueError(f"confusion_matrix: names must have a word for each of the {C} classes, got {len(names)}")
    words = [str(names[c]) if names is not None else str(c) for c in range(C)]
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 0.42 * C if C <= 25 else 7
    on = _drawing_on(on, (side + 1.6, side + 1.2))
    panel = on.subplots()
    # Few mistakes must be seen among many right ones: their shade grows with the root of the share.
    ink = np.where(np.eye(C, dtype=bool)[..., None], to_rgb(BLUE), to_rgb(RED))
    panel.imshow(1 - (1 - ink) * np.sqrt(share)[..., None], interpolation="nearest")
    if C <= 25:
        for i, j in np.argwhere(table):
            colour = "white" if share[i, j] > 0.3 else "black"
            panel.text(j, i, f"{table[i, j]}", ha="center", va="center", fontsize=9, color=colour)
        long = max(map(len, words)) > 3
        panel.set_xticks(range(C), words, rotation=45 if long else 0, ha="right" if long else "center")
        panel.set_yticks(range(C), words)
    panel.set_xticks(np.arange(C - 1) + 0.5, minor=True)
    panel.set_yticks(np.arange(C - 1) + 0.5, minor=True)
    panel.grid(which="minor", color=PALE, lw=0.8 if C <= 25 else 0.2)
    panel.tick_params(which="both", length=0)
    panel.spines[:].set_color(GREY)
    panel.set(xlabel="predicted", ylabel="true")
    panel.set_title(f"{int(table.trace()):,} of {int(table.sum()):,} right", fontsize=11)
    return _finished(on, path)


def reliability_diagram(probabilities, labels, path=None, *, on=None, bins=15):
    """How often predictions are right, against how confident they are; below, how many there are of each confidence.

    probabilities, labels and bins are as in metrics.calibration_bins.  A calibrated model's bars end on the diagonal.
    Red is what is missing where the model is too confident, pale blue what is beyond its confidence; the expected
    calibration error is their mean length over all predictions.
    """
    edges, confidence, right, count = metrics.calibration_bins(probabilities, labels, bins=bins)
    error = metrics.expected_calibration_error(probabilities, labels, bins=bins)
    full = count > 0
    left, confidence, right = edges[:-1][full], confidence[full], right[full]
    on = _drawing_on(on, (4.8, 5.4))
    top, bottom = on.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    shape = {"width": 1 / bins, "align": "edge", "edgecolor": "white", "linewidth": 0.8}
    lower, gap = np.minimum(right, confidence), np.abs(right - confidence)
    top.bar(left, lower, color=BLUE, label="right", **shape)
    for which, colour, label in (
        (confidence > right, RED, "too confident"),
        (confidence < right, BLUE, "not confident enough"),
    ):
        if which.any():
            top.bar(left[which], gap[which], bottom=lower[which], color=colour, alpha=0.4, label=label, **shape)
    top.plot([0, 1], [0, 1], color=GREY, lw=1.2, ls="--")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    top.set_title(f"expected calibration error {error:.3f}", fontsize=11, pad=26)
    top.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9, handlelength=1.2)
    bottom.bar(left, count[full] / count.sum(), color=GREY, **shape)
    bottom.set(xlabel="confidence", ylabel="share of\npredictions")
    for panel in (top, bottom):
        _plain(panel)
    return _finished(on, path)


def loss_and_gradient(path=None, *, on=None):
    """Why classifiers train on cross-entropy: loss and gradient against the probability given to what is true.

    Left, -log p is steep where the model is confidently wrong and flat where it is right.  Right, its gradient with
    respect to the logit is p - 1: the larger the mistake, the stronger the pull.  The squared error (1 - p)^2, dashed,
    passes through the sigmoid's slope p (1 - p), and pulls least where the model is most wrong.
    """
    z = np.linspace(-9, 9, 361)
    p, yes = 1 / (1 + np.exp(-z)), np.ones_like(z)
    entropy, entropy_slope = sigmoid_cross_entropy(z, yes, reduction="none")
    squared, squared_slope = mean_squared_error(p, yes, reduction="none")
    on = _drawing_on(on, (9.6, 4.0))
    left, right = on.subplots(1, 2)
    for panel, curve, other in ((left, entropy, squared), (right, entropy_slope, squared_slope * p * (1 - p))):
        panel.plot(p, curve, color=BLUE, lw=2.4, label="cross-entropy")
        panel.plot(p, other, color=ORANGE, lw=1.6, ls="--", label="squared error")
        panel.set(xlim=(0, 1), xlabel="probability $p$ given to what is true")
        _plain(panel)
    left.set(ylim=(0, 5), ylabel="loss")
    left.set_title(r"Loss:  $-\log\,p$  and  $(1-p)^2$", fontsize=11)
    left.legend(frameon=False, loc="upper right")
    points = np.array([0.2, 0.8])
    left.plot(points, -np.log(points), "o", color=BLUE, ms=5)
    for at, words in zip(points, ((0.24, 1.75), (0.66, 0.75)), strict=True):
        left.text(*words, rf"$-\log\,{at}={-math.log(at):.4f}$", color=BLUE, fontsize=9)
    _note(left, "confidently wrong:\nsteep", (0.02, 3.9), (0.13, 3.9), BLUE)
    _note(left, "right: flat", (0.97, 0.03), (0.83, 1.45), BLUE, (0.8, 0))
    right.set(ylim=(-1.05, 0.15), ylabel="gradient with respect to the logit")
    right.set_title("Gradient:  $p-1$  and  $-2\\,p\\,(1-p)^2$", fontsize=11)
    _note(right, "confidently wrong:\nfull pull", (0.02, -0.98), (0.16, -0.98), BLUE)
    _note(right, "confidently wrong:\nno pull at all", (0.01, -0.02), (0.05, 0.09), ORANGE)
    right.text(0.98, 0.09, "right:\nno pull", color=BLUE, fontsize=9, ha="right", va="center")
    return _finished(on, path)


def losses_by_margin(path=None, *, on=None):
    """The losses of a yes-or-no question against the margin, and their gradients.

    The margin is the score's distance to the right side of 0: the logit z where yes is true, -z where it is no.
    """
    margin = np.linspace(-3, 3, 601)
    yes = np.ones_like(margin)
    curves = {
        "squared error": (PURPLE, mean_squared_error(margin, yes, reduction="none")),
        "hinge": (ORANGE, hinge(margin, yes, reduction="none")),
        "cross-entropy": (BLUE, sigmoid_cross_entropy(margin, yes, reduction="none")),
        r"focal, $\gamma=2$": (GREEN, sigmoid_focal(margin, yes, 2.0, None, reduction="none")),
    }
    on = _drawing_on(on, (9.6, 4.0))
    left, right = on.subplots(1, 2)
    left.plot([-3, 0, 0, 3], [1, 1, 0, 0], color=GREY, lw=1.2, ls="--", label="wrong or right")
    for name, (colour, (loss, gradient)) in curves.items():
        width = 2.6 if name == "cross-entropy" else 1.6
        left.plot(margin, loss, color=colour, lw=width, label=name)
        right.plot(margin, gradient, color=colour, lw=width, label=name)
    for panel in (left, right):
        _plain(panel)
        panel.axvline(0, color=GREY, lw=0.8)
        panel.set(xlim=(-3, 3), xlabel=r"margin  (wrong $\leftarrow$ 0 $\rightarrow$ right)")
    left.set(ylim=(0, 4), ylabel="loss")
    right.set(ylim=(-2.5, 1), ylabel="gradient with respect to the margin")
    right.legend(*left.get_legend_handles_labels(), frameon=False, loc="lower right")
    _note(left, "squared error:\ntoo right is wrong", (2.75, 3.06), (0.3, 3.4), PURPLE, (1, 0.5))
    _note(left, "cross-entropy:\nnever quite done", (1.15, 0.28), (0.3, 2.3), BLUE, (0.4, 0))
    _note(right, "hinge:\nall or nothing", (1.0, -0.75), (1.25, -0.9), ORANGE)
    _note(right, "focal: less pull\non what is right", (0.4, -0.17), (-2.7, 0.45), GREEN, (1, 0))
    return _finished(on, path)


def _curves(panel, curves, names, colours):
    last = max(len(values) for values in curves.values())
    marker = "o" if last == 1 else None  # a line through one point can't be seen
    for k, name in enumerate(names):
        colour = colours[k % len(colours)]
        for key, width, label in ((name, 1.2, "training"), (f"val_{name}", 2.4, "validation")):
            if key in curves:
                label = label if len(names) == 1 else f"{name}, {label}"
                epochs = range(1, len(curves[key]) + 1)
                panel.plot(
                    epochs, curves[key], color=colour, lw=width, label=label, marker=marker, solid_capstyle="round"
                )
    _plain(panel)
    panel.legend(frameon=False)


def _plain(panel):
    panel.grid(color=PALE, lw=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GREY)
    panel.tick_params(color=GREY)


def _note(panel, text, at, words, colour, start=(0, 0.5)):
    """Text at `words`, and a thin line to the point `at`, from the place on the text that is `start` of its size."""
    line = {"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 2, "shrinkB": 4, "relpos": start}
    panel.annotate(text, at, words, color=colour, fontsize=9, va="center", arrowprops=line)


def _drawing_on(on, size):
    return figure(*size) if on is None else on


def _finished(on, path):
    """The whole figure that `on` belongs to, saved if there is a path."""
    whole = on.get_figure(root=True) or on
    if path is not None:
        whole.savefig(path)
    return whole
