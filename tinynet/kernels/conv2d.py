"""Convolution as products of matrices: for any window, stride and padding.

With zeros around the images, the number under offset (i, j) of the window at position (p, q) of image n is

    x[n, p s + i, q r + j, c]  =  x.flat[position[n,p,q] + window[i,j,c]]

So there need be no matrix of windows ("im2col") in memory.  Everything is a product:

    z     positions x K filters, summed over the window
    dw    window x K filters, summed over the positions
    dx    for each phase (a, b), a < s, b < r, of the pixels (h, g), with h + top = e s + a and g + left = f r + b:
          the rows i = a + s i' and columns j = b + r j' of the window alone touched them, from z[e - i', f - j'].
          That is a convolution of stride 1 over dz with zeros around: pixels x C channels, summed over (i', j', k)

Where rows of positions are long, matmul reads the images where they are, a row of positions at a time; PANEL columns of
the other factor, w or dz, are copied so that they lie behind each other.  Where they are short, `gathered` takes the
two tables of offsets and packs both factors.

A task's copies of images with their zeros stay in a core's L2 cache from one product to the next, or near it where they
are packed: the whole backward pass goes over memory once, in one launch.  ReLU is done before the sums leave the
registers.

Few filters are done in few_filters.py, where a vector holds positions.  A 3 x 3 window with stride 1, and channels and
filters enough, is done with 4 times fewer multiplications in winograd.py.
"""

from functools import lru_cache

import numba
import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.llvm import LANES
from tinynet.kernels.matmul import THREADS_FROM, View, gathered, matmul
from tinynet.kernels.packed import HIGH
from tinynet.kernels.packed_tile import VECTORS
from tinynet.kernels.padded import with_zeros_around

ROOM = cache_size(2) // 8  # numbers that a task's copy of images may have: half of the L2 cache
# Where windows are packed, a task copies all of w, and adds to all of dw: for so many positions that takes little of
# the time, and its images may be 4 times as large.  512 filters of 3 x 3 over 256 channels go 5 to 8 % faster, on
# 4 x 4 and on 7 x 7 positions, forward and backward (AMD EPYC, Zen 4, with AVX2; not measured with a high tile).
TOGETHER = 1 if HIGH else 512
POSITIONS = 1024  # of so many, what is copied of w and what a chunk adds up at its end take little of the time
CHUNKS = 16  # at most, of images, with sums of their own
EVEN = 16  # parts, or images, for each thread from which it hardly matters that one has another
SHARED = 4  # tasks above which they share one copy of the kernel

# Columns of w, or dz, that are copied to lie behind each other: so many as the tile in float32 reads, row after row.
PANEL = VECTORS * LANES[np.dtype(np.float32)]
# Positions in a row from which products read them where they are.  Of a low tile 8 are two of 4 rows, not 6.
IN_A_ROW = 8 if HIGH else 12


# --- what a task does ---------------------------------------------------------------------------------------


@lru_cache(1024)
def forward_tasks(N, size, kernel_shape, stride, threads):
    """(groups of images, bands of rows of positions, filters of a task, whether windows are read in place).

    The bits of y don't depend on the first three.
    """
    (P, Q), (I, J, C, K), (s, r), lies = size, kernel_shape, stride, in_place(kernel_shape[2], size)
    line = ((Q - 1) * r + J) * C
    images, rows = _that_fit(N, size, lies, s * line, ((P - 1) * s + I) * line)
    groups, bands = -(-N // images), -(-P // rows)
    parts, many = groups * bands, EVEN * threads
    if threads == 1 or parts >= many or (parts % threads == 0 and (N % groups == 0 or many <= N)):
        return groups, bands, K, lies
    tasks = -(-parts // threads) * threads
    more_groups, more_bands = N, bands
    if bands == 1 and tasks <= N and (N % tasks == 0 or many <= N):
        more_groups = tasks
    else:
        while N * more_bands % threads and N * more_bands < many and more_bands < P:
            more_bands += 1
    # Cut filters where that packs less, though each task packs all windows, or where rows of positions are too few.
    if more_groups * more_bands * K > threads * N * P * Q + parts * K or tasks > N * P:
        return groups, bands, -(-K // (threads * PANEL)) * PANEL, lies
    return more_groups, more_bands, K, lies


def in_place(C, size):
    """Whether products read windows where they are, a row of positions at a time: then only the kernel is copied.

    Else they are packed, many rows at once: where a row of positions is too short for whole tiles.
    """
    P, Q = size
    return Q >= IN_A_ROW or (C < 16 and P * Q >= 8)


def _that_fit(N, size, lies, row, image):
    """How many images, or how many rows of one, a task has; groups and bands of nearly the same size.

    Several images, or a part of one: what a kernel calls `positions` would not be those of parts of several.
    """
    P, Q = size
    images = ROOM // image if lies else max(ROOM // image, min(4 * ROOM // image, TOGETHER // (P * Q)))
    images = max(1, min(N, images))
    bands = 1 if images > 1 or image <= ROOM else min(P, -(-P * row // ROOM))
    return -(-N // -(-N // images)), -(-P // bands)


@lru_cache(1024)
def backward_tasks(N, size, kernel_shape, stride, threads):
    """(groups of images, bands, chunks of groups or of bands, channels of a slice, whether windows are read in place).

    Only the slices depend on the threads, and the bits of dw not on them.
    """
    (P, Q), (I, J, C, K), (s, r), lies = size, kernel_shape, stride, in_place(kernel_shape[2], size)
    line = ((Q - 1) * r + J) * C
    images, rows = _that_fit(N, size, lies, max(s * line, Q * K), max(((P - 1) * s + I) * line, P * Q * K))
    groups, bands = -(-N // images), -(-P // rows)
    if images == 1:
        bands = max(bands, min(8 // N, P * Q // POSITIONS, P))
    chunks = max(1, min(groups * bands, CHUNKS, N * P * Q // POSITIONS))
    if 1 < chunks < groups * bands:
        chunks -= chunks % 2  # so that two threads, or four, have as many each
    if bands == 1:
        groups = min(N, -(-groups // chunks) * chunks)  # and chunks as many groups
    sliced = threads > 1 and chunks % threads and chunks < 4 * threads
    return groups, bands, chunks, min(C, -(-C // (threads * 16)) * 16) if sliced else C, lies


@kernel()
def offsets(first, sizes, steps):
    """first + steps . (i, j, k) of all i, j, k < sizes, in order, as a table."""
    (I, J, K), (di, dj, dk) = sizes, steps
    table, m = np.empty(I * J * K, np.int64), 0
    for i in range(I):
        for j in range(J):
            for k in range(K):
                table[m] = first + i * di + j * dj + k * dk
                m += 1
    return table


@kernel()
def copy_columns(source, first, step, columns, rows, panel, at):
    """panel (rows, columns), from flat index `at` on: of a matrix whose rows are `step` apart, some columns."""
    for m in range(rows):
        given, to = memory.piece(source, first + m * step, columns), memory.piece(panel, at + m * columns, columns)
        for n in range(columns):
            to[n] = given[n]


# --- forward ------------------------------------------------------------------------------------------------


def conv2d_forward(x, w, b, stride, before, floor, y):
    """y = max(floor, conv(x, w) + b); `before` is (top, left)."""
    threads = numba.get_num_threads() if y.size * (w.size // w.shape[3]) >= THREADS_FROM else 1
    forward_kernel(x, w, b, stride, before, floor, forward_tasks(len(x), y.shape[1:3], w.shape, stride, threads), y)


@sized_kernel(THREADS_FROM, of=lambda x, w, *rest: rest[-1].size * (w.size // w.shape[3]), matmul=True)
def forward_kernel(x, w, b, stride, before, floor, tasks, y):
    """A thread owns a block of y: the filters k0 to k1 of some images, or of some rows of one."""
    N, H, W, C = x.shape
    I, J, _, K = w.shape
    _, P, Q, _ = y.shape
    (s, r), (top, left), (groups, bands, filters, lies) = stride, before, tasks
    images, rows, blocks = -(-N // groups), -(-P // bands), -(-K // filters)
    U, V = (rows - 1) * s + I, (Q - 1) * r + J
    pads = top > 0 or left > 0 or (P - 1) * s + I > H or V > W
    if not pads:
        U, V = H, W
    window = offsets(0, (I, J, C), (V * C, C, 1))
    positions = offsets(0, (images, rows, Q), (U * V * C, s * V * C, r * C))
    # Many tasks share one copy of the kernel, as panels behind each other.
    shared = memory.scratch((w.size if lies and groups * bands > SHARED else 0,), x)
    for number in prange(-(-K // PANEL) if shared.size else 0):
        k = number * PANEL
        copy_columns(w, k, K, min(PANEL, K - k), I * J * C, shared, k * I * J * C)
    for task in prange(groups * bands * blocks):
        block, part = task % blocks, task // blocks
        group, band = part // bands, part % bands
        n0, n1 = group * N // groups, (group + 1) * N // groups
        p0, p1 = band * P // bands, (band + 1) * P // bands
        k0, k1 = block * filters, min(K, (block + 1) * filters)
        padded = memory.scratch((images if pads else 0, U, V, C), x)
        for n in range(n0, n1 if pads else n0):
            with_zeros_around(x[n], p0 * s - top, left, padded[n - n0])
        source = padded if pads else x
        if not lies:
            gathered(
                ((n1 - n0) * (p1 - p0) * Q, k1 - k0, I * J * C),
                View(source, 0 if pads else (n0 * H + p0 * s) * W * C, (positions, window)),
                View(w, k0, (K, 1)),
                start=View(b, k0, 0),
                out=View(y, (n0 * P + p0) * Q * K + k0, K),
                floor=floor,
            )
            continue
        own = memory.scratch((0 if shared.size else I * J * C * PANEL,), x)
        panels = shared if shared.size else own
        for k in range(k0, k1, PANEL):
            S, first = min(PANEL, k1 - k), k * I * J * C if shared.size else 0
            if not shared.size:
                copy_columns(w, k, K, S, I * J * C, own, 0)
            for n in range(n0, n1):
                for p in range(p0, p1):
                    at = ((n - n0) * U + (p - p0) * s if pads else n * H + p * s) * V * C
                    matmul(
                        (Q, S, I, J * C),
                        View(source, at, (r * C, V * C, 1)),
                        View(panels, first, (J * C * S, S)),
                        start=View(b, k, 0),
                        out=View(y, (n * P + p) * Q * K + k, K),
                        floor=floor,
                    )
