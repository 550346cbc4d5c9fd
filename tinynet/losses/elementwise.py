"""What all elementwise losses share: each number of the prediction has a target and a loss of its own.

    L     = 1/n sum_i loss(y[i], t[i])              y prediction, t targets, of one shape; n of the targets count
    dy[i] = 1/n slope(y[i], t[i])                   as y[i] touched its own loss only

A loss gives two functions of its formula: `plain`, of whole arrays in NumPy, and `element`, the same for vectors, of as
many numbers as a register holds (kernels/vectors.py).  Here is what is left, once for all of them: the checks, blocks
of numbers for threads to take, the sum, what the mean divides by, and where results go.
"""

from inspect import signature

import numba
import numpy as np
from numba import prange

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_PREDICTION, BAD_TARGET, FINE
from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, helper, kernel
from tinynet.kernels.vectors import load, load_some, select, splat, store, store_some, sum_of, width

BLOCK = 1024  # numbers at a time: their sum is in their own dtype, the sum of the blocks' in float64


# --- targets: are they what they should be, and how many count? -------------------------------------------------
# Each returns three counts; those of all chunks are added up, and the last three functions say what they mean.


@kernel(fast=True)
def in_unit_interval(y, t, ignored):
    """How many of t are ignored, and how many are neither that nor in [0, 1]."""
    zero, one, ignored = t.dtype.type(0), t.dtype.type(1), t.dtype.type(ignored)
    left_out = strange = 0
    for i in range(t.size):
        left_out += t[i] == ignored
        strange += not (t[i] == ignored or (t[i] >= zero and t[i] <= one))
    return left_out, strange, 0


@kernel(fast=True)
def both_in_unit_interval(y, t, ignored):
    """Likewise; and how many of y that count are outside of [0, 1].  A NaN is let through: it becomes the loss."""
    zero, one, ignored = t.dtype.type(0), t.dtype.type(1), t.dtype.type(ignored)
    left_out = strange = outside = 0
    for i in range(t.size):
        counts = t[i] != ignored
        left_out += not counts
        strange += counts and not (t[i] >= zero and t[i] <= one)
        outside += counts and (y[i] < zero or y[i] > one)
    return left_out, strange, outside


@helper
def unit_interval_reason(left_out, strange, outside):
    return BAD_TARGET if strange > 0 else BAD_PREDICTION if outside > 0 else FINE


NUMBERS = None  # targets that may be any numbers
UNIT_INTERVAL = in_unit_interval, unit_interval_reason
PROBABILITIES = both_in_unit_interval, unit_interval_reason


# --- the loop ---------------------------------------------------------------------------------------------------


def compiled(loss, element, count, targets, weighted, ignores, padding):
    """The kernels of a loss, by whether they take threads.  The name is for the files in which they are kept."""
    examined = targets is not None
    examine, reason_of = targets or UNIT_INTERVAL
    y_padding, t_padding = padding

    @helper
    def terms(y, t, a, b, options):
        if weighted:
            return element(y, t, a, b, options)
        if count == 0:
            return element(y, t)
        if count == 1:
            return element(y, t, options)
        return element(y, t, *options)

    @helper
    def weights(a, i):
        if weighted:
            return load(a, i)
        return a

    @helper
    def some_weights(a, i, n):
        if weighted:
            return load_some(a, i, n, 0)
        return a

    @helper
    def masked(loss, slope, t, ignored, zero):
        if ignores:
            absent = t == ignored
            return select(absent, zero, loss), select(absent, zero, slope)
        return loss, slope

    def block(y, t, a, b, ignored, options, scale, losses, g):
        """The sum of the losses of one block.

        They also go into losses, and scale times the slopes into g, which may be y; either may be empty.
        """
        W, n, zero = width(y), y.size, y.dtype.type(0)
        sums, whole = splat(y, 0), n - n % W
        for i in range(0, whole, W):
            loss, slope = terms(load(y, i), load(t, i), weights(a, i), weights(b, i), options)
            loss, slope = masked(loss, slope * scale, load(t, i), ignored, zero)
            sums = sums + loss
            if losses.size:
                store(loss, losses, i)
            if g.size:
                store(slope, g, i)
        for i in range(whole, n, W):  # once, or not at all
            yi, ti = load_some(y, i, n - i, y_padding), load_some(t, i, n - i, t_padding)
            loss, slope = terms(yi, ti, some_weights(a, i, n - i), some_weights(b, i, n - i), options)
            loss, slope = masked(loss, slope * scale, ti, ignored, zero)
            sums = sums + loss
            if losses.size:
                store_some(loss, losses, i, n - i)
            if g.size:
                store_some(slope, g, i, n - i)
        return sum_of(sums)

    # A long one is compiled apart, once for both kernels; handing over its arguments took 10 % of a short one's time.
    block = (kernel() if ignores else helper)(named(block, loss))

    def loss_and_gradient(y, t, a, b, ignored, options, mean, divisor, chunks, losses, g):
        """The loss's value, of y, t and g (n,), and FINE; or a reason why not.  Then nothing is written.

        a and b hold the weights of one block; all blocks have the same, so their size is a multiple of the classes'.
        Chunks of blocks are what threads take.  `ignored` is NaN where no target is.
        """
        N, size = y.size, BLOCK
        if weighted:
            size = a.size
        blocks, count = (N + size - 1) // size, N
        partial = np.zeros(chunks)
        if examined:
            counts = np.zeros((chunks, 3), np.int64)
            for k in prange(chunks):
                first, last = k * blocks // chunks * size, min((k + 1) * blocks // chunks * size, N)
                some_y, some_t = memory.piece(y, first, last - first), memory.piece(t, first, last - first)
                counts[k, 0], counts[k, 1], counts[k, 2] = examine(some_y, some_t, ignored)
            for k in range(1, chunks):
                for j in range(3):
                    counts[0, j] += counts[k, j]
            reason = reason_of(counts[0, 0], counts[0, 1], counts[0, 2])
            if reason != FINE:
                return 0.0, reason
            if ignores:
                count -= counts[0, 0]
        scale = 1.0
        if mean:
            scale = 1.0 / divisor if divisor > 0.0 else 1.0 / max(count, 1)
        factor = y.dtype.type(scale)
        for k in prange(chunks):
            for number in range(k * blocks // chunks, (k + 1) * blocks // chunks):
                first = number * size
                n = min(size, N - first)
                partial[k] += block(
                    memory.piece(y, first, n), memory.piece(t, first, n), a, b, ignored, options, factor,
                    memory.piece(losses, first, n if losses.size else 0), memory.piece(g, first, n if g.size else 0),
                )  # fmt: skip
        value = 0.0
        for k in range(chunks):
            value += partial[k]
        return value * scale, FINE

    loss_and_gradient = named(loss_and_gradient, loss)
    return {False: kernel()(loss_and_gradient), True: kernel(parallel=True)(loss_and_gradient)}


def named(function, loss):
    """The function under its loss's name, which profilers show, and the names of files in which its code is kept."""
    function.__name__ = function.__qualname__ = f"{loss}.{function.__name__}"
    return function


# --- the weights of the two terms of a cross-entropy ------------------------------------------------------------


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


# --- from arguments to results ----------------------------------------------------------------------------------


def elementwise(
    name, prediction, plain, element, threads_from, least=16 * BLOCK, *, targets=NUMBERS, error=None, weighted=False,
    ignores=False, padding=(0, 0),
):  # fmt: skip
    """A loss of elements, as a function of the arguments of its public function, which has checked its own options.

    name          of that function, which messages begin with; `prediction` is what it calls its first argument
    plain         (y, t, *options) -> losses, slopes: the formula, of NumPy arrays in float64
    element       the same of vectors
    threads_from  numbers; below, waking the threads costs more than they save.  A thread takes `least` of them at least
    targets       NUMBERS, UNIT_INTERVAL, ...: which are accepted; `error(y, t, ignore_index, reason, name)` is for the
                  others
    weighted      whether the formulas take the weights of the terms with t and with 1 - t before the options
    ignores       whether targets may be left out
    padding       a prediction and a target whose loss is 0: what fills the last vector
    """
    count = len(signature(plain).parameters) - (4 if weighted else 2)  # of options
    kernels = compiled(name, element, count, targets, weighted, ignores, padding)
    if numba.config.DISABLE_JIT:
        kernels = dict.fromkeys((False, True), plainly(plain, count, targets, weighted, ignores))

    def loss(
        prediction_given, targets_given, reduction, denominator, grad, out, options=0.0, ignore_index=None, weight=None,
        pos_weight=None,
    ):  # fmt: skip
        # Numbers stand for what there isn't, since a kernel takes them faster than None or an empty tuple.
        y = checks.prediction(prediction_given, name, prediction)
        dtype, size = y.dtype, BLOCK
        t = checks.like_prediction(targets_given, y.shape, dtype, name)
        divisor = checks.divisor(reduction, denominator, name)
        ignored = np.nan if ignore_index is None else float(checks.whole_number(ignore_index, name))
        a = b = 0.0
        if weighted:
            a, b = block_weights(weight, pos_weight, y.shape, dtype, name)
            size = a.size
        gradient = checks.gradient(grad, out, prediction_given, y, (t,), name)
        losses = np.empty(y.size, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]

        threads = y.size >= threads_from
        chunks = chunk_count(-(-y.size // size), least // BLOCK) if threads else 1
        value, reason = kernels[threads](
            y.reshape(-1), t.reshape(-1), a, b, ignored, options, reduction == "mean", divisor, chunks,
            losses, gradient.reshape(-1),
        )  # fmt: skip
        if reason != FINE:
            raise error(y, t, ignore_index, reason, name)
        if reduction == "none":
            value = losses.reshape(y.shape)
        return value, gradient if out is None and grad else checks.delivered(gradient, grad, out)

    loss.kernels = kernels
    return loss


def plainly(plain, count, targets, weighted, ignores):
    """A function in place of the kernels, which runs the plain formula: for NUMBA_DISABLE_JIT=1."""

    def loss_and_gradient(y, t, a, b, ignored, options, mean, divisor, chunks, losses, g):
        if targets is not None:
            examine, reason_of = targets
            reason = reason_of(*examine(y, t, ignored))
            if reason != FINE:
                return 0.0, reason
        counts = t != t.dtype.type(ignored)
        weights = (np.resize(a, y.size), np.resize(b, y.size)) if weighted else ()
        with np.errstate(all="ignore"):
            given = options if count > 1 else (options,)[:count]
            own, slopes = plain(y.astype(float), t.astype(float), *weights, *given)
        own, slopes = np.where(counts, own, 0), np.where(counts, slopes, 0)
        scale = 1.0 / (divisor or max(counts.sum() if ignores else y.size, 1)) if mean else 1.0
        if losses.size:
            losses[:] = own
        if g.size:
            g[:] = slopes * scale
        return float(own.sum() * scale), FINE

    return loss_and_gradient
