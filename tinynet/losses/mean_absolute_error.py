"""Mean absolute error: a regression that outliers can't pull far.

    L = 1/n sum_i |y[i] - t[i]|                     y prediction, t targets, of one shape with n elements

Backward.  y[i] touched one term, times the sign of its difference, and at y[i] = t[i], the corner, 0 is taken:

    dy[i] = sign(y[i] - t[i]) / n

Minimising it makes y the median of the targets that belong to an input, where the squared error makes it their mean.
The gradient doesn't shrink as y comes near t, so a fixed step keeps jumping over it: see huber.

One pass over the prediction: a vector of differences gives its losses and its gradient.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.vectors import load, load_some, maximum, select, splat, store, store_some, sum_of, width
from tinynet.losses import checks

BLOCK = 1024  # numbers at a time: their sum is in their own dtype, the sum of the blocks' in float64
THREADS_FROM = 65536  # numbers; below, waking the threads costs more than they save


@kernel()
def block_of_terms(y, t, scale, g):
    """The sum of |y - t| over one block; its gradient times scale goes into g, which may be y, unless it is empty."""
    W, n, zero = width(y), y.size, y.dtype.type(0)
    sums, whole = splat(y, 0), n - n % W
    for i in range(0, whole, W):
        d = load(y, i) - load(t, i)
        sums = sums + maximum(zero - d, d)
        if g.size:
            store(select(d > zero, scale, select(d < zero, -scale, d)), g, i)  # the last d is 0, or NaN
    for i in range(whole, n, W):
        d = load_some(y, i, n - i, 0) - load_some(t, i, n - i, 0)
        sums = sums + maximum(zero - d, d)
        if g.size:
            store_some(select(d > zero, scale, select(d < zero, -scale, d)), g, i, n - i)
    return sum_of(sums)


def loss_and_gradient(y, t, scale, chunks, losses, g):
    """scale sum |y - t| over arrays (N,); the terms go into losses and the gradient into g, unless they are empty.

    Chunks of blocks are what threads take.
    """
    N = y.size
    blocks = (N + BLOCK - 1) // BLOCK
    factor, partial = y.dtype.type(scale), np.zeros(chunks)
    for k in prange(chunks):
        for b in range(k * blocks // chunks, (k + 1) * blocks // chunks):
            first, n = b * BLOCK, min(BLOCK, N - b * BLOCK)
            yb, tb = memory.piece(y, first, n), memory.piece(t, first, n)
            if losses.size:
                own = memory.piece(losses, first, n)
                for i in range(n):
                    own[i] = abs(yb[i] - tb[i])
            partial[k] += block_of_terms(yb, tb, factor, memory.piece(g, first, min(n, g.size)))
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return value * scale


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


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
    name = "mean_absolute_error"
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
