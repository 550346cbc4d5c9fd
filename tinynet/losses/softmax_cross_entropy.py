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

How a row is passed over.  Its logits come from memory once, in blocks that stay in the L1 cache: the maximum of the
block, then its exponentials against the highest maximum so far (Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax").  They are written where the gradient goes, and while they are still in the L2 cache,
each block is multiplied by exp(its maximum - m) / s.  Rows of few classes are handled side by side, transposed.
"""

import numpy as np
from numba import prange

from tinynet import simd
from tinynet.losses import checks
from tinynet.transpose import square_from_vectors, square_to_vectors
from tinynet.vectors import (
    greatest,
    load,
    load2,
    load_some,
    maximum,
    select,
    splat,
    splat2,
    store,
    store_some,
    sum_of,
    width,
    will_read,
    will_write,
)

BLOCK = 1024  # logits of a row at a time; 256 and 4096 were 5 and 3 % slower on rows of 50,257
FEW = 64  # up to so many classes, rows are handled side by side; at 100, one by one is faster
CHUNK = 4096  # logits: the least that a thread takes at a time
THREADS_FROM = 16384  # logits; below, waking the threads costs more than they save


# --- few classes: many rows side by side --------------------------------------------------------------------


@simd.kernel()
def few_classes(z, t, w, ignore_index, scale, losses, g, first, last):
    """Rows `first` to `last` of z (N, C): see softmax_rows.

    Number l of row c of x (C, L) is class c of the l-th of L rows, so all that is done to a row is done to L rows at
    once, for any C.  L is two vectors: their chains of operations fill each other's waits.  Missing rows are zeros
    with the label -1, as ignored ones have it.
    """
    C, W, L = z.shape[1], width(z), 2 * width(z)
    logits, dz = simd.piece(z, 0, z.size), simd.piece(g, 0, g.size)
    x = simd.scratch(((C + W - 1) // W * W * L,), z)
    labels, weights, factors = np.zeros(L, z.dtype), np.ones(L, z.dtype), np.empty(L, z.dtype)
    zero, one, infinity = z.dtype.type(0), z.dtype.type(1), z.dtype.type(np.inf)
    for l in range(L):
        factors[l] = scale
    sum_of_losses = 0.0
    for i in range(first, last, L):
        rows = min(L, last - i)
        for c in range(0, C, W):
            square_to_vectors(logits, i * C + c, C, x, c * L, L, rows, C - c)
            square_to_vectors(logits, (i + W) * C + c, C, x, c * L + W, L, rows - W, C - c)
        for l in range(rows):
            labels[l] = t[i + l] if t[i + l] != ignore_index else -1
        for l in range(rows, L):
            labels[l] = -1
        if w.size:
            for l in range(rows):
                weights[l] = w[t[i + l]] if t[i + l] != ignore_index else zero
                factors[l] = np.float64(weights[l]) * scale  # each alone may be too small, or too large, for float32
        label, a = load2(labels, 0), load2(weights, 0)
        m = splat2(z, -infinity)
        for c in range(C):
            m = maximum(load2(x, c * L), m)
        zt = below = ties = splat2(z, zero)
        for c in range(C):
            logit = load2(x, c * L)
            e = simd.exp(logit - m)
            store(e, x, c * L)
            zt = select(label == c, logit, zt)
            below = select(e < one, below + e, below)
            ties = select(e < one, ties, ties + e)
        r = below + (ties - one)
        loss = (m - zt) + simd.log1p(r)
        loss = select(a == zero, select(loss == infinity, zero, a * loss), a * loss)
        loss = select(label < zero, zero, loss)  # 0 times NaN is NaN
        sum_of_losses += np.float64(sum_of(loss))
        if losses.size:
            store_some(loss, losses, i, rows)
        if dz.size:
            factor = load2(factors, 0) / (r + one)
            for c in range(C):
                e = load2(x, c * L)
                e = select(label == c, (e - one) - r, e) * factor
                store(select(label < zero, zero, e), x, c * L)
            for c in range(0, C, W):
                square_from_vectors(x, c * L, L, dz, i * C + c, C, C - c, rows)
                square_from_vectors(x, c * L + W, L, dz, (i + W) * C + c, C, C - c, rows - W)
    return sum_of_losses


@simd.kernel()
def weighted(a, x):
    """a x, where a term of factor 0 is 0 even if x is infinite."""
    return 0.0 if a == 0.0 and x == np.inf else a * x


# --- many classes: one row, block by block ------------------------------------------------------------------


@simd.kernel()
def row_maximum(z):
    """The maximum of z (C,), NaN aside: that shows in the sum anyway."""
    W, four = width(z), 4 * width(z)
    whole = z.size - z.size % four
    m0 = m1 = m2 = m3 = splat(z, -np.inf)
    for c in range(0, whole, four):  # four, since each waits for the one before
        m0, m1 = maximum(load(z, c), m0), maximum(load(z, c + W), m1)
        m2, m3 = maximum(load(z, c + 2 * W), m2), maximum(load(z, c + 3 * W), m3)
    for c in range(whole, z.size, W):
        m0 = maximum(load_some(z, c, z.size - c, -np.inf), m0)
    return greatest(maximum(maximum(m0, m1), maximum(m2, m3)))


@simd.kernel()
def exponentials(z, m, e, g):
    """e = exp(z - m), which may be z itself; returns their sum in two parts, of which the second is a whole number.

    The first is the sum of those below 1 where all sum to less than 2; else no digit is lost by subtracting 1.
    g is where the gradient will go: its memory, and the logits behind z, are fetched ahead.
    """
    C, W, one = z.size, width(z), z.dtype.type(1)
    whole = C - C % W
    sums = splat(z, 0)
    for c in range(0, whole, W):
        will_read(z, C + c)
        will_write(g, c)
        x = simd.exp(load(z, c) - m)
        store(x, e, c)
        sums = sums + x
    for c in range(whole, C, W):
        x = simd.exp(load_some(z, c, C - c, -np.inf) - m)
        store_some(x, e, c, C - c)
        sums = sums + x
    s = sum_of(sums)
    if not s < z.dtype.type(2):
        return s - one, one
    sums = splat(z, 0)
    for c in range(0, C, W):
        x = load_some(e, c, C - c, 0)
        sums = sums + select(x < one, x, z.dtype.type(0))
    below = sum_of(sums)
    return below, one if s - below > z.dtype.type(0.5) else z.dtype.type(0)


@simd.kernel(fast=True)
def target_terms(z, q, w, m):
    """sum_c a and sum_c a (m - z), for a = w q; where a is 0 the term is, even at z = -inf."""
    zero = z.dtype.type(0)
    total = loss = zero
    for c in range(z.size):
        a = w[c] * q[c]
        term = zero if a == zero else a * (m - z[c])
        total += a
        loss += term
    return total, loss


@simd.kernel(fast=True)
def smoothing_terms(z, w, m, e):
    """How many classes are not masked, and over those sum_c w and sum_c w (m - z).  Masked ones get e = -1."""
    zero, one, masked = z.dtype.type(0), z.dtype.type(1), z.dtype.type(-np.inf)
    count = total = loss = zero
    for c in range(z.size):
        closed = z[c] == masked
        a, x = zero if closed else w[c], -one if closed else e[c]
        term = zero if closed else w[c] * (m - z[c])
        n = zero if closed else one
        e[c] = x
        count += n
        total += a
        loss += term
    return count, total, loss


@simd.helper
def pass_over_row(z, q, w, smooth, e, block, tail, highest):
    """One pass over a row z (C,) with soft targets q (C,), or none; returns m, r and the sums of the two `_terms`.

    The exponentials of all blocks but the last go into e, unless e is empty, and of the last into `tail`.
    highest[k] is the maximum that block k was held against.  Sums are in float64 across blocks.  A helper, as is
    row_gradient, since passing a dozen arrays through calls took a third of the time at 33 classes.
    """
    C, zero, masked = z.size, z.dtype.type(0), z.dtype.type(-np.inf)
    top = masked
    below = ties = count = spread = spread_loss = share = share_loss = 0.0
    for k in range((C + BLOCK - 1) // BLOCK):
        start, size = k * BLOCK, min(BLOCK, C - k * BLOCK)
        logits = simd.piece(z, start, size)
        new = row_maximum(logits)
        if new > top:
            rise = np.float64(new) - (np.float64(top) if top != masked else 0.0)
            spread_loss += rise * spread
            share_loss += rise * share
            below, ties = (below + ties) * np.float64(simd.exp(top - new)), 0.0
            top = new
        highest[k] = top
        m = top if top != masked else zero  # -inf - -inf is NaN
        if q.size:
            total, loss = target_terms(logits, simd.piece(q, start, size), simd.piece(w, start, size), m)
            share += total
            share_loss += loss
        if smooth:
            for c in range(size):  # the exponentials may go where the logits are
                block[c] = logits[c]
        target = simd.piece(tail, 0, size) if start + size == C or e.size == 0 else simd.piece(e, start, size)
        ahead = simd.piece(e, start, 0) if e.size else simd.piece(tail, 0, 0)
        more_below, more_ties = exponentials(logits, m, target, ahead)
        below += more_below
        ties += more_ties
        if smooth:
            n, total, loss = smoothing_terms(simd.piece(block, 0, size), simd.piece(w, start, size), m, target)
            count += n
            spread += total
            spread_loss += loss
    return top, below + (ties - 1.0), share, share_loss, count, spread, spread_loss


@simd.kernel()
def multiply(e, factor, g):
    """g = factor e, which may be e itself."""
    C, W = e.size, width(e)
    whole = C - C % W
    for c in range(0, whole, W):
        store(load(e, c) * factor, g, c)
    for c in range(whole, C, W):
        store_some(load_some(e, c, C - c, 0) * factor, g, c, C - c)


@simd.kernel()
def multiply_less_smoothing(g, factor, b, w):
    """g = factor g - b w, and 0 where g = -1 marks a masked class."""
    zero = g.dtype.type(0)
    for c in range(g.size):
        g[c] = zero if g[c] < zero else g[c] * factor - b * w[c]


@simd.kernel()
def subtract_targets(g, b, w, q):
    for c in range(g.size):
        g[c] -= b * (w[c] * q[c])


@simd.helper
def row_gradient(m, factor, q, w, smooth, keep, soft, tail, highest, g):
    """dz = factor exp(z - m) - keep w q - soft w, from the exponentials that pass_over_row left in g and `tail`."""
    C = g.size
    for k in range((C + BLOCK - 1) // BLOCK):
        start, size = k * BLOCK, min(BLOCK, C - k * BLOCK)
        scaled = g.dtype.type(factor)
        if highest[k] != m:
            scaled = g.dtype.type(factor * np.float64(simd.exp(highest[k] - m)))
        dz, wk = simd.piece(g, start, size), simd.piece(w, start, size if w.size else 0)
        e = simd.piece(tail, 0, size) if start + size == C else dz
        multiply(e, g.dtype.type(1) if smooth else scaled, dz)
        if smooth:
            multiply_less_smoothing(dz, scaled, g.dtype.type(soft), wk)
        if q.size:
            subtract_targets(dz, g.dtype.type(keep), wk, simd.piece(q, start, size))


# --- rows of a batch ------------------------------------------------------------------------------------------


@simd.kernel()
def softmax_rows(z, t, q, w, ignore_index, epsilon, scale, losses, g, first, last):
    """Rows `first` to `last` of logits z (N, C), with labels t (N,) or else soft targets q (N, C): their losses' sum.

    Each row's loss goes into losses (N,) and the gradient of scale times the sum into g (N, C), which may be z; either
    may be empty.  w (C,) may be empty for labels where epsilon is 0.  To be called from other losses' kernels too.
    """
    C = z.shape[1]
    if C <= FEW and q.size == 0 and epsilon == 0.0:
        return few_classes(z, t, w, ignore_index, scale, losses, g, first, last)
    block, tail, highest = simd.scratch((BLOCK,), z), simd.scratch((BLOCK,), z), simd.scratch((-(-C // BLOCK),), z)
    labels, smooth, keep = q.size == 0, epsilon > 0.0, 1.0 - epsilon
    total = 0.0
    for i in range(first, last):
        zi, qi = simd.piece(z, i * C, C), simd.piece(q, i * C, 0 if labels else C)
        dz = simd.piece(g, i * C, C if g.size else 0)
        loss = 0.0
        if labels and t[i] == ignore_index:
            for c in range(dz.size):
                dz[c] = 0
        else:
            zt = zi[t[i]] if labels else zi[0]
            m, r, share, share_loss, count, spread, spread_loss = pass_over_row(
                zi, qi, w, smooth, dz, block, tail, highest
            )
            s, soft = 1.0 + r, epsilon / count if smooth else 0.0
            log_s = np.float64(simd.log1p(z.dtype.type(r)))
            if labels:
                share = np.float64(w[t[i]]) if w.size else 1.0
                share_loss = weighted(share, np.float64(m) - np.float64(zt))
            loss = weighted(keep, share_loss + share * log_s) + soft * (spread_loss + spread * log_s)
            if g.size:
                A = (keep * share + soft * spread) * scale
                row_gradient(m, A / s, qi, w, smooth, keep * scale, soft * scale, tail, highest, dz)
                if labels:
                    e = np.float64(simd.exp(zt - m))
                    own = soft * (spread * e / s - (share if zt > -np.inf else 0.0))
                    dz[t[i]] = scale * (keep * share * (((e - 1.0) - r) / s) + own)
                if C == 1:  # p = 1: 0, however the target is rounded, or NaN
                    dz[0] = r
                if m == -np.inf or r != r:  # no distribution to take a gradient of: all are masked, or one is NaN
                    for c in range(C):
                        dz[c] = np.nan
        total += loss
        if losses.size:
            losses[i] = loss
    return total


@simd.kernel()
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


@simd.kernel()
def strange_rows(q, first, last):
    """A row of q (N, C) in [first, last) that isn't made of numbers in [0, 1] with the sum 1; or -1."""
    C = q.shape[1]
    for n in range(first, last):
        outside, total = check_row(simd.piece(q, n * C, C))
        if outside > 0 or not abs(total - 1.0) <= 1e-3:
            return n
    return -1


@simd.kernel(fast=True)
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


@simd.kernel()
def total_or(divisor, total):
    """What the mean divides by: `divisor` where one was given; infinity, for a mean of 0, where nothing counts."""
    if divisor > 0.0:
        return divisor
    return total if total > 0.0 else np.inf


one_thread, all_threads = simd.kernel()(loss_and_gradient), simd.kernel(parallel=True)(loss_and_gradient)
few_one_thread = simd.kernel()(few_loss_and_gradient)
few_all_threads = simd.kernel(parallel=True)(few_loss_and_gradient)


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
        from tinynet.losses import softmax_cross_entropy_cuda  # numba-cuda need not be there before

        return softmax_cross_entropy_cuda.softmax_cross_entropy(
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
    chunks = simd.chunk_count(N, max(1, CHUNK // C)) if threads else 1
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
