"""Which way a convolution goes: the one that is fastest for its shapes.

winograd      a window of 3 x 3, stride 1, from 32 channels and filters on: up to 4 times fewer multiplications;
              winograd_whole where the transformed kernel stays in the cache
dense         a window of one pixel, stride 1: a product of matrices, pixels x channels by channels x filters
few_filters   few filters: a vector holds neighbouring positions of a row, elsewhere the filters of one
conv2d        everything else; conv2d_rows where the kernel is small and rows of positions are long

The backward pass of a window of one pixel with a stride is dense's of a copy of the pixels at the positions.

All but dense make a copy of one image with its zeros at a time, or of a few rows of it, and no matrix of windows
("im2col").
"""

from functools import lru_cache

import numba
import numpy as np
from numba import prange

from tinynet.kernels import conv2d, conv2d_rows, few_filters, memory, winograd, winograd_whole
from tinynet.kernels.compile import sized_kernel
from tinynet.kernels.conv2d_backward import conv2d_backward as windows_backward
from tinynet.kernels.dense import dense_backward, dense_forward

PIECE = 65536  # numbers from which two threads beat one


@lru_cache(1024)
def way(kernel_shape, stride, before, size, dtype):
    """Of a kernel (I, J, C, K) and outputs of size (P, Q), which of these modules convolves."""
    (I, J, C, K), (P, Q) = kernel_shape, size
    if winograd.fits((I, J), stride, before, (P, Q, K), C):
        return winograd_whole if winograd_whole.fits((P, Q, K), C, dtype.itemsize) else winograd
    if few_filters.fits(kernel_shape, stride, before, Q, dtype):
        return few_filters
    return conv2d_rows if conv2d_rows.fits(kernel_shape, size, dtype.itemsize) else conv2d


def in_a_row(x, w, y, stride, before):
    """The same convolution over one row of positions, where it can be seen so: (x, w, y, stride, before).

    A row is what products of matrices take at once, and an image of one column would be as many rows as it is high.
    """
    (_, H, W, C), (I, J, _, K), (_, P, Q, _) = x.shape, w.shape, y.shape
    if W == J == Q == 1 < P and before[1] == 0:
        return (
            x.reshape(-1, 1, H, C),
            w.reshape(1, I, C, K),
            y.reshape(-1, 1, P, K),
            (1, stride[0]),
            (0, before[0]),
        )
    return x, w, y, stride, before


def is_one_pixel(x, w, y, stride, before):
    """Whether the window is the pixel at the position itself."""
    return w.shape[:2] == stride == (1, 1) and before == (0, 0) and x.shape[1:3] == y.shape[1:3]


def rows_of(array):
    return array.reshape(-1, array.shape[-1])


def pixels_are_inside(x, y, stride):
    """Whether the pixels at all positions of y, `stride` apart, are pixels of x."""
    return (y.shape[1] - 1) * stride[0] < x.shape[1] and (y.shape[2] - 1) * stride[1] < x.shape[2]


@sized_kernel(PIECE)
def pixels_apart(x, stride, some):
    """some[n,p,q] = x[n, p s, q r], each C numbers."""
    (_, H, W, C), (N, P, Q, _), (s, r) = x.shape, some.shape, stride
    for row in prange(N * P):
        for q in range(Q):
            given = memory.piece(x, ((row // P * H + row % P * s) * W + q * r) * C, C)
            to = memory.piece(some, (row * Q + q) * C, C)
            for c in range(C):
                to[c] = given[c]


@sized_kernel(PIECE)
def between_zeros(some, stride, x):
    """x[n, p s, q r] = some[n,p,q], and 0 in between."""
    (N, H, W, C), (_, P, Q, _), (s, r) = x.shape, some.shape, stride
    zero = x.dtype.type(0)
    for row in prange(N * H):
        n, p, between = row // H, row % H // s, row % H % s
        line = memory.piece(x, row * W * C, W * C)
        for m in range(W * C):
            line[m] = zero
        for q in range(Q if between == 0 and p < P else 0):
            to, given = memory.piece(line, q * r * C, C), memory.piece(some, ((n * P + p) * Q + q) * C, C)
            for c in range(C):
                to[c] = given[c]


def conv2d_forward(x, w, b, stride, before, size, floor, y):
    """y (N, P, Q, K) = max(floor, z), z the convolution of x (N, H, W, C) and w (I, J, C, K), plus b (K,).

    stride is (s, r); before is (top, left), the rows and columns of zeros there; size is (P, Q).
    """
    if not len(x):
        return
    if is_one_pixel(x, w, y, stride, before):
        dense_forward(rows_of(x), w[0, 0], b, floor, rows_of(y))
        return
    x, w, y, stride, before = in_a_row(x, w, y, stride, before)
    module = way(w.shape, stride, before, y.shape[1:3], w.dtype)
    if module in (conv2d, conv2d_rows):
        module.conv2d_forward(x, w, b, stride, before, floor, y)
    elif module is winograd:
        winograd.winograd_forward(x, w, b, before, floor, y)
    elif module is winograd_whole:
        winograd_whole.winograd_forward(x, w, b, before, floor, numba.get_num_threads(), y)
    else:
        few_filters.few_filters_forward(x, w, b, before, floor, y)


def conv2d_backward(x, w, dy, y, is_relu, stride, before, input_grad, dw, db, dx):
    """dw, db and, if asked for, dx.  `is_relu`: y is a ReLU's output and dy its gradient, so dz = dy where y > 0."""
    if not len(x):
        dw[...], db[...] = 0, 0
        return
    if is_one_pixel(x, w, dy, stride, before):
        drows = rows_of(dx) if input_grad else rows_of(x)[:0]
        dense_backward(rows_of(x), w[0, 0], rows_of(dy), rows_of(y), is_relu, input_grad, dw[0, 0], db, drows)
        return
    if w.shape[:2] == (1, 1) and before == (0, 0) and pixels_are_inside(x, dy, stride):
        some, rows = np.empty((*dy.shape[:3], x.shape[3]), x.dtype), rows_of(dy)
        pixels_apart(x, stride, some)
        d_some = np.empty_like(some) if input_grad else some[:0]
        given = rows_of(some), w[0, 0], rows, rows_of(y)
        dense_backward(*given, is_relu, input_grad, dw[0, 0], db, rows_of(d_some))
        if input_grad:
            between_zeros(d_some, stride, dx)
        return
    x, w, dy, stride, before = in_a_row(x, w, dy, stride, before)
    y, dw, dx = y.reshape(dy.shape), dw.reshape(w.shape), dx.reshape(x.shape) if input_grad else dx
    module = way(w.shape, stride, before, y.shape[1:3], w.dtype)
    if module in (conv2d, conv2d_rows):
        backward = windows_backward if module is conv2d else conv2d_rows.conv2d_backward
        backward(x, w, dy, y, is_relu, stride, before, input_grad, dw, db, dx)
    elif module in (winograd, winograd_whole):
        module.winograd_backward(x, w, dy, y, is_relu, before, input_grad, dw, db, dx)
    else:
        if input_grad and is_relu:  # both launches need dz
            dz = np.empty_like(dy)
            through_relu(dy.reshape(-1), y.reshape(-1), dz.reshape(-1))
            dy, is_relu = dz, False
        few_filters.few_filters_backward(x, dy, y, is_relu, before, dw, db)
        if input_grad:
            backward_input(dy, w, before, dx)


@sized_kernel(PIECE)
def through_relu(dy, y, dz):
    zero = dy.dtype.type(0)
    for i in prange(dy.size):
        dz[i] = zero if y[i] <= zero else dy[i]


def backward_input(dz, w, before, dx):
    """dx of few filters, stride 1: the convolution of dz by the flipped kernel, with its last two axes swapped."""
    flipped = np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))
    (I, J, _, C), (top, left) = flipped.shape, before
    before, zeros, no_floor = (I - 1 - top, J - 1 - left), np.zeros(C, w.dtype), w.dtype.type(-np.inf)
    if few_filters.fits(flipped.shape, (1, 1), before, dx.shape[2], w.dtype):
        few_filters.few_filters_forward(dz, flipped, zeros, before, no_floor, dx)
    else:
        conv2d_rows.conv2d_forward(dz, flipped, zeros, (1, 1), before, no_floor, dx)
