"""What the kernels of elementwise losses share: a loop over blocks of vectors, on threads, and the scans of targets.

A loss gives its `element`, a function of vectors (kernels/vectors.py); see losses/elementwise.py for the rest.  Blocks
are what a sum is cut into: within one it is in the prediction's own dtype, over them in float64.  Chunks of blocks are
what threads take.
"""

import numba
import numpy as np
from numba import prange

from tinynet.checks.losses import BAD_PREDICTION, BAD_TARGET, FINE
from tinynet.kernels import memory
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.vectors import (
    greatest,
    load,
    load4,
    load_some,
    maximum,
    select,
    splat,
    splat4,
    store,
    store_some,
    sum_of,
    width,
    will_read,
)

BLOCK = 1024  # numbers, of whose losses the sum is in their own dtype
AHEAD = 2048  # numbers: how far ahead memory is asked for


# --- targets: are they what they should be, and how many count? -------------------------------------------------
# Each returns three counts; those of all chunks are added up, and the functions below say what they mean.


def range_and_sum(q):
    """The least number of q (C,), at most 0; the greatest, at least 0; and the sum, in which alone a NaN shows."""
    return np.fmin.reduce(q, initial=0), np.fmax.reduce(q, initial=0), q.sum()


@kernel()
def _range_and_sum(q):
    C, W, line = q.size, width(q), 64 // q.itemsize
    whole = C - C % (4 * W)
    fours_below = fours_above = fours = splat4(q, 0)
    below = above = ones = splat(q, 0)
    for c in range(0, whole, 4 * W):
        for ahead in range(c + AHEAD, c + AHEAD + 4 * W, line):
            will_read(q, ahead)
        x = load4(q, c)
        fours_below, fours_above, fours = maximum(0 - x, fours_below), maximum(x, fours_above), fours + x
    for c in range(whole, C, W):
        x = load_some(q, c, C - c, 0)
        below, above, ones = maximum(0 - x, below), maximum(x, above), ones + x
    least = -max(greatest(fours_below), greatest(below))
    return least, max(greatest(fours_above), greatest(above)), sum_of(fours) + sum_of(ones)


if not numba.config.DISABLE_JIT:
    range_and_sum = _range_and_sum


@kernel()
def in_unit_interval(y, t, ignored):
    """How many of t are ignored, and how many are neither that nor in [0, 1], or 1 where there are some."""
    if ignored == ignored:
        return counts_of_unit_interval(t, ignored)
    least, most, total = range_and_sum(t)
    return 0, int(least < 0 or most > 1 or total != total), 0


@kernel(fast=True)
def counts_of_unit_interval(t, ignored):
    zero, one, ignored = t.dtype.type(0), t.dtype.type(1), t.dtype.type(ignored)
    absent = bad = 0
    for i in range(t.size):
        absent += t[i] == ignored
        bad += not (t[i] == ignored or (t[i] >= zero and t[i] <= one))
    return absent, bad, 0


@kernel(fast=True)
def both_in_unit_interval(y, t, ignored):
    """Likewise; and how many of y that count are outside of [0, 1].  A NaN is let through: it becomes the loss."""
    zero, one, ignored = t.dtype.type(0), t.dtype.type(1), t.dtype.type(ignored)
    absent = bad = outside = 0
    for i in range(t.size):
        counts = t[i] != ignored
        absent += not counts
        bad += counts and not (t[i] >= zero and t[i] <= one)
        outside += counts and (y[i] < zero or y[i] > one)
    return absent, bad, outside


@helper
def either_reason(absent, bad, outside):
    return BAD_TARGET if bad > 0 else BAD_PREDICTION if outside > 0 else FINE


@kernel(fast=True)
def not_counts(y, t, ignored):
    """How many of t are not finite and at least 0; and how many of y are below 0."""
    zero, infinity = t.dtype.type(0), t.dtype.type(np.inf)
    bad = below = 0
    for i in range(t.size):
        bad += not (t[i] >= zero and t[i] < infinity)
        below += y[i] < zero
    return 0, bad, below


@helper
def counts_reason(_, bad, below):
    return BAD_TARGET if bad > 0 else FINE


@kernel(fast=True)
def count_sides(z, t, ignored):
    """How many of t are -1, how many 0, and how many neither of them nor 1."""
    zero, one = t.dtype.type(0), t.dtype.type(1)
    below = zeros = others = 0
    for i in range(t.size):
        below += t[i] == -one
        zeros += t[i] == zero
        others += not (t[i] == -one or t[i] == zero or t[i] == one)
    return below, zeros, others


@helper
def two_sides_reason(below, zeros, others):
    return BAD_TARGET if others > 0 or (below > 0 and zeros > 0) else FINE


NUMBERS = None  # targets that may be any numbers
UNIT_INTERVAL = in_unit_interval, either_reason
PROBABILITIES = both_in_unit_interval, either_reason
TWO_SIDES = count_sides, two_sides_reason
COUNTS = not_counts, counts_reason  # of events: any numbers of at least 0
COUNTS_AND_RATES = not_counts, either_reason  # and the predictions at least 0, too


# --- the loop ---------------------------------------------------------------------------------------------------


def element_kernels(loss, element, count, targets, weighted, ignores, padding):
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
    def some_of(a, first, n):
        if weighted:
            return memory.piece(a, first, n)
        return a

    @helper
    def some_weights(a, i, n):
        if weighted:
            return load_some(a, i, n, 0)
        return a

    @helper
    def masked(loss, slope, t, ignored, zero):
        if ignores:
            missing = t == ignored
            return select(missing, zero, loss), select(missing, zero, slope)
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

    def loss_and_gradient(y, t, a, b, size, ignored, options, mean, divisor, chunks, losses, g):
        """The loss's value, of y, t and g (n,), and FINE; or a reason why not.  Then nothing is written.

        Blocks are of `size` numbers.  a and b hold the weights of all numbers, or of one block, a whole number of rows,
        if all blocks have the same.  Chunks of blocks are what threads take.  `ignored` is NaN where no target is.
        """
        N = y.size
        blocks, count, own = (N + size - 1) // size, N, 0
        if weighted:
            own = 1 if a.size == N else 0  # 1 where a block's weights begin where it does, and 0 where at the start
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
                    memory.piece(y, first, n), memory.piece(t, first, n), some_of(a, own * first, n),
                    some_of(b, own * first, n), ignored, options, factor,
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
