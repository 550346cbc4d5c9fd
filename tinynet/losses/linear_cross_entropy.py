"""Linear cross-entropy: a dense layer and its softmax cross-entropy in one, without the logits ever being whole.

    z = x w + b                                    x (N, D)   w (D, C)   b (C,)   z (N, C) logits
    L = softmax cross-entropy of z with labels t   (softmax_cross_entropy.py)

Backward.  With dz = dL/dz, p - [c = t] or what the options make of it, as in any dense layer:

    dx = dz w'     dw = x' dz     db = column sums of dz

Why together: with a vocabulary of C = 32,000 and N = 2,048 tokens, z is 262 MB, and apart it is written, read, turned
into dz and read again.  But a row of z is needed only until its part of dx, dw and db is summed.  So take a block of
rows at a time, as many as make some 10 MB:

    1  z = x w + b            of the block, by the tile; a thread owns columns of z
    2  z <- dz, in place      by softmax_cross_entropy's kernel; a thread owns rows
    3  dw += x' dz, db, and   a thread owns columns of dw and db
       dx = dz w'             summed over a group of columns, into (w dz')' for that group

For 3 the tile wants dz' contiguous: some columns of dz are transposed at a time, which is less than transposing w.
The groups' parts of dx are added in order, so that no bit depends on the number of threads; nor does a row's loss or
dx on the block that it is in.  The logits are computed once, and read and written once by the loss.

A large vocabulary has blocks of few rows, and many rows then make many blocks.  db adds their sums in float64.  dw, for
which that would take twice its memory, keeps what each addition loses, where there are more than BLOCKS of them: with
t = s - dw for the rounded sum s = dw + part, exactly (dw - (s - t)) + (part - t) is lost (Knuth 1969, section 4.2.2).
"""

import numpy as np
from numba import prange

from tinynet import simd
from tinynet.losses import checks
from tinynet.losses.softmax_cross_entropy import count_labels, strange_rows, total_or
from tinynet.losses.softmax_rows import softmax_rows
from tinynet.tile import tile
from tinynet.transpose import transpose

LOGITS = 12_300_000  # bytes of a block of logits
COLUMNS = 256  # of w at a time: 512 KB for D = 512 stay in the L2 cache for all rows of the block
GROUPS = 8  # of columns, each with a part of dx of its own
BLOCKS = 32  # of rows, whose parts of dw are simply added


@simd.kernel()
def add_part(part, total, lost):
    """total += part; what rounding takes from it is added to lost, unless that is empty."""
    for k in range(total.size):
        s = total[k] + part[k]
        if lost.size:
            t = s - total[k]
            error = (total[k] - (s - t)) + (part[k] - t)
            lost[k] += error if error == error else part.dtype.type(0)  # inf - inf
        total[k] = s


@simd.kernel()
def columns_of(a, row, rows, column, columns, packed):
    """packed (rows, columns) = that part of a, contiguous: in a, each of its rows is in another page of memory."""
    for r in range(rows):
        given = simd.piece(a, (row + r) * a.shape[1] + column, columns)
        result = simd.piece(packed, r * columns, columns)
        for c in range(columns):
            result[c] = given[c]


@simd.kernel(parallel=True, tiled=True)
def linear_cross_entropy_blocks(x, w, b, t, q, weight, ignore_index, epsilon, scale, rows, losses, dx, dw, db, lost):
    """The sum of the losses times scale, with labels t (N,), or soft targets q (N, C) where t is empty.

    `rows` is the size of a block.  Fills dx, dw, db, unless dx is empty, and losses (N,), unless that is.  lost is 0 of
    dw's shape, or empty.
    """
    N, D = x.shape
    C = w.shape[1]
    grad = dx.size > 0
    none = x.dtype.type(-np.inf)
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
            tile((B, width, 1, D), x, n * D, (D, 0, 1), some_w, 0, (0, width), b, c, 0, z, c, C, none)

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
                start, step = (
                    (zeros, 0) if chunk == group * chunks // groups else (simd.piece(part, 0, part.size), rows)
                )
                for d in range(0, D, 48):
                    size, at = (min(48, D - d), B, 1, width), d * step
                    tile(size, w, d * C + c, (C, 0, 1), dzt, 0, (0, B), start, at, step, part, d * rows, rows, none)
                tile((D, width, 1, B), x, n * D, (1, 0, D), dz, 0, (0, width), zeros, 0, 0, some_dw, 0, width, none)
                for d in range(D):
                    some, row = simd.piece(some_dw, d * width, width), simd.piece(dw, d * C + c, width)
                    if n == 0:
                        for k in range(width):
                            row[k] = some[k]
                    else:
                        add_part(some, row, simd.piece(lost, d * C + c, width if lost.size else 0))
                total = simd.piece(wide_db, c, width)
                for r in range(0, B, 64):
                    size = 1, width, 1, min(64, B - r)
                    tile(size, one, 0, (0, 0, 0), dz, r * width, (0, width), zeros, 0, 0, some_dw, 0, 0, none)
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
            row = simd.piece(dw, d * C + chunk * COLUMNS, size)
            rest = simd.piece(lost, d * C + chunk * COLUMNS, size)
            for k in range(size):
                row[k] += rest[k]
    return value * scale


def linear_cross_entropy(
    x,
    w,
    b,
    targets,
    /,
    *,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    denominator=None,
    grad=True,
):
    """The softmax cross-entropy of the logits x w + b against targets, and its gradients with respect to x, w and b.

    x        (..., D), float32 or float64
    w        (D, C), as Dense keeps it, of x's dtype
    b        (C,), or None
    targets  and all options as in softmax_cross_entropy; `weight` is the classes' (C,)

    Returns (value, dx, dw, db): db is None where b is, and all three are None for grad=False.  Needs some 14 MB beyond
    its arguments and results, and as much as dw again where the logits would be more than 400 MB.  Raises ValueError or
    TypeError for what it can't use, before anything is computed.

    >>> x, w, b = np.ones((2, 3)), np.zeros((3, 4)), np.zeros(4)
    >>> loss, dx, dw, db = tn.linear_cross_entropy(x, w, b, [0, 1])
    >>> round(loss, 4), db
    (1.3863, array([-0.25, -0.25,  0.25,  0.25]))
    """
    name = "linear_cross_entropy"
    given = checks.prediction(x, name, "x")
    if given.ndim == 0:
        raise ValueError(f"{name}: x must have shape (..., D), got one number")
    dtype, D = given.dtype, given.shape[-1]
    w = checks.prediction(w, name, "w")
    if w.dtype != dtype:
        raise TypeError(f"{name}: w must have x's dtype {dtype}, got {w.dtype}")
    if w.ndim != 2 or w.shape[0] != D:
        raise ValueError(f"{name}: w must have shape (D, C) = ({D}, C) for x {given.shape}, got {w.shape}")
    C = w.shape[1]
    bias = np.zeros(C, dtype) if b is None else checks.like_prediction(b, (C,), dtype, name, "b")
    divisor = checks.divisor(reduction, denominator, name)
    epsilon = checks.fraction(label_smoothing, name)
    shape = (*given.shape[:-1], C)
    t, q, ignore_index = checks.class_targets(targets, shape, dtype, ignore_index, name)
    if weight is not None:
        classes = checks.per_class(weight, C, dtype, name)
    else:
        classes = np.ones(C, dtype) if q.size or epsilon > 0.0 else checks.NOTHING[dtype, 1]
    N = given.size // D
    position, total = (strange_rows(q, 0, N), N) if q.size else count_labels(t, C, classes, ignore_index)
    if position >= 0:
        raise checks.not_a_target(targets, position, shape, ignore_index, name)
    scale = 1.0 / total_or(divisor, total) if reduction == "mean" else 1.0

    flat = given.reshape(N, D)
    if t.size and not np.isfinite(flat[t == ignore_index]).all():  # in dw, 0 times NaN would be NaN
        flat = np.where((t == ignore_index)[:, None], dtype.type(0), flat)
    rows = LOGITS // (C * dtype.itemsize)
    rows = max(1, min(N, rows - rows % (96 if rows >= 96 else 12)))  # whole tiles, of z and of dx
    losses = np.empty(N, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]
    dx = np.empty((N, D), dtype) if grad else checks.NOTHING[dtype, 2]
    dw, db = (np.empty((D, C), dtype), np.empty(C, dtype)) if grad else (dx, checks.NOTHING[dtype, 1])
    lost = np.zeros_like(dw if BLOCKS * rows < N else dw[:0])
    value = linear_cross_entropy_blocks(
        flat, w, bias, t, q, classes, ignore_index, epsilon, scale, rows, losses, dx, dw, db, lost
    )
    if reduction == "none":
        value = losses.reshape(shape[:-1])
    if not grad:
        return value, None, None, None
    return value, dx.reshape(given.shape), dw, None if b is None else db
