"""Huber's loss: squared near the target, where the gradient should fade, and absolute far off, for the outliers.

    d = y - t                                       y prediction, t targets, of one shape with n elements
    h(d) = d^2 / 2                 where |d| <= delta
           delta (|d| - delta/2)   elsewhere        the tangent of the parabola: neither value nor slope jumps
    L = 1/n sum_i h(d[i])

Backward.  y[i] touched one term, times h'(d[i]), which is d[i], cut off at -delta and delta:

    dy[i] = c[i] / n     c = min(max(d, -delta), delta)          and so h(d) is c (d - c/2), on both sides of delta

One pass over the prediction: a vector of differences gives its losses and its gradient.

Source: Huber 1964, "Robust estimation of a location parameter".
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.vectors import load, load_some, select, splat, store, store_some, sum_of, width
from tinynet.losses import checks

BLOCK = 1024  # numbers at a time: their sum is in their own dtype, the sum of the blocks' in float64
THREADS_FROM = 65536  # numbers; below, waking the threads costs more than they save


@kernel()
def block_of_terms(y, t, delta, scale, g):
    """The sum of h(y - t) over one block; its gradient times scale goes into g, which may be y, unless it is empty."""
    W, n, half = width(y), y.size, y.dtype.type(0.5)
    sums, whole = splat(y, 0), n - n % W
    for i in range(0, whole, W):
        d = load(y, i) - load(t, i)
        cut = select(d > delta, delta, select(d < -delta, -delta, d))  # a NaN stays one
        sums = sums + cut * (d - half * cut)
        if g.size:
            store(cut * scale, g, i)
    for i in range(whole, n, W):
        d = load_some(y, i, n - i, 0) - load_some(t, i, n - i, 0)
        cut = select(d > delta, delta, select(d < -delta, -delta, d))
        sums = sums + cut * (d - half * cut)
        if g.size:
            store_some(cut * scale, g, i, n - i)
    return sum_of(sums)


def loss_and_gradient(y, t, delta, scale, chunks, losses, g):
    """scale sum h(y - t) over arrays (N,); the terms go into losses and the gradient into g, unless they are empty.

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
                    d = yb[i] - tb[i]
                    cut = delta if d > delta else (-delta if d < -delta else d)
                    own[i] = cut * (d - y.dtype.type(0.5) * cut)
            partial[k] += block_of_terms(yb, tb, delta, factor, memory.piece(g, first, min(n, g.size)))
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return value * scale


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


def huber(prediction, targets, delta=1.0, *, reduction="mean", denominator=None, grad=True, out=None):
    """Huber's loss of prediction - targets, and its gradient with respect to the prediction.

    prediction   any shape, float32 or float64
    targets      the same shape, real numbers; nothing is broadcast
    delta        the difference at which the parabola goes over into a line; above 0
    reduction    "mean" over all elements, "sum", or "none"
    denominator  what "mean" divides by instead: a whole batch's number of elements for one of its shards, say
    grad         False: the gradient isn't returned, but None in its place
    out          the array that receives the gradient; may be `prediction`

    Returns (value, gradient): a float, or an array like prediction for "none"; an array like prediction, the gradient
    of the value (of its sum for "none").  Raises ValueError or TypeError for what it can't use.

    >>> tn.huber(np.array([0.5, 3.0]), [0, 0])  # the mean of 0.5^2 / 2 and 3 - 1/2
    (1.3125, array([0.25, 0.5 ]))
    """
    name = "huber"
    y = checks.prediction(prediction, name)
    t = checks.like_prediction(targets, y.shape, y.dtype, name)
    delta = y.dtype.type(checks.real_number(delta, name, "delta"))
    divisor = checks.divisor(reduction, denominator, name)
    gradient = checks.gradient(grad, out, prediction, y, (t,), name)
    losses = np.empty(y.shape, y.dtype) if reduction == "none" else checks.NOTHING[y.dtype, 1]

    scale = 1.0 / (divisor or y.size) if reduction == "mean" else 1.0
    threads = y.size >= THREADS_FROM
    chunks = chunk_count(y.size, 16 * BLOCK) if threads else 1
    kernel = all_threads if threads else one_thread
    value = kernel(y.reshape(-1), t.reshape(-1), delta, scale, chunks, losses.reshape(-1), gradient.reshape(-1))
    return losses if reduction == "none" else value, checks.delivered(gradient, grad, out)
