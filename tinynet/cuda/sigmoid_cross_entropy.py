"""Sigmoid cross-entropy on a GPU: the mathematics of sigmoid_cross_entropy.py, for arrays on the device.

    a chunk of blocks for a thread of the CPU    a tile of 4 packs a thread for a block of GPU threads
    a block of numbers, in the L1 cache          a pack of 16 bytes in a thread's registers
    a chunk's partial sum                        a block's, up a fixed tree; blocks are added by device.sum_chunks

Each number is read once and its gradient written once: 12 bytes for float32 logits, targets and gradient, the least
there can be.  Targets outside [0, 1] are noticed on the way, and raised once the kernel is through.  Only where they
would be too late then (`out` was given), or where the mean first needs to know how many targets count, are the
targets read once more before.
"""

from functools import cache

import numpy as np
from numba import types

from tinynet.checks import losses as checks
from tinynet.cuda import arrays, device
from tinynet.cuda.arrays import added_up, empty, flat, launch
from tinynet.cuda.device import (
    ADDERS,
    NO_FAULT,
    added,
    cuda,
    exp,
    helper,
    kernel,
    log1p,
    packs,
    reduction,
    smaller,
)

PACKS = 4  # that a thread takes


@cache
def count_targets(dtype):
    """A kernel: sums[k] = how many targets of tile k are not ignored, faults[k] = the first that is not in [0, 1]."""
    number, numba_type = device.computed_in(dtype)
    ZERO, ONE = number(0), number(1)
    PACK, read = packs(dtype, False)[:2]
    total, first = reduction(added, "block", numba_type), reduction(smaller, "block", types.int64)

    @kernel(ADDERS)
    def count(t, ignored, sums, faults):
        x = cuda.local.array(PACK, numba_type)
        members = cuda.blockDim.x
        start, value, fault = np.int64(cuda.blockIdx.x) * members * PACKS * PACK, ZERO, NO_FAULT
        for j in range(PACKS):
            i = start + j * members * PACK + cuda.threadIdx.x
            read(t, i, members, t.size - i, ignored, x)
            for k in range(PACK):
                inside = x[k] >= ZERO and x[k] <= ONE
                if i + k * members < t.size and x[k] != ignored:
                    value += ONE
                    if not inside:
                        fault = min(fault, i + k * members)
        value, fault = total(value), first(fault)
        if cuda.threadIdx.x == 0:
            sums[cuda.blockIdx.x] = value
            faults[cuda.blockIdx.x] = fault

    return count


@cache
def terms(dtype):
    """A function: the loss of a logit z with target q, and `scale` times its slope."""
    number, _ = device.computed_in(dtype)
    ZERO, ONE = number(0), number(1)
    divided = device.division(dtype)

    @helper
    def loss_and_slope(z, q, positive, negative, scale):
        a, b = positive * q, negative * (ONE - q)
        high = z > ZERO
        size = z if high else -z
        u = exp(-size)
        factor, p, rest = b if high else a, ONE if high else u, u if high else ONE
        linear = ZERO if factor == ZERO else factor * size
        return linear + (a + b) * log1p(u), divided((b * p - a * rest) * scale, ONE + u)

    return loss_and_slope


@cache
def loss_and_gradient(dtype, wide, weighted):
    """A kernel: sums[k] = the sum of tile k's losses, faults[k] = the first of its targets that is none.

    For logits z and targets t (N,): also the losses, and the gradient of their sum, divided, where those arrays aren't
    empty.  The divisor is total[0] where `divisor` is 0; a total of 0 makes the gradient 0.  The weights w and v (of
    the terms t log p) repeat along z.  Nothing is written if `known` holds a fault.
    """
    number, numba_type = device.computed_in(dtype)
    ZERO, ONE, HALF = number(0), number(1), number(0.5)
    PACK, read, write = packs(dtype, wide)
    _, read_some, write_some = packs(dtype, False)
    write_losses = write if dtype == np.dtype(number) else write_some
    loss_and_slope = terms(dtype)
    total_of, first_of = reduction(added, "block", numba_type), reduction(smaller, "block", types.int64)

    @kernel(ADDERS)
    def elements(z, t, w, v, ignored, epsilon, divisor, total, known, losses, dz, sums, faults):
        if known.size > 0 and known[0] != NO_FAULT:
            return
        if divisor == ZERO:
            divisor = total[0]
        scale = ONE / divisor if divisor > ZERO else ZERO
        x, y = cuda.local.array(PACK, numba_type), cuda.local.array(PACK, numba_type)
        step = cuda.blockDim.x * PACK
        i = np.int64(cuda.blockIdx.x) * step * PACKS + cuda.threadIdx.x * PACK
        column, turn = np.int64(0), np.int64(0)
        if weighted:
            column, turn = i % w.size, step % w.size
        value, fault = ZERO, NO_FAULT
        for _ in range(PACKS):
            whole = i + PACK <= z.size
            if whole:
                read(z, i, 1, PACK, ZERO, x)
                read(t, i, 1, PACK, ZERO, y)
            else:
                read_some(z, i, 1, z.size - i, ZERO, x)
                read_some(t, i, 1, z.size - i, ignored, y)
            c = column
            for k in range(PACK):
                negative, positive = ONE, ONE
                if weighted:
                    negative = w[c]
                    positive = negative * v[c]
                    c += 1
                    if c == w.size:
                        c = np.int64(0)
                inside = i + k < z.size and y[k] != ignored
                if inside and not (y[k] >= ZERO and y[k] <= ONE):
                    fault = min(fault, i + k)
                q = (ONE - epsilon) * y[k] + HALF * epsilon
                loss, slope = loss_and_slope(x[k], q, positive, negative, scale)
                x[k] = slope if inside else ZERO
                y[k] = loss if inside else ZERO
                value += y[k]
            if whole:
                if dz.size > 0:
                    write(dz, i, 1, PACK, x)
                if losses.size > 0:
                    write_losses(losses, i, 1, PACK, y)
            else:
                if dz.size > 0:
                    write_some(dz, i, 1, z.size - i, x)
                if losses.size > 0:
                    write_some(losses, i, 1, z.size - i, y)
            i += step
            column += turn
            if weighted and column >= w.size:
                column -= w.size
        value, fault = total_of(value), first_of(fault)
        if cuda.threadIdx.x == 0:
            sums[cuda.blockIdx.x] = value
            faults[cuda.blockIdx.x] = fault

    return elements


def factors(weight, given, period, number, check, name, what, stream):
    """A weight as a device array (period,): ones for None, and one number repeated."""
    if given is not None:
        return arrays.per_class(given, period, number, check, name, what, stream)
    host = checks.per_class(np.full(period, 1.0 if weight is None else weight), period, np.dtype(number), name, what)
    return cuda.to_device(host, stream=stream)


def sigmoid_cross_entropy(
    logits,
    targets,
    *,
    weight=None,
    pos_weight=None,
    ignore_index=None,
    label_smoothing=0.0,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
    stream=None,
    check=True,
):
    """tinynet.sigmoid_cross_entropy for device arrays: see there for the options, which are the same.

    But weight and pos_weight have a number for each index of the last axis, none for each element.
    logits may also be float16 or bfloat16; everything is computed in float32 then, and losses are float32.
    Returns Numba device arrays: the value (), or like logits for "none", and the gradient; or `out`, if it was given.
    """
    name = "sigmoid_cross_entropy"
    divisor, epsilon = checks.divisor(reduction, denominator, name), checks.fraction(label_smoothing, name)
    ignored = np.nan if ignore_index is None else float(checks.whole_number(ignore_index, name))
    weights = {"weight": weight, "pos_weight": pos_weight}
    given = {what: None if isinstance(x, (int, float, np.number)) else x for what, x in weights.items()}
    given = arrays.given(name, logits=logits, targets=targets, out=out, **given)
    z, t = given["logits"], given["targets"]
    if t.shape != z.shape or (t.dtype.kind not in "fiub" and t.dtype not in device.FLOATS):
        checks.like_prediction(arrays.stand_in(t), z.shape, np.dtype(np.float32), name)
    stream = arrays.chosen_stream(stream, given, name)
    number, _ = device.computed_in(z.dtype)
    weighted = weight is not None or pos_weight is not None
    w = v = empty(0, number, stream)
    if weighted:
        C = z.shape[-1] if z.shape else 1
        period = 1 if given["weight"] is None and given["pos_weight"] is None else C
        w, v = (factors(x, given[what], period, number, check, name, what, stream) for what, x in weights.items())
    dz, result, deliver = arrays.gradient(grad, out, given, name, stream)
    x, y = flat(z, z.dtype, stream), flat(t, z.dtype, stream)

    pack = device.PACK_BYTES // z.dtype.itemsize
    threads = arrays.whole_warps(-(-z.size // (PACKS * pack)), ADDERS)
    blocks = -(-z.size // (threads * PACKS * pack))
    nothing, total, known = empty(0, number, stream), empty(0, number, stream), empty(0, np.int64, stream)
    sums, faults = empty(blocks, number, stream), empty(blocks, np.int64, stream)
    if reduction != "mean":
        divisor = 1.0
    elif divisor == 0.0 and ignore_index is None:
        divisor = float(z.size)
    if divisor == 0.0 or (check and out is not None):
        launch(count_targets(z.dtype), blocks, threads, stream, y, number(ignored), sums, faults)
        total, first = added_up(z.dtype, sums, faults, 1, total, stream)
        known = first if check else known
    losses = empty(z.size, number, stream) if reduction == "none" else nothing
    elements = loss_and_gradient(z.dtype, arrays.aligned(x, y, dz), weighted)
    launch(
        elements, blocks, threads, stream,
        x, y, w, v, number(ignored), number(epsilon), number(divisor), total, known, losses, dz, sums, faults,
    )  # fmt: skip
    value, first = added_up(z.dtype, sums, faults, divisor, total, stream)
    if check:
        position = int(arrays.on_host(known if known.size else first, stream)[0])
        if position != NO_FAULT:
            raise checks.unit_interval_error(None, arrays.to_host(t, stream), ignore_index, checks.BAD_TARGET, name)
    deliver()
    return arrays.shaped(losses, z.shape) if reduction == "none" else arrays.shaped(value, ()), result
