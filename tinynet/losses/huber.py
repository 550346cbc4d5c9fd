"""Huber's loss: squared near the target, where the gradient should fade, and absolute far off, for the outliers.

    d = y - t                                       y prediction, t targets, of one shape with n elements
    h(d) = d^2 / 2                 where |d| <= delta
           delta (|d| - delta/2)   elsewhere        the tangent of the parabola: neither value nor slope jumps
    L = 1/n sum_i h(d[i])

Backward.  y[i] touched one term, times h'(d[i]), which is d[i], cut off at -delta and delta:

    dy[i] = c[i] / n     c = min(max(d, -delta), delta)          and so h(d) is c (d - c/2), on both sides of delta

Source: Huber 1964, "Robust estimation of a location parameter".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.kernels.compile import helper
from tinynet.kernels.vectors import select
from tinynet.losses.declaration import Result, declares
from tinynet.losses.elementwise import elementwise


def huber_plain(y, t, delta):
    """The losses, and the slope of each, before the mean: 1/n multiplies both in elementwise.py."""
    d = y - t
    losses = np.where(abs(d) <= delta, d**2 / 2, delta * (abs(d) - delta / 2))
    return losses, np.clip(d, -delta, delta)


@helper
def element(y, t, delta):
    d = y - t
    cut = select(d > delta, delta, select(d < -delta, -delta, d))  # a NaN stays one
    return cut * (d - cut * 0.5), cut


loss = elementwise("huber", "prediction", huber_plain, element, 65536)


@declares(
    "scores",
    "L = mean of d^2 / 2 where |d| <= delta, else delta (|d| - delta/2), d = y - t",
    "dy = d / n, cut off at -delta / n and delta / n",
    "smoothl1 smoothl1loss huberloss",
)
def huber(
    prediction: ArrayLike, targets: ArrayLike, delta: float = 1.0, *, reduction: str = "mean",
    denominator: float | None = None, sample_weight: ArrayLike | None = None, grad: bool = True,
    out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The loss of a regression that outliers can't pull far: the mean of Huber's, and its gradient by the prediction.

    It is d^2 / 2 for d = prediction - target, and beyond delta its tangent, which grows like delta |d|.

    prediction, targets  as in mean_squared_error
    delta                the difference at which the parabola goes over into a line; above 0

    For the options and what is returned, see tinynet.losses.

    >>> tn.huber(np.array([0.5, 3.0]), [0, 0])  # the mean of 0.5^2 / 2 and 3 - 1/2
    (1.3125, array([0.25, 0.5 ]))
    """
    delta = checks.real_number(delta, "huber", "delta")
    return loss(prediction, targets, reduction, denominator, grad, out, sample_weight, delta)
