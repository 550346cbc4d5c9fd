"""What all rowwise losses share: a row of the prediction, over the classes, has one target and one loss.

    L       = 1/A sum_n loss(x[n], target[n])       x (N, C); A is N, or the weights' sum of the labels that count
    dx[n,c] = 1/A times the slope of row n's loss, as x[n,c] touched no other

Targets are labels (N,), of which some may be ignored, or rows q (N, C), such as probabilities.  A loss gives two
functions of its formula, both without the 1/A: `plain`, in NumPy, and `rows`, compiled, for some rows at a time.  Here
is what is left, once for all of them: the checks, what the mean divides by, and where results go.  The loop over groups
of rows is in kernels/loss_rows.py.
"""

from inspect import signature

import numba
import numpy as np

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_TARGET, FINE
from tinynet.kernels.loss_rows import count_labels, row_kernels, total_or
from tinynet.losses.sample_weights import weighted_rows

LABELS, EITHER, DISTRIBUTIONS, NUMBERS = range(4)  # the targets: labels; these or probabilities; those; any numbers
NOTHING, NOTHING_64 = checks.NOTHING[checks.FLOAT32, 1], checks.NOTHING[checks.FLOAT64, 1]


def share_of_rows(t, weight, ignore_index, rows):
    """What each of the rows counts for in the mean: its label's weight, or 0 if that is ignored; else 1."""
    if not t.size:
        return np.ones(rows)
    counts = t != ignore_index
    return counts * 1.0 if weight is None else np.where(counts, weight[np.where(counts, t, 0)], 0.0)


def rowwise(
    name, prediction_name, plain, rows, threads_from, numbers, *, targets=LABELS, groups=2**62, examines=False,
    keeps_losses=False, errors=None, few=None, few_soft=None, few_classes=0, multiple=1, classes="C",
    target_name="target probabilities", uniform=lambda C: 1 / C,
):  # fmt: skip
    """A loss of rows, as a function of the arguments of its public function, which has checked its own options.

    name             of that function, which messages begin with
    prediction_name  what it calls its first argument, and target_name a second one of the same shape
    plain            (x, target, ...) -> losses, dx: the formula, for those rows that count.  After the labels, or the
                     rows q if probabilities are possible, come the classes' weights, if it has any, and the options
    rows             (x, t, q, w, ignore_index, options, scale, check_only, losses, g, first, last) -> a bad row or -1,
                     the reason, and the sum of the losses of rows `first` to `last`.  Fills losses (N,), and g (N, C),
                     which may be x, with scale times the gradient; either may be empty.  With check_only it only looks
                     for a bad row
    threads_from     numbers: fewer are one thread's.  A thread takes groups of rows, of `numbers` numbers, in at most
                     so many `groups`, of a `multiple` of rows
    targets          LABELS, EITHER (labels or probabilities), DISTRIBUTIONS, or NUMBERS like the prediction
    examines         whether `rows` may find a bad row where targets are labels: errors[reason](x, q, row, name)
    keeps_losses     whether `rows` needs the losses' array for itself
    few, few_soft    what to run instead of `rows` for up to `few_classes`: for labels without options; for the rest
    uniform          C -> what a valid row may hold C times
    """
    kernels = row_kernels(name, rows)
    few_kernels = row_kernels(f"{name}.few", few) if few else kernels
    few_soft_kernels = row_kernels(f"{name}.few_soft", few_soft) if few_soft else kernels
    if numba.config.DISABLE_JIT:
        kernels = few_kernels = few_soft_kernels = dict.fromkeys((False, True), without_jit(plain, rows, targets))
    errors = errors or {}

    def loss(
        prediction, target, reduction, denominator, grad, out, sample_weight, options=0.0, weight=None,
        ignore_index=-100,
    ):  # fmt: skip
        x = checks.prediction(prediction, name, prediction_name)
        shape, dtype = x.shape, x.dtype
        if not shape:
            raise ValueError(f"{name}: {prediction_name} must have shape (..., {classes}), got one number")
        C, nothing = shape[-1], NOTHING if dtype is checks.FLOAT32 else NOTHING_64
        divisor = checks.divisor(reduction, denominator, name)
        if reduction != "mean":
            divisor = 1.0
        if targets <= EITHER:
            t, q, ignore_index = checks.class_targets(target, shape, dtype, ignore_index, name)
            if targets == LABELS and q.size:
                raise TypeError(f"{name}: targets must be integer labels, got probabilities {shape}; try .argmax(-1)")
        else:
            t = checks.NOTHING[checks.INT64, 1]
            q = checks.like_prediction(target, shape, dtype, name, target_name).reshape(-1, C)
        if sample_weight is not None:
            checks.gradient(grad, out, prediction, x, (), name)
            s = checks.sample_weight(sample_weight, shape[:-1], name)
            if weight is not None:
                weight = checks.per_class(weight, C, dtype, name)
            absent = s == 0
            if absent.any() and t.size:
                t = np.where(absent.reshape(-1), ignore_index, t)
            elif absent.any():
                x, q = x.copy(), q.reshape(shape).copy()
                x[absent], q[absent] = uniform(C), 1 / C
            target = (t if t.size else q).reshape(shape[:-1] if t.size else shape)
            return weighted_rows(
                lambda: loss(x, target, "none", None, grad, None, None, options, weight, ignore_index),
                s, share_of_rows(t, weight, ignore_index, s.size).reshape(s.shape), reduction,
                divisor if denominator is not None else 0.0, out,
            )  # fmt: skip
        soft, size = q.size, x.size
        if weight is not None:
            w = checks.per_class(weight, C, dtype, name)
        elif soft or (targets == EITHER and options > 0.0):
            w = checks.ones(dtype, C)
        else:
            w = nothing
        gradient = checks.gradient(grad, out, prediction, x, (t, q, w), name)
        N, none = size // C, reduction == "none"
        losses = np.empty(N, dtype) if none or keeps_losses else nothing
        if x.ndim != 2:
            x, gradient_rows = x.reshape(N, C), gradient.reshape(-1, C)
        else:
            gradient_rows = gradient

        threads = N > 1 and size >= threads_from
        step = N
        if threads:
            step = -(-N // max(1, min(groups, size // numbers)))  # all groups of nearly the same size
            step += -step % multiple
        run = kernels[threads]
        if few_classes >= C:
            run = (few_soft_kernels if soft or options > 0.0 else few_kernels)[threads]
        row = -1
        if out is not None and (examines or soft):  # which must not change if a row is bad
            some, g = losses if keeps_losses else nothing, checks.NOTHING[dtype, 2]
            row, reason, value = run(x, t, q, w, ignore_index, options, divisor, step, True, some, g)
        if row < 0:
            row, reason, value = run(x, t, q, w, ignore_index, options, divisor, step, False, losses, gradient_rows)
        if row >= 0:
            if reason in errors:
                raise errors[reason](x.reshape(shape), q.reshape(-1, C), row, name)
            raise checks.target_error(target if t.size else q.reshape(shape), row, shape, ignore_index, name)
        if none:
            value = losses.reshape(shape[:-1])
        return value, gradient if out is None and grad else checks.delivered(gradient, grad, out)

    loss.kernels, loss.few_kernels, loss.few_soft_kernels = kernels, few_kernels, few_soft_kernels
    return loss


def without_jit(plain, rows, targets):
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
        weights = (w.astype(float) if w.size else np.ones(C),) if "weight" in takes else ()
        taken = (options if isinstance(options, tuple) else (options,)) if len(takes) > len(weights) else ()
        row_losses, dx = np.zeros(N), np.zeros((N, C))
        with np.errstate(all="ignore"):
            row_losses[counts], dx[counts] = plain(x.astype(float)[counts], target, *weights, *taken)
        scale = 1.0 / total_or(divisor, total)
        if losses.size:
            losses[:] = row_losses
        if g.size:
            g[:] = dx * scale
        return -1, FINE, float(row_losses.sum() * scale)

    return loss_and_gradient
