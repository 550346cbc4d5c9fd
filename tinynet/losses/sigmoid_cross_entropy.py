"""Sigmoid cross-entropy, fused: each output is a yes-or-no question of its own.

    p = 1 / (1 + exp(-z))                           z logits, t targets in [0, 1], of one shape
    L = -t log p - (1 - t) log(1 - p)

Stable form.  With u = exp(-|z|) <= 1, nothing overflows, and log1p loses no digit of a small u:

    -log p       = log(1 + exp(-z)) = max(-z, 0) + log1p(u)
    -log (1 - p) = log(1 + exp(z))  = max( z, 0) + log1p(u)

Backward.  d log(1 + exp(z)) / dz = p and d log(1 + exp(-z)) / dz = -(1 - p), so

    dz = (1 - t) p - t (1 - p) = p - t              p and 1 - p are 1 / (1 + u) and u / (1 + u), one or the other way

Kept as two products, so that neither cancels, and so that weights fit in: with a = w w_pos t and b = w (1 - t),

    L  = a max(-z, 0) + b max(z, 0) + (a + b) log1p(u)                      dz = b p - a (1 - p)

A term whose factor is 0 is 0, even at z = inf.  Label smoothing moves t to (1 - eps) t + eps / 2.
"""

import numpy as np
from numba import prange

from tinynet.kernels import floats, memory
from tinynet.kernels.compile import chunk_count, helper, kernel
from tinynet.kernels.vectors import load, load_some, maximum, select, store, store_some, width
from tinynet.losses import checks

BLOCK = 1024  # numbers at a time: they stay in the L1 cache between the loops over them
BLOCKS = 4  # of them, the least that a thread takes
THREADS_FROM = 8192  # numbers; below, waking the threads costs more than they save


@helper
def loss_and_slope(z, t, a, b, ignored, zero, one, scale):
    """Vectors of the losses of logits z, and of scale times their gradient, for targets t of weights a and b."""
    a, b, size = a * t, b * (one - t), maximum(zero - z, z)
    u = floats.exp(zero - size)
    above = z > zero
    factor, p, rest = select(above, b, a), select(above, one, u), select(above, u, one)
    linear = select(factor == zero, zero, factor * size)
    loss, dz = linear + (a + b) * floats.log1p(u), (b * p - a * rest) * (scale / (u + one))
    return select(ignored, zero, loss), select(ignored, zero, dz)


@kernel()
def terms(z, t, positive, negative, ignored, epsilon, scale, losses, g):
    """The losses of one block, and scale times their gradient; g may be z."""
    W, n, zero, one = width(z), z.size, z.dtype.type(0), z.dtype.type(1)
    keep, half, scale = z.dtype.type(1.0 - epsilon), z.dtype.type(0.5 * epsilon), z.dtype.type(scale)
    whole = n - n % W
    for i in range(0, whole, W):
        target, a, b = load(t, i), load(positive, i), load(negative, i)
        out = target == ignored
        loss, dz = loss_and_slope(load(z, i), target * keep + half, a, b, out, zero, one, scale)
        store(loss, losses, i)
        store(dz, g, i)
    for i in range(whole, n, W):
        target, x = load_some(t, i, n - i, 0), load_some(z, i, n - i, 0)
        a, b = load_some(positive, i, n - i, 0), load_some(negative, i, n - i, 0)
        loss, dz = loss_and_slope(x, target * keep + half, a, b, target == ignored, zero, one, scale)
        store_some(loss, losses, i, n - i)
        store_some(dz, g, i, n - i)


@kernel(fast=True)
def block_sum(x):
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i]
    return total


@kernel(fast=True)
def count_targets(t, ignored):
    """How many of t are ignored, and how many are neither that nor in [0, 1]."""
    zero, one = t.dtype.type(0), t.dtype.type(1)
    left_out = strange = 0
    for i in range(t.size):
        left_out += t[i] == ignored
        strange += not (t[i] == ignored or (t[i] >= zero and t[i] <= one))
    return left_out, strange


def loss_and_gradient(z, t, positive, negative, ignored, epsilon, mean, divisor, chunks, losses, g):
    """The loss's value, of z, t and g (N,); and how many targets are neither in [0, 1] nor ignored.

    With one such, nothing is written.  `positive` and `negative` hold the weights of one block; all blocks have the
    same, so their size is a multiple of the classes'.  Chunks of blocks are what threads take.  `ignored` is NaN
    where no target is.
    """
    N, size = z.size, positive.size
    blocks = (N + size - 1) // size
    partial, left_out, strange = np.zeros(chunks), np.zeros(chunks, np.int64), np.zeros(chunks, np.int64)
    for k in prange(chunks):
        first, last = k * blocks // chunks * size, min((k + 1) * blocks // chunks * size, N)
        left_out[k], strange[k] = count_targets(memory.piece(t, first, last - first), ignored)
    outside, count = 0, N
    for k in range(chunks):
        outside += strange[k]
        count -= left_out[k]
    if outside > 0:
        return 0.0, outside
    scale = 1.0
    if mean:
        scale = 1.0 / divisor if divisor > 0.0 else 1.0 / max(count, 1)
    for k in prange(chunks):
        l, dx = np.empty((2, size), z.dtype)
        for block in range(k * blocks // chunks, (k + 1) * blocks // chunks):
            first = block * size
            n = min(size, N - first)
            block_losses = memory.piece(losses, first, n) if losses.size else memory.piece(l, 0, n)
            dz = memory.piece(g, first, n) if g.size else memory.piece(dx, 0, n)
            terms(
                memory.piece(z, first, n),
                memory.piece(t, first, n),
                positive,
                negative,
                ignored,
                epsilon,
                scale,
                block_losses,
                dz,
            )
            partial[k] += block_sum(block_losses)
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return value * scale, outside


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


def factors(weight, C, dtype, name, what):
    """weight as an array (C,): ones for None, and one number C times."""
    if weight is None:
        return np.ones(C, dtype)
    return checks.per_class(np.repeat(weight, C) if np.ndim(weight) == 0 else weight, C, dtype, name, what)


def block_weights(weight, pos_weight, shape, dtype, name):
    """The weights of the terms with t, and with 1 - t, for one block: of BLOCK numbers or more, to have whole rows."""
    if weight is None and pos_weight is None:
        ones = checks.ones(dtype, BLOCK)
        return ones, ones
    C = shape[-1] if shape else 1
    negative = factors(weight, C, dtype, name, "weight")
    positive = negative * factors(pos_weight, C, dtype, name, "pos_weight")
    rows = -(-BLOCK // C)
    return np.tile(positive, rows), np.tile(negative, rows)


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
    """The cross-entropy of sigmoid(logits) against targets, and its gradient with respect to the logits.

    logits           any shape, float32 or float64
    targets          the same shape, in [0, 1]: labels 0 and 1 of any type, or probabilities
    weight           factors of the losses; one number, or one for each index of the last axis (C,)
    pos_weight       further factors of the terms -t log p, of the same shapes: above 1, a missed yes costs more
    ignore_index     targets with this value, say -1 for "unknown", add no loss and no gradient, and don't count
    label_smoothing  eps: targets become (1 - eps) t + eps / 2
    reduction        "mean" over the targets that count (0 where there are none), "sum", or "none"
    denominator      what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad             False: the gradient isn't computed, and None is returned for it
    out              the array that receives the gradient; may be `logits`
    stream, check    for device arrays only, see below

    Returns (value, gradient): a float, or an array like logits for "none"; an array like logits, the gradient of the
    value (of its sum for "none").  Logits of +-inf give the limits: 0 where the target agrees, else inf.  Raises
    ValueError or TypeError for what it can't use, before anything is written.

    Arrays on a GPU (PyTorch's, CuPy's, Numba's: whatever has __cuda_array_interface__) are worked on there, which needs
    the extra "cuda".  Numba device arrays come back.  Work runs on `stream` (a handle, or has __cuda_stream__), else
    on the stream that the logits' interface states, else on the default stream: PyTorch's interface states none.
    To raise an error for bad targets or weights, the call waits for the GPU; with check=False it doesn't, and they
    are used as they are.

    >>> loss, gradient = tn.sigmoid_cross_entropy(np.zeros(1), [1])  # yes and no equally likely
    >>> round(loss, 4), gradient
    (0.6931, array([-0.5]))
    """
    name = "sigmoid_cross_entropy"
    if checks.on_device(logits, targets, weight, pos_weight, out):
        from tinynet.cuda import sigmoid_cross_entropy as cuda  # numba-cuda need not be there before

        return cuda.sigmoid_cross_entropy(
            logits,
            targets,
            weight=weight,
            pos_weight=pos_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction=reduction,
            denominator=denominator,
            grad=grad,
            out=out,
            stream=stream,
            check=check,
        )
    if stream is not None:
        raise TypeError(f"{name}: stream belongs to device arrays, and the logits are on the host")
    z = checks.prediction(logits, name, "logits")
    dtype = z.dtype
    t = checks.like_prediction(targets, z.shape, dtype, name)
    divisor = checks.divisor(reduction, denominator, name)
    epsilon = checks.fraction(label_smoothing, name)
    ignored = np.nan if ignore_index is None else float(checks.whole_number(ignore_index, name))
    positive, negative = block_weights(weight, pos_weight, z.shape, dtype, name)
    gradient = checks.gradient(grad, out, logits, z, (t,), name)
    losses = np.empty(z.shape, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]

    threads = z.size >= THREADS_FROM
    chunks = chunk_count(-(-z.size // positive.size), BLOCKS) if threads else 1
    kernel = all_threads if threads else one_thread
    value, strange = kernel(
        z.reshape(-1), t.reshape(-1), positive, negative, dtype.type(ignored), epsilon, reduction == "mean", divisor,
        chunks, losses.reshape(-1), gradient.reshape(-1),
    )  # fmt: skip
    if strange:
        raise checks.not_in_unit_interval(t, ignore_index, name)
    return losses if reduction == "none" else value, checks.delivered(gradient, grad, out)
