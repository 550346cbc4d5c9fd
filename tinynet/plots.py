"""Pictures: how a training went, and what a model makes of images.

Every function returns a matplotlib Figure and, given `path`, also saves it (.png, .svg, .pdf).  `on=` takes a
Figure or a SubFigure to draw on, so that several make one picture.  pyplot is never touched: no window opens,
no backend is chosen or changed, and it works without a display.  matplotlib is imported when first needed.
"""

import math

import numpy as np

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
    if not isinstance(columns, (int, np.integer)) or columns < 1:
        raise ValueError(f"image_grid: columns must be a whole number above 0, got {columns!r}")
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
    panel.grid(color=PALE, lw=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GREY)
    panel.tick_params(color=GREY)
    panel.legend(frameon=False)


def _drawing_on(on, size):
    return figure(*size) if on is None else on


def _finished(on, path):
    """The whole figure that `on` belongs to, saved if there is a path."""
    whole = on.get_figure(root=True) or on
    if path is not None:
        whole.savefig(path)
    return whole
