"""Softmax cross-entropy on a GPU: the mathematics of softmax_cross_entropy.py, for arrays on the device.

    a chunk of rows for a thread of the CPU      a group of GPU threads for a row: a block, a warp, or one thread
    a block of a row, in the L1 cache            a pack of 16 bytes in a thread's registers
    LANES rows side by side, transposed          a tile of rows in shared memory, and each thread walks along its own

Nothing is added with atomics, whose order changes from run to run: sums go up a fixed tree, see device.sum_chunks.
"""

from functools import cache

import numpy as np
from numba import types

from tinynet.checks import losses as checks
from tinynet.cuda import arrays, device
from tinynet.cuda.arrays import added_up, empty, flat, launch, on_host
from tinynet.cuda.device import (
    ADDERS,
    CHUNK,
    NO_FAULT,
    WARP,
    added,
    cuda,
    get,
    kernel,
    reduction,
    smaller,
)
from tinynet.cuda.softmax_rows import (
    FEW,
    MEDIUM,
    MOST_ROWS,
    THREADS,
    few_classes,
    lanes_for,
    most_threads,
    rows_by_groups,
    stride,
)

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
    ONE, total = number(1), reduction(added, WARP, numba_type)

    @kernel(THREADS)
    def examine(q, C, strange):
        row, lane = cuda.blockIdx.x * (THREADS // WARP) + cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
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


# --- from arguments to results --------------------------------------------------------------------------------


def launch_rows(z, C, dtype, targets, soft, epsilon, aligned, stream, *arguments):
    """Run the kernel for rows of C classes on as many threads as suit it."""
    pack = device.PACK_BYTES // dtype.itemsize
    number, _ = device.computed_in(dtype)
    smooth = epsilon > 0.0
    N = z.size // C
    if (FEW if number is np.float32 else FEW // 2) >= C:  # a number of float64 takes two registers
        threads = arrays.whole_warps(N, MOST_ROWS)
        tile = threads * stride(C) * np.dtype(number).itemsize
        blocks, shared = -(-N // threads), 2 * tile if soft else tile
        rows = few_classes(dtype, aligned, smooth, soft, C)
    else:
        group = lanes_for(C) if C <= MEDIUM else "block"
        rows = rows_by_groups(dtype, group, aligned and C % pack == 0, smooth, soft)
        if group != "block":
            together = THREADS // group
            blocks, threads, shared = -(-N // together), min(N, together) * group, 0
        else:  # Enough threads that each has four packs to read, or the most there can be.
            wanted, most = C // (4 * pack), most_threads(dtype, smooth, soft)
            blocks, threads, shared = N, min(most, max(128, 1 << wanted.bit_length())), device.GROUP_BYTES
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
    if not (labels or soft) or (soft and ignore_index != -100):  # the checks for the CPU say what is wrong
        checks.class_targets(arrays.stand_in(t), z.shape, np.dtype(np.float32), ignore_index, name)
    ignore_index = np.int64(checks.whole_number(ignore_index, name))
    stream = arrays.chosen_stream(stream, given, name)
    number, _ = device.computed_in(z.dtype)
    C, N = z.shape[-1], z.size // z.shape[-1]
    weights = arrays.per_class(w, C, number, check, name, "weight", stream)
    dz, result, deliver = arrays.gradient(grad, out, given, name, stream)
    rows, y = flat(z, z.dtype, stream), flat(t, z.dtype if soft else t.dtype, stream)

    total, fault = empty(0, number, stream), empty(0, np.int64, stream)
    if soft:
        divisor = divisor or N
        if check:
            strange = empty(N, np.int64, stream)
            together = THREADS // WARP
            blocks, threads = -(-N // together), min(N, together) * WARP
            launch(strange_probabilities(z.dtype), blocks, threads, stream, y, C, strange, shared=0)
            _, fault = added_up(z.dtype, total, strange, 1, total, stream)
    elif check or (reduction == "mean" and divisor == 0.0):
        blocks = -(-N // CHUNK)
        sums, faults = empty(blocks, number, stream), empty(blocks, np.int64, stream)
        threads = arrays.whole_warps(N, ADDERS)
        launch(count_labels(z.dtype), blocks, threads, stream, y, C, weights, ignore_index, sums, faults)
        if blocks > 1:
            sums, faults = added_up(z.dtype, sums, faults, 1, total, stream)
        total, fault = sums, faults if check else fault
    divide_by = number(divisor if reduction == "mean" else 1)
    losses = empty(N, number, stream)
    aligned = arrays.aligned(rows, dz, *((y,) if soft else ()))
    launch_rows(
        rows, C, z.dtype, y, soft, epsilon, aligned, stream,
        weights, C, ignore_index, number(epsilon), divide_by, total, fault, losses, dz,
    )  # fmt: skip
    if check:
        position = int(on_host(fault, stream)[0])
        if position != NO_FAULT:  # and no losses were written
            raise checks.target_error(arrays.to_host(t, stream), position, z.shape, int(ignore_index), name)
    if reduction == "none":
        value = arrays.shaped(losses, z.shape[:-1])
    else:
        value, _ = added_up(z.dtype, losses, empty(0, np.int64, stream), divide_by, total, stream)
        value = arrays.shaped(value, ())
    deliver()
    return value, result
