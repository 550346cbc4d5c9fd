"""Softmax cross-entropy on a GPU: the mathematics of softmax_cross_entropy.py, for arrays on the device.

    a chunk of rows for a thread of the CPU      a group of GPU threads for a row: a block, a warp, or one thread
    a block of a row, in the L1 cache            a pack of 16 bytes in a thread's registers
    LANES rows side by side, transposed          a tile of rows in shared memory, and each thread walks along its own

A row's groups.  Up to FEW classes a thread has a row to itself.  Its neighbours' rows lie in between what it would
read at once, so the block first fetches all its rows, which are one contiguous run, into shared memory, and writes
the gradients back the same way.  Up to MEDIUM classes a warp shares a row, whose packs its lanes take in turn; beyond,
a block does.  The choice depends on C alone, and so does who takes what: a row's bits are the same in any batch.

A row's passes.  Every thread keeps the maximum m of what it has read, and sums exp(z - m) of the rest; where m rises,
the sum is multiplied by exp(old m - m) (Milakov and Gimelshein 2018).  The group then combines its (m, sum) pairs.
A second pass reads the row again, from a cache, and writes the gradient: in all 8 bytes of float32 logits cross
the memory bus, 4 in and 4 out, the least there can be.

Nothing is added with atomics, whose order changes from run to run: sums go up a fixed tree, see device.sum_chunks.
"""

import math
from functools import cache

import numpy as np
from numba import types

from tinynet.cuda import arrays, device
from tinynet.cuda.arrays import added_up, empty, flat, launch, on_host
from tinynet.cuda.device import (
    ADDERS,
    CHUNK,
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
    reduction,
    smaller,
)
from tinynet.losses import checks

FEW = 32  # classes up to which a thread has a row to itself
MEDIUM = 1024  # and up to which a warp has
WARPS = 8  # rows of medium classes in a block
MOST_ROWS = 128  # rows of few classes in a block, as many as it has threads


# --- targets: are they classes, and how many count? -----------------------------------------------------------


@cache
def count_labels(dtype):
    """A kernel: sums[k] = the weights of the labels of chunk k that count, faults[k] = the first that is no class."""
    number, numba_type = device.computed_in(dtype)
    ONE, ZERO = number(1), number(0)
    total, first = reduction(added, "block", numba_type), reduction(smaller, "block", types.int64)

    @kernel(ADDERS)
    def count(t, C, w, ignore_index, sums, faults):
        start, value, fault = cuda.blockIdx.x * CHUNK, ZERO, NO_FAULT
        for i in range(start + cuda.threadIdx.x, min(start + CHUNK, t.size), cuda.blockDim.x):
            label = np.int64(t[i])
            if label != ignore_index:
                if label < 0 or label >= C:
                    fault = min(fault, np.int64(i))
                else:
                    value += w[label] if w.size > 0 else ONE
        value, fault = total(value), first(fault)
        if cuda.threadIdx.x == 0:
            sums[cuda.blockIdx.x] = value
            faults[cuda.blockIdx.x] = fault

    return count


@cache
def strange_probabilities(dtype):
    """A kernel: strange[n] = n if row n of q (N, C) is not made of numbers in [0, 1] whose sum is 1, else NO_FAULT."""
    number, numba_type = device.computed_in(dtype)
    ZERO, MOST, NEARLY = number(0), number(1 + 1e-6), number(1e-3 if dtype.itemsize > 2 else 1e-2)
    ONE, total = number(1), reduction(added, "warp", numba_type)

    @kernel(WARPS * WARP)
    def examine(q, C, strange):
        row, lane = cuda.blockIdx.x * WARPS + cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        if row >= strange.size:
            return
        base, value, outside = np.int64(row) * C, ZERO, ZERO
        for c in range(lane, C, WARP):
            x = get(q, base + c)
            value += x
            if not (x >= ZERO and x <= MOST):
                outside = ONE
        value, outside = total(value), total(outside)
        if lane == 0:
            strange[row] = row if outside > ZERO or not abs(value - ONE) <= NEARLY else NO_FAULT

    return examine


# --- rows -----------------------------------------------------------------------------------------------------
@helper
def padded(i):
    """Where number i of a tile is: one place of 32 is left out, so that rows don't start in one bank of memory.

    Rows of 16 numbers, say, would else start in 2 of the 32 banks, and a warp would wait 16 times for each.
    """
    return i + (i >> 5)


@cache
def numbers_of_row(dtype, group, wide):
    """device.packs for a row in memory, and packs of one number for a row in a tile, which one thread has."""

    @helper
    def read(a, i, hop, left, beyond, x):
        x[0] = a[padded(i)]

    @helper
    def write(a, i, hop, left, x):
        a[padded(i)] = x[0]

    return (1, read, write) if group == "thread" else packs(dtype, wide)


@cache
def one_row(dtype, group, wide, smooth, soft):
    """A function for the threads of a group: the loss of a row z[base : base + C], and `scale` times its gradient.

    The row's target is its label, or if `soft` the probabilities q[base : base + C]; `smooth` if epsilon > 0.
    """
    number, numba_type = device.computed_in(dtype)
    ZERO, ONE, NAN, MASKED = number(0), number(1), number(math.nan), number(-math.inf)
    PACK, read, write = numbers_of_row(dtype, group, wide)
    highest, total = reduction(larger, group, numba_type), reduction(added, group, numba_type)

    @helper
    def row(z, q, label, base, lane, members, w, C, ignore_index, epsilon, scale, dz):
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
                if group == "thread":
                    zt = z[padded(base + label)]
                else:
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
        own, others = hard * share * per_s, a * spread * per_s

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
                    b = a * w[c + k * hop] if w.size > 0 else a
                    loss += b * above
                    g -= b * scale
                if soft and y[k] != ZERO:
                    b = hard * y[k] * w[c + k * hop] if w.size > 0 else hard * y[k]
                    if b != ZERO:
                        loss += b * above
                    g -= b * scale
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
    number, _ = device.computed_in(dtype)
    ZERO, ONE = number(0), number(1)
    row_of = one_row(dtype, group, wide, smooth, soft)

    @kernel(most_threads(dtype, smooth, soft) if group == "block" else WARPS * WARP)
    def rows(z, targets, w, C, ignore_index, epsilon, divisor, total, fault, losses, dz):
        n, lane, members = np.int64(cuda.blockIdx.x), cuda.threadIdx.x, cuda.blockDim.x
        if group == "warp":
            n, lane, members = n * WARPS + lane // WARP, lane % WARP, WARP
        if n >= losses.size or (fault.size > 0 and fault[0] != NO_FAULT):
            return
        if divisor == ZERO:
            divisor = total[0]
        scale = ONE / divisor if divisor > ZERO else ZERO
        label = np.int64(-1)
        if not soft:
            label = np.int64(targets[n])
        loss = row_of(z, targets, label, n * C, lane, members, w, C, ignore_index, epsilon, scale, dz)
        if lane == 0:
            losses[n] = loss

    return rows


@cache
def few_classes(dtype, wide, smooth, soft):
    """The same kernel for rows of few classes: a block takes as many rows as it has threads."""
    number, numba_type = device.computed_in(dtype)
    ZERO, ONE = number(0), number(1)
    PACK, read, write = packs(dtype, wide)
    _, read_some, write_some = packs(dtype, False)
    row_of = one_row(dtype, "thread", False, smooth, soft)

    @helper
    def fetch(a, base, size, tile):
        x = cuda.local.array(PACK, numba_type)
        i = cuda.threadIdx.x * PACK
        while i < size:
            if i + PACK <= size:
                read(a, base + i, 1, PACK, ZERO, x)
            else:
                read_some(a, base + i, 1, size - i, ZERO, x)
            for k in range(PACK):
                if i + k < size:
                    tile[padded(i + k)] = x[k]
            i += cuda.blockDim.x * PACK

    @helper
    def flush(tile, size, a, base):
        x = cuda.local.array(PACK, numba_type)
        i = cuda.threadIdx.x * PACK
        while i < size:
            for k in range(PACK):
                x[k] = tile[padded(i + k)] if i + k < size else ZERO
            if i + PACK <= size:
                write(a, base + i, 1, PACK, x)
            else:
                write_some(a, base + i, 1, size - i, x)
            i += cuda.blockDim.x * PACK

    @kernel(MOST_ROWS)
    def rows(z, targets, w, C, ignore_index, epsilon, divisor, total, fault, losses, dz):
        if fault.size > 0 and fault[0] != NO_FAULT:
            return
        tile = cuda.shared.array(0, numba_type)
        q = tile[padded(cuda.blockDim.x * C) :]
        start, lane = np.int64(cuda.blockIdx.x) * cuda.blockDim.x, cuda.threadIdx.x
        n, size = start + lane, min(np.int64(cuda.blockDim.x), losses.size - start) * C
        fetch(z, start * C, size, tile)
        if soft:
            fetch(targets, start * C, size, q)
        cuda.syncthreads()
        if n < losses.size:
            if divisor == ZERO:
                divisor = total[0]
            scale = ONE / divisor if divisor > ZERO else ZERO
            label = np.int64(-1)
            if not soft:
                label = np.int64(targets[n])
            losses[n] = row_of(tile, q, label, lane * C, 0, 1, w, C, ignore_index, epsilon, scale, tile)
        cuda.syncthreads()
        if dz.size > 0:
            flush(tile, size, dz, start * C)

    return rows


# --- the door -------------------------------------------------------------------------------------------------


def launch_rows(z, C, dtype, targets, soft, epsilon, aligned, stream, *arguments):
    """Run the kernel for rows of C classes on as many threads as suit it."""
    pack = device.PACK_BYTES // dtype.itemsize
    number, _ = device.computed_in(dtype)
    smooth = epsilon > 0.0
    N = z.size // C
    if C <= FEW:
        most = MOST_ROWS if number is np.float32 else MOST_ROWS // 2  # for two tiles in 48 KB of shared memory
        threads = arrays.whole_warps(N, most)
        tile = threads * C + threads * C // 32 + 1
        blocks, shared = -(-N // threads), (2 if soft else 1) * tile * np.dtype(number).itemsize
        rows = few_classes(dtype, aligned, smooth, soft)
    else:
        group = "warp" if C <= MEDIUM else "block"
        rows = rows_by_groups(dtype, group, aligned and C % pack == 0, smooth, soft)
        if group == "warp":
            blocks, threads, shared = -(-N // WARPS), min(N, WARPS) * WARP, 0
        else:  # Enough threads that each has four packs to read, or the most there can be.
            wanted, most = C // (4 * pack), most_threads(dtype, smooth, soft)
            blocks, threads, shared = N, min(most, max(128, 1 << wanted.bit_length())), device.SEATS
    launch(rows, blocks, threads, stream, z, targets, *arguments, shared=shared)


def softmax_cross_entropy(
    logits,
    targets,
    *,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
    stream=None,
    check=True,
):
    """tinynet.softmax_cross_entropy for device arrays: see there for the options, which are the same.

    logits may also be float16 or bfloat16; everything is computed in float32 then, and the value is float32.
    Returns Numba device arrays: the value (), or (...) for "none", and the gradient; or `out`, if it was given.
    """
    name = "softmax_cross_entropy"
    divisor, epsilon = checks.divisor(reduction, denominator, name), checks.fraction(label_smoothing, name)
    given = arrays.given(name, logits=logits, targets=targets, weight=weight, out=out)
    z, t, w = given["logits"], given["targets"], given["weight"]
    if not z.shape:
        raise ValueError(f"{name}: logits must have shape (..., C), got one number")
    soft = t.shape == z.shape and t.dtype in device.FLOATS
    labels = t.dtype.kind in "iu" and t.shape == z.shape[:-1]
    if not (labels or soft) or (soft and ignore_index != -100):  # the CPU's door says what is wrong
        checks.class_targets(arrays.stand_in(t), z.shape, np.dtype(np.float32), ignore_index, name)
    ignore_index = np.int64(checks.whole_number(ignore_index, name))
    stream = arrays.chosen_stream(stream, given, name)
    number, _ = device.computed_in(z.dtype)
    C, N = z.shape[-1], z.size // z.shape[-1]
    weights = arrays.per_class(w, C, number, check, name, "weight", stream)
    dz, result, deliver = arrays.gradient(grad, out, given, name, stream)
    rows, told = flat(z, z.dtype, stream), flat(t, z.dtype if soft else t.dtype, stream)

    total, fault = empty(0, number, stream), empty(0, np.int64, stream)
    if soft:
        divisor = divisor or N
        if check:
            strange = empty(N, np.int64, stream)
            blocks, threads = -(-N // WARPS), min(N, WARPS) * WARP
            launch(strange_probabilities(z.dtype), blocks, threads, stream, told, C, strange, shared=0)
            _, fault = added_up(z.dtype, total, strange, 1, total, stream)
    elif check or (reduction == "mean" and divisor == 0.0):
        blocks = -(-N // CHUNK)
        sums, faults = empty(blocks, number, stream), empty(blocks, np.int64, stream)
        threads = arrays.whole_warps(N, ADDERS)
        launch(count_labels(z.dtype), blocks, threads, stream, told, C, weights, ignore_index, sums, faults)
        if blocks > 1:
            sums, faults = added_up(z.dtype, sums, faults, 1, total, stream)
        total, fault = sums, faults if check else fault
    divide_by = number(divisor if reduction == "mean" else 1)
    losses = empty(N, number, stream)
    aligned = arrays.aligned(rows, dz, *((told,) if soft else ()))
    launch_rows(
        rows, C, z.dtype, told, soft, epsilon, aligned, stream,
        weights, C, ignore_index, number(epsilon), divide_by, total, fault, losses, dz,
    )  # fmt: skip
    if reduction == "none":
        value = arrays.shaped(losses, z.shape[:-1])
    else:
        value, _ = added_up(z.dtype, losses, empty(0, np.int64, stream), divide_by, total, stream)
        value = arrays.shaped(value, ())
    if check:
        position = int(on_host(fault, stream)[0])
        if position != NO_FAULT:
            raise checks.target_error(arrays.to_host(t, stream), position, z.shape, int(ignore_index), name)
    deliver()
    return value, result
