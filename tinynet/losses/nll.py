"""Negative log-likelihood: the cross-entropy for those who already have log p.

    L = -1/N sum_n l[n,t[n]]           l = log p, the logarithms of probabilities (N, C)   t labels (N,)

Backward.  The number of the right class touched the loss, times -1; the others touched nothing:

    dl[n,c] = -[c = t[n]] / N

Weights w (C,), soft targets q (N, C) and label smoothing make a sum of it, as in softmax_cross_entropy:

    L[n]    = -sum_c a[n,c] l[n,c]                  a[n,c] = w[c] ((1 - eps) q[n,c] + eps / K)
    dl[n,c] = -a[n,c]                               q[n,c] = [c = t[n]] for labels

where only the K classes of l > -inf get a share of eps.  A term with a = 0 is 0, also at l = -inf.

The name is from statistics: p[n,t[n]] is the likelihood of the label under the model.  With l = log softmax(z), this
is softmax_cross_entropy in two parts, and it checks that l is such: that exp(l) sums to 1 in every row.

One pass over l: a row is checked, and in the cache when its loss is taken.  (With out=, one more pass comes first,
which only checks, since `out` must not change if a row is bad.)
"""

import numpy as np
from numba import prange

from tinynet.kernels import floats, memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.softmax_rows import weighted
from tinynet.losses import checks
from tinynet.losses.softmax_cross_entropy import count_labels, strange_rows, total_or

CHUNK = 8192  # numbers: the least that a thread takes at a time
THREADS_FROM = 32768  # numbers; below, waking the threads costs more than they save


@kernel(fast=True)
def check_row(l):
    """How many of l (C,) are above 0, how many aren't -inf, and the sum of exp(l): NaN if one of them is.

    What rounding may have left of log 1 passes for 0.
    """
    most, masked, zero = l.dtype.type(1e-6), l.dtype.type(-np.inf), l.dtype.type(0)
    above, possible, total = 0, 0, zero
    for c in range(l.size):
        above += l[c] > most
        possible += l[c] > masked
        total += floats.exp(l[c])
    return above, possible, total


@kernel(fast=True)
def row_loss(l, q, w, keep, soft):
    """-sum_c a l, in float64."""
    zero, masked, total = l.dtype.type(0), l.dtype.type(-np.inf), 0.0
    for c in range(l.size):
        a = w[c] * (keep * q[c] + (soft if l[c] > masked else zero))
        term = zero if a == zero else a * l[c]
        total -= term
    return total


@kernel()
def row_gradient(l, q, w, keep, soft, scale, g):
    """g = -scale a.  g may be l."""
    zero, masked = l.dtype.type(0), l.dtype.type(-np.inf)
    for c in range(l.size):
        g[c] = -scale * (w[c] * (keep * q[c] + (soft if l[c] > masked else zero)))


@kernel()
def nll_rows(l, t, q, w, ignore_index, epsilon, scale, losses, g, first, last):
    """Rows `first` to `last` of l (N, C), with labels t (N,) or else soft targets q (N, C): their losses' sum.

    Fills losses (N,), and g (N, C) with scale times the gradient; either may be empty.  Before the sum comes the
    fault that was met first: 2 i for bad targets in row i, 2 i + 1 for bad logarithms, -1 for none.
    """
    C, labels, real = l.shape[1], q.size == 0, l.dtype.type
    hot = np.zeros(C if labels else 0, l.dtype)
    total = 0.0
    for i in range(first, last):
        li, dl = memory.piece(l, i * C, C), memory.piece(g, i * C, C if g.size else 0)
        loss, label = 0.0, t[i] if labels else 0
        if labels and label == ignore_index:
            for c in range(dl.size):
                dl[c] = 0
        else:
            if not labels and strange_rows(q, i, i + 1) >= 0:
                return 2 * i, 0.0
            above, possible, one = check_row(li)
            if above > 0 or abs(one - 1.0) > 1e-3:
                return 2 * i + 1, 0.0
            if one != one:
                loss = np.nan
                for c in range(dl.size):
                    dl[c] = np.nan
            elif labels and epsilon == 0.0:
                a = np.float64(w[label]) if w.size else 1.0
                loss = weighted(a, -np.float64(li[label]))
                for c in range(dl.size):
                    dl[c] = 0
                if dl.size:
                    dl[label] = -a * scale
            else:
                if labels:
                    hot[label] = 1
                qi = memory.piece(hot, 0, C) if labels else memory.piece(q, i * C, C)
                keep, soft = real(1.0 - epsilon), real(epsilon / possible)
                loss = row_loss(li, qi, w, keep, soft)
                if dl.size:
                    row_gradient(li, qi, w, keep, soft, real(scale), dl)
                if labels:
                    hot[label] = 0
        total += loss
        if losses.size:
            losses[i] = loss
    return -1, total


def loss_and_gradient(l, t, q, w, ignore_index, epsilon, mean, divisor, chunks, losses, g):
    """The first fault, as nll_rows has it, or -1, and the loss's value.

    Chunks of rows are what threads take; each owns its rows of losses and g.
    """
    N, C = l.shape
    total = np.float64(N)
    if q.size == 0:
        position, total = count_labels(t, C, w, ignore_index)
        if position >= 0:
            return 2 * position, 0.0
    scale = 1.0 / total_or(divisor, total) if mean else 1.0
    partial, faults = np.zeros(chunks), np.zeros(chunks, np.int64)
    for k in prange(chunks):
        first, last = k * N // chunks, (k + 1) * N // chunks
        faults[k], partial[k] = nll_rows(l, t, q, w, ignore_index, epsilon, scale, losses, g, first, last)
    value, fault = 0.0, -1
    for k in range(chunks):
        value += partial[k]
        if fault < 0:
            fault = faults[k]
    return fault, value * scale


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


def not_log_probabilities(l, position, name):
    """The ValueError for row number `position` of l (..., C)."""
    where = tuple(int(axis) for axis in np.unravel_index(position, l.shape[:-1]))
    row, hint = l[where], "Are they logits, or probabilities? See softmax_cross_entropy, categorical_cross_entropy."
    worst = int(np.argmax(row))
    if row[worst] > 1e-6:
        return ValueError(
            f"{name}: log_probabilities must be at most 0, got {row[worst]} at position {(*where, worst)}. {hint}"
        )
    return ValueError(
        f"{name}: log_probabilities must be logarithms of numbers that sum to 1, but the numbers at position {where}"
        f" sum to {np.exp(row).sum():.6g}. {hint}"
    )


def nll(
    log_probabilities,
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
    """The negative log-likelihood of targets, and its gradient with respect to the logarithms of the probabilities.

    log_probabilities  (..., C), float32 or float64: logarithms of numbers of which each row sums to 1 (to 1e-3)
    targets            (...) of any integer type: classes from 0 to C-1; or (..., C) of floats: probabilities
    weight             (C,) factors of the classes' terms
    ignore_index       a label with this value adds no loss and no gradient, and does not count; its row isn't checked
    label_smoothing    eps: targets become (1 - eps) q + eps / K, for the K classes that aren't at -inf
    reduction          "mean": over the weights w[t] of the labels that count (0 where there are none), or over the
                       rows of target probabilities; "sum"; or "none", one loss for each row
    denominator        what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad               False: the gradient isn't computed, and None is returned for it
    out                the array that receives the gradient; may be `log_probabilities`

    Returns (value, gradient): a float, or an array (...) for "none"; an array like log_probabilities, the gradient of
    the value (of its sum for "none").  A right class at -inf gives inf; a row with a NaN has NaN for both.  Raises
    ValueError or TypeError for what it can't use, before anything is written.

    >>> loss, gradient = tn.nll(np.log([[0.25, 0.75]]), [0])
    >>> round(loss, 4), gradient
    (1.3863, array([[-1.,  0.]]))
    """
    name = "nll"
    l = checks.prediction(log_probabilities, name, "log_probabilities")
    if l.ndim == 0:
        raise ValueError(f"{name}: log_probabilities must have shape (..., C), got one number")
    shape, C, dtype = l.shape, l.shape[-1], l.dtype
    divisor = checks.divisor(reduction, denominator, name)
    epsilon = checks.fraction(label_smoothing, name)
    t, q, ignore_index = checks.class_targets(targets, shape, dtype, ignore_index, name)
    if weight is not None:
        w = checks.per_class(weight, C, dtype, name)
    else:
        w = checks.ones(dtype, C) if q.size or epsilon > 0.0 else checks.NOTHING[dtype, 1]
    gradient = checks.gradient(grad, out, log_probabilities, l, (t, q, w), name)
    N = l.size // C
    losses = np.empty(N, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]

    threads = N > 1 and l.size >= THREADS_FROM
    chunks = chunk_count(N, max(1, CHUNK // C)) if threads else 1
    kernel = all_threads if threads else one_thread
    fault = -1
    for g in (gradient,) if out is None else (checks.NOTHING[dtype, 2], gradient):
        if fault < 0:
            fault, value = kernel(
                l.reshape(N, C), t, q, w, ignore_index, epsilon, reduction == "mean", divisor, chunks, losses,
                g.reshape(-1, C),
            )  # fmt: skip
    if fault >= 0 and fault % 2 == 0:
        raise checks.not_a_target(targets, fault // 2, shape, ignore_index, name)
    if fault >= 0:
        raise not_log_probabilities(l, fault // 2, name)
    return losses.reshape(shape[:-1]) if reduction == "none" else value, checks.delivered(gradient, grad, out)
