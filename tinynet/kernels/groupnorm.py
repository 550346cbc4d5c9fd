"""GroupNorm's fast kernels: a sample is gone over as BatchNorm goes over a chunk of rows, and it stays in the cache.

A group's numbers lie in pieces of D = C / G, too short for vectors.  So sums are taken by channel, over rows of several
pixels side by side (kernels/batchnorm.py), and a group's are made of its channels': with equal counts S, means m[c] and
sums of squared deviations q[c],

    mu = 1/D sum_c m[c]        S D v = sum_c q[c] + S sum_c (m[c] - mu)^2

A thread owns a sample forward; backward a chunk of samples, whose number the shape alone decides, with its own dw and
db, which are added in order.  So the bits are the same for any number of threads.  All sums are in float64.
"""

import math

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.batchnorm import chunk_gradient_sums, chunk_moments, row_width
from tinynet.kernels.compile import chunk_count, kernel, sized_kernel

THREADS_FROM = 16384  # numbers in the batch from which two threads beat one


def width(S, C):
    """Of the wide rows: a sample of few numbers is read pixel by pixel."""
    return row_width(C) if 2 * row_width(C) <= S * C else C


def groupnorm_forward(x, S, w, b, G, eps, mu, r, y):
    """mu and r (N, G) in float64, and y; x and y (N, most, C), of which S (N,) positions count."""
    N, most, C = x.shape
    forward_of_samples(x.reshape(N * most, C), S, w, b, width(most, C), eps, mu, r, y)


def groupnorm_backward(dy, x, S, w, mu, r, dw, db, dx):
    """dw and db (C,) in float64, and dx (N, most, C) unless it is empty."""
    N, most, C = x.shape
    parts, sums = np.empty((chunk_count(N, max(1, 8192 // (most * C))), 2, C)), np.empty((2, C))
    backward_of_chunks(dy.reshape(N * most, C), x.reshape(N * most, C), S, w, mu, r, width(most, C), parts, dx)
    memory.sum_of_chunks(parts, sums)
    dw[...], db[...] = sums


@kernel(fast=True)
def sample_forward(x, n, most, S, w, b, W, eps, mu, r, y):
    """y of sample n, and its mu and r (G,), all 0 if it has no positions."""
    C, G = w.size, mu.size
    D, first, size = C // G, n * most * C, S * C
    rest = memory.piece(y, first + size, most * C - size)
    for j in range(rest.size):
        rest[j] = 0
    if S == 0:
        for g in range(G):
            mu[g] = r[g] = 0.0
        return
    means, squares = np.empty(C), np.empty(C)
    chunk_moments(x, n * most, n * most + S, W, means, squares)
    scale, shift = np.empty(W), np.empty(W)
    for g in range(G):
        m = q = 0.0
        for c in range(g * D, (g + 1) * D):
            m += means[c]
        m /= D
        for c in range(g * D, (g + 1) * D):
            q += squares[c] + S * (means[c] - m) ** 2
        v = q / (S * D) + eps
        mu[g], r[g] = m, 1 / math.sqrt(v) if v < np.inf else np.nan  # 1 / infinity would make all y = b
        for c in range(g * D, (g + 1) * D):
            scale[c] = r[g] * w[c]
            shift[c] = b[c] - m * scale[c]
    for j in range(C, W):
        scale[j], shift[j] = scale[j - C], shift[j - C]
    for start in range(0, size, W):
        count = min(W, size - start)
        x_row, y_row = memory.piece(x, first + start, count), memory.piece(y, first + start, count)
        for j in range(count):
            y_row[j] = x_row[j] * scale[j] + shift[j]


@sized_kernel(THREADS_FROM)
def forward_of_samples(x, S, w, b, W, eps, mu, r, y):
    """x (N most, C).  A thread owns a sample."""
    N = mu.shape[0]
    for n in prange(N):
        sample_forward(x, n, x.shape[0] // N, S[n], w, b, W, eps, mu[n], r[n], y)


@kernel()  # not fast: dx is a sum of products, whose order the compiler chose anew for code from the cache
def sample_backward(dy, x, n, most, S, w, mu, r, W, dw, db, dx):
    """Adds sample n to dw and db; dx unless it is empty."""
    C, G = w.size, mu.size
    D, first, size = C // G, n * most * C, S * C
    if dx.size:
        rest = memory.piece(dx, first + size, most * C - size)
        for j in range(rest.size):
            rest[j] = 0
    if S == 0:
        return
    mean, scale, offset, slope = np.empty(W), np.empty(W), np.empty(W), np.empty(W)
    sums = np.empty((2, C))
    for g in range(G):
        for c in range(g * D, (g + 1) * D):
            mean[c] = mu[g]
    for j in range(C, W):
        mean[j] = mean[j - C]
    chunk_gradient_sums(dy, x, n * most, n * most + S, mean, mean, mean, False, sums)  # two are read of a ReLU alone
    for g in range(G):
        plain = products = 0.0  # the sums of dh and dh h over the group
        for c in range(g * D, (g + 1) * D):
            sums[1, c] *= r[g]
            db[c] += sums[0, c]
            dw[c] += sums[1, c]
            plain += w[c] * sums[0, c]
            products += w[c] * sums[1, c]
        for c in range(g * D, (g + 1) * D):
            scale[c] = r[g] * w[c]
            slope[c] = r[g] * r[g] * products / (S * D)
            offset[c] = r[g] * plain / (S * D) - mu[g] * slope[c]
    if dx.size:
        for j in range(C, W):
            scale[j], offset[j], slope[j] = scale[j - C], offset[j - C], slope[j - C]
        for start in range(0, size, W):
            count = min(W, size - start)
            dy_row, x_row = memory.piece(dy, first + start, count), memory.piece(x, first + start, count)
            dx_row = memory.piece(dx, first + start, count)
            for j in range(count):
                dx_row[j] = dy_row[j] * scale[j] - x_row[j] * slope[j] - offset[j]


@sized_kernel(THREADS_FROM, of=0)
def backward_of_chunks(dy, x, S, w, mu, r, W, parts, dx):
    """dx unless it is empty, and parts (K, 2, C): dw and db of K chunks of samples.  A thread owns a chunk."""
    N, K = mu.shape[0], parts.shape[0]
    for k in prange(K):
        parts[k] = 0.0
        for n in range(k * N // K, (k + 1) * N // K):
            sample_backward(dy, x, n, x.shape[0] // N, S[n], w, mu[n], r[n], W, parts[k, 0], parts[k, 1], dx)
