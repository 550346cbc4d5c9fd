"""Softmax cross-entropy, fused: one pass over the logits gives the loss and all that its gradient needs.

    p[n,c] = exp(z[n,c]) / sum_k exp(z[n,k])       z logits (N, C)   t labels (N,)
    L      = -1/N sum_n log p[n, t[n]]

Stable form.  With m = max_k z[n,k] and s = sum_k exp(z[n,k] - m), no exp can overflow, and s >= 1:

    -log p[n,t] = (m - z[n,t]) + log s

One of the terms of s is exactly 1, the maximum's own.  Summing only the others, r = s - 1, and taking log1p(r)
keeps every digit of a small loss: for logits (20, 0) it is 2.1e-9 where log(1 + 2.1e-9) in float32 is 0.

Backward.  z[n,c] touched log s, times exp(z[n,c] - m) / s = p[n,c], and z[n,t] itself, times -1:

    dz[n,c] = (p[n,c] - [c = t[n]]) / N            at c = t, without cancellation: ((e - 1) - r) / s,  e = exp(z - m)

Why fuse: apart, softmax's backward multiplies by a (C, C) Jacobian per sample; together that Jacobian collapses
to one subtraction, and p is never stored.

Weights w (C,), soft targets q (N, C) and label smoothing are one formula more.  Each term of the loss gets a factor
a[n,c], whose sum over c is A[n]; z[n,c] now touched log s A[n] times, and itself a[n,c] times:

    L[n]    = sum_c a[n,c] ((m - z[n,c]) + log s)            a[n,c] = w[c] ((1 - eps) q[n,c] + eps / K)
    dz[n,c] = A[n] p[n,c] - a[n,c]                           q[n,c] = [c = t[n]] for labels

K is the number of classes that are not masked by a logit of -inf; a masked class gets no share of eps.

How the rows are passed over is told in softmax_rows.py, and for few classes in softmax_few_classes.py.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.softmax_few_classes import FEW, few_classes
from tinynet.kernels.softmax_rows import softmax_rows
from tinynet.kernels.vectors import width
from tinynet.losses import checks

CHUNK = 4096  # logits: the least that a thread takes at a time
THREADS_FROM = 16384  # logits; below, waking the threads costs more than they save


@kernel()
def count_labels(t, C, w, ignore_index):
    """The position of the first label that is no class, or -1; and the weights' sum over the labels that count."""
    count = strange = 0
    for n in range(t.size):
        counts = t[n] != ignore_index
        strange += counts & ((t[n] < 0) | (t[n] >= C))
        count += counts
    if strange:
        for n in range(t.size):
            if t[n] != ignore_index and (t[n] < 0 or t[n] >= C):
                return n, 0.0
    total = np.float64(count)
    if w.size:
        total = 0.0
        for n in range(t.size):
            if t[n] != ignore_index:
                total += w[t[n]]
    return -1, total


@kernel()
def strange_rows(q, first, last):
    """A row of q (N, C) in [first, last) that isn't made of numbers in [0, 1] with the sum 1; or -1."""
    C = q.shape[1]
    for n in range(first, last):
        outside, total = check_row(memory.piece(q, n * C, C))
        if outside > 0 or not abs(total - 1.0) <= 1e-3:
            return n
    return -1


@kernel(fast=True)
def check_row(q):
    """How many of q (C,) lie outside of [0, 1], and their sum."""
    zero, most = q.dtype.type(0), q.dtype.type(1 + 1e-6)
    outside, total = 0, zero
    for c in range(q.size):
        outside += not (q[c] >= zero and q[c] <= most)
        total += q[c]
    return outside, total


def loss_and_gradient(z, t, q, w, ignore_index, epsilon, mean, divisor, chunks, losses, g):
    """The position of the first bad target, or -1, and the loss's value.  With a bad target, nothing is written.

    Chunks of rows are what threads take; each owns its rows of g, and sums their losses in order.
    """
    N, C = z.shape
    partial = np.zeros(chunks)
    if q.size == 0:
        position, total = count_labels(t, C, w, ignore_index)
    else:
        for k in prange(chunks):
            partial[k] = strange_rows(q, k * N // chunks, (k + 1) * N // chunks)
        position, total = np.int64(-1), np.float64(N)
        for k in range(chunks):
            if position < 0:
                position = np.int64(partial[k])
    if position >= 0:
        return position, 0.0
    scale = 1.0 / total_or(divisor, total) if mean else 1.0
    for k in prange(chunks):
        first, last = k * N // chunks, (k + 1) * N // chunks
        partial[k] = softmax_rows(z, t, q, w, ignore_index, epsilon, scale, losses, g, first, last)
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return -1, value * scale


def few_loss_and_gradient(z, t, w, ignore_index, mean, divisor, chunks, losses, g):
    """The same for labels of few classes: by itself, because it takes 2 s to compile and all the rest 4 s more."""
    N = z.shape[0]
    position, total = count_labels(t, z.shape[1], w, ignore_index)
    if position >= 0:
        return position, 0.0
    scale = 1.0 / total_or(divisor, total) if mean else 1.0
    L = 2 * width(z)
    groups, partial = (N + L - 1) // L, np.empty(chunks)
    for k in prange(chunks):
        first, last = k * groups // chunks * L, min((k + 1) * groups // chunks * L, N)
        partial[k] = few_classes(z, t, w, ignore_index, scale, losses, g, first, last)
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return -1, value * scale


@kernel()
def total_or(divisor, total):
    """What the mean divides by: `divisor` where one was given; infinity, for a mean of 0, where nothing counts."""
    if divisor > 0.0:
        return divisor
    return total if total > 0.0 else np.inf


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)
few_one_thread = kernel()(few_loss_and_gradient)
few_all_threads = kernel(parallel=True)(few_loss_and_gradient)


def softmax_cross_entropy(
    logits,
    targets,
    *,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
    stream=None,
    check=True,
):
    """The cross-entropy of softmax(logits) against targets, and its gradient with respect to the logits.

    logits           (..., C), float32 or float64
    targets          (...) of any integer type: classes from 0 to C-1; or (..., C) of floats: probabilities
    weight           (C,) factors of the classes' terms
    ignore_index     a label with this value adds no loss and no gradient, and does not count; logits there may be NaN
    label_smoothing  eps: targets become (1 - eps) q + eps / C (Szegedy et al. 2015, section 7); classes masked by a
                     logit of -inf get none of it
    reduction        "mean": over the weights w[t] of the labels that count (0 where there are none), or over the rows
                     of probabilities; "sum"; or "none", one loss for each row
    denominator      what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad             False: the gradient isn't computed, and None is returned for it
    out              the array that receives the gradient; may be `logits`
    stream, check    for device arrays only, see below

    Returns (value, gradient): a float, or an array (...) for "none"; an array like logits, the gradient of the value
    (of its sum for "none").  A class at -inf has probability 0; if it is the target, the loss is inf.  A row with a
    NaN or +inf, or with all of its classes at -inf, has a gradient of NaN and no finite loss.  Raises ValueError or
    TypeError for what it can't use, before anything is written.

    Arrays on a GPU (PyTorch's, CuPy's, Numba's: whatever has __cuda_array_interface__) are worked on there, which needs
    the extra "cuda".  Numba device arrays come back.  Work runs on `stream` (a handle, or has __cuda_stream__), else
    on the stream that the logits' interface states, else on the default stream: PyTorch's interface states none.
    To raise an error for bad targets or weights, the call waits for the GPU; with check=False it doesn't, and a
    label that is no class makes its row NaN.

    >>> loss, gradient = tn.softmax_cross_entropy(np.zeros((1, 4)), [2])  # four classes, equally likely
    >>> round(loss, 4), gradient
    (1.3863, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    name = "softmax_cross_entropy"
    if checks.on_device(logits, targets, weight, out):
        from tinynet.cuda import softmax_cross_entropy as cuda  # numba-cuda need not be there before

        return cuda.softmax_cross_entropy(
            logits,
            targets,
            weight=weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction=reduction,
            denominator=denominator,
            grad=grad,
            out=out,
            stream=stream,
            check=check,
        )
    if stream is not None:
        raise TypeError(f"{name}: stream belongs to device arrays, and the logits are on the host")
    z = checks.prediction(logits, name, "logits")
    if z.ndim == 0:
        raise ValueError(f"{name}: logits must have shape (..., C), got one number")
    C, dtype = z.shape[-1], z.dtype
    divisor = checks.divisor(reduction, denominator, name)
    epsilon = checks.fraction(label_smoothing, name)
    t, q, ignore_index = checks.class_targets(targets, z.shape, dtype, ignore_index, name)
    if weight is not None:
        w = checks.per_class(weight, C, dtype, name)
    else:
        w = np.ones(C, dtype) if q.size or epsilon > 0.0 else checks.NOTHING[dtype, 1]
    gradient = checks.gradient(grad, out, logits, z, (t, q, w), name)
    N = z.size // C
    losses = np.empty(N, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]
    rows, dz = (z, gradient) if z.ndim == 2 else (z.reshape(N, C), gradient.reshape(-1, C))

    threads = N > 1 and z.size >= THREADS_FROM
    chunks = chunk_count(N, max(1, CHUNK // C)) if threads else 1
    mean = reduction == "mean"
    if C <= FEW and q.size == 0 and epsilon == 0.0:
        kernel = few_all_threads if threads else few_one_thread
        position, value = kernel(rows, t, w, ignore_index, mean, divisor, chunks, losses, dz)
    else:
        kernel = all_threads if threads else one_thread
        position, value = kernel(rows, t, q, w, ignore_index, epsilon, mean, divisor, chunks, losses, dz)
    if position >= 0:
        raise checks.not_a_target(targets, position, z.shape, ignore_index, name)
    if reduction == "none":
        value = losses.reshape(z.shape[:-1])
    return value, checks.delivered(gradient, grad, out)
