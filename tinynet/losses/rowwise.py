"""What all rowwise losses share: a row of the prediction, over the classes, has one target and one loss.

    L       = 1/A sum_n loss(x[n], target[n])       x (N, C); A is N, or the weights' sum of the labels that count
    dx[n,c] = 1/A times the slope of row n's loss, as x[n,c] touched no other

Targets are labels (N,), of which some may be ignored, or rows q (N, C), such as probabilities.  A loss gives two
functions of its formula: `plain`, in NumPy, and `rows`, compiled, for some rows at a time.  Here is what is left, once
for all of them: the checks, groups of rows for threads to take, the sum, what the mean divides by, where results go.
"""

from inspect import signature

import numba
import numpy as np
from numba import prange

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_TARGET, FINE
from tinynet.kernels import memory
from tinynet.kernels.compile import kernel
from tinynet.losses.elementwise import named

LABELS, EITHER, DISTRIBUTIONS, NUMBERS = range(4)  # the targets: labels; these or probabilities; those; any numbers


# --- targets: are they what they should be, and how many count? -----------------------------------------------


@kernel()
def count_labels(t, C, w, ignore_index):
    """The position of the first label that is no class, or -1; and the weights' sum over the labels that count."""
    count = strange = 0
    for n in range(t.size):
        counts = t[n] != ignore_index
        strange += counts & ((t[n] < 0) | (t[n] >= C))
        count += counts
    if strange:
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
def strange_rows(q, first, last):
    """A row of q (N, C) in [first, last) that isn't made of numbers in [0, 1] with the sum 1; or -1."""
    C = q.shape[1]
    for n in range(first, last):
        outside, total = check_row(memory.piece(q, n * C, C))
        if outside > 0 or not abs(total - 1.0) <= 1e-3:
            return n
    return -1


@kernel(fast=True)
def check_row(q):
    """How many of q (C,) lie outside of [0, 1], and their sum."""
    zero, most = q.dtype.type(0), q.dtype.type(1 + 1e-6)
    outside, total = 0, zero
    for c in range(q.size):
        outside += not (q[c] >= zero and q[c] <= most)
        total += q[c]
    return outside, total


@kernel()
def total_or(divisor, total):
    """What the mean divides by: `divisor` where one was given; infinity, for a mean of 0, where nothing counts."""
    if divisor > 0.0:
        return divisor
    return total if total > 0.0 else np.inf


# --- the loop -------------------------------------------------------------------------------------------------


def compiled(loss, rows):
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


# --- from arguments to results --------------------------------------------------------------------------------


def rowwise(
    name, prediction, plain, rows, threads_from, numbers, *, targets=LABELS, groups=2**62, examines=False,
    keeps_losses=False, errors=None, few=None, few_classes=0, multiple=1, classes="C", target="target probabilities",
):  # fmt: skip
    """A loss of rows, as a function of the arguments of its public function, which has checked its own options.

    name          of that function, which messages begin with; `prediction` is what it calls its first argument, and
                  `target` a second one of the same shape
    plain         (x, target, ...) -> losses, dx: the formula, for those rows that count.  After the labels, or the
                  rows q if probabilities are possible, come the classes' weights, if it has any, and the options
    rows          (x, t, q, w, ignore_index, options, scale, check_only, losses, g, first, last) -> a bad row or -1, the
                  reason, and the sum of the losses of rows `first` to `last`.  Fills losses (N,), and g (N, C), which
                  may be x, with scale times the gradient; either may be empty.  With check_only it only looks for a
                  bad row
    threads_from  numbers; below, waking the threads costs more than they save.  A thread takes groups of rows, of
                  `numbers` numbers, in at most so many `groups`, of a `multiple` of rows
    targets       LABELS, EITHER (labels or probabilities), DISTRIBUTIONS, or NUMBERS like the prediction
    examines      whether `rows` may find a bad row where targets are labels; errors[reason](x, q, row, name) is for it
    keeps_losses  whether `rows` needs the losses' array for itself
    few           what to run instead of `rows` for labels of up to `few_classes` without options
    """
    kernels = compiled(name, rows)
    few_kernels = compiled(f"{name}.few", few) if few else kernels
    if numba.config.DISABLE_JIT:
        kernels = few_kernels = dict.fromkeys((False, True), plainly(plain, rows, targets))
    errors = errors or {}

    def loss(
        prediction_given, targets_given, reduction, denominator, grad, out, options=0.0, weight=None, ignore_index=-100
    ):
        x = checks.prediction(prediction_given, name, prediction)
        shape, dtype = x.shape, x.dtype
        if not shape:
            raise ValueError(f"{name}: {prediction} must have shape (..., {classes}), got one number")
        C, nothing = shape[-1], checks.NOTHING[dtype, 1]
        divisor = checks.divisor(reduction, denominator, name)
        if reduction != "mean":
            divisor = 1.0
        if targets <= EITHER:
            t, q, ignore_index = checks.class_targets(targets_given, shape, dtype, ignore_index, name)
            if targets == LABELS and q.size:
                raise TypeError(f"{name}: targets must be integer labels, got probabilities {shape}; try .argmax(-1)")
        else:
            t = checks.NOTHING[checks.INT64, 1]
            q = checks.like_prediction(targets_given, shape, dtype, name, target).reshape(-1, C)
        if weight is not None:
            w = checks.per_class(weight, C, dtype, name)
        elif q.size or (targets == EITHER and options > 0.0):
            w = checks.ones(dtype, C)
        else:
            w = nothing
        gradient = checks.gradient(grad, out, prediction_given, x, (t, q, w), name)
        N, none = x.size // C, reduction == "none"
        losses = np.empty(N, dtype) if none or keeps_losses else nothing
        if x.ndim != 2:
            x, gradient_rows = x.reshape(N, C), gradient.reshape(-1, C)
        else:
            gradient_rows = gradient

        threads = N > 1 and x.size >= threads_from
        step = N
        if threads:
            step = max(1, numbers // C, -(-N // groups))
            step += -step % multiple
        is_few = few_classes >= C and not q.size and options == 0.0
        run = (few_kernels if is_few else kernels)[threads]
        row = -1
        if out is not None and (examines or q.size):  # which must not change if a row is bad
            some, g = losses if keeps_losses else nothing, checks.NOTHING[dtype, 2]
            row, reason, value = run(x, t, q, w, ignore_index, options, divisor, step, True, some, g)
        if row < 0:
            row, reason, value = run(x, t, q, w, ignore_index, options, divisor, step, False, losses, gradient_rows)
        if row >= 0:
            if reason in errors:
                raise errors[reason](x.reshape(shape), q.reshape(-1, C), row, name)
            raise checks.target_error(targets_given if t.size else q.reshape(shape), row, shape, ignore_index, name)
        if none:
            value = losses.reshape(shape[:-1])
        return value, gradient if out is None and grad else checks.delivered(gradient, grad, out)

    loss.kernels, loss.few_kernels = kernels, few_kernels
    return loss


def plainly(plain, rows, targets):
    """A function in place of the kernels, which runs the plain formula: for NUMBA_DISABLE_JIT=1."""
    takes = list(signature(plain).parameters)[2:]

    def loss_and_gradient(x, t, q, w, ignore_index, options, divisor, step, check_only, losses, g):
        (N, C), total = x.shape, len(x)
        if t.size:
            row, total = count_labels(t, C, w, ignore_index)
            if row >= 0:
                return row, BAD_TARGET, 0.0
        row, reason, _ = rows(x, t, q, w, ignore_index, options, 1.0, True, losses, g, 0, N)
        if row >= 0 or check_only:
            return row, reason, 0.0
        counts = t != ignore_index if t.size else np.ones(N, bool)
        target = q.astype(float)[counts] if q.size else t[counts]
        if targets == EITHER and t.size:
            target = np.eye(C)[target]
        weights = (w.astype(float) if w.size else np.ones(C),) if "w" in takes else ()
        given = (options if isinstance(options, tuple) else (options,)) if len(takes) > len(weights) else ()
        own, dx = np.zeros(N), np.zeros((N, C))
        with np.errstate(all="ignore"):
            own[counts], dx[counts] = plain(x.astype(float)[counts], target, *weights, *given)
        scale = 1.0 / total_or(divisor, total)
        if losses.size:
            losses[:] = own
        if g.size:
            g[:] = dx * scale
        return -1, FINE, float(own.sum() * scale)

    return loss_and_gradient
