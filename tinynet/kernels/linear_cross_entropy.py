"""A dense layer and its softmax cross-entropy together, by blocks of logits that stay in the cache.

With a vocabulary of C = 32,000 and N = 2,048 tokens, the logits z are 262 MB, and apart they are written, read, turned
into dz and read again.  But a row of z is needed only until its part of dx, dw and db is summed.  So take a block of
rows at a time, as many as make some 10 MB:

    1  z = x w + b             of the block, by matmul; a thread owns columns of z
    2  z <- dz, in place       by softmax_cross_entropy's kernel; a thread owns rows
    3  dw += x.T dz, db, and   a thread owns columns of dw and db
       dx = dz w.T             summed over a group of columns, into (w dz.T).T for that group

For 3 matmul wants dz.T contiguous: some columns of dz are transposed at a time, which is less than transposing w.
The groups' parts of dx are added in order, so that no bit depends on the number of threads; nor does a row's loss or
dx on the block that it is in.  The logits are computed once, and read and written once by the loss.

A large vocabulary has blocks of few rows, and many rows then make many blocks.  db adds their sums in float64.  dw, for
which that would take twice its memory, keeps what each addition loses, where there are more than BLOCKS of them: with
t = s - dw for the rounded sum s = dw + part, exactly (dw - (s - t)) + (part - t) is lost (Knuth 1969, section 4.2.2).
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import kernel
from tinynet.kernels.matmul import View, matmul
from tinynet.kernels.softmax_rows import softmax_rows
from tinynet.kernels.transpose import transpose

LOGITS = 12_300_000  # bytes of a block of logits
COLUMNS = 256  # of w at a time: 512 KB for D = 512 stay in the L2 cache for all rows of the block
GROUPS = 8  # of columns, each with a part of dx of its own
BLOCKS = 32  # of rows, whose parts of dw are simply added


@kernel()
def add_part(part, total, lost):
    """total += part; what rounding takes from it is added to lost, unless that is empty."""
    for k in range(total.size):
        s = total[k] + part[k]
        if lost.size:
            t = s - total[k]
            error = (total[k] - (s - t)) + (part[k] - t)
            lost[k] += error if error == error else part.dtype.type(0)  # inf - inf
        total[k] = s


@kernel()
def columns_of(a, row, rows, column, columns, packed):
    """packed (rows, columns) = that part of a, contiguous: in a, each of its rows is in another page of memory."""
    for r in range(rows):
        given = memory.piece(a, (row + r) * a.shape[1] + column, columns)
        result = memory.piece(packed, r * columns, columns)
        for c in range(columns):
            result[c] = given[c]


@kernel(parallel=True, matmul=True)
def linear_cross_entropy_blocks(x, w, b, t, q, weight, ignore_index, epsilon, scale, rows, losses, dx, dw, db, lost):
    """The sum of the losses times scale, with labels t (N,), or soft targets q (N, C) where t is empty.

    `rows` is the size of a block.  Fills dx, dw, db, unless dx is empty, and losses (N,), unless that is.  lost is 0 of
    dw's shape, or empty.
    """
    N, D = x.shape
    C = w.shape[1]
    grad = dx.size > 0
    no_floor = x.dtype.type(-np.inf)
    one, zeros = np.empty(1, x.dtype), np.empty(max(C, rows), x.dtype)
    one[0] = 1
    for c in range(zeros.size):
        zeros[c] = 0
    z, value = np.empty((rows, C), x.dtype), 0.0
    chunks = (C + COLUMNS - 1) // COLUMNS
    groups = min(GROUPS, chunks)
    parts = np.empty((groups if grad else 0, D, rows), x.dtype)
    pieces = (rows + 47) // 48
    partial, wide_db = np.empty(pieces), np.zeros(C)
    for n in range(0, N, rows):
        B = min(rows, N - n)
        for chunk in prange(chunks):
            c = chunk * COLUMNS
            width = min(COLUMNS, C - c)
            some_w = np.empty((D, width), x.dtype)
            columns_of(w, 0, D, c, width, some_w)  # 0.39 s against 0.50 for (2048, 512) x 32000
            rows_of_x, out = View(x, n * D, (D, 1)), View(z, c, C)
            matmul((B, width, D), rows_of_x, View(some_w, 0, width), start=View(b, c, 0), out=out, floor=no_floor)

        for piece in prange(pieces):
            r0, r1 = min(B, piece * 48), min(B, piece * 48 + 48)
            some_t, some_q = t[n : n + B] if t.size else t, q[n : n + B] if q.size else q
            some_losses, g = losses[n : n + B] if losses.size else losses, z if grad else z[:0]
            partial[piece] = softmax_rows(
                z, some_t, some_q, weight, ignore_index, epsilon, scale, some_losses, g, r0, r1
            )
        for piece in range(pieces):
            value += partial[piece]
        if not grad:
            continue

        for group in prange(groups):
            part = parts[group]
            dz, dzt = np.empty(B * COLUMNS, x.dtype), np.empty((COLUMNS, B), x.dtype)
            some_dw = np.empty(D * COLUMNS, x.dtype)
            for chunk in range(group * chunks // groups, (group + 1) * chunks // groups):
                c = chunk * COLUMNS
                width = min(COLUMNS, C - c)
                columns_of(z, 0, B, c, width, dz)
                transpose(dz, 0, width, dzt, 0, B, B, width)
                first = chunk == group * chunks // groups
                for d in range(0, D, 48):
                    size, out = (min(48, D - d), B, width), View(memory.piece(part, 0, part.size), d * rows, rows)
                    start, rows_of_w = View(zeros, 0, 0) if first else out, View(w, d * C + c, (C, 1))
                    matmul(size, rows_of_w, View(dzt, 0, B), start=start, out=out, floor=no_floor)
                xt, start, out = View(x, n * D, (1, D)), View(zeros, 0, 0), View(some_dw, 0, width)
                matmul((D, width, B), xt, View(dz, 0, width), start=start, out=out, floor=no_floor)
                for d in range(D):
                    some, row = memory.piece(some_dw, d * width, width), memory.piece(dw, d * C + c, width)
                    if n == 0:
                        for k in range(width):
                            row[k] = some[k]
                    else:
                        add_part(some, row, memory.piece(lost, d * C + c, width if lost.size else 0))
                total = memory.piece(wide_db, c, width)
                for r in range(0, B, 64):
                    size, ones, start = (1, width, min(64, B - r)), View(one, 0, (0, 0)), View(zeros, 0, 0)
                    matmul(size, ones, View(dz, r * width, width), start=start, out=View(some_dw, 0, 0), floor=no_floor)
                    for k in range(width):
                        total[k] += some_dw[k]
        for r in prange(B):
            for d in range(D):
                total = parts[0, d, r]
                for group in range(1, groups):
                    total += parts[group, d, r]
                dx[n + r, d] = total
    for c in range(C if grad else 0):
        db[c] = wide_db[c]
    for chunk in prange(chunks if lost.size else 0):
        for d in range(D):
            size = min(COLUMNS, C - chunk * COLUMNS)
            row = memory.piece(dw, d * C + chunk * COLUMNS, size)
            rest = memory.piece(lost, d * C + chunk * COLUMNS, size)
            for k in range(size):
                row[k] += rest[k]
    return value * scale


def linear_cross_entropy_fused(x, w, b, t, q, weight, ignore_index, epsilon, scale, losses, dx, dw, db):
    """linear_cross_entropy_blocks in blocks of a size that suits C, and with `lost` where they are many."""
    N, rows = len(x), LOGITS // (w.shape[1] * x.dtype.itemsize)
    rows = max(1, min(N, rows - rows % (96 if rows >= 96 else 12)))  # whole tiles, of z and of dx
    lost = np.zeros_like(dw if BLOCKS * rows < N else dw[:0])
    return linear_cross_entropy_blocks(
        x, w, b, t, q, weight, ignore_index, epsilon, scale, rows, losses, dx, dw, db, lost
    )
