"""What a model makes of images, how good it is, and how honest."""

import numpy as np

from tinynet import metrics
from tinynet.checks import numbers, positive_int
from tinynet.layers.in_a_row import ending_in_a_row
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy
from tinynet.plots.canvas import (
    BLUE,
    GREY,
    PALE,
    RED,
    checked_images,
    draw_image,
    drawing_on,
    finished,
    in_unit_interval,
    plain,
)


def image_grid(predictions, x, y=None, path=None, *, on=None, columns=8, names=None):
    """Images in rows, each with its predicted label above; where that is wrong, in red, with the true one.

    predictions  whole numbers (N,), scores (N, C), a model, which is asked, or None to show the labels alone
    x            images (N, H, W), (N, H, W, 1) or (N, H, W, 3), floats in [0, 1] or bytes: grey ones are drawn as ink
                 on paper, dark where the value is high
    y            labels (N,), whole numbers
    names        gives each class a word instead of its number

    The order of 0.1, image_grid(images, labels, predictions), is still taken: images have more axes.

    >>> model = tn.Sequential([tn.Conv2D(4, 3), tn.Flatten(), tn.Dense(2)], (8, 8, 1), seed=0)
    >>> x, y = np.random.default_rng(0).random((6, 8, 8, 1)), np.arange(6) % 2
    >>> len(tn.plots.image_grid(model, x, y).axes)
    6
    """
    if not hasattr(predictions, "predict") and np.ndim(predictions) > 2:
        predictions, x, y = y, predictions, x
    images, labels = checked_images(x, "image_grid"), numbers(y, "image_grid: labels")
    if labels.shape != (len(images),):
        raise ValueError(f"image_grid: labels must be ({len(images)},), one for each image, got {labels.shape}")
    positive_int(columns, "image_grid: columns")
    if predictions is not None:
        if hasattr(predictions, "predict"):
            predictions = predictions.predict(x)
        predictions = numbers(predictions, "image_grid: predictions")
        if predictions.ndim == 2:
            predictions = predictions.argmax(axis=1)
        if predictions.shape != labels.shape:
            raise ValueError(f"image_grid: predictions must be {labels.shape} or (N, C), got {predictions.shape}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    on = drawing_on(on, (columns * 0.95, rows * 1.2))
    word = (lambda label: names[int(label)]) if names is not None else (lambda label: str(int(label)))
    panels = on.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(images) :]:
        panel.set_axis_off()
    brightest = 255 if images.dtype == np.uint8 else 1
    for k, panel in enumerate(panels[: len(images)]):
        draw_image(panel, images[k], brightest)
        text, colour = word(labels[k]), "black"
        if predictions is not None and predictions[k] != labels[k]:
            text, colour = f"{word(predictions[k])}, is {word(labels[k])}", RED
        panel.set_title(text, fontsize=10, color=colour, pad=4)
    return finished(on, path)


def worst(predictions, x, y, path=None, *, on=None, count=16, columns=8, names=None):
    """The samples that a classifier gets most wrong: the `count` with the highest cross-entropy, the worst first.

    predictions  a model, which is asked, or its logits (N, C) for x
    x            images (N, H, W, C) with C = 1 or 3, or (N, H, W); other values than [0, 1] are stretched
    y            labels (N,), whole numbers from 0 to C - 1
    names        gives each class a word instead of its number

    Above each image stands what it is, with the probability that the model gave to that, and below it, in red, what the
    model said instead, with the probability of that.

    >>> model = tn.Sequential([tn.Conv2D(4, 3), tn.Flatten(), tn.Dense(2)], (8, 8, 1), seed=0)
    >>> x, y = np.random.default_rng(0).random((6, 8, 8, 1)), np.arange(6) % 2
    >>> len(tn.plots.worst(model, x, y, count=4).axes)
    4
    """
    images = checked_images(x, "worst")
    count, columns = positive_int(count, "worst: count"), positive_int(columns, "worst: columns")
    logits = predictions
    if hasattr(predictions, "predict"):
        logits = predictions.predict(x)
        if (ending_in_a_row(predictions.layers) or ("",))[0] == "probabilities":
            with np.errstate(divide="ignore"):
                logits = np.log(logits)  # whose softmax is the probabilities themselves
    logits = numbers(logits, "worst: predictions")
    if logits.ndim != 2 or logits.shape[1] < 2 or len(logits) != len(images):
        raise ValueError(f"worst: expected logits ({len(images)}, C) with at least 2 classes, got {logits.shape}")
    losses, _ = softmax_cross_entropy(logits, y, reduction="none", grad=False)
    labels, said = numbers(y, "worst: y"), logits.argmax(axis=1)
    chosen = np.argsort(-losses, kind="stable")[:count]  # NaN comes last
    sure = np.exp(-softmax_cross_entropy(logits[chosen], said[chosen], reduction="none", grad=False)[0])
    word = (lambda label: str(names[int(label)])) if names is not None else (lambda label: str(int(label)))
    above = [f"is {word(labels[k])}: {_percent(np.exp(-losses[k]))}" for k in chosen]
    below = [
        f"said {word(said[k])}: {_percent(p)}" if said[k] != labels[k] else ""
        for k, p in zip(chosen, sure, strict=True)
    ]
    shown = in_unit_interval(images[chosen])
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    width = max(1.25, 0.08 * max(map(len, above + below)))
    on = drawing_on(on, (columns * width, rows * (width + 0.4)))
    panels = on.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    for panel, image, truth, mistake in zip(panels, shown, above, below, strict=False):
        draw_image(panel, image)
        panel.set_title(truth, fontsize=10, pad=4)
        panel.set_xlabel(mistake, fontsize=10, color=RED, labelpad=3)
    return finished(on, path)


def _percent(probability):
    """Two digits, and never "0 %" of what is not 0 or "100 %" of what is not 1."""
    percent = 100 * float(probability)
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent < 1 or percent > 99 else f"{percent:.0f} %"


def confusion_matrix(predictions, labels, path=None, *, on=None, names=None, classes=None, ignore_index=-100):
    """What was taken for what: a row for each true class, a column for each predicted one, a number in each cell.

    predictions, labels, classes and ignore_index are as in metrics.confusion_matrix.  The darker a cell, the larger its
    share of the row: blue where the prediction is right, red where it is wrong.  `names` gives each class a word
    instead of its number.  Above 25 classes the numbers are left out.

    >>> len(tn.plots.confusion_matrix([0, 1, 1], [0, 0, 1]).axes)
    1
    """
    from matplotlib.colors import to_rgb

    table, words = metrics.named_confusion_matrix(predictions, labels, names, classes, ignore_index, "confusion_matrix")
    C = len(table)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 0.42 * C if C <= 25 else 7
    on = drawing_on(on, (side + 1.6, side + 1.2))
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
    return finished(on, path)


def reliability_diagram(probabilities, labels, path=None, *, on=None, bins=15):
    """How often predictions are right, against how confident they are; below, how many there are of each confidence.

    probabilities, labels and bins are as in metrics.calibration_bins.  A calibrated model's bars end on the diagonal.
    Red is what is missing where the model is too confident, pale blue what is beyond its confidence; the expected
    calibration error is their mean length over all predictions.

    >>> len(tn.plots.reliability_diagram([[0.9, 0.1], [0.2, 0.8]], [0, 0]).axes)
    2
    """
    edges, confidence, right, count = metrics.calibration_bins(probabilities, labels, bins=bins)
    error = metrics.expected_calibration_error(probabilities, labels, bins=bins)
    full = count > 0
    left, confidence, right = edges[:-1][full], confidence[full], right[full]
    on = drawing_on(on, (4.8, 5.4))
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
    spaces = {"handlelength": 1, "handletextpad": 0.4, "columnspacing": 0.9, "borderpad": 0}
    top.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=3, fontsize=8, **spaces)
    bottom.bar(left, count[full] / count.sum(), color=GREY, **shape)
    bottom.set(xlabel="confidence", ylabel="share of\npredictions")
    for panel in (top, bottom):
        plain(panel)
    return finished(on, path)
