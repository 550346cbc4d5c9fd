"""Softmax cross-entropy of few classes: many rows side by side, transposed in registers.

It replaces a pass over each row by itself, for the 2 to 128 classes of nearly every classifier: such a row is too short
to fill vectors, and its maximum, sum, logarithm and division are one chain of operations that takes its full latency.
Here each lane of a vector has a row, and the latency of one chain is shared by as many rows as there are lanes.

The formulas are those of softmax_cross_entropy.py.
"""

import numpy as np

from tinynet.kernels import floats, memory
from tinynet.kernels.compile import kernel
from tinynet.kernels.transpose import square_from_vectors, square_to_vectors
from tinynet.kernels.vectors import load2, maximum, select, splat2, store, store_some, sum_of, width

FEW = 128  # up to so many classes, rows are handled side by side; from 250 on, one by one is faster


@kernel()
def few_classes(z, t, w, ignore_index, scale, losses, g, first, last):
    """Rows `first` to `last` of z (N, C): see softmax_rows.

    x[c,l] is the logit of class c in the l-th of R rows, so all that is done to a row is done to R rows at once, for
    any C.  R is two vectors: latency hidden by independent chains.  Missing rows are zeros with the label -1, as
    ignored ones have it.
    """
    C, LANES, R = z.shape[1], width(z), 2 * width(z)
    logits, dz = memory.piece(z, 0, z.size), memory.piece(g, 0, g.size)
    x = memory.scratch(((C + LANES - 1) // LANES * LANES * R,), z)
    labels, weights, factors = np.zeros(R, z.dtype), np.ones(R, z.dtype), np.empty(R, z.dtype)
    zero, one, infinity = z.dtype.type(0), z.dtype.type(1), z.dtype.type(np.inf)
    for l in range(R):
        factors[l] = scale
    sum_of_losses = 0.0
    for i in range(first, last, R):
        rows = min(R, last - i)
        for c in range(0, C, LANES):
            square_to_vectors(logits, i * C + c, C, x, c * R, R, rows, C - c)
            square_to_vectors(logits, (i + LANES) * C + c, C, x, c * R + LANES, R, rows - LANES, C - c)
        for l in range(rows):
            labels[l] = t[i + l] if t[i + l] != ignore_index else -1
        for l in range(rows, R):
            labels[l] = -1
        if w.size:
            for l in range(rows):
                weights[l] = w[t[i + l]] if t[i + l] != ignore_index else zero
                factors[l] = np.float64(weights[l]) * scale  # each alone may be too small, or too large, for float32
        label, a = load2(labels, 0), load2(weights, 0)
        m = splat2(z, -infinity)
        for c in range(C):
            m = maximum(load2(x, c * R), m)
        zt = below = ties = splat2(z, zero)
        for c in range(C):
            logit = load2(x, c * R)
            e = floats.exp(logit - m)
            store(e, x, c * R)
            zt = select(label == c, logit, zt)
            below = select(e < one, below + e, below)
            ties = select(e < one, ties, ties + e)
        r = below + (ties - one)
        loss = (m - zt) + floats.log1p(r)
        loss = select(a == zero, select(loss == infinity, zero, a * loss), a * loss)
        loss = select(label < zero, zero, loss)  # 0 times NaN is NaN
        sum_of_losses += np.float64(sum_of(loss))
        if losses.size:
            store_some(loss, losses, i, rows)
        if dz.size:
            factor = load2(factors, 0) / (r + one)
            for c in range(C):
                e = load2(x, c * R)
                e = select(label == c, (e - one) - r, e) * factor
                store(select(label < zero, zero, e), x, c * R)
            for c in range(0, C, LANES):
                square_from_vectors(x, c * R, R, dz, i * C + c, C, C - c, rows)
                square_from_vectors(x, c * R + LANES, R, dz, (i + LANES) * C + c, C, C - c, rows - LANES)
    return sum_of_losses
