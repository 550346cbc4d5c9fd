"""Softmax focal loss: cross-entropy that looks away from the samples that are already right.

    p[n,c] = exp(z[n,c]) / sum_k exp(z[n,k])        z logits (N, C)   t labels (N,)
    l[n]   = -log p[n,t[n]]                         the cross-entropy of row n
    q[n]   = 1 - p[n,t[n]]                          the chance of being wrong
    L      = sum_n w[t[n]] q[n]^gamma l[n] / sum_n w[t[n]]

Backward.  Everything about row n goes through the one number p[n,t].  z[n,c] touches its logarithm times
[c = t] - p[n,c], so it touches, leaving out n,

    l  times  p[c] - [c = t]                        as in softmax_cross_entropy
    q  times  p[t] (p[c] - [c = t])                 as dq = -dp[t] = p[t] dl

and with q^gamma l differentiated by the product rule,

    dz[c] = (q^gamma + gamma q^(gamma-1) p[t] l) (p[c] - [c = t])
          = F (p[c] - [c = t])                      F = q^gamma (1 + gamma p[t] l / q)

So the gradient is the cross-entropy's, and every row has a factor F of its own: the rows are softmax_cross_entropy's
kernel, and gamma = 0 is that loss.  As l goes to 0, so does q, and l / q goes to 1: F is finite for every gamma.

Stable form.  All of F comes from l, whose digits softmax_cross_entropy keeps: p[t] = exp(-l), and for q, where
1 - exp(-l) would cancel, q = 2 T / (1 + T) with T = tanh(l / 2); q^gamma = exp(-gamma (-log q)).

One pass over the logits.  The gradient of a few rows is multiplied by F while it is in the cache.

Source: Lin et al. 2017, "Focal loss for dense object detection", who have two classes.
"""

import numpy as np
from numba import prange

from tinynet.kernels import floats, memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.softmax_rows import softmax_rows, weighted
from tinynet.layers.activations import tanh
from tinynet.losses import checks
from tinynet.losses.binary_cross_entropy import surprisal
from tinynet.losses.softmax_cross_entropy import count_labels, total_or

ROWS = 64  # at a time, at most; softmax_rows takes 32 side by side, or 16, where classes are few
GROUP = 16384  # logits of a group of rows, which stay in the L2 cache
THREADS_FROM = 16384  # logits; below, waking the threads costs more than they save


@kernel()
def focus(losses, gamma, F):
    """Losses (n,) go from l to q^gamma l; fills F (n,)."""
    one, two, zero, half = losses.dtype.type(1), losses.dtype.type(2), losses.dtype.type(0), losses.dtype.type(0.5)
    for i in range(losses.size):
        l = losses[i]
        T = tanh(half * l)
        q, p = two * T / (one + T), floats.exp(-l)
        power = one if gamma == zero else floats.exp(-gamma * surprisal(q))
        share = zero if p == zero else p * l / q  # p l goes to 0 as l goes to infinity
        share = one if l == zero else share
        losses[i] = power * l
        F[i] = power * (one + gamma * share)


@kernel()
def focal_rows(z, t, w, gamma, ignore_index, scale, losses, g, first, last, F):
    """Rows `first` to `last` of logits z (N, C) with labels t (N,): the sum of their weighted losses.

    Fills losses (N,), and g (N, C) with scale times the gradient, unless g is empty.  F is room for their factors.
    """
    C = z.shape[1]
    softmax_rows(z, t, z[:0], w[:0], ignore_index, 0.0, 1.0, losses, g, first, last)
    focus(memory.piece(losses, first, last - first), gamma, F)
    total = 0.0
    for i in range(first, last):
        a = 0.0
        if t[i] != ignore_index:
            a = np.float64(w[t[i]]) if w.size else 1.0
        loss = weighted(a, np.float64(losses[i]))
        losses[i] = loss
        total += loss
        factor = z.dtype.type(a * scale * F[i - first])
        dz = memory.piece(g, i * C, C if g.size else 0)
        for c in range(dz.size):
            dz[c] *= factor
    return total


def loss_and_gradient(z, t, w, gamma, ignore_index, mean, divisor, chunks, losses, g):
    """The position of the first bad label, or -1, and the loss's value.  With a bad label, nothing is written.

    Chunks of groups of rows are what threads take; each owns its rows of g.
    """
    N, C = z.shape
    position, total = count_labels(t, C, w, ignore_index)
    if position >= 0:
        return position, 0.0
    scale = 1.0 / total_or(divisor, total) if mean else 1.0
    rows = min(ROWS, max(1, GROUP // C))
    groups = (N + rows - 1) // rows
    partial = np.zeros(chunks)
    for k in prange(chunks):
        F = np.empty(rows, z.dtype)
        for group in range(k * groups // chunks, (k + 1) * groups // chunks):
            first, last = group * rows, min(group * rows + rows, N)
            partial[k] += focal_rows(z, t, w, gamma, ignore_index, scale, losses, g, first, last, F)
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return position, value * scale


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


def softmax_focal(
    logits,
    targets,
    gamma=2.0,
    weight=None,
    *,
    ignore_index=-100,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
):
    """The focal loss of softmax(logits) against labels, and its gradient with respect to the logits.

    logits        (..., C), float32 or float64
    targets       (...) of any integer type: classes from 0 to C-1
    gamma         how strongly what is right is left out; at least 0, where 0 is the cross-entropy
    weight        (C,) factors of the classes' losses: the paper's alpha
    ignore_index  a label with this value adds no loss and no gradient, and does not count; logits there may be NaN
    reduction     "mean": over the weights w[t] of the labels that count (0 where there are none); "sum"; or "none"
    denominator   what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad          False: the gradient isn't computed, and None is returned for it
    out           the array that receives the gradient; may be `logits`

    Returns (value, gradient): a float, or an array (...) for "none"; an array like logits, the gradient of the value
    (of its sum for "none").  Infinite logits and NaN as in softmax_cross_entropy.  Raises ValueError or TypeError for
    what it can't use, before anything is written.

    >>> losses, gradients = tn.softmax_focal(np.array([[0.0, 0.0], [3.0, 0.0]]), [0, 0], reduction="none")
    >>> losses.round(5).tolist()  # the second is right and sure
    [0.17329, 0.00011]
    """
    name = "softmax_focal"
    z = checks.prediction(logits, name, "logits")
    if z.ndim == 0:
        raise ValueError(f"{name}: logits must have shape (..., C), got one number")
    C, dtype = z.shape[-1], z.dtype
    gamma = dtype.type(checks.real_number(gamma, name, "gamma", zero=True))
    divisor = checks.divisor(reduction, denominator, name)
    t, q, ignore_index = checks.class_targets(targets, z.shape, dtype, ignore_index, name)
    if q.size:
        raise TypeError(f"{name}: targets must be integer labels, got probabilities {z.shape}; try .argmax(-1)")
    w = checks.NOTHING[dtype, 1] if weight is None else checks.per_class(weight, C, dtype, name)
    gradient = checks.gradient(grad, out, logits, z, (t, w), name)
    N = z.size // C
    losses = np.empty(N, dtype)

    threads = N > 1 and z.size >= THREADS_FROM
    chunks = chunk_count(z.size, GROUP // 4) if threads else 1
    kernel = all_threads if threads else one_thread
    position, value = kernel(
        z.reshape(N, C), t, w, gamma, ignore_index, reduction == "mean", divisor, chunks, losses,
        gradient.reshape(-1, C),
    )  # fmt: skip
    if position >= 0:
        raise checks.not_a_target(targets, position, z.shape, ignore_index, name)
    return losses.reshape(z.shape[:-1]) if reduction == "none" else value, checks.delivered(gradient, grad, out)
