"""BatchNorm's fast kernels: one pass over memory for each of its four steps, on all threads, in vectors.

What is done differently from the plain loops of layers/batchnorm.py, and why:

Wide rows.  x (M, C) is read as rows of W numbers, some rows of C side by side, so that few channels fill vectors, too.
What belongs to a channel, such as its mean, is repeated to that width.

Chunks.  The rows are cut into chunks, whose number the shape alone decides; a thread owns a chunk, and their sums are
added in order.  So the bits are the same for any number of threads.

Moments in one pass.  sum x^2 / M - mu^2 would lose everything where mu is much larger than the deviation (in float32,
from a mean of 3000 deviations on).  So a chunk sums d = x - p and d^2 in float64, with p its first row: as p is one of
the numbers, at most a factor of their count is lost of float64's 16 digits.  Chunks then merge: for a and b with counts
n, means mu and sums of squared deviations S,

    n = na + nb     mu = mua + (mub - mua) nb / n     S = Sa + Sb + (mub - mua)^2 na nb / n

A ReLU is part of them.  As a layer of its own it would read and write all numbers once more, each way.  Forward, y is
at least a floor: 0 for ReLU, -inf for none.  Backward, a ReLU lets dy pass where z = w h + b is above 0: z is made of x
again, which is read anyway.

All arithmetic is in float64, and results are rounded once.

Source: Chan, Golub and LeVeque 1983, equation 2.1.
"""

import math

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel, sized_kernel

THREADS_FROM = 16384  # numbers in the batch from which two threads beat one


def row_width(C):
    """W: a multiple of C, at least 256; for few channels also of 16, which leaves no rest beside the vectors."""
    step = C if C >= 64 else math.lcm(C, 16)
    return step * -(-256 // step)


def chunks_of_rows(M, C):
    """Into how many chunks the rows of x (M, C) are cut."""
    return chunk_count(M, max(32, 8192 // C))


def wide(*arrays):
    """Arrays (C,) in float64, repeated to the width of the kernels' rows."""
    C = arrays[0].size
    W = row_width(C)
    repeated = np.empty((len(arrays), W // C, C))  # np.tile takes as long as the kernel of a small batch
    for rows, array in zip(repeated, arrays, strict=True):
        rows[...] = array
    return repeated.reshape(-1, W)


# --- what the class calls: as the plain loops, and then the arrays that receive what these return ---------------


def batchnorm_moments(x, mu, S):
    """mu and S (C,) of x (M, C): means, and sums of squared deviations, 0 of no rows."""
    K = chunks_of_rows(*x.shape)
    counts, means, squares = np.empty(K), np.empty((K, mu.size)), np.empty((K, mu.size))
    moments_of_chunks(x, row_width(mu.size), counts, means, squares)
    merge_moments(counts, means, squares, mu, S)


def batchnorm_forward(x, mu, v, w, b, eps, is_relu, y):
    """y (M, C)."""
    rows = np.empty((3, row_width(mu.size)))
    mean_scale_shift(mu, v, w, b, eps, rows)
    scaled_rows(x, *rows, 0.0 if is_relu else -np.inf, y)


def batchnorm_backward(dy, x, mu, v, w, b, eps, is_relu, dw, db):
    """dw and db (C,), in float64."""
    parts, sums = np.empty((chunks_of_rows(*x.shape), 2, mu.size)), np.empty((2, mu.size))
    rows = np.empty((3, row_width(mu.size)))
    mean_scale_shift(mu, v, w, b, eps, rows)
    gradient_sums_of_chunks(dy, x, *rows, is_relu, parts)
    memory.sum_of_chunks(parts, sums)
    db[...] = sums[0]
    np.divide(sums[1], np.sqrt(v + eps), dw)


def batchnorm_backward_input(dy, x, mu, v, w, b, eps, is_relu, dw, db, M, dx):
    """dx (M, C)."""
    r, M = 1 / np.sqrt(v + eps), max(M, 1)
    rows = np.empty((3, row_width(mu.size)))
    mean_scale_shift(mu, v, w, b, eps, rows)
    rows_of_dx(dy, x, *rows, is_relu, *wide(db / M, r * dw / M), dx)


@kernel()
def batchnorm_running(running, batch, momentum, like, out):
    """out (C,), which may be running.  NumPy takes ten times as long for a few channels."""
    for c in range(running.size):
        moved = momentum * running[c] + (1 - momentum) * batch[c]
        narrow = like.dtype.type(moved)
        out[c] = narrow if np.isfinite(narrow) else moved


# --- the kernels ------------------------------------------------------------------------------------------------


@kernel(fast=True)
def chunk_moments(x, first, end, W, mean, squares):
    """The means, and the sums of squared deviations, of rows `first` to `end` of x (M, C)."""
    C, count = mean.size, max(1, end - first)  # no rows have the sum 0
    pivot, sums, sums2 = np.empty(W), np.empty(W), np.empty(W)
    for j in range(W):
        sums[j] = sums2[j] = 0.0
    for c in range(C):
        pivot[c] = x[first, c] if first < end else 0.0
    for j in range(C, W):
        pivot[j] = pivot[j - C]
    for start in range(first * C, end * C, W):
        row = memory.piece(x, start, min(W, end * C - start))
        for j in range(row.size):
            d = row[j] - pivot[j]
            sums[j] += d
            sums2[j] += d * d
    for start in range(C, W, C):
        for c in range(C):
            sums[c] += sums[start + c]
            sums2[c] += sums2[start + c]
    for c in range(C):
        shift = sums[c] / count
        mean[c] = pivot[c] + shift
        squares[c] = sums2[c] - shift * sums[c]


@sized_kernel(THREADS_FROM, of=0)
def moments_of_chunks(x, W, counts, means, squares):
    """counts (K,), means and squares (K, C) of K chunks.  A thread owns a chunk."""
    M, K = x.shape[0], counts.size
    for k in prange(K):
        first, end = k * M // K, (k + 1) * M // K
        counts[k] = end - first
        chunk_moments(x, first, end, W, means[k], squares[k])


@kernel()
def merge_moments(counts, means, squares, mean, total):
    """mean and total (C,): the K sets of moments as one, in order.  Returns the count of them all."""
    count = 0.0
    for c in range(mean.size):
        mean[c] = total[c] = 0.0
    for k in range(counts.size):
        if counts[k] == 0:
            continue
        count += counts[k]
        share = counts[k] / count
        for c in range(mean.size):
            delta = means[k, c] - mean[c]
            mean[c] += delta * share
            total[c] += squares[k, c] + delta * (count - counts[k]) * share * delta
    return count


@kernel()
def mean_scale_shift(mu, v, w, b, eps, rows):
    """rows (3, W) of mu, w / sqrt(v + eps) and b (C,), repeated to that width.  NumPy took longer than scaled_rows."""
    C, W = mu.size, rows.shape[1]
    for c in range(C):
        deviation = np.sqrt(v[c] + eps) if v[c] < np.inf else np.nan  # by infinity, all y would be b
        rows[0, c], rows[1, c], rows[2, c] = mu[c], w[c] / deviation, b[c]
    for j in range(C, W):
        for k in range(3):
            rows[k, j] = rows[k, j - C]


@sized_kernel(THREADS_FROM)
def scaled_rows(x, mean, scale, b, floor, y):
    """y = max(floor, scale (x - mean) + b); mean, scale, b (W,), in float64.  A thread owns its wide rows of y."""
    W = mean.size
    for row in prange((x.size + W - 1) // W):
        size = min(W, x.size - row * W)
        x_row, y_row = memory.piece(x, row * W, size), memory.piece(y, row * W, size)
        for j in range(size):
            z = (x_row[j] - mean[j]) * scale[j] + b[j]
            y_row[j] = floor if z < floor else z  # NaN is not less, and stays


@kernel(fast=True)
def chunk_gradient_sums(dy, x, first, end, mean, scale, b, is_relu, sums):
    """sums (2, C): sum dz, and sum dz (x - mean), of rows `first` to `end`."""
    C, W = x.shape[1], mean.size
    plain, products = np.empty(W), np.empty(W)
    for j in range(W):
        plain[j] = products[j] = 0.0
    for start in range(first * C, end * C, W):
        size = min(W, end * C - start)
        dy_row, x_row = memory.piece(dy, start, size), memory.piece(x, start, size)
        for j in range(size):
            d, dz = x_row[j] - mean[j], dy_row[j]
            if is_relu and d * scale[j] + b[j] <= 0:
                dz = 0
            plain[j] += dz
            products[j] += dz * d
    for c in range(C):
        sums[0, c], sums[1, c] = plain[c], products[c]
    for start in range(C, W, C):
        for c in range(C):
            sums[0, c] += plain[start + c]
            sums[1, c] += products[start + c]


@sized_kernel(THREADS_FROM, of=0)
def gradient_sums_of_chunks(dy, x, mean, scale, b, is_relu, parts):
    """parts (K, 2, C): both sums of K chunks.  A thread owns a chunk."""
    M, K = x.shape[0], parts.shape[0]
    for k in prange(K):
        chunk_gradient_sums(dy, x, k * M // K, (k + 1) * M // K, mean, scale, b, is_relu, parts[k])


@sized_kernel(THREADS_FROM)
def rows_of_dx(dy, x, mean, scale, b, is_relu, offset, slope, dx):
    """dx = scale (dz - offset - slope (x - mean)); what is a channel's is (W,), in float64.  Threads as in forward."""
    W = mean.size
    for row in prange((x.size + W - 1) // W):
        size = min(W, x.size - row * W)
        dy_row, x_row = memory.piece(dy, row * W, size), memory.piece(x, row * W, size)
        dx_row = memory.piece(dx, row * W, size)
        for j in range(size):
            d, dz = x_row[j] - mean[j], dy_row[j]
            if is_relu and d * scale[j] + b[j] <= 0:
                dz = 0
            dx_row[j] = (dz - offset[j] - slope[j] * d) * scale[j]
