"""Categorical cross-entropy of probabilities: softmax_cross_entropy for those who already have p.

    L = -1/N sum_n log p[n,t[n]]                    p probabilities (N, C), each row with the sum 1   t labels (N,)

Backward.  The probability of the right class touched its own logarithm, times -1/p; the others touched nothing:

    dp[n,c] = -[c = t[n]] / (N p[n,c])

Weights w (C,), soft targets q (N, C) and label smoothing make a sum of it, as in the logit form:

    L[n]    = -sum_c a[n,c] log p[n,c]              a[n,c] = w[c] ((1 - eps) q[n,c] + eps / K)
    dp[n,c] = -a[n,c] / p[n,c]                      q[n,c] = [c = t[n]] for labels

where only the K classes of p > 0 get a share of eps.  A term with a = 0 is 0, also at p = 0.

Nothing is clipped, and no small number added: p = 0 for the right class costs inf.  That is one reason to train on
logits instead, for which the loss is exact however small p is.  Another is the detour: dp is huge where p is small,
only for softmax's backward pass to multiply it by p again; together they are p - [c = t].
"""

import numpy as np

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_PREDICTION
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.surprisal import surprisal
from tinynet.losses.declaration import declares
from tinynet.losses.probability_rows import probability_rows
from tinynet.losses.rowwise import EITHER, rowwise


def categorical_cross_entropy_plain(p, q, w, epsilon):
    """The rows' losses, and their gradients; q[n,c] = [c = t[n]] for labels."""
    losses, dp = np.empty(len(p)), np.empty(p.shape)
    for n in range(len(p)):
        possible = p[n] != 0
        a = w * ((1 - epsilon) * q[n] + epsilon * possible / possible.sum())
        losses[n] = -np.where(a == 0, 0, a * np.log(p[n])).sum()
        dp[n] = np.where(a == 0, 0, -a / p[n])
    lost = np.isnan(p).any(axis=1)
    losses[lost], dp[lost] = np.nan, np.nan
    return losses, dp


@kernel(fast=True)
def check_row(p):
    """How many of p (C,) are below 0 or above 1, how many are above 0, and their sum: NaN if one of them is."""
    zero, most = p.dtype.type(0), p.dtype.type(1 + 1e-6)
    outside, positive, total = 0, 0, zero
    for c in range(p.size):
        outside += (p[c] < zero) | (p[c] > most)
        positive += p[c] > zero
        total += p[c]
    return outside, positive, total


@kernel(fast=True)
def row_loss(p, q, w, keep, soft):
    zero, total = p.dtype.type(0), 0.0
    for c in range(p.size):
        a = w[c] * (keep * q[c] + (soft if p[c] > zero else zero))
        term = zero if a == zero else a * surprisal(p[c])
        total += term
    return total


@kernel()
def row_gradient(p, q, w, keep, soft, scale, g):
    zero = p.dtype.type(0)
    for c in range(p.size):
        a = w[c] * (keep * q[c] + (soft if p[c] > zero else zero))
        g[c] = zero if a == zero else -(scale * a) / p[c]


@helper
def slope(a, p):
    return -a / p


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
    "categorical_cross_entropy", "probabilities", categorical_cross_entropy_plain,
    probability_rows("categorical_cross_entropy", check_row, surprisal, slope, row_loss, row_gradient),
    32768, 8192, groups=64, targets=EITHER, examines=True, errors={BAD_PREDICTION: probabilities_error},
)  # fmt: skip


@declares("probabilities", "L = mean of -log p[t]", "dp[c] = -[c = t] / (N p[c])")
def categorical_cross_entropy(
    probabilities,
    targets,
    *,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
):
    """The cross-entropy of probabilities against targets, and its gradient with respect to the probabilities.

    probabilities    (..., C), float32 or float64: numbers in [0, 1], each row with the sum 1 (to 1e-3): what a softmax
                     gave.  To train, leave the softmax out and use softmax_cross_entropy: it is exact where this one
                     is infinite
    targets          (...) of any integer type: classes from 0 to C-1; or (..., C) of floats: probabilities
    weight           (C,) factors of the classes' terms
    ignore_index     a label with this value adds no loss and no gradient, and does not count; its row isn't checked
    label_smoothing  eps: targets become (1 - eps) q + eps / K, for the K classes whose probability isn't 0
    reduction        "mean": over the weights w[t] of the labels that count (0 where there are none), or over the rows
                     of target probabilities; "sum"; or "none", one loss for each row
    denominator      what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad             False: the gradient isn't computed, and None is returned for it
    out              the array that receives the gradient; may be `probabilities`

    Returns (value, gradient): a float, or an array (...) for "none"; an array like probabilities, the gradient of the
    value (of its sum for "none").  A probability of exactly 0 for the right class gives inf; a row with a NaN has NaN
    for both.  Raises ValueError or TypeError for what it can't use, before anything is written.

    >>> loss, gradient = tn.categorical_cross_entropy(np.array([[0.25, 0.75]]), [0])
    >>> round(loss, 4), gradient
    (1.3863, array([[-4.,  0.]]))
    """
    epsilon = checks.fraction(label_smoothing, "categorical_cross_entropy")
    return loss(probabilities, targets, reduction, denominator, grad, out, epsilon, weight, ignore_index)
