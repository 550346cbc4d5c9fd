"""How a training went."""

import math

from tinynet.plots.canvas import BLUE, GREEN, ORANGE, PURPLE, RED, drawing_on, finished, plain


def training_curves(history, path=None, *, on=None):
    """Loss against epoch, and below it the metrics if there are any: training thin, validation thick.

    history is what fit returned, or any mapping of names to lists with one number an epoch.  The axis of the
    loss is logarithmic where the loss fell more than tenfold.

    >>> len(tn.plots.training_curves({"loss": [2.0, 1.0], "val_loss": [2.1, 1.5]}).axes)
    1
    """
    curves = {name: values for name, values in history.items() if name not in ("lr", "seconds")}
    if not curves or not all(len(values) for values in curves.values()):
        raise ValueError("training_curves: the history has no epochs to draw, for no epoch was finished")
    names = [name for name in curves if not name.startswith("val_")]
    metrics = [name for name in names if name != "loss"]
    on = drawing_on(on, (6.4, 5.6 if metrics else 3.6))
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
    return finished(on, path)


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
    plain(panel)
    panel.legend(frameon=False)
