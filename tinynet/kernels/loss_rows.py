"""What the kernels of rowwise losses share: a loop over groups of rows, on threads, and the scans of targets.

A loss gives its `rows`, compiled, for some rows at a time; see losses/rowwise.py for the rest.
"""

import numpy as np
from numba import prange

from tinynet.checks.losses import BAD_TARGET, FINE
from tinynet.kernels import memory
from tinynet.kernels.compile import kernel
from tinynet.kernels.loss_elements import named, range_and_sum

# --- targets: are they what they should be, and how many count? -----------------------------------------------


@kernel()
def count_labels(t, C, w, ignore_index):
    """The position of the first label that is no class, or -1; and the weights' sum over the labels that count."""
    count = bad = 0
    for n in range(t.size):
        counts = t[n] != ignore_index
        bad += counts & ((t[n] < 0) | (t[n] >= C))
        count += counts
    if bad:
        for n in range(t.size):
            if t[n] != ignore_index and (t[n] < 0 or t[n] >= C):
                return n, 0.0
    total = np.float64(count)
    if w.size:
        total = 0.0
        for n in range(t.size):
            if t[n] != ignore_index:
                total += w[t[n]]
    return -1, total


@kernel()
def bad_row(q, first, last):
    """A row of q (N, C) in [first, last) that isn't made of numbers in [0, 1] with the sum 1; or -1."""
    C = q.shape[1]
    for n in range(first, last):
        least, most, total = range_and_sum(memory.piece(q, n * C, C))
        if least < 0 or most > 1 + 1e-6 or not abs(total - 1.0) <= 1e-3:  # NaN shows in the sum alone
            return n
    return -1


@kernel()
def total_or(divisor, total):
    """What the mean divides by: `divisor` where one was given; infinity, for a mean of 0, where nothing counts."""
    if divisor > 0.0:
        return divisor
    return total if total > 0.0 else np.inf


# --- the loop -------------------------------------------------------------------------------------------------


def row_kernels(loss, rows):
    """The kernels of a loss, by whether they take threads.  The name is for the files in which they are kept."""

    def loss_and_gradient(x, t, q, w, ignore_index, options, divisor, step, check_only, losses, g):
        """A row that can't be used, or -1, and the reason; and the loss's value.

        That is divided by `divisor`, or, where it is 0, by what counts.  Groups of `step` rows are what threads take;
        each owns its rows of losses and g.  With a bad label, nothing is written; rows that `rows` finds bad are found
        as it goes, or first, with check_only.
        """
        N, C = x.shape
        total = np.float64(N)
        if t.size:
            row, total = count_labels(t, C, w, ignore_index)
            if row >= 0:
                return row, BAD_TARGET, 0.0
        scale = 1.0 / total_or(divisor, total)
        groups = (N + step - 1) // step
        found = np.empty((groups, 3))  # a bad row, the reason, the sum: whole numbers are exact in float64
        for k in prange(groups):
            first, last = k * step, min(k * step + step, N)
            row, reason, part = rows(x, t, q, w, ignore_index, options, scale, check_only, losses, g, first, last)
            found[k, 0], found[k, 1], found[k, 2] = row, reason, part
        value = 0.0
        for k in range(groups):
            if found[k, 0] >= 0:
                return int(found[k, 0]), int(found[k, 1]), 0.0
            value += found[k, 2]
        return -1, FINE, value * scale

    loss_and_gradient = named(loss_and_gradient, loss)
    return {False: kernel()(loss_and_gradient), True: kernel(parallel=True)(loss_and_gradient)}
