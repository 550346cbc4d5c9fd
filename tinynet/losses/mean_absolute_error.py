"""Mean absolute error: a regression that outliers can't pull far.

    L = 1/n sum_i |y[i] - t[i]|                     y prediction, t targets, of one shape with n elements

Backward.  y[i] touched one term, times the sign of its difference, and at y[i] = t[i], the corner, 0 is taken:

    dy[i] = sign(y[i] - t[i]) / n

For one input with several targets, dy = 0 says that as many of them lie above y as below: y is their median, where the
squared error makes it their mean.
The gradient doesn't shrink as y comes near t, so a fixed step keeps jumping over it: see huber.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels.compile import helper
from tinynet.kernels.vectors import maximum, select
from tinynet.losses.declaration import Result, declares
from tinynet.losses.elementwise import elementwise


def mean_absolute_error_plain(y, t):
    """The losses, and the slope of each, before the mean: 1/n multiplies both in elementwise.py."""
    return abs(y - t), np.sign(y - t)


@helper
def element(y, t):
    d = y - t
    return maximum(0 - d, d), select(d > 0, 1, select(d < 0, -1, d))  # the last d is 0, or NaN


loss = elementwise("mean_absolute_error", "prediction", mean_absolute_error_plain, element, 65536)


@declares("scores", "L = mean of |y - t|", "dy = sign(y - t) / n", "mae l1 maeloss l1loss absoluteerror")
def mean_absolute_error(
    prediction: ArrayLike, targets: ArrayLike, *, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The mean of |prediction - targets|, and its gradient with respect to the prediction.

    Arguments are mean_squared_error's; for the options and what is returned, see tinynet.losses.

    >>> tn.mean_absolute_error(np.array([1.0, 4.0]), [1, 2])
    (1.0, array([0. , 0.5]))
    """
    return loss(prediction, targets, reduction, denominator, grad, out, sample_weight)
