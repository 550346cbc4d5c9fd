"""Mean squared error: the loss of regression, and of Gaussian noise.

    L = 1/n sum_i (y[i] - t[i])^2                   y prediction, t targets, of one shape with n elements

Backward.  y[i] touched one square, times 2 (y[i] - t[i]):

    dy[i] = 2 (y[i] - t[i]) / n

Minimising it makes y the mean of the targets that belong to an input, because -log of a normal density of fixed
width is this square and a constant.  For classes, the cross-entropies are the better choice: through a sigmoid or a
softmax, this loss's gradient vanishes where the prediction is confidently wrong.

One pass over the prediction: a vector of differences gives its squares and its gradient.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.vectors import load, load_some, splat, store, store_some, sum_of, width
from tinynet.losses import checks

BLOCK = 1024  # numbers at a time: their sum is in their own dtype, the sum of the blocks' in float64
THREADS_FROM = 65536  # numbers; below, waking the threads costs more than they save


@kernel()
def block_of_terms(y, t, factor, g):
    """The sum of (y - t)^2 over one block; factor (y - t) goes into g, which may be y, unless it is empty."""
    W, n = width(y), y.size
    sums, whole = splat(y, 0), n - n % W
    for i in range(0, whole, W):
        d = load(y, i) - load(t, i)
        sums = sums + d * d
        if g.size:
            store(d * factor, g, i)
    for i in range(whole, n, W):
        d = load_some(y, i, n - i, 0) - load_some(t, i, n - i, 0)
        sums = sums + d * d
        if g.size:
            store_some(d * factor, g, i, n - i)
    return sum_of(sums)


def loss_and_gradient(y, t, scale, chunks, losses, g):
    """scale sum (y - t)^2 over arrays (N,); the squares go into losses and the gradient into g, unless they are empty.

    Chunks of blocks are what threads take.
    """
    N = y.size
    blocks = (N + BLOCK - 1) // BLOCK
    factor, partial = y.dtype.type(2.0 * scale), np.zeros(chunks)
    for k in prange(chunks):
        for b in range(k * blocks // chunks, (k + 1) * blocks // chunks):
            first, n = b * BLOCK, min(BLOCK, N - b * BLOCK)
            yb, tb = memory.piece(y, first, n), memory.piece(t, first, n)
            if losses.size:
                own = memory.piece(losses, first, n)
                for i in range(n):
                    own[i] = (yb[i] - tb[i]) * (yb[i] - tb[i])
            partial[k] += block_of_terms(yb, tb, factor, memory.piece(g, first, min(n, g.size)))
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return value * scale


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


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
    name = "mean_squared_error"
    y = checks.prediction(prediction, name)
    t = checks.like_prediction(targets, y.shape, y.dtype, name)
    divisor = checks.divisor(reduction, denominator, name)
    gradient = checks.gradient(grad, out, prediction, y, (t,), name)
    losses = np.empty(y.shape, y.dtype) if reduction == "none" else checks.NOTHING[y.dtype, 1]

    scale = 1.0 / (divisor or y.size) if reduction == "mean" else 1.0
    threads = y.size >= THREADS_FROM
    chunks = chunk_count(y.size, 16 * BLOCK) if threads else 1
    kernel = all_threads if threads else one_thread
    value = kernel(y.reshape(-1), t.reshape(-1), scale, chunks, losses.reshape(-1), gradient.reshape(-1))
    return losses if reduction == "none" else value, checks.delivered(gradient, grad, out)
