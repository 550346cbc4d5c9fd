"""RMSNorm's fast kernels: rows in vectors, on all threads, as in kernels/layernorm.py.

All sums are in float64.  The rows are cut into chunks, whose number the shape alone decides; a chunk has a dw of its
own, and these are added in order.  So the bits are the same for any number of threads.
"""

import math

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel, sized_kernel

THREADS_FROM = 16384  # numbers in the batch from which two threads beat one


@kernel(fast=True)
def mean_square(x):
    s = 0.0
    for c in range(x.size):
        s += np.float64(x[c]) * np.float64(x[c])
    return s / x.size


@kernel()
def row_scaled(x, r, w, y):
    for c in range(x.size):
        y[c] = x[c] * r * w[c]


@sized_kernel(THREADS_FROM)
def rmsnorm_forward(x, w, eps, r, y):
    """y (N, C), and r (N,)."""
    N, C = x.shape
    for n in prange(N):
        row = memory.piece(x, n * C, C)
        v = mean_square(row) + eps
        r[n] = 1 / math.sqrt(v) if v < np.inf else np.nan  # 1 / infinity would make all y = 0
        row_scaled(row, r[n], w, memory.piece(y, n * C, C))


@kernel(fast=True)
def row_sums(dy, x, w, r, dw):
    """Adds the row to dw; returns sum dh h."""
    products = 0.0
    for c in range(x.size):
        h, g = x[c] * r, np.float64(dy[c])
        dw[c] += g * h
        products += g * w[c] * h
    return products


@kernel()
def row_input_gradient(dy, x, w, r, slope, dx):
    for c in range(x.size):
        dx[c] = (np.float64(dy[c]) * w[c] - x[c] * r * slope) * r


@sized_kernel(THREADS_FROM, of=0)
def backward_of_chunks(dy, x, w, r, parts, dx):
    """dx unless it is empty, and parts (K, C): dw of K chunks of rows.  A thread owns a chunk."""
    (N, C), K = x.shape, parts.shape[0]
    for k in prange(K):
        dw = memory.piece(parts, k * C, C)
        for c in range(C):
            dw[c] = 0.0
        for n in range(k * N // K, (k + 1) * N // K):
            dy_row, x_row = memory.piece(dy, n * C, C), memory.piece(x, n * C, C)
            products = row_sums(dy_row, x_row, w, r[n], dw)
            if dx.size:
                row_input_gradient(dy_row, x_row, w, r[n], products / C, memory.piece(dx, n * C, C))


def rmsnorm_backward(dy, x, w, r, dw, dx):
    """dw (C,), in float64, and dx (N, C) unless it is empty."""
    N, C = x.shape
    parts = np.empty((chunk_count(N, max(32, 8192 // C)), C))
    backward_of_chunks(dy, x, w, r, parts, dx)
    memory.sum_of_chunks(parts, dw)
