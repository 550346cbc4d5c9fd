"""Rows of logits on a GPU: the kernels of softmax cross-entropy for arrays on the device.

A row's groups.  Up to FEW classes (in float64, half as many) a thread has a row to itself, in registers.  Its
neighbours' rows lie in between what it would read at once, so the block first fetches all its rows, which are one
contiguous run, into shared memory, and writes the gradients back the same way.  Up to MEDIUM classes 8, 16 or all 32
lanes of a warp share a row, whose packs they take in turn; beyond, a block does.  The choice depends on C and the dtype
alone, and so does who takes what: a row's bits are the same in any batch.

A row's passes.  Every thread keeps the maximum m of what it has read, and sums exp(z - m) of the rest; where m rises,
the sum is multiplied by exp(old m - m) (Milakov and Gimelshein 2018).  The group then combines its (m, sum) pairs.
A second pass reads the row again, from a cache, and writes the gradient: in all 8 bytes of float32 logits cross
the memory bus, 4 in and 4 out, the least there can be.
"""

import math
from functools import cache

import numpy as np

from tinynet.cuda import device
from tinynet.cuda.device import (
    NO_FAULT,
    WARP,
    added,
    cuda,
    exp,
    get,
    helper,
    kernel,
    larger,
    log1p,
    packs,
    put,
    quotient,
    reduction,
)

FEW = 32  # classes up to which a thread has a row to itself, in float32
MEDIUM = 1024  # and up to which lanes of one warp share a row
THREADS = 256  # of a block that has such rows
MOST_ROWS = 128  # rows of few classes in a block, as many as it has threads


def lanes_for(C):
    """How many lanes share a row of medium classes: so many that each has enough to do beside adding up with others."""
    return 8 if C <= 256 else 16 if C <= 512 else WARP


def stride(C):
    """How far rows of few classes are apart in a tile: an odd distance.

    The 32 threads of a warp, each with a row, read their numbers c at the same time.  They lie in 32 different banks of
    memory then; rows of 16 numbers without a gap would lie in 2 banks, and the warp would wait 16 times.
    """
    return C | 1


@cache
def numbers_of_row(dtype, group, wide, C):
    """device.packs for a row in memory, and one pack of all its C numbers for a row in a tile, which one thread has."""

    @helper
    def read(a, i, hop, left, beyond, x):
        for k in range(C):
            x[k] = get(a, i + k)

    @helper
    def write(a, i, hop, left, x):
        for k in range(C):
            put(a, i + k, x[k])

    return (C, read, write) if group == "thread" else packs(dtype, wide)


@cache
def gradient_scales(dtype):
    """A function: two numbers whose product is 1 / divisor, or 0 where that is 0; total[0] stands in for `divisor` = 0.

    Gradients are weights times the first, then times the second.  Of weights of 1e-39 each, whose sum is the divisor,
    1 / divisor would be infinite; so where the divisor is small, both weights and divisor are multiplied by 2^POWER.
    """
    number, _ = device.computed_in(dtype)
    POWER = 64 if number is np.float32 else 512
    ZERO, ONE, LARGE, SMALL = number(0), number(1), number(2.0**POWER), number(2.0**-POWER)

    @helper
    def scales(divisor, total):
        if divisor == ZERO:
            divisor = total[0]
        factor = LARGE if divisor < SMALL else ONE
        return factor, ONE / (divisor * factor) if divisor > ZERO else ZERO

    return scales


@cache
def one_row(dtype, group, wide, smooth, soft, few=None):
    """A function for the threads of a group: the loss of a row z[base : base + C], and its gradient, times `scales`.

    The row's target is its label, or if `soft` the probabilities q[base : base + C]; `smooth` if epsilon > 0.  A group
    of one thread has C = `few`.
    """
    number, numba_type = device.computed_in(dtype)
    ZERO, ONE, NAN, MASKED = number(0), number(1), number(math.nan), number(-math.inf)
    PACK, read, write = numbers_of_row(dtype, group, wide, few)
    highest, total = reduction(larger, group, numba_type), reduction(added, group, numba_type)

    @helper
    def row(z, q, label, base, lane, members, w, C, ignore_index, epsilon, scales, dz):
        factor, scale = scales
        # Packs of neighbours where rows are whole packs; else neighbours are read by neighbouring threads.
        first, hop = (lane, members) if C % PACK else (lane * PACK, 1)
        step = members * PACK
        x, y = cuda.local.array(PACK, numba_type), cuda.local.array(PACK, numba_type)
        hard, zt = ONE - epsilon, MASKED
        if not soft:
            if label == ignore_index:  # Whatever its logits are: 0 times NaN would be NaN.
                for k in range(PACK):
                    x[k] = ZERO
                c = first
                while c < C and dz.size > 0:
                    write(dz, base + c, hop, C - c, x)
                    c += step
                return ZERO
            if label < 0 or label >= C:  # Only where the caller did without the check.
                hard = NAN
            else:
                hard *= w[label] if w.size > 0 else ONE
                zt = get(z, base + label)

        m, below, ties, count, spread, share = MASKED, ZERO, ZERO, ZERO, ZERO, ZERO
        c = first
        while c < C:
            read(z, base + c, hop, C - c, MASKED, x)
            if soft:
                read(q, base + c, hop, C - c, ZERO, y)
            top = m
            for k in range(PACK):
                top = larger(top, x[k])
            shift = top if top > MASKED else ZERO  # -inf - -inf is NaN
            if top > m:
                below = (below + ties) * exp(m - shift)
                ties = ZERO
            m = top
            for k in range(PACK):
                e = exp(x[k] - shift)
                below += ZERO if e >= ONE else e
                ties += ONE if e >= ONE else ZERO
                if smooth and x[k] != MASKED:
                    count += ONE
                    spread += w[c + k * hop] if w.size > 0 else ONE
                if soft and y[k] != ZERO:
                    share += y[k] * w[c + k * hop] if w.size > 0 else y[k]
            c += step

        top = highest(m)
        shift = top if top > MASKED else ZERO
        below = total(below if m == top else (below + ties) * exp(m - shift))
        ties = total(ties if m == top else ZERO)
        m, r = top, below + (ties - ONE)
        log_s, per_s = log1p(r), scale / (ONE + r)
        if not soft:
            share = ONE
        else:
            share = total(share)
        a = ZERO
        if smooth:
            a = epsilon / total(count)
            spread = total(spread)
        own, others = share * factor * hard * per_s, spread * factor * a * per_s
        a_scale, hard_scale = a * scale, hard * scale

        loss = ZERO
        c = first
        while c < C and (smooth or soft or dz.size > 0):
            read(z, base + c, hop, C - c, MASKED, x)
            if soft:
                read(q, base + c, hop, C - c, ZERO, y)
            for k in range(PACK):
                e, above = exp(x[k] - m), m - x[k]
                g = e * (own + others)
                if not soft and c + k * hop == label:
                    g = ((e - ONE) - r) * own + e * others
                if smooth and x[k] != MASKED:
                    b = w[c + k * hop] if w.size > 0 else ONE
                    loss += a * b * above
                    g -= b * factor * a_scale
                if soft and y[k] != ZERO:
                    b = y[k] * w[c + k * hop] if w.size > 0 else y[k]
                    if hard * b != ZERO:
                        loss += hard * b * above
                    g -= b * factor * hard_scale
                if group == "thread" and (smooth or soft) and C == 1:
                    g = ZERO * e  # p = 1: 0, however the target is rounded, or NaN
                x[k] = g
            if dz.size > 0:
                write(dz, base + c, hop, C - c, x)
            c += step
        if smooth or soft:
            loss = total(loss) + a * spread * log_s
        if soft:
            return loss + hard * share * log_s
        nll = (m - zt) + log_s
        return loss + (ZERO if hard == ZERO and nll == -MASKED else hard * nll)

    return row


def most_threads(dtype, smooth, soft):
    """How many threads at most share a row: 1,024 leave each 64 registers, which the plain kernel gets by with."""
    return 1024 if dtype == np.float32 and not (smooth or soft) else 512


@cache
def rows_by_groups(dtype, group, wide, smooth, soft):
    """A kernel: losses[n], and the gradient of their sum, divided, into dz, for rows of logits z (N, C), flat.

    Targets are labels (N,) or probabilities (N, C), flat; w (C,) may be empty, and dz.  The divisor is total[0] where
    `divisor` is 0; a total of 0 makes the gradient 0.  Nothing is written if `fault` holds a fault.
    """
    scales_of, row_of = gradient_scales(dtype), one_row(dtype, group, wide, smooth, soft)

    @kernel(most_threads(dtype, smooth, soft) if group == "block" else THREADS)
    def rows(z, targets, w, C, ignore_index, epsilon, divisor, total, fault, losses, dz):
        n, lane, members = np.int64(cuda.blockIdx.x), cuda.threadIdx.x, cuda.blockDim.x
        if group != "block":
            n, lane, members = n * (THREADS // group) + lane // group, lane % group, group
        if n >= losses.size or (fault.size > 0 and fault[0] != NO_FAULT):
            return
        scales = scales_of(divisor, total)
        label = np.int64(-1)
        if not soft:
            label = np.int64(targets[n])
        loss = row_of(z, targets, label, n * C, lane, members, w, C, ignore_index, epsilon, scales, dz)
        if lane == 0:
            losses[n] = loss

    return rows


@cache
def few_classes(dtype, wide, smooth, soft, C):
    """The same kernel for rows of C classes, few: a block takes as many rows as it has threads.

    C is a constant here, so that the loops over a row have neither counters nor addresses to compute.
    """
    number, numba_type = device.computed_in(dtype)
    ZERO, STRIDE = number(0), stride(C)
    PACK, read, write = packs(dtype, wide)
    scales_of, row_of = gradient_scales(dtype), one_row(dtype, "thread", False, smooth, soft, C)

    @helper
    def place(i):
        return i + quotient(i, C) if STRIDE > C else i

    @helper
    def fetch(a, base, size, tile):
        x = cuda.local.array(PACK, numba_type)
        i = np.int64(cuda.threadIdx.x) * PACK
        while i + PACK <= size:
            read(a, base + i, 1, PACK, ZERO, x)
            for k in range(PACK):
                put(tile, place(i + k), x[k])
            i += cuda.blockDim.x * PACK
        while i < size:  # at most one thread: the last pack is not whole
            put(tile, place(i), get(a, base + i))
            i += 1

    @helper
    def flush(tile, size, a, base):
        x = cuda.local.array(PACK, numba_type)
        i = np.int64(cuda.threadIdx.x) * PACK
        while i + PACK <= size:
            for k in range(PACK):
                x[k] = get(tile, place(i + k))
            write(a, base + i, 1, PACK, x)
            i += cuda.blockDim.x * PACK
        while i < size:
            put(a, base + i, get(tile, place(i)))
            i += 1

    @kernel(MOST_ROWS)
    def rows(z, targets, w, _, ignore_index, epsilon, divisor, total, fault, losses, dz):
        if fault.size > 0 and fault[0] != NO_FAULT:
            return
        tile = cuda.shared.array(0, numba_type)
        q = tile[cuda.blockDim.x * STRIDE :]
        start, lane = np.int64(cuda.blockIdx.x) * cuda.blockDim.x, cuda.threadIdx.x
        n, size = start + lane, min(np.int64(cuda.blockDim.x), losses.size - start) * C
        fetch(z, start * C, size, tile)
        if soft:
            fetch(targets, start * C, size, q)
        cuda.syncthreads()
        if n < losses.size:
            scales = scales_of(divisor, total)
            label = np.int64(-1)
            if not soft:
                label = np.int64(targets[n])
            losses[n] = row_of(tile, q, label, lane * STRIDE, 0, 1, w, C, ignore_index, epsilon, scales, tile)
        cuda.syncthreads()
        if dz.size > 0:
            flush(tile, size, dz, start * C)

    return rows
