"""BatchNorm: moments and sums of chunks of rows, merged in order."""

import math

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel, sized_kernel

THREADS_FROM = 16384  # numbers in the batch from which two threads beat one

# The kernels read x as wide rows: W = P C numbers, which are P rows of C side by side, so that few channels fill
# vectors, too.  What belongs to a channel, such as its mean, is repeated to that width.


def row_width(C):
    """W: a multiple of C, at least 256; for few channels also of 16, which leaves no rest beside the vectors."""
    step = C if C >= 64 else math.lcm(C, 16)
    return step * -(-256 // step)


@kernel()
def chunk_moments(x, first, end, W, mean, squares):
    """The means, and the sums of squared deviations, of rows `first` to `end` of x (M, C)."""
    C, count = mean.size, max(1, end - first)  # no rows have the sum 0
    pivot, sums, sums2 = np.empty(W), np.empty(W), np.empty(W)
    for j in range(W):
        pivot[j] = x[first, j % C] if first < end else 0.0
        sums[j] = sums2[j] = 0.0
    for start in range(first * C, end * C, W):
        row = memory.piece(x, start, min(W, end * C - start))
        for j in range(row.size):
            d = row[j] - pivot[j]
            sums[j] += d
            sums2[j] += d * d
    for j in range(C, W):
        sums[j % C] += sums[j]
        sums2[j % C] += sums2[j]
    for c in range(C):
        shift = sums[c] / count
        mean[c] = pivot[c] + shift
        squares[c] = sums2[c] - shift * sums[c]


@sized_kernel(THREADS_FROM, of=0)
def batchnorm_moments(x, W, counts, means, squares):
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


@sized_kernel(THREADS_FROM)
def batchnorm_forward(x, mean, scale, b, y):
    """y = scale (x - mean) + b; mean, scale, b (W,), in float64.  A thread owns its wide rows of y."""
    W = mean.size
    for row in prange((x.size + W - 1) // W):
        size = min(W, x.size - row * W)
        x_row, y_row = memory.piece(x, row * W, size), memory.piece(y, row * W, size)
        for j in range(size):
            y_row[j] = (x_row[j] - mean[j]) * scale[j] + b[j]


@kernel()
def chunk_gradient_sums(dy, x, first, end, mean, sums):
    """sums (2, C): sum dy, and sum dy (x - mean), of rows `first` to `end`."""
    C, W = x.shape[1], mean.size
    plain, products = np.empty(W), np.empty(W)
    for j in range(W):
        plain[j] = products[j] = 0.0
    for start in range(first * C, end * C, W):
        size = min(W, end * C - start)
        dy_row, x_row = memory.piece(dy, start, size), memory.piece(x, start, size)
        for j in range(size):
            plain[j] += dy_row[j]
            products[j] += dy_row[j] * (x_row[j] - mean[j])
    for c in range(C):
        sums[0, c], sums[1, c] = plain[c], products[c]
    for j in range(C, W):
        sums[0, j % C] += plain[j]
        sums[1, j % C] += products[j]


@sized_kernel(THREADS_FROM, of=0)
def batchnorm_gradient_sums(dy, x, mean, parts):
    """parts (K, 2, C): both sums of K chunks.  A thread owns a chunk."""
    M, K = x.shape[0], parts.shape[0]
    for k in prange(K):
        chunk_gradient_sums(dy, x, k * M // K, (k + 1) * M // K, mean, parts[k])


@sized_kernel(THREADS_FROM)
def batchnorm_backward_input(dy, x, mean, scale, offset, slope, dx):
    """dx = scale (dy - offset - slope (x - mean)); a channel's numbers are (W,), in float64.  Threads as in forward."""
    W = mean.size
    for row in prange((x.size + W - 1) // W):
        size = min(W, x.size - row * W)
        dy_row, x_row = memory.piece(dy, row * W, size), memory.piece(x, row * W, size)
        dx_row = memory.piece(dx, row * W, size)
        for j in range(size):
            dx_row[j] = (dy_row[j] - offset[j] - slope[j] * (x_row[j] - mean[j])) * scale[j]
