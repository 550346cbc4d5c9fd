"""Mean squared error: the loss of regression, and of Gaussian noise.

    L = 1/n sum_i (y[i] - t[i])^2                   y prediction, t targets, of one shape with n elements

Backward.  y[i] touched one square, times 2 (y[i] - t[i]):

    dy[i] = 2 (y[i] - t[i]) / n

For one input with several targets, dy = 0 says sum (y - t) = 0: y is their mean.  And -log of a normal density of
fixed width is a multiple of this square plus a constant: it is maximum likelihood under Gaussian noise.  For classes,
the cross-entropies are the better choice: through a sigmoid or a softmax, this loss's gradient vanishes where the
prediction is confidently wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels.compile import helper
from tinynet.losses.declaration import Result, declares
from tinynet.losses.elementwise import elementwise


def mean_squared_error_plain(y, t):
    """The losses, and the slope of each, before the mean: 1/n multiplies both in elementwise.py."""
    d = y - t
    return d**2, 2 * d


@helper
def element(y, t):
    d = y - t
    return d * d, d + d


loss = elementwise("mean_squared_error", "prediction", mean_squared_error_plain, element, 65536)


@declares("scores", "L = mean of (y - t)^2", "dy = 2 (y - t) / n", "mse l2 mseloss l2loss squarederror")
def mean_squared_error(
    prediction: ArrayLike, targets: ArrayLike, *, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The mean of (prediction - targets)^2, and its gradient with respect to the prediction.

    prediction  any shape, float32 or float64
    targets     the same shape, real numbers; nothing is broadcast

    For the options and what is returned, see tinynet.losses.

    >>> tn.mean_squared_error(np.array([1.0, 4.0]), [1, 2])
    (2.0, array([0., 2.]))
    """
    return loss(prediction, targets, reduction, denominator, grad, out, sample_weight)
