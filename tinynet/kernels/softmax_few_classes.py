"""Softmax cross-entropy of few classes: many rows side by side, transposed in registers.

    few_classes         for labels
    few_soft_classes    for soft targets, and for label smoothing; and the divergence, which is one less an entropy

It replaces a pass over each row by itself, for the 2 to 128 classes of nearly every classifier: such a row is too short
to fill vectors, and its maximum, sum, logarithm and division are one chain of operations that takes its full latency.
Here each lane of a vector has a row, and the latency of one chain is shared by as many rows as there are lanes.

x[c,l] is the logit of class c in the l-th of R rows, so all that is done to a row is done to R rows at once, for any C.
R is two vectors: latency hidden by independent chains.  Several groups of R rows are a block, whose exponentials stay
in the L1 cache: the processor works on the next group's exponentials before it has the last one's sums, and on many
logarithms and divisions at once.

The formulas are those of softmax_cross_entropy.py.
"""

import numpy as np

from tinynet.kernels import floats, memory
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.surprisal import surprisal
from tinynet.kernels.vectors import (
    LANES,
    fma,
    lines,
    load,
    load2,
    maximum,
    select,
    splat2,
    store,
    store_rows,
    store_some,
    sum_of,
    times,
    transposed,
    width,
)

FEW = 128  # up to so many classes, rows are handled side by side; from 250 on, one by one is faster
BLOCK = 16384  # bytes of exponentials: half of the smallest L1 cache


# --- rows to lanes, and back ----------------------------------------------------------------------------------
# In pieces of 16 bytes a row, U numbers: LANES rows of them are U vectors of squares of U x U numbers.  The last piece
# of a row begins U numbers before the row's end, and so needs no mask: with AVX2 those took half the time.

_, load_lines, store_lines, load_short_rows = lines(LANES[np.dtype(np.float32)] // 4)


@helper
def rows_to_lanes(z, i, rows, C, x, at, spare):
    """x[c,l], from flat index `at` on, of R rows of z (N, C), from row i on; lanes without a row are 0."""
    LANES, R, start, U = width(z), 2 * width(z), i * C, 16 // z.itemsize
    if start + R * C + U > z.size:  # behind the last row
        for k in range(rows * C):
            spare[k] = z[start + k]
        for k in range(rows * C, R * C + U):
            spare[k] = 0
        z, start = spare, 0
    for c in range(0, C, U):
        c = max(0, min(c, C - U))
        for l in range(0, R, LANES):
            store_rows(transposed(load_lines(z, start + l * C + c, C)), x, at + c * R + l, R, U)


@helper
def lanes_to_rows(x, at, factors, k, g, i, rows, C, spare):
    """And back, times factors[k+l]."""
    LANES, R, start, U, to = width(g), 2 * width(g), i * C, 16 // g.itemsize, g
    if rows < R or C < U:
        to, start = spare, 0
    for c in range(0, C, U):
        c = max(0, min(c, C - U))
        for l in range(0, R, LANES):
            some = times(load_short_rows(x, at + c * R + l, R, U), load(factors, k + l))
            store_lines(transposed(some), to, start + l * C + c, C)
    if rows < R or C < U:
        for k in range(rows * C):
            g[i * C + k] = spare[k]


@helper
def highest(x, at, C, like):
    """m[l], the maximum of x[c,l] over c."""
    R, m = 2 * width(like), splat2(like, -np.inf)
    for c in range(C):
        m = maximum(load2(x, at + c * R), m)
    return m


@helper
def exponentials(x, at, C, like):
    """x[c,l] = exp(x[c,l] - m[l]); returns m and r."""
    R, m = 2 * width(like), highest(x, at, C, like)
    zero, one = like.dtype.type(0), like.dtype.type(1)
    below = ties = splat2(like, zero)
    for c in range(C):
        e = floats.exp(load2(x, at + c * R) - m)
        store(e, x, at + c * R)
        below = below + select(e < one, e, zero)
        ties = ties + select(e < one, zero, e)
    return m, below + (ties - one)


@kernel()
def few_classes(z, t, w, ignore_index, scale, losses, g, first, last):
    """Rows `first` to `last` of z (N, C): see softmax_rows."""
    R = 2 * width(z)
    size = (z.shape[1] + 4) * R
    most = R * max(1, min(BLOCK // (size * z.itemsize), -(-(last - first) // R)))
    room = memory.scratch((most // R * size + size + 5 * most,), z)
    return _few_classes(z, t, w, ignore_index, scale, losses, g, first, last, most, room)


@kernel()
def _few_classes(z, t, w, ignore_index, scale, losses, g, first, last, most, room):
    """At most so many rows at a time, in this room.  Rows that are ignored, or missing, have the weight -1."""
    C, R = z.shape[1], 2 * width(z)
    logits, dz, size = memory.piece(z, 0, z.size), memory.piece(g, 0, g.size), (C + 4) * R
    x, spare = memory.piece(room, 5 * most, most // R * size), memory.piece(room, 5 * most + most // R * size, size)
    tops, rests, zts = memory.piece(room, 0, most), memory.piece(room, most, most), memory.piece(room, 2 * most, most)
    weights, factors = memory.piece(room, 3 * most, most), memory.piece(room, 4 * most, most)
    real = splat2(z, scale)
    zero, one, infinity = z.dtype.type(0), z.dtype.type(1), z.dtype.type(np.inf)
    sum_of_losses = 0.0
    for i in range(first, last, most):
        rows = min(most, last - i)
        for k in range(0, rows, R):
            rows_to_lanes(logits, i + k, min(R, rows - k), C, x, k // R * size, spare)
            m, r = exponentials(x, k // R * size, C, z)
            store(m, tops, k)
            store(r, rests, k)
        # An index without a sign needs no look at whether it counts from the end: (4096, 10) takes a seventh less.
        labels, of_block = memory.piece(t, i, rows), memory.piece(logits, i * C, rows * C)
        for l in range(rows):
            counts = labels[l] != ignore_index
            weights[l] = one if counts else -one
            zts[l] = of_block[np.uintp(l * C + (labels[l] if counts else 0))]
        if w.size:
            for l in range(rows):
                if weights[l] > zero:
                    weights[l] = w[np.uintp(labels[l])]
                factors[l] = np.float64(weights[l]) * scale  # each alone may be too small, or too large, for float32
        for l in range(rows, -(-rows // R) * R):
            weights[l], zts[l] = -one, zero
        for k in range(0, rows, R):
            m, r, a, zt = load2(tops, k), load2(rests, k), load2(weights, k), load2(zts, k)
            loss = (m - zt) + floats.log1p(r)
            loss = select(a == zero, select(loss == infinity, zero, a * loss), a * loss)
            loss = select(a < zero, zero, loss)  # 0 times NaN is NaN
            sum_of_losses += np.float64(sum_of(loss))
            if losses.size:
                store_some(loss, losses, i + k, rows - k)
            factor = load2(factors, k) / (r + one) if w.size else real / (r + one)
            store(factor, factors, k)
            store(((floats.exp(zt - m) - one) - r) * factor, zts, k)
        if dz.size:
            for k in range(0, rows, R):
                lanes_to_rows(x, k // R * size, factors, k, dz, i + k, min(R, rows - k), C, spare)
            given = memory.piece(dz, i * C, rows * C)
            for l in range(rows):
                if weights[l] >= zero:
                    given[np.uintp(l * C + labels[l])] = zts[l]
                else:
                    for c in range(C):
                        given[np.uintp(l * C + c)] = 0
    return sum_of_losses


# --- soft targets, and label smoothing --------------------------------------------------------------------------


@helper
def bad_targets(y, at, C, like):
    """1 in the lanes of those targets y[c,l] that aren't in [0, 1] or don't sum to 1, else 0."""
    R, zero, one, most = 2 * width(like), splat2(like, 0), splat2(like, 1), like.dtype.type(1 + 1e-6)
    total = outside = zero
    for c in range(C):
        q = load2(y, at + c * R)
        total = total + q
        outside = outside + select(q >= zero, select(q > most, one, zero), one)
    off = maximum(total - one, one - total)
    return select(outside > zero, one, select(off > like.dtype.type(1e-3), one, zero))


@helper
def entropy_of_targets(y, at, C, like):
    """H(q) = -sum_c q[c] log q[c]; 0 log 0 is 0."""
    R, zero, H = 2 * width(like), like.dtype.type(0), splat2(like, 0)
    for c in range(C):
        q = load2(y, at + c * R)
        H = H + select(q == zero, zero, q * surprisal(q))
    return H


@kernel()
def few_soft_classes(z, t, q, w, ignore_index, epsilon, divergence, scale, check_only, losses, g, first, last):
    """few_classes for soft targets q (N, C), or labels t (N,) if q is empty, with label smoothing; w is (C,).

    With `divergence`, the entropy of q is subtracted from the loss.  Returns a row of q that is no distribution, or -1,
    and the sum of the losses.
    """
    room = memory.scratch(((3 * z.shape[1] + 15) * 2 * width(z),), z)
    return _few_soft_classes(
        z, t, q, w, ignore_index, epsilon, divergence, scale, check_only, losses, g, first, last, room
    )


@kernel()
def _few_soft_classes(z, t, q, w, ignore_index, epsilon, divergence, scale, check_only, losses, g, first, last, room):
    """In this room.  y[c,l] is for q what x[c,l] is for z."""
    C, R, labels, smooth = z.shape[1], 2 * width(z), q.size == 0, epsilon > 0.0
    logits, dz, targets = memory.piece(z, 0, z.size), memory.piece(g, 0, g.size), memory.piece(q, 0, q.size)
    present, factors, label = memory.piece(room, 0, R), memory.piece(room, R, R), memory.piece(room, 2 * R, R)
    x, y = memory.piece(room, 3 * R, (C + 4) * R), memory.piece(room, (C + 7) * R, (C + 4) * R)
    spare = memory.piece(room, (2 * C + 11) * R, (C + 4) * R)
    real = z.dtype.type
    zero, one, masked, keep = splat2(z, 0), splat2(z, 1), real(-np.inf), real(1.0 - epsilon)
    sum_of_losses = 0.0
    for i in range(first, last, R):
        rows = min(R, last - i)
        for l in range(R):
            present[l] = 1 if l < rows else -1
            label[l] = 0
        if labels:
            for l in range(rows):
                label[l] = t[i + l]
                present[l] = 1 if t[i + l] != ignore_index else -1
            for c in range(C):
                store(select(load2(label, 0) == c, one, zero), y, c * R)
        else:
            rows_to_lanes(targets, i, rows, C, y, 0, spare)
            bad = select(load2(present, 0) < zero, zero, bad_targets(y, 0, C, z))
            if sum_of(bad) > 0:
                store(bad, factors, 0)
                for l in range(rows):
                    if factors[l] > 0:
                        return i + l, 0.0
        if check_only:
            continue
        rows_to_lanes(logits, i, rows, C, x, 0, spare)
        H = entropy_of_targets(y, 0, C, z) if divergence else zero
        m = highest(x, 0, C, z)
        below = ties = share = loss = count = spread = spread_loss = zero
        for c in range(C):
            logit, a = load2(x, c * R), load2(y, c * R) * w[c]
            e, distance = floats.exp(logit - m), m - logit
            below = below + select(e < one, e, zero)
            ties = ties + select(e < one, zero, e)
            share = share + a
            loss = loss + select(a == zero, zero, a * distance)
            if smooth:
                b = select(logit > masked, w[c], zero)
                count = count + select(logit > masked, one, zero)
                spread = spread + b
                spread_loss = spread_loss + select(b == zero, zero, b * distance)
                e = select(logit == masked, zero - one, e)  # marks a class that gets no share of epsilon
            store(e, x, c * R)
            store(a, y, c * R)
        r = below + (ties - one)
        log_s, soft = floats.log1p(r), zero
        loss = loss + share * log_s - H
        if divergence:
            loss = select(loss < zero, zero, loss)
        if smooth:
            soft = real(epsilon) / count
            loss = soft * (spread_loss + spread * log_s) + (loss * keep if keep > 0 else zero)
        absent = load2(present, 0) < zero
        loss = select(absent, zero, loss)
        sum_of_losses += np.float64(sum_of(loss))
        if losses.size:
            store_some(loss, losses, i, rows)
        if dz.size:
            store(select(absent, zero, real(scale) / (r + one)), factors, 0)
            for c in range(C):
                e, a = load2(x, c * R), load2(y, c * R)
                if smooth:
                    b = select(e < zero, zero, splat2(z, w[c]))
                    e = select(e < zero, zero, e)
                    d = keep * (fma(share, e, zero - a) - r * a) + soft * (fma(spread, e, zero - b) - r * b)
                else:
                    d = fma(share, e, zero - a) - r * a
                store(select(absent, zero, d), x, c * R)
            lanes_to_rows(x, 0, factors, 0, dz, i, rows, C, spare)
    return -1, sum_of_losses
