"""Pooling: windows of any size, stride, padding and dilation; pooling_2x2.py has the maximum of 2 x 2, where it fits.

    x (N, H, W, C)   y, argmax (N, P, Q, C)   size (I, J)   stride (s, r)   before (top, left)   dilation (d, e)

The innermost loops run over the channels, which lie side by side.  A thread owns the rows or images that it writes.
argmax is a number within the window, i J + j: one byte an output, where an index into the image takes eight.

The maximum of a window stays in a register, as does where it is, until the whole window is seen.  Backward, a pixel
asks each window that it lies in whether it was the maximum there: vectors of 16 channels, where scattering goes number
by number.  A vector that reaches beyond C reads on into the next pixel, and what it writes there the next window
overwrites.

Sums of more than LONG numbers are in float64: the mean of a constant image of 1024 x 1024 would be wrong by 1 % in
float32, where at last each pixel is rounded to the sum's last digit.
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import helper, kernel, sized_kernel
from tinynet.kernels.pooling_2x2 import THREADS_FROM, beats, max_pool_2x2_backward, max_pool_2x2_forward
from tinynet.kernels.vectors import lines, load, load_some, select, splat, store, store_some, width

LONG = 64  # so many numbers are added in their own dtype
load_whole, _, store_whole, _ = lines(1)  # so many whole numbers as a vector has floats


# --- maximum ----------------------------------------------------------------------------------------------


def is_2x2(image, size, stride, before, dilation, count):
    """Whether the windows are 2 x 2, and all of them inside of the image as a whole."""
    (s, r), (P, Q) = stride, count
    plain = size == (2, 2) and before == (0, 0) and dilation == (1, 1)
    return plain and (P - 1) * s + 2 <= image[1] and (Q - 1) * r + 2 <= image[2]


def max_pool_forward(x, size, stride, before, dilation, count, y, argmax):
    """y, the maximum of each window, and argmax, where it is: of equal numbers the first, of several NaN the last."""
    if is_2x2(x.shape, size, stride, before, dilation, count):
        max_pool_2x2_forward(x, stride, y, argmax)
    else:
        max_of_windows(x, size, stride, before, dilation, y, argmax)


def max_pool_backward(dy, argmax, size, stride, before, dilation, shape, dx):
    """dx, of this shape (N, H, W, C): each dy where its maximum was, and 0 elsewhere."""
    if stride == (2, 2) and is_2x2(shape, size, stride, before, dilation, dy.shape[1:3]):
        max_pool_2x2_backward(dy, argmax, dx)
    elif windows_on_a_pixel(size, stride) > LONG or dx.shape[3] < width_of(dx) // 2:
        scatter_to_maxima(dy, argmax, size, stride, before, dilation, dx)
    else:
        gather_from_windows(dy, argmax, size, stride, before, dilation, dx)


def width_of(array):
    """The numbers of its dtype in 64 bytes."""
    return 64 // array.itemsize


@kernel()
def windows_on_a_pixel(size, stride):
    """In how many windows a pixel can lie, at most."""
    (I, J), (s, r) = size, stride
    return ((I + s - 1) // s) * ((J + r - 1) // r)


@helper
def inside(place, size, dilation, extent):
    """Of the numbers place + i dilation, i < size, those with i0 <= i < i1 lie in the image, from 0 to extent."""
    first = (dilation - 1 - place) // dilation if place < 0 else 0
    return first, min(size, (extent - place + dilation - 1) // dilation)


@kernel()
def max_of_window(x, first, rows, columns, down, right, k, J, y, argmax):
    """y and argmax (C,) of a window of rows x columns pixels: its first is number k, and begins at x.flat[first]."""
    for c in range(y.size):
        y[c] = x[first + c]
        argmax[c] = k
    for m in range(1, rows * columns):
        i, j = m // columns, m % columns
        pixel, here = memory.piece(x, first + i * down + j * right, y.size), k + i * J + j
        for c in range(y.size):
            value, best = pixel[c], y[c]
            greater = beats(value, best)
            y[c] = value if greater else best
            argmax[c] = here if greater else argmax[c]


@helper
def max_in_registers(x, first, rows, columns, down, right, k, J, y, argmax, to, C):
    for c in range(0, C, width(x)):
        best = load(x, first + c)
        where = load_whole(argmax, to + c, C, x)  # for its type alone: next, all of it becomes k
        where = select(best == best, k, select(best != best, k, where))
        for i in range(rows):
            for j in range(columns):
                value = load(x, first + c + i * down + j * right)
                more = beats(value, best)
                best, where = select(more, value, best), select(more, k + i * J + j, where)
        store(best, y, to + c)
        store_whole((where,), argmax, to + c, C)


@kernel()
def max_of_row(x, n, p, size, stride, before, dilation, y, argmax):
    """Row p of y and argmax of image n."""
    _, H, W, C = x.shape
    _, P, Q, _ = y.shape
    (I, J), (s, r), (top, left), (d, e) = size, stride, before, dilation
    to, end, whole = (n * P + p) * Q * C, (n * P + p + 1) * Q * C, (C + width(x) - 1) // width(x) * width(x)
    x, y, argmax = memory.piece(x, 0, x.size), memory.piece(y, 0, y.size), memory.piece(argmax, 0, argmax.size)
    i0, i1 = inside(p * s - top, I, d, H)
    for q in range(Q):
        j0, j1 = inside(q * r - left, J, e, W)
        rows, columns, k = i1 - i0, j1 - j0, i0 * J + j0
        first = ((n * H + p * s - top + i0 * d) * W + q * r - left + j0 * e) * C
        last = first + ((rows - 1) * d * W + (columns - 1) * e) * C
        if rows <= 0 or columns <= 0:
            for c in range(to, to + C):
                y[c], argmax[c] = -np.inf, 0
        elif to + whole <= end and last + whole <= x.size:
            max_in_registers(x, first, rows, columns, d * W * C, e * C, k, J, y, argmax, to, C)
        else:
            y_here, argmax_here = memory.piece(y, to, C), memory.piece(argmax, to, C)
            max_of_window(x, first, rows, columns, d * W * C, e * C, k, J, y_here, argmax_here)
        to += C


@sized_kernel(THREADS_FROM, of=0)
def max_of_windows(x, size, stride, before, dilation, y, argmax):
    P = y.shape[1]
    for row in prange(y.shape[0] * P):
        max_of_row(x, row // P, row % P, size, stride, before, dilation, y, argmax)


@helper
def windows_around(place, before, size, stride, dilation, count):
    """The windows p0 <= p < p1 may have a number at this place of the image."""
    reach = place + before - (size - 1) * dilation
    return max(0, (reach + stride - 1) // stride), min(count, (place + before) // stride + 1)


@helper
def number_at(place, before, p, stride, dilation):
    """i, if window p has its number i at this place of the image, else -1."""
    i = place + before - p * stride
    return i // dilation if i % dilation == 0 else -1


@kernel()
def gather_row(dy, argmax, row, size, stride, before, dilation, dx):
    """Row `row` of all rows of dx, as (N H, W, C)."""
    _, P, Q, C = dy.shape
    _, H, W, _ = dx.shape
    (I, J), (s, r), (top, left), (d, e), LANES = size, stride, before, dilation, width(dy)
    n, h, zero = row // H, row % H, dy.dtype.type(0)
    p0, p1 = windows_around(h, top, I, s, d, P)
    end, total_size = (row + 1) * W * C, dy.size
    dy, argmax = memory.piece(dy, 0, total_size), memory.piece(argmax, 0, total_size)
    dx = memory.piece(dx, 0, dx.size)
    for g in range(W):
        q0, q1 = windows_around(g, left, J, r, e, Q)
        to, last = (row * W + g) * C, ((n * P + p1 - 1) * Q + q1 - 1) * C
        c = 0
        while c < C and to + c + LANES <= end and last + c + LANES <= total_size:
            total = splat(dy, 0)
            for p in range(p0, p1):
                i = number_at(h, top, p, s, d)
                for q in range(q0, q1 if i >= 0 else q0):
                    j, at = number_at(g, left, q, r, e), ((n * P + p) * Q + q) * C + c
                    if j >= 0:
                        total = total + select(load_whole(argmax, at, C, dy) == i * J + j, load(dy, at), 0)
            store(total, dx, to + c)
            c += LANES
        while c < C:  # number by number, where a vector would reach too far
            one = zero
            for p in range(p0, p1):
                i = number_at(h, top, p, s, d)
                for q in range(q0, q1 if i >= 0 else q0):
                    j, at = number_at(g, left, q, r, e), ((n * P + p) * Q + q) * C + c
                    if j >= 0 and argmax[at] == i * J + j:
                        one += dy[at]
            dx[to + c] = one
            c += 1


@sized_kernel(THREADS_FROM)
def gather_from_windows(dy, argmax, size, stride, before, dilation, dx):
    for row in prange(dx.shape[0] * dx.shape[1]):
        gather_row(dy, argmax, row, size, stride, before, dilation, dx)


@kernel()
def scatter_in_image(dy, argmax, size, stride, before, dilation, H, W, dx):  # dy, argmax (P, Q, C), dx (H W C,)
    (I, J), (s, r), (top, left), (d, e), C = size, stride, before, dilation, dy.shape[2]
    offset = np.empty(I * J, np.int64)  # of each pixel of a window, from the window's first
    for k in range(I * J):
        offset[k] = (k // J * d * W + k % J * e) * C
    for i in range(dx.size):
        dx[i] = 0
    for p in range(dy.shape[0]):
        i0, i1 = inside(p * s - top, I, d, H)
        for q in range(dy.shape[1]):
            j0, j1 = inside(q * r - left, J, e, W)
            first = ((p * s - top) * W + q * r - left) * C
            for c in range(C if i0 < i1 and j0 < j1 else 0):
                dx[first + offset[argmax[p, q, c]] + c] += dy[p, q, c]


@sized_kernel(THREADS_FROM)
def scatter_to_maxima(dy, argmax, size, stride, before, dilation, dx):
    """Where windows overlap, a pixel gets the sum of several dy: so a thread owns an image."""
    N, H, W, C = dx.shape
    for n in prange(N):
        image = memory.piece(dx, n * H * W * C, H * W * C)
        if windows_on_a_pixel(size, stride) > LONG:
            sums = np.empty(image.size)
            scatter_in_image(dy[n], argmax[n], size, stride, before, dilation, H, W, sums)
            for i in range(image.size):
                image[i] = sums[i]
        else:
            scatter_in_image(dy[n], argmax[n], size, stride, before, dilation, H, W, image)


# --- mean: rows (P, 3) are the first row of the image that is in a window, the one behind its last, and by how many
# rows it counts; columns (Q, 3) likewise --------------------------------------------------------------------------


@kernel()
def mean_of_row(x, row, columns, y):  # x (H, W, C), y (Q, C)
    for q in range(y.shape[0]):
        count = y.dtype.type(row[2] * columns[q, 2])
        y[q] = 0
        for h in range(row[0], row[1]):
            for g in range(columns[q, 0], columns[q, 1]):
                for c in range(y.shape[1]):
                    y[q, c] += x[h, g, c]
        for c in range(y.shape[1]):
            y[q, c] /= count


@kernel()
def mean_in_registers(x, n, row, columns, y, at):
    """The same of image n, from y.flat[at] on."""
    _, H, W, C = x.shape
    x, y = memory.piece(x, 0, x.size), memory.piece(y, 0, y.size)
    for q in range(columns.shape[0]):
        count = y.dtype.type(row[2] * columns[q, 2])
        for c in range(0, C, width(x)):
            total = splat(x, 0)
            for h in range(row[0], row[1]):
                for g in range(columns[q, 0], columns[q, 1]):
                    total = total + load_some(x, ((n * H + h) * W + g) * C + c, C - c, 0)
            store_some(total / splat(x, count), y, at + q * C + c, C - c)


@kernel()
def largest(rows, columns):
    """The numbers in the largest window."""
    return (rows[:, 1] - rows[:, 0]).max() * (columns[:, 1] - columns[:, 0]).max()


@sized_kernel(THREADS_FROM, of=0)
def avg_pool_forward(x, rows, columns, y):
    """y, the mean of each window."""
    P, most = y.shape[1], largest(rows, columns)
    for row in prange(y.shape[0] * P):
        n, p = row // P, row % P
        if most > LONG:
            wide = np.empty(y.shape[2:])
            mean_of_row(x[n], rows[p], columns, wide)
            y[n, p] = wide
        else:
            mean_in_registers(x, n, rows[p], columns, y, row * y.shape[2] * y.shape[3])


def avg_pool_backward(dy, rows, columns, shape, dx):
    """dx, of this shape (N, H, W, C): the sum of dy / (numbers in the window) over the windows that a pixel lies in."""
    sum_over_windows(dy, rows, columns, dx)


@kernel()
def sum_for_row(dy, rows, columns, h, sums):  # dy (P, Q, C); sums (W C,), for row h of the image
    P, Q, C = dy.shape
    for m in range(sums.size):
        sums[m] = 0
    for p in range(P):
        if h < rows[p, 0] or h >= rows[p, 1]:
            continue
        for q in range(Q):
            count, gradient = sums.dtype.type(rows[p, 2] * columns[q, 2]), memory.piece(dy, (p * Q + q) * C, C)
            for g in range(columns[q, 0], columns[q, 1]):
                pixel = memory.piece(sums, g * C, C)
                for c in range(C):
                    pixel[c] += gradient[c] / count


@kernel()
def sum_in_registers(dy, n, rows, columns, h, dx, row):
    """The same of image n, into row `row` of all rows of dx, as (N H, W, C)."""
    _, P, Q, C = dy.shape
    W, p0, q0 = dx.shape[2], 0, 0
    while p0 < P and rows[p0, 1] <= h:  # windows begin and end in their order
        p0 += 1
    p1 = p0
    while p1 < P and rows[p1, 0] <= h:
        p1 += 1
    dy, dx = memory.piece(dy, 0, dy.size), memory.piece(dx, 0, dx.size)
    for g in range(W):
        while q0 < Q and columns[q0, 1] <= g:
            q0 += 1
        for c in range(0, C, width(dy)):
            total = splat(dy, 0)
            for p in range(p0, p1):
                q = q0
                while q < Q and columns[q, 0] <= g:
                    gradient = load_some(dy, ((n * P + p) * Q + q) * C + c, C - c, 0)
                    total = total + gradient / splat(dy, rows[p, 2] * columns[q, 2])
                    q += 1
            store_some(total, dx, (row * W + g) * C + c, C - c)


@kernel()
def most_on_a_place(windows):
    """In how many windows a row can lie, at most, of windows (P, 3): where one begins, with those that go on there."""
    first = most = 0
    for p in range(windows.shape[0]):
        while windows[first, 1] <= windows[p, 0]:
            first += 1
        most = max(most, p - first + 1)
    return most


@sized_kernel(THREADS_FROM)
def sum_over_windows(dy, rows, columns, dx):
    _, H, W, C = dx.shape
    most = most_on_a_place(rows) * most_on_a_place(columns)
    for task in prange(dx.shape[0] * H):
        n, h = task // H, task % H
        row = memory.piece(dx, task * W * C, W * C)
        if most > LONG:
            wide = np.empty(row.size)
            sum_for_row(dy[n], rows, columns, h, wide)
            for m in range(row.size):
                row[m] = wide[m]
        else:
            sum_in_registers(dy, n, rows, columns, h, dx, task)
