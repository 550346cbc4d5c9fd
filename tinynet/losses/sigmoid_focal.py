"""Sigmoid focal loss: cross-entropy that looks away from what is already right.

    p = 1 / (1 + exp(-z))                           z logits, t targets in [0, 1], of one shape
    H = -t log p - (1 - t) log(1 - p)               the cross-entropy
    q = t (1 - p) + (1 - t) p                       the chance of being wrong
    L = f q^gamma H                                 f = alpha t + (1 - alpha) (1 - t)

An object detector asks some 100,000 times whether there is an object, and nearly always there is none, which it soon
knows.  In the cross-entropy the many small losses drown the few large ones; with gamma = 2, a loss at p = 0.99 is
divided by 10,000.  gamma = 0 leaves f H.

Backward.  z touched H, times p - t, and q, whose slope is (1 - 2 t) p (1 - p):

    dz = f (q^gamma (p - t) + gamma q^(gamma-1) (1 - 2t) p (1 - p) H)
       = f q^gamma ((1 - t) p - t (1 - p) + gamma r H)              r = (1 - 2t) p (1 - p) / q

For t = 1, r = -p, and for t = 0, r = 1 - p; so r stays finite where q goes to 0, also for gamma < 1.

Stable form.  u = exp(-|z|) gives p and 1 - p as 1 / (1 + u) and u / (1 + u), one or the other way, so that neither
comes from a subtraction, and q is a sum of products of them; q^gamma = exp(-gamma (-log q)); H as in
sigmoid_cross_entropy.  A product of 0 and infinity, at z = +-inf, is the limit, 0, also where f is 0.

One pass over the logits, and one over the targets before, which checks and counts them.

Source: Lin et al. 2017, "Focal loss for dense object detection", with the formula of torchvision for soft targets.
"""

import numpy as np
from numba import prange

from tinynet.kernels import floats, memory
from tinynet.kernels.compile import chunk_count, helper, kernel
from tinynet.kernels.vectors import load, load_some, maximum, select, splat, store, store_some, width
from tinynet.losses import checks
from tinynet.losses.sigmoid_cross_entropy import block_sum, count_targets

BLOCK = 1024  # numbers at a time: they stay in the L1 cache between the loops over them
THREADS_FROM = 8192  # numbers; below, waking the threads costs more than they save


@helper
def to_the_power(q, gamma, zero, one):
    """q^gamma of a vector in [0, 1]: by multiplication for the gamma that nearly everybody uses."""
    if gamma == 2:
        return q * q
    if gamma == 0:
        return one
    tiny = q < 1e-37  # its reciprocal could overflow: the logarithm of 2^53 q
    x = select(tiny, q * 2.0**53, q)
    surprisal = floats.log1p((one - x) / x) + select(tiny, 53 * 0.6931471805599453, zero)
    return select(q == zero, zero, floats.exp((zero - gamma) * surprisal))


@helper
def loss_and_slope(z, t, gamma, yes, no, ignored, scale, zero, one):
    """Vectors of the losses of logits z, and of scale times their gradient, for targets t, with f = yes t + no (1 - t).

    zero and one are vectors of those.
    """
    miss, distance, above = one - t, maximum(zero - z, z), z > zero
    u = floats.exp(zero - distance)
    factor, p, rest = select(above, miss, t), select(above, one, u), select(above, u, one)
    p, rest = p / (one + u), rest / (one + u)
    entropy = select(factor == zero, zero, factor * distance) + floats.log1p(u)
    q, f = t * rest + miss * p, t * yes + miss * no
    power = to_the_power(q, gamma, zero, one)
    r = select(q == zero, zero, (miss - t) * p * rest / q)
    rise = select(r == zero, zero, r * gamma * entropy)
    infinite = entropy == np.inf  # then q > 0, however small its power: the limit is infinite, or 0 where f is
    loss = f * select(infinite, entropy, power * entropy)
    loss = select(f == zero, select(infinite, zero, loss), loss)
    dz = f * power * (miss * p - t * rest + rise) * scale
    absent = t == ignored
    return select(absent, zero, loss), select(absent, zero, dz)


@kernel()
def terms(z, t, gamma, yes, no, ignored, scale, losses, g):
    """The losses of one block, and scale times their gradient; g may be z."""
    W, n, zero, one = width(z), z.size, splat(z, 0), splat(z, 1)
    whole = n - n % W
    for i in range(0, whole, W):
        loss, dz = loss_and_slope(load(z, i), load(t, i), gamma, yes, no, ignored, scale, zero, one)
        store(loss, losses, i)
        store(dz, g, i)
    for i in range(whole, n, W):
        x, target = load_some(z, i, n - i, 0), load_some(t, i, n - i, 0)
        loss, dz = loss_and_slope(x, target, gamma, yes, no, ignored, scale, zero, one)
        store_some(loss, losses, i, n - i)
        store_some(dz, g, i, n - i)


def loss_and_gradient(z, t, gamma, yes, no, ignored, mean, divisor, chunks, losses, g):
    """The loss's value, of z, t and g (N,); and how many targets are neither in [0, 1] nor ignored.

    With one such, nothing is written.  Chunks of blocks are what threads take.  `ignored` is NaN where no target is.
    """
    N = z.size
    blocks = (N + BLOCK - 1) // BLOCK
    partial, left_out, strange = np.zeros(chunks), np.zeros(chunks, np.int64), np.zeros(chunks, np.int64)
    for k in prange(chunks):
        first, last = k * blocks // chunks * BLOCK, min((k + 1) * blocks // chunks * BLOCK, N)
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
    factor = z.dtype.type(scale)
    for k in prange(chunks):
        l, d = np.empty((2, BLOCK), z.dtype)
        for b in range(k * blocks // chunks, (k + 1) * blocks // chunks):
            first = b * BLOCK
            n = min(BLOCK, N - first)
            block_losses = memory.piece(losses, first, n) if losses.size else memory.piece(l, 0, n)
            zb, tb = memory.piece(z, first, n), memory.piece(t, first, n)
            dz = memory.piece(g, first, n) if g.size else memory.piece(d, 0, n)
            terms(zb, tb, gamma, yes, no, ignored, factor, block_losses, dz)
            partial[k] += block_sum(block_losses)
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return value * scale, outside


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


def sigmoid_focal(
    logits,
    targets,
    gamma=2.0,
    alpha=0.25,
    *,
    ignore_index=None,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
):
    """The focal loss of sigmoid(logits) against targets, and its gradient with respect to the logits.

    logits        any shape, float32 or float64
    targets       the same shape, in [0, 1]: labels 0 and 1 of any type, or probabilities
    gamma         how strongly what is right is left out; at least 0, where 0 is the cross-entropy
    alpha         the weight of the 1s in [0, 1], where the 0s have 1 - alpha; None for no weights at all
    ignore_index  targets with this value, say -1 for "unknown", add no loss and no gradient, and don't count
    reduction     "mean" over the targets that count (0 where there are none), "sum", or "none"
    denominator   what "mean" divides by instead; Lin et al. take the number of objects, max(1, targets.sum())
    grad          False: the gradient isn't returned, but None in its place
    out           the array that receives the gradient; may be `logits`

    Returns (value, gradient): a float, or an array like logits for "none"; an array like logits, the gradient of the
    value (of its sum for "none").  Logits of +-inf give the limits: 0 where the target agrees, else inf.  Raises
    ValueError or TypeError for what it can't use, before anything is written.

    >>> losses, gradients = tn.sigmoid_focal(np.array([0.0, 3.0]), [1, 1], reduction="none")
    >>> losses.round(5).tolist()  # the second is right and sure
    [0.04332, 3e-05]
    """
    name = "sigmoid_focal"
    z = checks.prediction(logits, name, "logits")
    dtype = z.dtype
    t = checks.like_prediction(targets, z.shape, dtype, name)
    gamma = dtype.type(checks.real_number(gamma, name, "gamma", zero=True))
    yes = 1.0 if alpha is None else checks.fraction(alpha, name, "alpha")
    no = 1.0 if alpha is None else 1.0 - yes
    divisor = checks.divisor(reduction, denominator, name)
    ignored = np.nan if ignore_index is None else float(checks.whole_number(ignore_index, name))
    gradient = checks.gradient(grad, out, logits, z, (t,), name)
    losses = np.empty(z.shape, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]

    threads = z.size >= THREADS_FROM
    chunks = chunk_count(z.size, 4 * BLOCK) if threads else 1
    kernel = all_threads if threads else one_thread
    value, strange = kernel(
        z.reshape(-1), t.reshape(-1), gamma, dtype.type(yes), dtype.type(no), dtype.type(ignored), reduction == "mean",
        divisor, chunks, losses.reshape(-1), gradient.reshape(-1),
    )  # fmt: skip
    if strange:
        raise checks.not_in_unit_interval(t, ignore_index, name)
    return losses if reduction == "none" else value, checks.delivered(gradient, grad, out)
