"""LayerNorm's fast kernels: rows in vectors, on all threads.

A row is a function of its own, compiled once, as in softmax_rows.py: it has the same bits wherever in the batch it
lies.  It is read twice or three times, from the L1 cache.  The sums are in float64, and so are differences from the
mean, which float32 could hold only to 7 digits.

dw and db are sums over rows.  The rows are cut into chunks, whose number the shape alone decides; a thread owns a chunk
and its sums, and these are added in order.  So the bits are the same for any number of threads.
"""

import math

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, helper, kernel, sized_kernel

THREADS_FROM = 16384  # numbers in the batch from which two threads beat one


@helper
def mean(s, n):
    """s / n.  In a fast kernel it might become s (1 / n), which is rounded twice: that is much where d is small."""
    return s / n


@kernel(fast=True)
def row_moments(x, eps):
    s = 0.0
    for c in range(x.size):
        s += x[c]
    mu = mean(s, x.size)
    s = 0.0
    for c in range(x.size):
        d = x[c] - mu
        s += d * d
    variance = s / x.size + eps
    return mu, 1 / math.sqrt(variance) if variance < np.inf else np.nan  # 1 / infinity would make all y = b


@kernel()
def row_normalized(x, mu, r, w, b, y):
    for c in range(x.size):
        y[c] = (x[c] - mu) * r * w[c] + b[c]


@sized_kernel(THREADS_FROM)
def layernorm_forward(x, w, b, eps, mu, r, y):
    """y (N, C), and mu and r (N,)."""
    N, C = x.shape
    for n in prange(N):
        row = memory.piece(x, n * C, C)
        mu[n], r[n] = row_moments(row, eps)
        row_normalized(row, mu[n], r[n], w, b, memory.piece(y, n * C, C))


@kernel(fast=True)
def row_sums(dy, x, w, mu, r, dw, db):
    """Adds the row to dw and db; returns sum dh and sum dh h."""
    plain = products = 0.0
    for c in range(x.size):
        h, g = (x[c] - mu) * r, np.float64(dy[c])
        dw[c] += g * h
        db[c] += g
        g *= w[c]
        plain += g
        products += g * h
    return plain, products


@kernel()
def row_input_gradient(dy, x, w, mu, r, offset, slope, dx):
    for c in range(x.size):
        dx[c] = (np.float64(dy[c]) * w[c] - offset - (x[c] - mu) * r * slope) * r


@kernel()
def chunk_backward(dy, x, w, mu, r, first, end, dw, db, dx):
    C = w.size
    for c in range(C):
        dw[c] = db[c] = 0.0
    for n in range(first, end):
        dy_row, x_row = memory.piece(dy, n * C, C), memory.piece(x, n * C, C)
        plain, products = row_sums(dy_row, x_row, w, mu[n], r[n], dw, db)
        if dx.size:
            dx_row = memory.piece(dx, n * C, C)
            row_input_gradient(dy_row, x_row, w, mu[n], r[n], plain / C, products / C, dx_row)


@sized_kernel(THREADS_FROM, of=0)
def backward_of_chunks(dy, x, w, mu, r, parts, dx):
    """dx unless it is empty, and parts (K, 2, C): dw and db of K chunks of rows.  A thread owns a chunk."""
    N, K = x.shape[0], parts.shape[0]
    for k in prange(K):
        chunk_backward(dy, x, w, mu, r, k * N // K, (k + 1) * N // K, parts[k, 0], parts[k, 1], dx)


def layernorm_backward(dy, x, w, mu, r, dw, db, dx):
    """dw and db (C,), in float64, and dx (N, C) unless it is empty."""
    N, C = x.shape
    parts, sums = np.empty((chunk_count(N, max(32, 8192 // C)), 2, C)), np.empty((2, C))
    backward_of_chunks(dy, x, w, mu, r, parts, dx)
    memory.sum_of_chunks(parts, sums)
    dw[...], db[...] = sums
