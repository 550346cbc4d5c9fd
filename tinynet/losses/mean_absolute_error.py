"""Mean absolute error: a regression that outliers can't pull far.

    L = 1/n sum_i |y[i] - t[i]|                     y prediction, t targets, of one shape with n elements

Backward.  y[i] touched one term, times the sign of its difference, and at y[i] = t[i], the corner, 0 is taken:

    dy[i] = sign(y[i] - t[i]) / n

Minimising it makes y the median of the targets that belong to an input, where the squared error makes it their mean.
The gradient doesn't shrink as y comes near t, so a fixed step keeps jumping over it: see huber.
"""

import numpy as np

from tinynet.kernels.compile import helper
from tinynet.kernels.vectors import maximum, select
from tinynet.losses.declaration import declares
from tinynet.losses.elementwise import elementwise


def mean_absolute_error_plain(y, t):
    """The losses, and the slope of each."""
    return abs(y - t), np.sign(y - t)


@helper
def element(y, t):
    d = y - t
    return maximum(0 - d, d), select(d > 0, 1, select(d < 0, -1, d))  # the last d is 0, or NaN


loss = elementwise("mean_absolute_error", "prediction", mean_absolute_error_plain, element, 65536)


@declares("scores", "L = mean of |y - t|", "dy = sign(y - t) / n", "mae l1 maeloss l1loss absoluteerror")
def mean_absolute_error(prediction, targets, *, reduction="mean", denominator=None, grad=True, out=None):
    """The mean of |prediction - targets|, and its gradient with respect to the prediction.

    prediction   any shape, float32 or float64
    targets      the same shape, real numbers; nothing is broadcast
    reduction    "mean" over all elements, "sum", or "none"
    denominator  what "mean" divides by instead: a whole batch's number of elements for one of its shards, say
    grad         False: the gradient isn't returned, but None in its place
    out          the array that receives the gradient; may be `prediction`

    Returns (value, gradient): a float, or an array like prediction for "none"; an array like prediction, the gradient
    of the value (of its sum for "none").  Raises ValueError or TypeError for what it can't use.

    >>> tn.mean_absolute_error(np.array([1.0, 4.0]), [1, 2])
    (1.0, array([0. , 0.5]))
    """
    return loss(prediction, targets, reduction, denominator, grad, out)
