"""Hinge loss: right is not enough, it has to be right by a margin of 1; what is, costs nothing.

    m = y z                        z scores, y targets -1 or +1, of one shape with n elements; m is the margin
    L = 1/n sum_i max(0, 1 - m[i])

Backward.  z[i] touched one term, times -y[i] where the margin falls short, and nothing where it doesn't:

    dz[i] = -y[i] / n   where m[i] < 1, else 0      (at m[i] = 1, the corner, too)

This is the loss of support vector machines.  The cross-entropy, log(1 + exp(-m)), is a smooth version of it, which
never quite stops asking for more and can be read as a probability.

One pass over the scores, and one over the targets before, which checks them.

Source: Cortes and Vapnik 1995, "Support-vector networks".
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.losses import checks
from tinynet.losses.sigmoid_cross_entropy import block_sum

BLOCK = 1024  # numbers at a time: they stay in the L1 cache between the loops over them
THREADS_FROM = 65536  # numbers; below, waking the threads costs more than they save


@kernel()
def terms(z, t, scale, losses, g):
    """The losses of one block, and scale times their gradient.  g is not z, or the loop wouldn't vectorise."""
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for i in range(z.size):
        y = one if t[i] > zero else -one
        short = one - y * z[i]
        enough = short <= zero
        losses[i] = zero if enough else short
        slope = -y if short > zero else short  # a NaN stays one
        g[i] = zero if enough else slope * scale


@kernel(fast=True)
def count_targets(t):
    """How many of t are -1, how many 0, and how many neither of them nor 1."""
    zero, one = t.dtype.type(0), t.dtype.type(1)
    below = zeros = others = 0
    for i in range(t.size):
        below += t[i] == -one
        zeros += t[i] == zero
        others += not (t[i] == -one or t[i] == zero or t[i] == one)
    return below, zeros, others


def loss_and_gradient(z, t, scale, chunks, losses, g):
    """scale sum max(0, 1 - y z) over arrays (N,), and whether t is as it should be; with a bad t nothing is written.

    Targets are -1 and +1, or 0 and 1.  Chunks of blocks are what threads take.
    """
    N = z.size
    blocks = (N + BLOCK - 1) // BLOCK
    factor, partial, counts = z.dtype.type(scale), np.zeros(chunks), np.zeros((chunks, 3), np.int64)
    for k in prange(chunks):
        first, last = k * blocks // chunks * BLOCK, min((k + 1) * blocks // chunks * BLOCK, N)
        counts[k, 0], counts[k, 1], counts[k, 2] = count_targets(memory.piece(t, first, last - first))
    below = zeros = others = 0
    for k in range(chunks):
        below += counts[k, 0]
        zeros += counts[k, 1]
        others += counts[k, 2]
    if others > 0 or (below > 0 and zeros > 0):
        return 0.0, False
    for k in prange(chunks):
        l, dz = np.empty((2, BLOCK), z.dtype)
        for b in range(k * blocks // chunks, (k + 1) * blocks // chunks):
            first = b * BLOCK
            n = min(BLOCK, N - first)
            block_losses = memory.piece(losses, first, n) if losses.size else memory.piece(l, 0, n)
            terms(memory.piece(z, first, n), memory.piece(t, first, n), factor, block_losses, memory.piece(dz, 0, n))
            partial[k] += block_sum(block_losses)
            if g.size:
                given = memory.piece(g, first, n)
                for i in range(n):
                    given[i] = dz[i]
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return value * scale, True


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


def not_a_side(t, name):
    """The ValueError for targets t that are neither all -1 or +1, nor all 0 or 1."""
    good = (t == -1) | (t == 0) | (t == 1)
    mixed = good.all()
    worst = int(np.argmin(t != 0 if mixed else good))
    where = tuple(int(axis) for axis in np.unravel_index(worst, t.shape))
    but = " where others are -1" if mixed else ""
    return ValueError(f"{name}: targets must be -1 and +1, or 0 and 1, got {t[where]} at position {where}{but}")


def hinge(scores, targets, *, reduction="mean", denominator=None, grad=True, out=None):
    """The hinge loss of scores against targets of two sides, and its gradient with respect to the scores.

    scores       any shape, float32 or float64; above 0 means +1
    targets      the same shape: -1 and +1, or 0 and 1, of any type
    reduction    "mean" over all elements, "sum", or "none"
    denominator  what "mean" divides by instead: a whole batch's number of elements for one of its shards, say
    grad         False: the gradient isn't returned, but None in its place
    out          the array that receives the gradient; may be `scores`

    Returns (value, gradient): a float, or an array like scores for "none"; an array like scores, the gradient of the
    value (of its sum for "none").  Raises ValueError or TypeError for what it can't use, before anything is written.

    >>> tn.hinge(np.array([0.5, -3.0]), [1, -1])  # the second is on its side, and far enough
    (0.25, array([-0.5,  0. ]))
    """
    name = "hinge"
    z = checks.prediction(scores, name, "scores")
    t = checks.like_prediction(targets, z.shape, z.dtype, name)
    divisor = checks.divisor(reduction, denominator, name)
    gradient = checks.gradient(grad, out, scores, z, (t,), name)
    losses = np.empty(z.shape, z.dtype) if reduction == "none" else checks.NOTHING[z.dtype, 1]

    scale = 1.0 / (divisor or z.size) if reduction == "mean" else 1.0
    threads = z.size >= THREADS_FROM
    chunks = chunk_count(z.size, 16 * BLOCK) if threads else 1
    kernel = all_threads if threads else one_thread
    value, good = kernel(z.reshape(-1), t.reshape(-1), scale, chunks, losses.reshape(-1), gradient.reshape(-1))
    if not good:
        raise not_a_side(t, name)
    return losses if reduction == "none" else value, checks.delivered(gradient, grad, out)
