"""A dense layer and its softmax cross-entropy together, by blocks of rows of logits that are never whole.

With a vocabulary of C = 32,000 and N = 2,048 tokens, the logits z are 262 MB, and apart they are written, read, turned
into dz and read again.  But a row of z is needed only until its part of dx, dw and db is summed.  So take a block of
rows at a time:

    z = x w + b        z <- dz, in place        dx = dz w.T        dw += x.T dz        db += column sums of dz

Few classes: a thread owns some rows, and takes so many of them at a time that x and z stay in its L2 cache, so that x
comes from memory once.  Each of a fixed number of parts of the rows has a dw and a db of its own, and these are added
in order.

Many classes: no thread can have a dw of its own.  All threads share a block, of at most 12 MB of logits, whose products
are cut among them.  Where w is large, each block reads it from memory twice, and dw once, and writes dw.  So few rows,
whose logits are little beside w, are one block: (256, 768) x 50257 takes 242 ms on two cores of an Intel Xeon (Emerald
Rapids), and 390 in blocks of 64 rows.  In dx = dz w.T the sum runs over the classes: each of up to GROUPS groups of
them makes a part of dx, CLASSES at a time, and the parts are added in order.  Here w and dw may also lie the other way
around, as (C, D): so do the weights of a TiedDense, which are an Embedding's vectors.

So no bit depends on the number of threads; nor does a row's loss or dx on the block that it is in.  Sums over many
blocks are made in float64, but for a dw of more than WIDE bytes, which would take that memory again: each block's part
is rounded once when it is added, and so is what CLASSES of them add to dx.
"""

import numba
import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import kernel
from tinynet.kernels.matmul import View, matmul
from tinynet.kernels.packed import IN_PANELS, block_shape
from tinynet.kernels.packed_tile import ROWS
from tinynet.kernels.softmax_rows import softmax_rows
from tinynet.kernels.tile import HIGHEST, terms_at_once
from tinynet.kernels.transpose import transpose

PARTS, PARTS_BYTES = 16, 6_000_000  # of the rows, of few classes, and what their dw may take together
MEMORY = 15_900_000  # bytes of a block, of many classes; and of them what two threads take in matmul, and for each row
SCRATCH, SCRATCH_OF_ROW = 2_000_000, 6_000
GROUPS, GROUP = 4, 1024  # of many classes, in which dx is summed; at least so many classes each
MOST = 768  # rows of a block, of many classes: more gain nothing, and matmul takes more memory
CLASSES = 2048  # over which a part of dx is summed at once: their dz.T is half a panel of turned.py
PIECE = 4  # rows whose softmax is a task
WIDE = 2_500_000  # bytes of dw up to which it is summed in float64
WHOLE = 3  # all rows are one block where their logits are no more than the 3rd part of w's numbers
TOGETHER = 8  # blocks, whose parts are added in their own dtype before that


@kernel()
def add_sums(z, row, rows, column, columns, part, total):
    """total (columns,), in float64, += the sums of some columns of z over some rows; `part` is scratch.

    64 rows at a time are summed as a product: the bias is a weight whose input is always 1.
    """
    C, no_floor = z.shape[1], z.dtype.type(-np.inf)
    one, zero = np.ones(1, z.dtype), np.zeros(columns, z.dtype)
    for r in range(row, row + rows, 64):
        size, some = (1, columns, min(64, row + rows - r)), View(z, r * C + column, C)
        matmul(size, View(one, 0, (0, 0)), some, start=View(zero, 0, 0), out=View(part, 0, 0), floor=no_floor)
        memory.add_to(total, memory.piece(part, 0, columns), False)


@kernel()
def weighted_rows(z, t, q, weight, ignore_index, epsilon, scale, s, losses, g, first, last):
    """softmax_rows, where row n's loss and gradient are multiplied by s[n], unless s is empty."""
    total, C = softmax_rows(z, t, q, weight, ignore_index, epsilon, scale, losses, g, first, last), z.shape[1]
    if s.size:
        total = 0.0
        for n in range(first, last):
            factor = z.dtype.type(s[n])
            losses[n] *= factor
            total += losses[n]
            dz = memory.piece(g, n * C, C if g.size else 0)
            for c in range(dz.size):
                dz[c] *= factor
    return total


@kernel(parallel=True, matmul=True)
def few_classes(x, w, b, t, q, weight, ignore_index, epsilon, scale, s, rows, parts, losses, dx, dw, db):
    """The sum of the losses times scale, with labels t (N,), or soft targets q (N, C) where t is empty.

    s (N,), unless it is empty, multiplies the rows' losses and gradients; losses (N,) must then be there.  Fills dx, dw
    and db, unless dx is empty, and losses, unless that is.  A thread owns one of `parts` parts of the rows, and takes
    `rows` of them at a time.
    """
    N, D = x.shape
    C = w.shape[1]
    grad, no_floor = dx.size > 0, x.dtype.type(-np.inf)
    zeros, values = np.zeros(max(C, D), x.dtype), np.empty(parts)
    wt = np.empty((C if grad else 0, D), x.dtype)
    if grad:
        transpose(w, 0, C, wt, 0, D, D, C)
    across = D >= C  # a row of dw.T fills more lanes than one of dw
    totals = np.empty((parts, w.size + C if grad else 0))
    for part in prange(parts):
        first, last = part * N // parts, (part + 1) * N // parts
        z, sums = memory.scratch((rows, C), x), memory.scratch((w.size + C,), x)
        total = memory.piece(totals, part * totals.shape[1], w.size if grad else 0)
        total_db = memory.piece(totals, part * totals.shape[1] + w.size, C if grad else 0)
        for c in range(total_db.size):
            total_db[c] = 0
        sum_of_losses = 0.0
        for n in range(first, last, rows):
            B, block = min(rows, last - n), (n - first) // rows
            some_x, dz = View(x, n * D, (D, 1)), View(z, 0, (C, 1))
            matmul((B, C, D), some_x, View(w, 0, C), start=View(b, 0, 0), out=View(z, 0, C), floor=no_floor)
            some_t, some_q = t[n : n + B] if t.size else t, q[n : n + B] if q.size else q
            some_losses, g = losses[n : n + B] if losses.size else losses, z if grad else z[:0]
            some_s = s[n : n + B] if s.size else s
            sum_of_losses += weighted_rows(
                z, some_t, some_q, weight, ignore_index, epsilon, scale, some_s, some_losses, g, 0, B
            )
            if not grad:
                continue
            zero, out = View(zeros, 0, 0), View(dx, n * D, D)
            matmul((B, D, C), dz, View(wt, 0, D), start=zero, out=out, floor=no_floor)
            add_sums(z, 0, B, 0, C, memory.piece(sums, w.size, C), total_db)
            length = D if across else C  # of a row
            so_far = View(sums, 0, length)
            start = View(zeros, 0, 0) if block % TOGETHER == 0 else View(sums, 0, length)
            if across:
                matmul((C, D, B), View(z, 0, (1, C)), View(x, n * D, D), start=start, out=so_far, floor=no_floor)
            else:
                matmul((D, C, B), View(x, n * D, (1, D)), View(z, 0, C), start=start, out=so_far, floor=no_floor)
            if n + B == last or (block + 1) % TOGETHER == 0:
                memory.add_to(total, sums, block < TOGETHER)
        values[part] = sum_of_losses
    if grad:
        for part in range(1, parts):
            memory.add_to(totals[0], totals[part], False)
        for d in range(D):
            for c in range(C):
                dw[d, c] = totals[0, c * D + d if across else d * C + c]
        for c in range(C):
            db[c] = totals[0, w.size + c]
    value = 0.0
    for part in range(parts):
        value += values[part]
    return value * scale


@kernel(parallel=True, matmul=True)
def many_classes(x, w, b, t, q, weight, ignore_index, epsilon, scale, s, rows, groups, shared, losses, dx, dw, db):
    """few_classes where all threads share a block of `rows`, and dx is summed over `groups` groups of classes.

    shared   the number of threads, and whether w and dw are (C, D) and not (D, C)
    """
    (threads, by_class), (N, D), C = shared, x.shape, b.size
    w_d, w_c = (1, D) if by_class else (C, 1)
    grad, no_floor = dx.size > 0, x.dtype.type(-np.inf)
    zeros, z, value = np.zeros(max(C, D), x.dtype), np.empty((rows, C), x.dtype), 0.0
    parts = np.empty((groups - 1 if grad else 0) * rows * D, x.dtype)
    values, wide_db = np.empty((rows + PIECE - 1) // PIECE), np.zeros(C)
    wide = np.empty(w.size if grad and TOGETHER * rows < N and w.nbytes <= WIDE else 0)
    shares = (threads + groups - 1) // groups
    for n in range(0, N, rows):
        B, block = min(rows, N - n), n // rows
        pieces = (B + PIECE - 1) // PIECE
        tall, broad = block_shape(B, C, threads, IN_PANELS, x.itemsize)
        down = (B + tall - 1) // tall
        for task in prange(down * ((C + broad - 1) // broad)):
            r, c = task % down * tall, task // down * broad
            size, out = (min(tall, B - r), min(broad, C - c), D), View(z, r * C + c, C)
            some_x, some_w = View(x, (n + r) * D, (D, 1)), View(w, c * w_c, (w_d, w_c))
            matmul(size, some_x, some_w, start=View(b, c, 0), out=out, floor=no_floor)

        for piece in prange(pieces):
            first, last = piece * PIECE, min(B, piece * PIECE + PIECE)
            some_t, some_q = t[n : n + B] if t.size else t, q[n : n + B] if q.size else q
            some_losses, g = losses[n : n + B] if losses.size else losses, z if grad else z[:0]
            some_s = s[n : n + B] if s.size else s
            values[piece] = weighted_rows(
                z, some_t, some_q, weight, ignore_index, epsilon, scale, some_s, some_losses, g, first, last
            )
        for piece in range(pieces):
            value += values[piece]
        if not grad:
            continue

        for task in prange(groups * shares):  # a group's classes, and of some inputs the columns of dx and rows of dw
            group, share = task % groups, task // groups
            c, d = group * C // groups, share * D // shares
            c_end, inputs = (group + 1) * C // groups, (share + 1) * D // shares - d
            size, part = (B - 1) * D + inputs, (group - 1) * rows * D + d
            dx_part = memory.piece(dx, n * D + d, size) if group == 0 else memory.piece(parts, part, size)
            for k in range(c, c_end, CLASSES):
                shape, so_far = (B, inputs, min(CLASSES, c_end - k)), View(dx_part, 0, D)
                some_dz, wt = View(z, k, (C, 1)), View(w, d * w_d + k * w_c, (w_c, w_d))
                start = View(zeros, 0, 0) if k == c else so_far
                matmul(shape, some_dz, wt, start=start, out=so_far, floor=no_floor)
            new = block % TOGETHER == 0 if wide.size else block == 0
            # This task's part of dw: where it begins, how far its lines are apart, how many there are, and how long.
            width = c_end - c
            at, line, lines, length = (c * D + d, D, width, inputs) if by_class else (d * C + c, C, inputs, width)
            start = View(zeros, 0, 0) if new else View(memory.piece(dw, 0, dw.size), at, line)
            shape, to_dw = (lines, length, B), View(dw, at, line)
            if by_class:
                matmul(shape, View(z, c, (1, C)), View(x, n * D + d, D), start=start, out=to_dw, floor=no_floor)
            else:
                matmul(shape, View(x, n * D + d, (1, D)), View(z, c, C), start=start, out=to_dw, floor=no_floor)
            if wide.size and (n + B == N or (block + 1) % TOGETHER == 0):
                for i in range(lines):
                    row, part = memory.piece(wide, at + i * line, length), memory.piece(dw, at + i * line, length)
                    memory.add_to(row, part, block < TOGETHER)
            if share == 0:
                sums = memory.scratch((width,), x)
                add_sums(z, 0, B, c, width, sums, memory.piece(wide_db, c, width))
        for r in prange(B):
            total = memory.piece(dx, (n + r) * D, D)
            for group in range(groups - 1):
                for d in range(D):
                    total[d] += parts[(group * rows + r) * D + d]
    if grad:
        memory.rounded(wide, memory.piece(dw, 0, dw.size))
        memory.rounded(wide_db, db)
    return value * scale


def linear_cross_entropy_fused(x, w, b, t, q, weight, ignore_index, epsilon, scale, s, losses, dx, dw, db):
    """few_classes or many_classes, in blocks of a size that suits D and C.

    w and dw (D, C) may be transposed views of arrays (C, D) that lie in C order.
    """
    (N, D), C, itemsize = x.shape, w.shape[1], x.dtype.itemsize
    given = x, w, b, t, q, weight, ignore_index, epsilon, scale, s
    parts = PARTS_BYTES // max(1, w.size * (itemsize + 8))
    if parts >= PARTS // 2:
        rows = max(1, min(N, terms_at_once(cache_size(2) // 4 // (itemsize * (C + D)), ROWS)))
        parts = max(1, min(parts, PARTS, N // 64))
        if w.flags.c_contiguous:
            return few_classes(*given, rows, parts, losses, dx, dw, db)
        apart = np.empty(dw.shape, dw.dtype)
        value = few_classes(x, np.ascontiguousarray(w), *given[2:], rows, parts, losses, dx, apart, db)
        dw[...] = apart
        return value
    by_class = not w.flags.c_contiguous
    if by_class:
        given, dw = (x, w.T, *given[2:]), dw.T
    groups = max(1, min(GROUPS, C // GROUP))
    sums = 8 * (C + (w.size if w.nbytes <= WIDE else 0)) + itemsize * max(C, D)  # and zeros
    rows = max(1, (MEMORY - SCRATCH - sums) // (itemsize * (C + (groups - 1) * D) + SCRATCH_OF_ROW))
    rows = min(rows // HIGHEST * HIGHEST, MOST) if rows >= HIGHEST else rows
    if rows >= N or w.size >= WHOLE * N * C:
        rows = N
    # A kernel that asks for the number of threads itself can't be kept on disk.
    return many_classes(*given, rows, groups, (numba.get_num_threads(), by_class), losses, dx, dw, db)
