"""Softmax cross-entropy of few classes: many rows side by side, transposed in registers.

The formulas are those of softmax_cross_entropy.py.  What takes the time of a short row is the latency of its
maximum, its sum, the logarithm, the division.  Side by side, each lane of a vector has a row, and all wait at once.
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

    Number l of row c of x (C, L) is class c of the l-th of L rows, so all that is done to a row is done to L rows at
    once, for any C.  L is two vectors: the latency of one's chain of operations is hidden by the other's.  Missing rows
    are zeros with the label -1, as ignored ones have it.
    """
    C, W, L = z.shape[1], width(z), 2 * width(z)
    logits, dz = memory.piece(z, 0, z.size), memory.piece(g, 0, g.size)
    x = memory.scratch(((C + W - 1) // W * W * L,), z)
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
            e = floats.exp(logit - m)
            store(e, x, c * L)
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
                e = load2(x, c * L)
                e = select(label == c, (e - one) - r, e) * factor
                store(select(label < zero, zero, e), x, c * L)
            for c in range(0, C, W):
                square_from_vectors(x, c * L, L, dz, i * C + c, C, C - c, rows)
                square_from_vectors(x, c * L + W, L, dz, (i + W) * C + c, C, C - c, rows - W)
    return sum_of_losses
