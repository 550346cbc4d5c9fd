"""How losses compare."""

import math

import numpy as np

from tinynet.losses.hinge import hinge
from tinynet.losses.mean_squared_error import mean_squared_error
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.sigmoid_focal import sigmoid_focal
from tinynet.plots.canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, drawing_on, finished, note, plain


def loss_and_gradient(path=None, *, on=None):
    """Why classifiers train on cross-entropy: loss and gradient against the probability given to what is true.

    Left, -log p is steep where the model is confidently wrong and flat where it is right.  Right, its gradient with
    respect to the logit is p - 1: the larger the mistake, the stronger the pull.  The squared error (1 - p)^2, dashed,
    passes through the sigmoid's slope p (1 - p), and pulls least where the model is most wrong.

    >>> len(tn.plots.loss_and_gradient().axes)
    2
    """
    z = np.linspace(-9, 9, 361)
    p, yes = 1 / (1 + np.exp(-z)), np.ones_like(z)
    entropy, entropy_slope = sigmoid_cross_entropy(z, yes, reduction="none")
    squared, squared_slope = mean_squared_error(p, yes, reduction="none")
    on = drawing_on(on, (9.6, 4.0))
    left, right = on.subplots(1, 2)
    for panel, curve, other in ((left, entropy, squared), (right, entropy_slope, squared_slope * p * (1 - p))):
        panel.plot(p, curve, color=BLUE, lw=2.4, label="cross-entropy")
        panel.plot(p, other, color=ORANGE, lw=1.6, ls="--", label="squared error")
        panel.set(xlim=(0, 1), xlabel="probability $p$ given to what is true")
        plain(panel)
    left.set(ylim=(0, 5), ylabel="loss")
    left.set_title(r"Loss:  $-\log\,p$  and  $(1-p)^2$", fontsize=11)
    left.legend(frameon=False, loc="upper right")
    points = np.array([0.2, 0.8])
    left.plot(points, -np.log(points), "o", color=BLUE, ms=5)
    for at, words in zip(points, ((0.24, 1.75), (0.66, 0.75)), strict=True):
        left.text(*words, rf"$-\log\,{at}={-math.log(at):.4f}$", color=BLUE, fontsize=9)
    note(left, "confidently wrong:\nsteep", (0.02, 3.9), (0.13, 3.9), BLUE)
    note(left, "right: flat", (0.97, 0.03), (0.83, 1.45), BLUE, (0.8, 0))
    right.set(ylim=(-1.05, 0.15), ylabel="gradient with respect to the logit")
    right.set_title("Gradient:  $p-1$  and  $-2\\,p\\,(1-p)^2$", fontsize=11)
    note(right, "confidently wrong:\nfull pull", (0.02, -0.98), (0.16, -0.98), BLUE)
    note(right, "confidently wrong:\nno pull at all", (0.01, -0.02), (0.05, 0.09), ORANGE)
    right.text(0.98, 0.09, "right:\nno pull", color=BLUE, fontsize=9, ha="right", va="center")
    return finished(on, path)


def losses_by_margin(path=None, *, on=None):
    """The losses of a yes-or-no question against the margin, and their gradients.

    The margin is the score's distance to the right side of 0: the logit z where yes is true, -z where it is no.

    >>> len(tn.plots.losses_by_margin().axes)
    2
    """
    margin = np.linspace(-3, 3, 601)
    yes = np.ones_like(margin)
    curves = {
        "squared error": (PURPLE, mean_squared_error(margin, yes, reduction="none")),
        "hinge": (ORANGE, hinge(margin, yes, reduction="none")),
        "cross-entropy": (BLUE, sigmoid_cross_entropy(margin, yes, reduction="none")),
        r"focal, $\gamma=2$": (GREEN, sigmoid_focal(margin, yes, 2.0, None, reduction="none")),
    }
    on = drawing_on(on, (9.6, 4.0))
    left, right = on.subplots(1, 2)
    left.plot([-3, 0, 0, 3], [1, 1, 0, 0], color=GREY, lw=1.2, ls="--", label="wrong or right")
    for name, (colour, (loss, gradient)) in curves.items():
        width = 2.6 if name == "cross-entropy" else 1.6
        left.plot(margin, loss, color=colour, lw=width, label=name)
        right.plot(margin, gradient, color=colour, lw=width, label=name)
    for panel in (left, right):
        plain(panel)
        panel.axvline(0, color=GREY, lw=0.8)
        panel.set(xlim=(-3, 3), xlabel=r"margin  (wrong $\leftarrow$ 0 $\rightarrow$ right)")
    left.set(ylim=(0, 4), ylabel="loss")
    right.set(ylim=(-2.5, 1), ylabel="gradient with respect to the margin")
    right.legend(*left.get_legend_handles_labels(), frameon=False, loc="lower right")
    note(left, "squared error:\ntoo right is wrong", (2.75, 3.06), (0.3, 3.4), PURPLE, (1, 0.5))
    note(left, "cross-entropy:\nnever quite done", (1.15, 0.28), (0.3, 2.3), BLUE, (0.4, 0))
    note(right, "hinge:\nall or nothing", (1.0, -0.75), (1.25, -0.9), ORANGE)
    note(right, "focal: less pull\non what is right", (0.4, -0.17), (-2.7, 0.45), GREEN, (1, 0))
    return finished(on, path)
