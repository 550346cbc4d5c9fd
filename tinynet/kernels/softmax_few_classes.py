"""Softmax cross-entropy of few classes: many rows side by side, transposed in registers.

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
from tinynet.kernels.vectors import (
    LANES,
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
    """x[c,l], from flat index `at` on, of R rows of z (N, C), from row i on, or fewer, the rest of whose lanes are 0."""
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
def exponentials(x, at, C, like):
    """x[c,l] = exp(x[c,l] - m[l]); returns m and r."""
    R = 2 * width(like)
    zero, one = like.dtype.type(0), like.dtype.type(1)
    m = splat2(like, -np.inf)
    for c in range(C):
        m = maximum(load2(x, at + c * R), m)
    below = ties = splat2(like, zero)
    for c in range(C):
        e = floats.exp(load2(x, at + c * R) - m)
        store(e, x, at + c * R)
        below = below + select(e < one, e, zero)
        ties = ties + select(e < one, zero, e)
    return m, below + (ties - one)


@kernel()
def few_classes(z, t, w, ignore_index, scale, losses, g, first, last):
    """Rows `first` to `last` of z (N, C): see softmax_rows.  Rows that are ignored, or missing, have the weight -1."""
    C, R = z.shape[1], 2 * width(z)
    logits, dz = memory.piece(z, 0, z.size), memory.piece(g, 0, g.size)
    size = C * R + 4 * R
    most = R * max(1, BLOCK // (size * z.itemsize))
    most = min(most, -(-(last - first) // R) * R)
    room = memory.scratch((most // R * size + size + 5 * most,), z)
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
        for l in range(rows):
            label = t[i + l]
            counts = label != ignore_index
            weights[l], zts[l] = one if counts else -one, logits[(i + l) * C + label] if counts else zero
        if w.size:
            for l in range(rows):
                if weights[l] > zero:
                    weights[l] = w[t[i + l]]
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
            for l in range(rows):
                if weights[l] >= zero:
                    dz[(i + l) * C + t[i + l]] = zts[l]
                else:
                    for c in range(C):
                        dz[(i + l) * C + c] = 0
    return sum_of_losses
