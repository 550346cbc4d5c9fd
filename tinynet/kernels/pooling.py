"""Pooling: windows of any size and stride, and the choice of the faster kernel for a maximum of 2 x 2.

    x (N, H, W, C)   y, argmax (N, P, Q, C)   size (I, J)   stride (s, r)

The innermost loops run over the channels, which lie side by side.  A thread owns the rows or images that it writes.
argmax is a number within the window, i J + j: one byte an output, where an index into the image takes eight.

Sums of more than LONG numbers are in float64: the mean of a constant image of 1024 x 1024 would be wrong by 1 % in
float32, where at last each pixel is rounded to the sum's last digit.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.pooling_2x2 import THREADS_FROM, beats, max_pool_2x2_backward, max_pool_2x2_forward

LONG = 64  # so many numbers are added in their own dtype


# --- maximum ----------------------------------------------------------------------------------------------


def max_pool_forward(x, size, stride, y, argmax):
    """y, the maximum of each window, and argmax, where it is: of equal numbers the first, of several NaN the last."""
    if size == (2, 2):
        max_pool_2x2_forward(x, stride, y, argmax)
    else:
        max_of_windows(x, size, stride, y, argmax)


def max_pool_backward(dy, argmax, size, stride, shape, dx):
    """dx, of this shape (N, H, W, C): each dy where its maximum was, and 0 elsewhere."""
    if size == stride == (2, 2):
        max_pool_2x2_backward(dy, argmax, dx)
    else:
        scatter_to_maxima(dy, argmax, size, stride, dx)


@kernel()
def windows_on_a_pixel(size, stride):
    """In how many windows a pixel can lie, at most."""
    (I, J), (s, r) = size, stride
    return ((I + s - 1) // s) * ((J + r - 1) // r)


@kernel()
def max_of_row(x, J, r, y, argmax):  # x (I, W, C), y and argmax (Q, C)
    for q in range(y.shape[0]):
        for c in range(y.shape[1]):
            y[q, c] = x[0, q * r, c]
            argmax[q, c] = 0
        for k in range(1, x.shape[0] * J):
            i, j = k // J, k % J
            for c in range(y.shape[1]):
                value, best = x[i, q * r + j, c], y[q, c]
                greater = beats(value, best)
                y[q, c] = value if greater else best
                argmax[q, c] = k if greater else argmax[q, c]


@sized_kernel(THREADS_FROM, of=0)
def max_of_windows(x, size, stride, y, argmax):
    (I, J), (s, r), P = size, stride, y.shape[1]
    for row in prange(y.shape[0] * P):
        n, p = row // P, row % P
        max_of_row(x[n, p * s : p * s + I], J, r, y[n, p], argmax[n, p])


@kernel()
def scatter_in_image(dy, argmax, size, stride, W, dx):  # dy, argmax (P, Q, C), dx (H W C,)
    (I, J), (s, r), C = size, stride, dy.shape[2]
    offset = np.empty(I * J, np.int64)  # of each pixel of a window, from the window's first
    for k in range(I * J):
        offset[k] = (k // J * W + k % J) * C
    for i in range(dx.size):
        dx[i] = 0
    for p in range(dy.shape[0]):
        for q in range(dy.shape[1]):
            first = (p * s * W + q * r) * C
            for c in range(C):
                dx[first + offset[argmax[p, q, c]] + c] += dy[p, q, c]


@sized_kernel(THREADS_FROM)
def scatter_to_maxima(dy, argmax, size, stride, dx):
    """Where windows overlap, a pixel gets the sum of several dy: so a thread owns an image."""
    N, H, W, C = dx.shape
    for n in prange(N):
        image = memory.piece(dx, n * H * W * C, H * W * C)
        if windows_on_a_pixel(size, stride) > LONG:
            sums = np.empty(image.size)
            scatter_in_image(dy[n], argmax[n], size, stride, W, sums)
            for i in range(image.size):
                image[i] = sums[i]
        else:
            scatter_in_image(dy[n], argmax[n], size, stride, W, image)


# --- mean -------------------------------------------------------------------------------------------------


@kernel()
def mean_of_row(x, J, r, y):  # x (I, W, C), y (Q, C)
    count = y.dtype.type(x.shape[0] * J)
    for q in range(y.shape[0]):
        y[q] = 0
        for i in range(x.shape[0]):
            for j in range(J):
                for c in range(y.shape[1]):
                    y[q, c] += x[i, q * r + j, c]
        for c in range(y.shape[1]):
            y[q, c] /= count


@kernel()
def mean_of_row_in_either(x, J, r, y):
    if x.shape[0] * J > LONG:
        wide = np.empty(y.shape)
        mean_of_row(x, J, r, wide)
        y[:] = wide
    else:
        mean_of_row(x, J, r, y)


@sized_kernel(THREADS_FROM, of=0)
def avg_pool_forward(x, size, stride, y):
    """y, the mean of each window."""
    (I, J), (s, r), P = size, stride, y.shape[1]
    for row in prange(y.shape[0] * P):
        n, p = row // P, row % P
        mean_of_row_in_either(x[n, p * s : p * s + I], J, r, y[n, p])


def avg_pool_backward(dy, size, stride, shape, dx):
    """dx, of this shape (N, H, W, C): the sum of dy / (I J) over the windows that a pixel lies in."""
    sum_over_windows(dy, size, stride, dx)


@kernel()
def sum_for_row(dy, size, stride, h, sums):  # dy (P, Q, C); sums (W C,), for row h of the image
    (I, J), (s, r), (P, Q, C) = size, stride, dy.shape
    count = sums.dtype.type(I * J)
    for m in range(sums.size):
        sums[m] = 0
    for p in range(max(0, (h - I) // s + 1), min(P, h // s + 1)):  # the windows that row h lies in
        for q in range(Q):
            for j in range(J):
                gradient, pixel = memory.piece(dy, (p * Q + q) * C, C), memory.piece(sums, (q * r + j) * C, C)
                for c in range(C):
                    pixel[c] += gradient[c] / count


@sized_kernel(THREADS_FROM)
def sum_over_windows(dy, size, stride, dx):
    _, H, W, C = dx.shape
    for task in prange(dx.shape[0] * H):
        n, h = task // H, task % H
        row = memory.piece(dx, task * W * C, W * C)
        if windows_on_a_pixel(size, stride) > LONG:
            wide = np.empty(row.size)
            sum_for_row(dy[n], size, stride, h, wide)
            for m in range(row.size):
                row[m] = wide[m]
        else:
            sum_for_row(dy[n], size, stride, h, row)
