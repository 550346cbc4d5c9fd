"""Depthwise convolution: each filter looks at one channel, so that vectors of channels need no sums across them.

    z[n,p,q,c]  = b[c] + sum_i sum_j x[n, p s + i d - top, q r + j e - left, c] w[i,j,c]
    dw[i,j,c]   = sum_n sum_p sum_q x[n, p s + i d - top, q r + j e - left, c] dz[n,p,q,c]
    dx[n,h,g,c] = sum of dz[n,p,q,c] w[i,j,c] over those p, q, i, j with p s + i d - top = h and q r + j e - left = g

x (N, H, W, C)   w (I, J, C)   y, z, dz (N, P, Q, C)   b (C,)

A number of the image meets I J weights alone, 9 mostly: what there is to do is going over memory.  A row of positions
is a task; four positions side by side are summed at once, so that a weight is read once for the four, and their sums
do not wait for each other.  With stride 1, dx is the same convolution again, of dz by the kernel turned around.

dw is summed over a row of positions in registers, up to four columns of the window at once, goes on for TERMS positions
in the images' dtype, and into float64 then, where no digits are lost however large the batch or the image.  Chunks of
rows have sums of their own, which are added in order: so the bits are the same for any number of threads.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, helper, kernel, sized_kernel
from tinynet.kernels.convolution import through_relu
from tinynet.kernels.pooling import inside
from tinynet.kernels.vectors import fma, load_some, maximum, splat, store_some, width

THREADS_FROM = 32768  # numbers of the output from which two threads beat one
TERMS = 1024  # so many positions are added in the images' own dtype


def depthwise_forward(x, w, b, stride, before, dilation, floor, y):
    """y = max(floor, z)."""
    forward_of_rows(x, w, b, stride, before, dilation, floor, y)


def depthwise_backward(x, w, dy, y, is_relu, stride, before, dilation, input_grad, dw, db, dx):
    """dw (I, J, C), db and, if asked for, dx.  `is_relu`: y is a ReLU's output and dy its gradient."""
    (I, J, C), (N, P) = w.shape, dy.shape[:2]
    if is_relu:
        dz = np.empty_like(dy)
        through_relu(dy.reshape(-1), y.reshape(-1), dz.reshape(-1))
        dy = dz
    parts, sums = np.empty((chunk_count(N * P, max(1, 16384 // dy[0, 0].size)), (I * J + 1) * C)), np.empty(w.size + C)
    gradients_of_rows(x, dy, (I, J), stride, before, dilation, parts)
    memory.sum_of_chunks(parts, sums)
    dw[...], db[...] = sums[: w.size].reshape(w.shape), sums[w.size :]
    if input_grad:
        depthwise_backward_input(w, dy, stride, before, dilation, dx)


def depthwise_backward_input(w, dz, stride, before, dilation, dx):
    """dx alone."""
    if stride == (1, 1):
        turned, no_bias = np.ascontiguousarray(w[::-1, ::-1]), np.zeros(w.shape[2], w.dtype)
        zeros = tuple((n - 1) * d - k for n, d, k in zip(w.shape[:2], dilation, before, strict=True))
        forward_of_rows(dz, turned, no_bias, stride, zeros, dilation, w.dtype.type(-np.inf), dx)
    else:
        input_gradient_of_rows(dz, w, stride, before, dilation, dx)


# --- forward ------------------------------------------------------------------------------------------------


@helper
def whole_windows(Q, J, stride, left, dilation, W):
    """The positions q0 <= q < q1 of which the whole window is within a row of W pixels."""
    q0 = min(Q, max(0, (left + stride - 1) // stride))
    return q0, max(q0, min(Q, (W - 1 + left - (J - 1) * dilation) // stride + 1))


@kernel()
def position(x, at, w, first, b, i0, i1, j0, j1, steps, C, floor, y, to):
    """One position, of whose window the rows i0 to i1 and the columns j0 to j1 are inside.

    Number (i, j) of the window lies at x.flat[at + i down + j right], its weights at w.flat[first + (i J + j) C].
    """
    down, right, across = steps
    for c in range(0, C, width(x)):
        rest = C - c
        total = load_some(b, c, rest, 0)
        for i in range(i0, i1):
            for j in range(j0, j1):
                pixel = load_some(x, at + i * down + j * right + c, rest, 0)
                total = fma(pixel, load_some(w, first + i * across + j * C + c, rest, 0), total)
        store_some(maximum(splat(y, floor), total), y, to + c, rest)


@kernel()
def four_positions(x, at, step, w, b, i0, i1, J, steps, C, floor, y, to):
    """Four of them side by side, all columns of whose windows are inside."""
    down, right, across = steps
    least = splat(y, floor)
    for c in range(0, C, width(x)):
        rest = C - c
        s0 = s1 = s2 = s3 = load_some(b, c, rest, 0)
        for i in range(i0, i1):
            for j in range(J):
                weight, place = load_some(w, i * across + j * C + c, rest, 0), at + i * down + j * right + c
                s0 = fma(load_some(x, place, rest, 0), weight, s0)
                s1 = fma(load_some(x, place + step, rest, 0), weight, s1)
                s2 = fma(load_some(x, place + 2 * step, rest, 0), weight, s2)
                s3 = fma(load_some(x, place + 3 * step, rest, 0), weight, s3)
        store_some(maximum(least, s0), y, to + c, rest)
        store_some(maximum(least, s1), y, to + C + c, rest)
        store_some(maximum(least, s2), y, to + 2 * C + c, rest)
        store_some(maximum(least, s3), y, to + 3 * C + c, rest)


@sized_kernel(THREADS_FROM)
def forward_of_rows(x, w, b, stride, before, dilation, floor, y):
    _, H, W, C = x.shape
    _, P, Q, _ = y.shape
    I, J, _ = w.shape
    (s, r), (top, left), (d, e) = stride, before, dilation
    steps = d * W * C, e * C, J * C
    q0, q1 = whole_windows(Q, J, r, left, e, W)
    for row in prange(y.shape[0] * P):
        n, p = row // P, row % P
        i0, i1 = inside(p * s - top, I, d, H)
        images, weights = memory.piece(x, 0, x.size), memory.piece(w, 0, w.size)
        biases, out = memory.piece(b, 0, C), memory.piece(y, 0, y.size)
        first, to, q = ((n * H + p * s - top) * W - left) * C, row * Q * C, 0
        while q < Q:
            at = first + q * r * C
            if q >= q0 and q + 4 <= q1:
                four_positions(images, at, r * C, weights, biases, i0, i1, J, steps, C, floor, out, to + q * C)
                q += 4
            else:
                j0, j1 = inside(q * r - left, J, e, W)
                position(images, at, weights, 0, biases, i0, i1, j0, j1, steps, C, floor, out, to + q * C)
                q += 1


# --- backward -----------------------------------------------------------------------------------------------


@kernel()
def add_products(x, at, right, dz, to, positions, column, columns, C, c, sums, place):
    """sums.flat[place + j C] += the sum over a row's positions q of x.flat[at + q r C + j right] dz.flat[to + q C].

    Up to four columns of the window, j < `columns`, at once.  positions is (Q, q0, q1, r): from q0 to q1 all of the
    window is inside; elsewhere, what is outside the W columns of x is left out: column is (that of q = j = 0, e, W).
    """
    (Q, q0, q1, r), (first, e, W), rest = positions, column, C - c
    s0 = s1 = s2 = s3 = load_some(sums, place, rest, 0)
    if columns > 1:
        s1 = load_some(sums, place + C, rest, 0)
    if columns > 2:
        s2 = load_some(sums, place + 2 * C, rest, 0)
    if columns > 3:
        s3 = load_some(sums, place + 3 * C, rest, 0)
    for q in range(q0, q1):
        pixel, gradient = at + q * r * C, load_some(dz, to + q * C, rest, 0)
        s0 = fma(load_some(x, pixel, rest, 0), gradient, s0)
        if columns > 1:
            s1 = fma(load_some(x, pixel + right, rest, 0), gradient, s1)
        if columns > 2:
            s2 = fma(load_some(x, pixel + 2 * right, rest, 0), gradient, s2)
        if columns > 3:
            s3 = fma(load_some(x, pixel + 3 * right, rest, 0), gradient, s3)
    for edge in range(q0 + Q - q1):
        q = edge if edge < q0 else edge - q0 + q1
        g, pixel, gradient = first + q * r, at + q * r * C, load_some(dz, to + q * C, rest, 0)
        if 0 <= g < W:
            s0 = fma(load_some(x, pixel, rest, 0), gradient, s0)
        if columns > 1 and 0 <= g + e < W:
            s1 = fma(load_some(x, pixel + right, rest, 0), gradient, s1)
        if columns > 2 and 0 <= g + 2 * e < W:
            s2 = fma(load_some(x, pixel + 2 * right, rest, 0), gradient, s2)
        if columns > 3 and 0 <= g + 3 * e < W:
            s3 = fma(load_some(x, pixel + 3 * right, rest, 0), gradient, s3)
    if columns > 3:
        store_some(s3, sums, place + 3 * C, rest)
    if columns > 2:
        store_some(s2, sums, place + 2 * C, rest)
    if columns > 1:
        store_some(s1, sums, place + C, rest)
    store_some(s0, sums, place, rest)


@kernel()
def add_row(x, dz, n, p, window, stride, before, dilation, sums):
    """sums (I J + 1, C) += what row p of image n adds to dw, and to db."""
    _, H, W, C = x.shape
    _, P, Q, _ = dz.shape
    (I, J), (s, r), (top, left), (d, e) = window, stride, before, dilation
    i0, i1 = inside(p * s - top, I, d, H)
    q0, q1 = whole_windows(Q, J, r, left, e, W)
    first, to = ((n * H + p * s - top) * W - left) * C, (n * P + p) * Q * C
    x, dz = memory.piece(x, 0, x.size), memory.piece(dz, 0, dz.size)
    for c in range(0, C, width(x)):
        for i in range(i0, i1):
            for j in range(0, J, 4):
                at, place = first + (i * d * W + j * e) * C + c, (i * J + j) * C + c
                positions, column = (Q, q0, q1, r), (j * e - left, e, W)
                add_products(x, at, e * C, dz, to + c, positions, column, min(4, J - j), C, c, sums, place)
        total = load_some(sums, I * J * C + c, C - c, 0)
        for q in range(Q):
            total = total + load_some(dz, to + q * C + c, C - c, 0)
        store_some(total, sums, I * J * C + c, C - c)


@sized_kernel(THREADS_FROM, of=1)
def gradients_of_rows(x, dz, window, stride, before, dilation, parts):
    """parts (K, (I J + 1) C), in float64: dw and behind it db, of K chunks of rows.  A thread owns a chunk."""
    N, P, Q, _ = dz.shape
    K, size = parts.shape
    step = max(1, TERMS // Q)
    for k in prange(K):
        sums, wide, count = memory.scratch((size,), x), memory.piece(parts, k * size, size), 0
        for m in range(size):
            sums[m], wide[m] = 0, 0.0
        for row in range(k * N * P // K, (k + 1) * N * P // K):
            add_row(x, dz, row // P, row % P, window, stride, before, dilation, sums)
            count += 1
            if count == step:
                memory.add_to(wide, sums, False)
                for m in range(size):
                    sums[m] = 0
                count = 0
        memory.add_to(wide, sums, False)


@kernel()
def gather(dz, w, taps, rows, columns, C, out, to):
    """out.flat[to + c] = the sum of dz w over some rows and columns of the window, for c < C.

    taps (4, .): of each row where its position begins in dz, and its weights in w; of each column likewise.
    """
    for c in range(0, C, width(dz)):
        total, rest = splat(dz, 0), C - c
        for i in range(rows):
            for j in range(columns):
                gradient = load_some(dz, taps[0, i] + taps[2, j] + c, rest, 0)
                total = fma(gradient, load_some(w, taps[1, i] + taps[3, j] + c, rest, 0), total)
        store_some(total, out, to + c, rest)


@sized_kernel(THREADS_FROM)
def input_gradient_of_rows(dz, w, stride, before, dilation, dx):
    """dx for any stride: a pixel asks each row and column of the window which position has it there, if one has."""
    _, P, Q, C = dz.shape
    _, H, W, _ = dx.shape
    I, J, _ = w.shape
    (s, r), (top, left), (d, e) = stride, before, dilation
    for row in prange(dx.shape[0] * H):
        n, h = row // H, row % H
        gradients, weights = memory.piece(dz, 0, dz.size), memory.piece(w, 0, w.size)
        out, taps, rows = memory.piece(dx, row * W * C, W * C), np.empty((4, max(I, J)), np.int64), 0
        for i in range(I):
            p, over = (h + top - i * d) // s, (h + top - i * d) % s
            if over == 0 and 0 <= p < P:
                taps[0, rows], taps[1, rows] = (n * P + p) * Q * C, i * J * C
                rows += 1
        for g in range(W):
            columns = 0
            for j in range(J):
                q, over = (g + left - j * e) // r, (g + left - j * e) % r
                if over == 0 and 0 <= q < Q:
                    taps[2, columns], taps[3, columns] = q * C, j * C
                    columns += 1
            gather(gradients, weights, taps, rows, columns, C, out, g * C)
