"""Binary cross-entropy of probabilities: sigmoid_cross_entropy for those who already have p.

    L = -t log p - (1 - t) log(1 - p)               p probabilities, t targets in [0, 1], of one shape

Backward.  p touched the first logarithm, times -t/p, and the second, times (1 - t) / (1 - p):

    dp = -t / p + (1 - t) / (1 - p)

Weights as in the logit form: with a = w w_pos t and b = w (1 - t), L = -a log p - b log(1 - p), and a term whose
factor is 0 is 0, even where its logarithm is infinite.  Label smoothing moves t to (1 - eps) t + eps / 2.

Nothing is clipped, and no small number added: p = 0 where t = 1 costs inf, and has the gradient -inf.  That is one
reason to train on logits instead.  Others: a float p is 1 from the logit 17 on (float32), so that what happens beyond
is lost; and dp is huge where p is small, only for the sigmoid's backward pass to multiply it by p (1 - p) again.

The logarithms.  With log1p(u) = log(1 + u), which keeps the digits of a small u,

    -log p       = log1p((1 - p) / p)
    -log (1 - p) = log1p(p / (1 - p))               correct for p = 1e-30, where 1 - p is 1

Two passes over the probabilities, of which the first only checks them, together with the targets.
"""

import numpy as np
from numba import prange

from tinynet.kernels import floats, memory
from tinynet.kernels.compile import chunk_count, helper, kernel
from tinynet.losses import checks
from tinynet.losses.sigmoid_cross_entropy import BLOCKS, block_sum, block_weights

THREADS_FROM = 8192  # numbers; below, waking the threads costs more than they save


@helper
def surprisal(p):
    """-log p for 0 <= p <= 1, correct to a few ulp: inf for 0, and NaN for NaN.  Other losses' kernels call it too.

    The reciprocal of a tiny p could overflow: below 1e-37 it is the logarithm of 2^53 p that is taken.
    """
    F = type(p)
    tiny = p < F(1e-37)
    x = p * F(2.0**53) if tiny else p
    h = floats.log1p((F(1) - x) / x) + (F(53 * 0.6931471805599453) if tiny else F(0))
    return F(np.inf) if p == F(0) else h


@kernel()
def terms(p, t, positive, negative, ignored, epsilon, scale, losses, g):
    """The losses of one block, and scale times their gradient.  g is not p, or the loop wouldn't vectorise."""
    one, zero, infinity = p.dtype.type(1), p.dtype.type(0), p.dtype.type(np.inf)
    keep, half, scale = p.dtype.type(1.0 - epsilon), p.dtype.type(0.5 * epsilon), p.dtype.type(scale)
    for i in range(p.size):
        q = keep * t[i] + half
        a, b = positive[i] * q, negative[i] * (one - q)
        rest = one - p[i]
        no = infinity if rest == zero else floats.log1p(p[i] / rest)
        left = zero if a == zero else a * surprisal(p[i])
        right = zero if b == zero else b * no
        up = zero if a == zero else a * scale / p[i]
        down = zero if b == zero else b * scale / rest
        counts = t[i] != ignored
        losses[i] = left + right if counts else zero
        g[i] = down - up if counts else zero


@kernel(fast=True)
def count_bad(p, t, ignored):
    """How many of t are ignored; and, of the others, how many are outside of [0, 1], and have their p there.

    A NaN among the probabilities is let through: it becomes the loss.
    """
    zero, one = t.dtype.type(0), t.dtype.type(1)
    left_out = strange = outside = 0
    for i in range(t.size):
        counts = t[i] != ignored
        left_out += not counts
        strange += counts and not (t[i] >= zero and t[i] <= one)
        outside += counts and (p[i] < zero or p[i] > one)
    return left_out, strange, outside


def loss_and_gradient(p, t, positive, negative, ignored, epsilon, mean, divisor, chunks, losses, g):
    """The loss's value, of p, t and g (N,); and whether a target is, or a probability.  Then nothing is written.

    `positive` and `negative` hold the weights of one block; all blocks have the same, so their size is a multiple of
    the classes'.  Chunks of blocks are what threads take.  `ignored` is NaN where no target is.
    """
    N, size = p.size, positive.size
    blocks = (N + size - 1) // size
    partial, counts = np.zeros(chunks), np.zeros((chunks, 3), np.int64)
    for k in prange(chunks):
        first, last = k * blocks // chunks * size, min((k + 1) * blocks // chunks * size, N)
        part = count_bad(memory.piece(p, first, last - first), memory.piece(t, first, last - first), ignored)
        counts[k, 0], counts[k, 1], counts[k, 2] = part
    count, strange, outside = N, 0, 0
    for k in range(chunks):
        count -= counts[k, 0]
        strange += counts[k, 1]
        outside += counts[k, 2]
    if strange > 0 or outside > 0:
        return 0.0, strange > 0, outside > 0
    scale = 1.0
    if mean:
        scale = 1.0 / divisor if divisor > 0.0 else 1.0 / max(count, 1)
    for k in prange(chunks):
        l, dp = np.empty((2, size), p.dtype)
        for block in range(k * blocks // chunks, (k + 1) * blocks // chunks):
            first = block * size
            n = min(size, N - first)
            block_losses = memory.piece(losses, first, n) if losses.size else memory.piece(l, 0, n)
            pb, tb = memory.piece(p, first, n), memory.piece(t, first, n)
            terms(pb, tb, positive, negative, ignored, epsilon, scale, block_losses, memory.piece(dp, 0, n))
            partial[k] += block_sum(block_losses)
            if g.size:
                given = memory.piece(g, first, n)
                for i in range(n):
                    given[i] = dp[i]
    value = 0.0
    for k in range(chunks):
        value += partial[k]
    return value * scale, False, False


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


def binary_cross_entropy(
    probabilities,
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
):
    """The cross-entropy of probabilities against targets, and its gradient with respect to the probabilities.

    probabilities    any shape, float32 or float64, in [0, 1]: what a sigmoid gave.  To train, leave the sigmoid out
                     and use sigmoid_cross_entropy: it is exact where this one is infinite
    targets          the same shape, in [0, 1]: labels 0 and 1 of any type, or probabilities
    weight           factors of the losses; one number, or one for each index of the last axis (C,)
    pos_weight       further factors of the terms -t log p, of the same shapes: above 1, a missed yes costs more
    ignore_index     targets with this value, say -1 for "unknown", add no loss and no gradient, and don't count
    label_smoothing  eps: targets become (1 - eps) t + eps / 2
    reduction        "mean" over the targets that count (0 where there are none), "sum", or "none"
    denominator      what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad             False: the gradient isn't returned, but None in its place
    out              the array that receives the gradient; may be `probabilities`

    Returns (value, gradient): a float, or an array like probabilities for "none"; an array like probabilities, the
    gradient of the value (of its sum for "none").  A probability of exactly 0 for what is true gives inf; a NaN gives
    NaN.  Raises ValueError or TypeError for what it can't use, before anything is written.

    >>> loss, gradient = tn.binary_cross_entropy(np.array([0.25]), [1])
    >>> round(loss, 4), gradient
    (1.3863, array([-4.]))
    """
    name = "binary_cross_entropy"
    p = checks.prediction(probabilities, name, "probabilities")
    dtype = p.dtype
    t = checks.like_prediction(targets, p.shape, dtype, name)
    divisor = checks.divisor(reduction, denominator, name)
    epsilon = checks.fraction(label_smoothing, name)
    ignored = np.nan if ignore_index is None else float(checks.whole_number(ignore_index, name))
    positive, negative = block_weights(weight, pos_weight, p.shape, dtype, name)
    gradient = checks.gradient(grad, out, probabilities, p, (t,), name)
    losses = np.empty(p.shape, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]

    threads = p.size >= THREADS_FROM
    chunks = chunk_count(-(-p.size // positive.size), BLOCKS) if threads else 1
    kernel = all_threads if threads else one_thread
    value, strange, outside = kernel(
        p.reshape(-1), t.reshape(-1), positive, negative, dtype.type(ignored), epsilon, reduction == "mean", divisor,
        chunks, losses.reshape(-1), gradient.reshape(-1),
    )  # fmt: skip
    if strange:
        raise checks.not_in_unit_interval(t, ignore_index, name)
    if outside:
        bad = ((p < 0) | (p > 1)) & (t != ignored)
        where = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(bad)), p.shape))
        raise ValueError(
            f"{name}: probabilities must be in [0, 1], got {p[where]} at position {where}."
            " Are they logits? Those are sigmoid_cross_entropy's."
        )
    return losses if reduction == "none" else value, checks.delivered(gradient, grad, out)
