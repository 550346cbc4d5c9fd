"""Categorical cross-entropy of probabilities: softmax_cross_entropy for those who already have p.

    L = -1/N sum_n log p[n,t[n]]                    p probabilities (N, C), each row with the sum 1   t labels (N,)

Backward.  The probability of the right class touched its own logarithm, times -1/p; the others touched nothing:

    dp[n,c] = -[c = t[n]] / (N p[n,c])

Weights w (C,), soft targets q (N, C) and label smoothing make a sum of it, as in the logit form:

    L[n]    = -sum_c a[n,c] log p[n,c]              a[n,c] = w[c] ((1 - eps) q[n,c] + eps / K)
    dp[n,c] = -a[n,c] / p[n,c]                      q[n,c] = [c = t[n]] for labels

where only the K classes of p > 0 get a share of eps.  A term with a = 0 is 0, also at p = 0.

Nothing is clipped, and no small number added: p = 0 for the right class costs inf.  That is one reason to train on
logits instead, for which the loss is exact however small p is.  Another is the detour: dp is huge where p is small,
only for softmax's backward pass to multiply it by p again; together they are p - [c = t].

One pass over the probabilities: a row is checked, and in the cache when its loss is taken.  (With out=, one more pass
comes first, which only checks, since `out` must not change if a row is bad.)
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.softmax_rows import weighted
from tinynet.losses import checks
from tinynet.losses.binary_cross_entropy import surprisal
from tinynet.losses.softmax_cross_entropy import count_labels, strange_rows, total_or

CHUNK = 8192  # probabilities: the least that a thread takes at a time
THREADS_FROM = 32768  # probabilities; below, waking the threads costs more than they save


@kernel(fast=True)
def check_row(p):
    """How many of p (C,) are below 0 or above 1, how many are above 0, and their sum: NaN if one of them is."""
    zero, most = p.dtype.type(0), p.dtype.type(1 + 1e-6)
    outside, positive, total = 0, 0, zero
    for c in range(p.size):
        outside += (p[c] < zero) | (p[c] > most)
        positive += p[c] > zero
        total += p[c]
    return outside, positive, total


@kernel(fast=True)
def row_loss(p, q, w, keep, soft):
    """-sum_c a log p, in float64."""
    zero, total = p.dtype.type(0), 0.0
    for c in range(p.size):
        a = w[c] * (keep * q[c] + (soft if p[c] > zero else zero))
        term = zero if a == zero else a * surprisal(p[c])
        total += term
    return total


@kernel()
def row_gradient(p, q, w, keep, soft, scale, g):
    """g = -scale a / p.  g may be p."""
    zero = p.dtype.type(0)
    for c in range(p.size):
        a = w[c] * (keep * q[c] + (soft if p[c] > zero else zero))
        g[c] = zero if a == zero else -(scale * a) / p[c]


@kernel()
def categorical_rows(p, t, q, w, ignore_index, epsilon, scale, losses, g, first, last):
    """Rows `first` to `last` of p (N, C), with labels t (N,) or else soft targets q (N, C): their losses' sum.

    Fills losses (N,), and g (N, C) with scale times the gradient; either may be empty.  Before the sum comes the
    fault that was met first: 2 i for bad targets in row i, 2 i + 1 for bad probabilities, -1 for none.
    """
    C, labels, real = p.shape[1], q.size == 0, p.dtype.type
    hot = np.zeros(C if labels else 0, p.dtype)
    total = 0.0
    for i in range(first, last):
        pi, dp = memory.piece(p, i * C, C), memory.piece(g, i * C, C if g.size else 0)
        loss, label = 0.0, t[i] if labels else 0
        if labels and label == ignore_index:
            for c in range(dp.size):
                dp[c] = 0
        else:
            if not labels and strange_rows(q, i, i + 1) >= 0:
                return 2 * i, 0.0
            outside, positive, one = check_row(pi)
            if outside > 0 or abs(one - 1.0) > 1e-3:
                return 2 * i + 1, 0.0
            if one != one:
                loss = np.nan
                for c in range(dp.size):
                    dp[c] = np.nan
            elif labels and epsilon == 0.0:
                a, right = np.float64(w[label]) if w.size else 1.0, pi[label]
                loss = weighted(a, np.float64(surprisal(right)))
                for c in range(dp.size):
                    dp[c] = 0
                if dp.size and a > 0.0:
                    dp[label] = -(a * scale) / right
            else:
                if labels:
                    hot[label] = 1
                qi = memory.piece(hot, 0, C) if labels else memory.piece(q, i * C, C)
                keep, soft = real(1.0 - epsilon), real(epsilon / positive)
                loss = row_loss(pi, qi, w, keep, soft)
                if dp.size:
                    row_gradient(pi, qi, w, keep, soft, real(scale), dp)
                if labels:
                    hot[label] = 0
        total += loss
        if losses.size:
            losses[i] = loss
    return -1, total


def loss_and_gradient(p, t, q, w, ignore_index, epsilon, mean, divisor, chunks, losses, g):
    """The first fault, as categorical_rows has it, or -1, and the loss's value.

    Chunks of rows are what threads take; each owns its rows of losses and g.
    """
    N, C = p.shape
    total = np.float64(N)
    if q.size == 0:
        position, total = count_labels(t, C, w, ignore_index)
        if position >= 0:
            return 2 * position, 0.0
    scale = 1.0 / total_or(divisor, total) if mean else 1.0
    partial, faults = np.zeros(chunks), np.zeros(chunks, np.int64)
    for k in prange(chunks):
        first, last = k * N // chunks, (k + 1) * N // chunks
        faults[k], partial[k] = categorical_rows(p, t, q, w, ignore_index, epsilon, scale, losses, g, first, last)
    value, fault = 0.0, -1
    for k in range(chunks):
        value += partial[k]
        if fault < 0:
            fault = faults[k]
    return fault, value * scale


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


def not_probabilities(p, position, name):
    """The ValueError for row number `position` of p (..., C)."""
    where = tuple(int(axis) for axis in np.unravel_index(position, p.shape[:-1]))
    row, hint = p[where], "Are they logits? Those are softmax_cross_entropy's."
    outside = (row < 0) | (row > 1 + 1e-6)
    if outside.any():
        worst = int(outside.argmax())
        return ValueError(
            f"{name}: probabilities must be in [0, 1], got {row[worst]} at position {(*where, worst)}. {hint}"
        )
    return ValueError(
        f"{name}: probabilities must sum to 1, but those at position {where} sum to {row.sum():.6g}. {hint}"
    )


def categorical_cross_entropy(
    probabilities,
    targets,
    *,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
):
    """The cross-entropy of probabilities against targets, and its gradient with respect to the probabilities.

    probabilities    (..., C), float32 or float64: numbers in [0, 1], each row with the sum 1 (to 1e-3): what a softmax
                     gave.  To train, leave the softmax out and use softmax_cross_entropy: it is exact where this one
                     is infinite
    targets          (...) of any integer type: classes from 0 to C-1; or (..., C) of floats: probabilities
    weight           (C,) factors of the classes' terms
    ignore_index     a label with this value adds no loss and no gradient, and does not count; its row isn't checked
    label_smoothing  eps: targets become (1 - eps) q + eps / K, for the K classes whose probability isn't 0
    reduction        "mean": over the weights w[t] of the labels that count (0 where there are none), or over the rows
                     of target probabilities; "sum"; or "none", one loss for each row
    denominator      what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad             False: the gradient isn't computed, and None is returned for it
    out              the array that receives the gradient; may be `probabilities`

    Returns (value, gradient): a float, or an array (...) for "none"; an array like probabilities, the gradient of the
    value (of its sum for "none").  A probability of exactly 0 for the right class gives inf; a row with a NaN has NaN
    for both.  Raises ValueError or TypeError for what it can't use, before anything is written.

    >>> loss, gradient = tn.categorical_cross_entropy(np.array([[0.25, 0.75]]), [0])
    >>> round(loss, 4), gradient
    (1.3863, array([[-4.,  0.]]))
    """
    name = "categorical_cross_entropy"
    p = checks.prediction(probabilities, name, "probabilities")
    if p.ndim == 0:
        raise ValueError(f"{name}: probabilities must have shape (..., C), got one number")
    shape, C, dtype = p.shape, p.shape[-1], p.dtype
    divisor = checks.divisor(reduction, denominator, name)
    epsilon = checks.fraction(label_smoothing, name)
    t, q, ignore_index = checks.class_targets(targets, shape, dtype, ignore_index, name)
    if weight is not None:
        w = checks.per_class(weight, C, dtype, name)
    else:
        w = checks.ones(dtype, C) if q.size or epsilon > 0.0 else checks.NOTHING[dtype, 1]
    gradient = checks.gradient(grad, out, probabilities, p, (t, q, w), name)
    N = p.size // C
    losses = np.empty(N, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]

    threads = N > 1 and p.size >= THREADS_FROM
    chunks = chunk_count(N, max(1, CHUNK // C)) if threads else 1
    kernel = all_threads if threads else one_thread
    fault = -1
    for g in (gradient,) if out is None else (checks.NOTHING[dtype, 2], gradient):
        if fault < 0:
            fault, value = kernel(
                p.reshape(N, C), t, q, w, ignore_index, epsilon, reduction == "mean", divisor, chunks, losses,
                g.reshape(-1, C),
            )  # fmt: skip
    if fault >= 0 and fault % 2 == 0:
        raise checks.not_a_target(targets, fault // 2, shape, ignore_index, name)
    if fault >= 0:
        raise not_probabilities(p, fault // 2, name)
    return losses.reshape(shape[:-1]) if reduction == "none" else value, checks.delivered(gradient, grad, out)
