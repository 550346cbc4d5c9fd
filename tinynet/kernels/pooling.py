"""Pooling: windows of any size and stride."""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.pooling_2x2 import THREADS_FROM, beats

LONG = 64  # numbers, that is how many are added in their own dtype


# --- maximum ----------------------------------------------------------------------------------------------


@kernel()
def windows_on_a_number(size, stride):
    """In how many windows a number of the image can lie, at most."""
    (kh, kw), (sh, sw) = size, stride
    return ((kh + sh - 1) // sh) * ((kw + sw - 1) // sw)


@kernel()
def max_row(x, kw, sw, y, winner):  # x (kh, W, C), y and winner (OW, C)
    for j in range(y.shape[0]):
        for c in range(y.shape[1]):
            y[j, c] = x[0, j * sw, c]
            winner[j, c] = 0
        for k in range(1, x.shape[0] * kw):
            a, b = k // kw, k % kw
            for c in range(y.shape[1]):
                value, best = x[a, j * sw + b, c], y[j, c]
                won = beats(value, best)
                y[j, c] = value if won else best
                winner[j, c] = k if won else winner[j, c]


@sized_kernel(THREADS_FROM, of=0)
def max_pool_forward(x, size, stride, y, winner):
    (kh, kw), (sh, sw), OH = size, stride, y.shape[1]
    for row in prange(y.shape[0] * OH):
        n, i = row // OH, row % OH
        max_row(x[n, i * sh : i * sh + kh], kw, sw, y[n, i], winner[n, i])


@kernel()
def give_to_winners(dy, winner, size, stride, W, dx):  # dy, winner (OH, OW, C), dx (H W C,)
    (kh, kw), (sh, sw), C = size, stride, dy.shape[2]
    offset = np.empty(kh * kw, np.int64)  # of each number of a window, from the window's first
    for k in range(kh * kw):
        offset[k] = (k // kw * W + k % kw) * C
    for i in range(dx.size):
        dx[i] = 0
    for i in range(dy.shape[0]):
        for j in range(dy.shape[1]):
            first = (i * sh * W + j * sw) * C
            for c in range(C):
                dx[first + offset[winner[i, j, c]] + c] += dy[i, j, c]


@sized_kernel(THREADS_FROM)
def max_pool_backward(dy, winner, size, stride, dx):
    """Where windows overlap, what their shared numbers get adds up: so a thread owns an image."""
    N, H, W, C = dx.shape
    for n in prange(N):
        image = memory.piece(dx, n * H * W * C, H * W * C)
        if windows_on_a_number(size, stride) > LONG:
            sums = np.empty(image.size)
            give_to_winners(dy[n], winner[n], size, stride, W, sums)
            for i in range(image.size):
                image[i] = sums[i]
        else:
            give_to_winners(dy[n], winner[n], size, stride, W, image)


# --- mean -------------------------------------------------------------------------------------------------


@kernel()
def mean_row(x, kw, sw, y):  # x (kh, W, C), y (OW, C)
    count = y.dtype.type(x.shape[0] * kw)
    for j in range(y.shape[0]):
        y[j] = 0
        for a in range(x.shape[0]):
            for b in range(kw):
                for c in range(y.shape[1]):
                    y[j, c] += x[a, j * sw + b, c]
        for c in range(y.shape[1]):
            y[j, c] /= count


@kernel()
def avg_row(x, kw, sw, y):
    if x.shape[0] * kw > LONG:
        wide = np.empty(y.shape)
        mean_row(x, kw, sw, wide)
        y[:] = wide
    else:
        mean_row(x, kw, sw, y)


@sized_kernel(THREADS_FROM, of=0)
def avg_pool_forward(x, size, stride, y):
    (kh, kw), (sh, sw), OH = size, stride, y.shape[1]
    for row in prange(y.shape[0] * OH):
        n, i = row // OH, row % OH
        avg_row(x[n, i * sh : i * sh + kh], kw, sw, y[n, i])


@kernel()
def add_shares(dy, size, stride, h, sums):  # dy (OH, OW, C); sums (W C,), for row h of the image
    (kh, kw), (sh, sw), (OH, OW, C) = size, stride, dy.shape
    count = sums.dtype.type(kh * kw)
    for w in range(sums.size):
        sums[w] = 0
    for i in range(max(0, (h - kh) // sh + 1), min(OH, h // sh + 1)):  # the windows that row h lies in
        for j in range(OW):
            for b in range(kw):
                given, pixel = memory.piece(dy, (i * OW + j) * C, C), memory.piece(sums, (j * sw + b) * C, C)
                for c in range(C):
                    pixel[c] += given[c] / count


@sized_kernel(THREADS_FROM)
def avg_pool_backward(dy, size, stride, dx):
    _, H, W, C = dx.shape
    for task in prange(dx.shape[0] * H):
        n, h = task // H, task % H
        row = memory.piece(dx, task * W * C, W * C)
        if windows_on_a_number(size, stride) > LONG:
            wide = np.empty(row.size)
            add_shares(dy[n], size, stride, h, wide)
            for w in range(row.size):
                row[w] = wide[w]
        else:
            add_shares(dy[n], size, stride, h, row)


# --- the layers -------------------------------------------------------------------------------------------
