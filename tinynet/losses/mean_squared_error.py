"""Mean squared error: the loss of regression, and of Gaussian noise.

    L = 1/n sum_i (y[i] - t[i])^2                   y prediction, t targets, of one shape with n elements

Backward.  y[i] touched one square, times 2 (y[i] - t[i]):

    dy[i] = 2 (y[i] - t[i]) / n

Minimising it makes y the mean of the targets that belong to an input, because -log of a normal density of fixed
width is this square and a constant.  For classes, the cross-entropies are the better choice: through a sigmoid or a
softmax, this loss's gradient vanishes where the prediction is confidently wrong.
"""

from tinynet.kernels.compile import helper
from tinynet.losses.declaration import declares
from tinynet.losses.elementwise import elementwise


def mean_squared_error_plain(y, t):
    """The losses, and the slope of each."""
    d = y - t
    return d**2, 2 * d


@helper
def element(y, t):
    d = y - t
    return d * d, d + d


loss = elementwise("mean_squared_error", "prediction", mean_squared_error_plain, element, 65536)


@declares("scores", "L = mean of (y - t)^2", "dy = 2 (y - t) / n", "mse l2 mseloss l2loss squarederror")
def mean_squared_error(prediction, targets, *, reduction="mean", denominator=None, grad=True, out=None):
    """The mean of (prediction - targets)^2, and its gradient with respect to the prediction.

    prediction   any shape, float32 or float64
    targets      the same shape, real numbers; nothing is broadcast
    reduction    "mean" over all elements, "sum", or "none"
    denominator  what "mean" divides by instead: a whole batch's number of elements for one of its shards, say
    grad         False: the gradient isn't computed, and None is returned for it
    out          the array that receives the gradient; may be `prediction`

    Returns (value, gradient): a float, or an array like prediction for "none"; an array like prediction, the gradient
    of the value (of its sum for "none").  Raises ValueError or TypeError for what it can't use.

    >>> tn.mean_squared_error(np.array([1.0, 4.0]), [1, 2])
    (2.0, array([0., 2.]))
    """
    return loss(prediction, targets, reduction, denominator, grad, out)
