"""Categorical cross-entropy of probabilities: softmax_cross_entropy for those who already have p.

    L = -1/N sum_n log p[n,t[n]]                    p probabilities (N, C), each row with the sum 1   t labels (N,)

Backward.  The probability of the right class touched its own logarithm, times 1/p; the others touched nothing:

    dp[n,c] = -[c = t[n]] / (N p[n,c])              where [c = t] is 1 for the right class and 0 for the others

Weights of the classes (C,), soft targets q (N, C) and label smoothing make a sum of it, as in softmax_cross_entropy:

    L[n]    = -sum_c a[n,c] log p[n,c]              a[n,c] = weight[c] ((1 - eps) q[n,c] + eps / K)
    dp[n,c] = -a[n,c] / p[n,c]                      q[n,c] = [c = t[n]] for labels

where only the K open classes, of p > 0, get a share of eps.  A term with a = 0 is 0, also at p = 0.

Nothing is clipped, and no small number added: p = 0 for the right class costs inf.  That is one reason to train on
logits instead, for which the loss is exact however small p is.  Another is the detour: dp is huge where p is small,
only for softmax's backward pass to multiply it by p again; together they are p - [c = t].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_PREDICTION
from tinynet.kernels.probability_rows import categorical_rows
from tinynet.losses.declaration import Result, declares
from tinynet.losses.rowwise import EITHER, rowwise


def categorical_cross_entropy_plain(p, q, weight, eps):
    """The rows' losses and gradients, before the mean: 1/N, or 1 / sum of weights, multiplies both in rowwise.py.

    q[n,c] = [c = t[n]] for labels.
    """
    losses, dp = np.empty(len(p)), np.empty(p.shape)
    for n in range(len(p)):
        is_open = p[n] != 0
        a = weight * ((1 - eps) * q[n] + eps * is_open / is_open.sum())
        losses[n] = -np.where(a == 0, 0, a * np.log(p[n])).sum()
        dp[n] = np.where(a == 0, 0, -a / p[n])
    has_nan = np.isnan(p).any(axis=1)
    losses[has_nan], dp[has_nan] = np.nan, np.nan
    return losses, dp


def probabilities_error(p, q, position, name):
    """The ValueError for row number `position` of p (..., C)."""
    where = tuple(int(axis) for axis in np.unravel_index(position, p.shape[:-1]))
    row, hint = p[where], "Are they logits? Those are softmax_cross_entropy's."
    outside = (row < 0) | (row > 1 + 1e-6)
    if outside.any():
        worst = int(outside.argmax())
        return ValueError(
            f"{name}: probabilities must be in [0, 1], got {row[worst]} at position {(*where, worst)}. {hint}"
        )
    return ValueError(
        f"{name}: probabilities must sum to 1, but those at position {where} sum to {row.sum():.6g}. {hint}"
    )


loss = rowwise(
    "categorical_cross_entropy", "probabilities", categorical_cross_entropy_plain, categorical_rows, 32768, 8192,
    groups=64, targets=EITHER, examines=True, errors={BAD_PREDICTION: probabilities_error},
)  # fmt: skip


@declares("probabilities", "L = mean of -log p[t]", "dp[c] = -[c = t] / (N p[c])")
def categorical_cross_entropy(
    probabilities: ArrayLike, targets: ArrayLike, *, weight: ArrayLike | None = None, ignore_index: int = -100,
    label_smoothing: float = 0.0, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The loss of classifiers, for those who have probabilities: the mean of -log p[t], and its gradient by p.

    probabilities  (..., C), float32 or float64: numbers in [0, 1], each row with the sum 1 (to 1e-3): what a softmax
                   gave.  To train, leave the softmax out and use softmax_cross_entropy: it is exact where this one is
                   infinite
    targets        (...) of any integer type: classes from 0 to C-1; or (..., C) of floats: probabilities

    For the options and what is returned, see tinynet.losses.  A probability of exactly 0 for the right class gives inf,
    and such a class gets no share of label_smoothing; an ignored row isn't checked.

    >>> loss, gradient = tn.categorical_cross_entropy(np.array([[0.25, 0.75]]), [0])
    >>> round(loss, 4), gradient
    (1.3863, array([[-4.,  0.]]))
    """
    eps = checks.fraction(label_smoothing, "categorical_cross_entropy")
    return loss(probabilities, targets, reduction, denominator, grad, out, sample_weight, eps, weight, ignore_index)
