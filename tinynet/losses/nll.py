"""Negative log-likelihood: the cross-entropy for those who already have log p.

    L = -1/N sum_n log_p[n,t[n]]       log_p, the logarithms of probabilities (N, C)   t labels (N,)

Backward.  Each log_p[n,t[n]], the right class's log-probability, touched L, times -1/N; the others touched nothing:

    dlog_p[n,c] = -[c = t[n]] / N      where [c = t] is 1 for the right class and 0 for the others

Weights of the classes (C,), soft targets q (N, C) and label smoothing make a sum of it, as in softmax_cross_entropy:

    L[n]        = -sum_c a[n,c] log_p[n,c]          a[n,c] = weight[c] ((1 - eps) q[n,c] + eps / K)
    dlog_p[n,c] = -a[n,c]                           q[n,c] = [c = t[n]] for labels

where only the K open classes, of log_p > -inf, get a share of eps.  A term with a = 0 is 0, also at log_p = -inf.

The name is from statistics: p[n,t[n]] is the likelihood of the label under the model.  With log_p = log softmax(z),
this is softmax_cross_entropy in two parts, and it checks that log_p is such: that exp(log_p) sums to 1 in every row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_PREDICTION
from tinynet.kernels.probability_rows import nll_rows
from tinynet.losses.declaration import Result, declares
from tinynet.losses.rowwise import EITHER, rowwise


def nll_plain(log_p, q, weight, eps):
    """The rows' losses and gradients, before the mean: 1/N, or 1 / sum of weights, multiplies both in rowwise.py.

    q[n,c] = [c = t[n]] for labels.
    """
    losses, dlog_p = np.empty(len(log_p)), np.empty(log_p.shape)
    for n in range(len(log_p)):
        is_open = log_p[n] != -np.inf
        a = weight * ((1 - eps) * q[n] + eps * is_open / is_open.sum())
        losses[n] = -np.where(a == 0, 0, a * log_p[n]).sum()
        dlog_p[n] = -a
    has_nan = np.isnan(log_p).any(axis=1)
    losses[has_nan], dlog_p[has_nan] = np.nan, np.nan
    return losses, dlog_p


def log_probabilities_error(log_p, q, position, name):
    """The ValueError for row number `position` of log_p (..., C)."""
    where = tuple(int(axis) for axis in np.unravel_index(position, log_p.shape[:-1]))
    row, hint = log_p[where], "Are they logits, or probabilities? See softmax_cross_entropy, categorical_cross_entropy."
    worst = int(np.argmax(row))
    if row[worst] > 1e-6:
        return ValueError(
            f"{name}: log_probabilities must be at most 0, got {row[worst]} at position {(*where, worst)}. {hint}"
        )
    return ValueError(
        f"{name}: log_probabilities must be logarithms of numbers that sum to 1, but the numbers at position {where}"
        f" sum to {np.exp(row).sum():.6g}. {hint}"
    )


loss = rowwise(
    "nll", "log_probabilities", nll_plain, nll_rows, 32768, 8192, groups=64, targets=EITHER, examines=True,
    errors={BAD_PREDICTION: log_probabilities_error}, uniform=lambda C: -np.log(C),
)  # fmt: skip


@declares("log-probabilities", "L = mean of -z[t], z = log p", "dz[c] = -[c = t] / N", "nllloss negativeloglikelihood")
def nll(
    log_probabilities: ArrayLike, targets: ArrayLike, *, weight: ArrayLike | None = None, ignore_index: int = -100,
    label_smoothing: float = 0.0, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The loss of classifiers, for those who have log p: the mean of -log p[t], and its gradient by log p.

    log_probabilities  (..., C), float32 or float64: logarithms of numbers of which each row sums to 1 (to 1e-3)
    targets            (...) of any integer type: classes from 0 to C-1; or (..., C) of floats: probabilities

    For the options and what is returned, see tinynet.losses.  A right class at -inf gives inf, and a class at -inf gets
    no share of label_smoothing; an ignored row isn't checked.

    >>> loss, gradient = tn.nll(np.log([[0.25, 0.75]]), [0])
    >>> round(loss, 4), gradient
    (1.3863, array([[-1.,  0.]]))
    """
    eps = checks.fraction(label_smoothing, "nll")
    return loss(log_probabilities, targets, reduction, denominator, grad, out, sample_weight, eps, weight, ignore_index)
