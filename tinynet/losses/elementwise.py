"""What all elementwise losses share: each number of the prediction has a target and a loss of its own.

    L     = 1/n sum_i loss(y[i], t[i])              y prediction, t targets, of one shape; n of the targets count
    dy[i] = 1/n slope(y[i], t[i])                   as y[i] touched its own loss only

A loss gives two functions of its formula, both without the 1/n: `plain`, of whole arrays in NumPy, and `element`, the
same for vectors, of as many numbers as a register holds.  Here is what is left, once for all of them: the checks, what
the mean divides by, and where results go.  The loop over the numbers is in kernels/loss_elements.py.
"""

from inspect import signature

import numba
import numpy as np

from tinynet.checks import losses as checks
from tinynet.checks.losses import FINE
from tinynet.kernels.compile import chunk_count
from tinynet.kernels.loss_elements import BLOCK, NUMBERS, element_kernels
from tinynet.losses.sample_weights import weighted_rows


def block_weights(weight, pos_weight, shape, dtype, name):
    """The weights of the terms with t, and with 1 - t, and the size of a block.

    They are those of all elements, where a weight has the prediction's shape; else of one block, of BLOCK numbers or
    more, to have whole rows.
    """
    if weight is None and pos_weight is None:
        ones = checks.ones(dtype, BLOCK)
        return ones, ones, BLOCK
    negative = checks.per_element(weight, shape, dtype, name, "weight")
    positive = negative
    if pos_weight is not None:
        positive = negative * checks.per_element(pos_weight, shape, dtype, name, "pos_weight")
    C = shape[-1] if shape else 1
    if positive.ndim > 1:
        rows = positive.size // C if negative.ndim == 1 else 1
        return positive.reshape(-1), np.tile(negative.reshape(-1), rows), BLOCK
    rows = -(-BLOCK // C)
    return np.tile(positive, rows), np.tile(negative, rows), rows * C


def elementwise(
    name, prediction_name, plain, element, threads_from, least=16 * BLOCK, *, targets=NUMBERS, error=None,
    weighted=False, ignores=False, padding=(0, 0),
):  # fmt: skip
    """A loss of elements, as a function of the arguments of its public function, which has checked its own options.

    name             of that function, which messages begin with
    prediction_name  what it calls its first argument
    plain            (y, t, *options) -> losses, slopes: the formula, of NumPy arrays in float64
    element          the same of vectors
    threads_from     numbers: fewer are one thread's.  A thread takes `least` of them at least
    targets          NUMBERS, UNIT_INTERVAL, ...: which are accepted; error(y, t, ignore_index, reason, name) is for the
                     others
    weighted         whether the formulas take the weights of the terms with t and with 1 - t before the options
    ignores          whether targets may be left out
    padding          a prediction and a target whose loss is 0: what fills the last vector
    """
    count = len(signature(plain).parameters) - (4 if weighted else 2)  # of options
    kernels = element_kernels(
        plain.__name__.removesuffix("_plain"), element, count, targets, weighted, ignores, padding
    )
    if numba.config.DISABLE_JIT:
        kernels = dict.fromkeys((False, True), without_jit(plain, count, targets, weighted, ignores))

    def loss(
        prediction, targets, reduction, denominator, grad, out, sample_weight, options=0.0, ignore_index=None,
        weight=None, pos_weight=None,
    ):  # fmt: skip
        # Numbers stand for what there isn't, since a kernel takes them faster than None or an empty tuple.
        y = checks.prediction(prediction, name, prediction_name)
        dtype, size = y.dtype, BLOCK
        t = checks.like_prediction(targets, y.shape, dtype, name)
        divisor = checks.divisor(reduction, denominator, name)
        ignored = np.nan if ignore_index is None else float(checks.whole_number(ignore_index, name))
        if sample_weight is not None:
            checks.gradient(grad, out, prediction, y, (), name)
            s = checks.sample_weight(sample_weight, y.shape[:-1] or y.shape, name)
            absent = s == 0
            if absent.any():  # 0.5 and 1 are valid for every loss, and the result is multiplied by 0
                y, t = y.copy(), t.copy()
                y[absent], t[absent] = 0.5, 1
            return weighted_rows(
                lambda: loss(y, t, "none", None, grad, None, None, options, ignore_index, weight, pos_weight),
                s if y.ndim < 2 else s[..., None], t != dtype.type(ignored), reduction, divisor, out,
            )  # fmt: skip
        a = b = 0.0
        others = (t,)
        if weighted:
            a, b, size = block_weights(weight, pos_weight, y.shape, dtype, name)
            if weight is not None or pos_weight is not None:
                others = t, a, b
        gradient = checks.gradient(grad, out, prediction, y, others, name)
        losses = np.empty(y.size, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]

        threads = y.size >= threads_from
        chunks = chunk_count(-(-y.size // size), least // BLOCK) if threads else 1
        value, reason = kernels[threads](
            y.reshape(-1), t.reshape(-1), a, b, size, ignored, options, reduction == "mean", divisor, chunks,
            losses, gradient.reshape(-1),
        )  # fmt: skip
        if reason != FINE:
            raise error(y, t, ignore_index, reason, name)
        if reduction == "none":
            value = losses.reshape(y.shape)
        return value, gradient if out is None and grad else checks.delivered(gradient, grad, out)

    loss.kernels = kernels
    return loss


def without_jit(plain, count, targets, weighted, ignores):
    """A function in place of the kernels, which runs the plain formula: for NUMBA_DISABLE_JIT=1."""

    def loss_and_gradient(y, t, a, b, size, ignored, options, mean, divisor, chunks, losses, g):
        if targets is not None:
            examine, reason_of = targets
            reason = reason_of(*examine(y, t, ignored))
            if reason != FINE:
                return 0.0, reason
        counts = t != t.dtype.type(ignored)
        weights = (np.resize(a, y.size), np.resize(b, y.size)) if weighted else ()
        with np.errstate(all="ignore"):
            taken = options if count > 1 else (options,)[:count]
            element_losses, slopes = plain(y.astype(float), t.astype(float), *weights, *taken)
        element_losses, slopes = np.where(counts, element_losses, 0), np.where(counts, slopes, 0)
        scale = 1.0 / (divisor or max(counts.sum() if ignores else y.size, 1)) if mean else 1.0
        if losses.size:
            losses[:] = element_losses
        if g.size:
            g[:] = slopes * scale
        return float(element_losses.sum() * scale), FINE

    return loss_and_gradient
