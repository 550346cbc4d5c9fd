"""Huber's loss: squared near the target, where the gradient should fade, and absolute far off, for the outliers.

    d = y - t                                       y prediction, t targets, of one shape with n elements
    h(d) = d^2 / 2                 where |d| <= delta
           delta (|d| - delta/2)   elsewhere        the tangent of the parabola: neither value nor slope jumps
    L = 1/n sum_i h(d[i])

Backward.  y[i] touched one term, times h'(d[i]), which is d[i], cut off at -delta and delta:

    dy[i] = min(max(d[i], -delta), delta) / n

One pass over the prediction: a block's differences give its losses and its gradient.

Source: Huber 1964, "Robust estimation of a location parameter".
"""

import numpy as np
from numba import prange

from tinynet import simd
from tinynet.losses import checks
from tinynet.losses.sigmoid_cross_entropy import block_sum

BLOCK = 1024  # numbers at a time: they stay in the L1 cache between the loops over them
THREADS_FROM = 65536  # numbers; below, waking the threads costs more than they save


@simd.kernel()
def terms(y, t, delta, scale, losses, g):
    """The losses of one block, and scale times their gradient.  g is not y, or the loop wouldn't vectorise."""
    half = y.dtype.type(0.5)
    for i in range(y.size):
        d = y[i] - t[i]
        size = abs(d)
        losses[i] = half * d * d if size <= delta else delta * (size - half * delta)
        cut = delta if d > delta else (-delta if d < -delta else d)  # a NaN stays one
        g[i] = cut * scale


def loss_and_gradient(y, t, delta, scale, chunks, losses, g):
    """scale sum h(y - t) over arrays (N,); the terms go into losses and the gradient into g, unless they are empty.

    Chunks of blocks are what threads take.
    """
    N = y.size
    blocks = (N + BLOCK - 1) // BLOCK
    factor, partial = y.dtype.type(scale), np.zeros(chunks)
    for k in prange(chunks):
        l, dy = np.empty((2, BLOCK), y.dtype)
        for b in range(k * blocks // chunks, (k + 1) * blocks // chunks):
            first = b * BLOCK
            n = min(BLOCK, N - first)
            block_losses = simd.piece(losses, first, n) if losses.size else simd.piece(l, 0, n)
            terms(simd.piece(y, first, n), simd.piece(t, first, n), delta, factor, block_losses, simd.piece(dy, 0, n))
            partial[k] += block_sum(block_losses)
            if g.size:
                for i in range(n):
                    g[first + i] = dy[i]
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return value * scale


one_thread, all_threads = simd.kernel()(loss_and_gradient), simd.kernel(parallel=True)(loss_and_gradient)


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
    chunks = simd.chunk_count(y.size, 16 * BLOCK) if threads else 1
    kernel = all_threads if threads else one_thread
    value = kernel(y.reshape(-1), t.reshape(-1), delta, scale, chunks, losses.reshape(-1), gradient.reshape(-1))
    return losses if reduction == "none" else value, checks.delivered(gradient, grad, out)
