"""Hinge loss: right is not enough, it has to be right by a margin of 1; what is, costs nothing.

    m = y z                        z scores, y targets -1 or +1, of one shape with n elements; m is the margin
    L = 1/n sum_i max(0, 1 - m[i])

Backward.  z[i] touched one term, times -y[i] where the margin falls short, and nothing where it doesn't:

    dz[i] = -y[i] / n   where m[i] < 1, else 0      (at m[i] = 1, the corner, too)

This is the loss of support vector machines.  The cross-entropy, log(1 + exp(-m)), is a smooth version of it, which
never quite stops asking for more and can be read as a probability.

Source: Cortes and Vapnik 1995, "Support-vector networks".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels.compile import helper
from tinynet.kernels.loss_elements import TWO_SIDES
from tinynet.kernels.vectors import maximum, select
from tinynet.losses.declaration import Result, declares
from tinynet.losses.elementwise import elementwise


def hinge_plain(z, t):
    """The losses, and the slope of each, before the mean: 1/n multiplies both in elementwise.py."""
    y = np.where(t > 0, 1, -1)
    margin = y * z
    return np.maximum(0, 1 - margin), np.where(margin >= 1, 0, np.where(np.isnan(margin), margin, -y))


@helper
def element(z, t):
    y = select(t > 0, t, t - t - 1)  # 0 stands for -1
    short = 1 - y * z
    slope = select(short > 0, 0 - y, select(short == short, 0, short))  # a NaN stays one
    return maximum(t - t, short), slope


def sides_error(z, t, ignore_index, reason, name):
    """The ValueError for targets t that are neither all -1 or +1, nor all 0 or 1."""
    good = (t == -1) | (t == 0) | (t == 1)
    mixed = good.all()
    worst = int(np.argmin(t != 0 if mixed else good))
    where = tuple(int(axis) for axis in np.unravel_index(worst, t.shape))
    but = " where others are -1" if mixed else ""
    return ValueError(f"{name}: targets must be -1 and +1, or 0 and 1, got {t[where]} at position {where}{but}")


loss = elementwise("hinge", "scores", hinge_plain, element, 65536, targets=TWO_SIDES, error=sides_error, padding=(1, 1))


@declares("scores", "L = mean of max(0, 1 - t z)", "dz = -t / n where t z < 1, else 0")
def hinge(
    scores: ArrayLike, targets: ArrayLike, *, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The loss of support vector machines: the mean of max(0, 1 - y z), and its gradient by the scores z.

    y, the target, is -1 or 1: a score that has its sign, and is at least 1 in size, costs nothing.

    scores   any shape, float32 or float64; above 0 means +1
    targets  the same shape: -1 and +1, or 0 and 1, of any type

    For the options and what is returned, see tinynet.losses.

    >>> tn.hinge(np.array([0.5, -3.0]), [1, -1])  # the second is on its side, and far enough
    (0.25, array([-0.5,  0. ]))
    """
    return loss(scores, targets, reduction, denominator, grad, out, sample_weight)
