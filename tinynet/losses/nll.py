"""Negative log-likelihood: the cross-entropy for those who already have log p.

    L = -1/N sum_n l[n,t[n]]           l = log p, the logarithms of probabilities (N, C)   t labels (N,)

Backward.  The number of the right class touched the loss, times -1; the others touched nothing:

    dl[n,c] = -[c = t[n]] / N

Weights w (C,), soft targets q (N, C) and label smoothing make a sum of it, as in softmax_cross_entropy:

    L[n]    = -sum_c a[n,c] l[n,c]                  a[n,c] = w[c] ((1 - eps) q[n,c] + eps / K)
    dl[n,c] = -a[n,c]                               q[n,c] = [c = t[n]] for labels

where only the K classes of l > -inf get a share of eps.  A term with a = 0 is 0, also at l = -inf.

The name is from statistics: p[n,t[n]] is the likelihood of the label under the model.  With l = log softmax(z), this
is softmax_cross_entropy in two parts, and it checks that l is such: that exp(l) sums to 1 in every row.
"""

import numpy as np

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_PREDICTION
from tinynet.kernels import floats
from tinynet.kernels.compile import helper, kernel
from tinynet.losses.declaration import declares
from tinynet.losses.probability_rows import probability_rows
from tinynet.losses.rowwise import EITHER, rowwise


def nll_plain(l, q, w, epsilon):
    """The rows' losses, and their gradients; q[n,c] = [c = t[n]] for labels."""
    losses, dl = np.empty(len(l)), np.empty(l.shape)
    for n in range(len(l)):
        possible = l[n] != -np.inf
        a = w * ((1 - epsilon) * q[n] + epsilon * possible / possible.sum())
        losses[n] = -np.where(a == 0, 0, a * l[n]).sum()
        dl[n] = -a
    lost = np.isnan(l).any(axis=1)
    losses[lost], dl[lost] = np.nan, np.nan
    return losses, dl


@kernel(fast=True)
def check_row(l):
    """How many of l (C,) are above 0, how many aren't -inf, and the sum of exp(l): NaN if one of them is.

    What rounding may have left of log 1 passes for 0.
    """
    most, masked, zero = l.dtype.type(1e-6), l.dtype.type(-np.inf), l.dtype.type(0)
    above, possible, total = 0, 0, zero
    for c in range(l.size):
        above += l[c] > most
        possible += l[c] > masked
        total += floats.exp(l[c])
    return above, possible, total


@kernel(fast=True)
def row_loss(l, q, w, keep, soft):
    zero, masked, total = l.dtype.type(0), l.dtype.type(-np.inf), 0.0
    for c in range(l.size):
        a = w[c] * (keep * q[c] + (soft if l[c] > masked else zero))
        term = zero if a == zero else a * l[c]
        total -= term
    return total


@kernel()
def row_gradient(l, q, w, keep, soft, scale, g):
    zero, masked = l.dtype.type(0), l.dtype.type(-np.inf)
    for c in range(l.size):
        g[c] = -scale * (w[c] * (keep * q[c] + (soft if l[c] > masked else zero)))


@helper
def surprise(l):
    return -l


@helper
def slope(a, l):
    return -a


def log_probabilities_error(l, q, position, name):
    """The ValueError for row number `position` of l (..., C)."""
    where = tuple(int(axis) for axis in np.unravel_index(position, l.shape[:-1]))
    row, hint = l[where], "Are they logits, or probabilities? See softmax_cross_entropy, categorical_cross_entropy."
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
    "nll", "log_probabilities", nll_plain,
    probability_rows("nll", check_row, surprise, slope, row_loss, row_gradient), 32768, 8192, groups=64,
    targets=EITHER, examines=True, errors={BAD_PREDICTION: log_probabilities_error},
)  # fmt: skip


@declares("log-probabilities", "L = mean of -z[t], z = log p", "dz[c] = -[c = t] / N", "nllloss negativeloglikelihood")
def nll(
    log_probabilities,
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
    """The negative log-likelihood of targets, and its gradient with respect to the logarithms of the probabilities.

    log_probabilities  (..., C), float32 or float64: logarithms of numbers of which each row sums to 1 (to 1e-3)
    targets            (...) of any integer type: classes from 0 to C-1; or (..., C) of floats: probabilities
    weight             (C,) factors of the classes' terms
    ignore_index       a label with this value adds no loss and no gradient, and does not count; its row isn't checked
    label_smoothing    eps: targets become (1 - eps) q + eps / K, for the K classes that aren't at -inf
    reduction          "mean": over the weights w[t] of the labels that count (0 where there are none), or over the
                       rows of target probabilities; "sum"; or "none", one loss for each row
    denominator        what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad               False: the gradient isn't computed, and None is returned for it
    out                the array that receives the gradient; may be `log_probabilities`

    Returns (value, gradient): a float, or an array (...) for "none"; an array like log_probabilities, the gradient of
    the value (of its sum for "none").  A right class at -inf gives inf; a row with a NaN has NaN for both.  Raises
    ValueError or TypeError for what it can't use, before anything is written.

    >>> loss, gradient = tn.nll(np.log([[0.25, 0.75]]), [0])
    >>> round(loss, 4), gradient
    (1.3863, array([[-1.,  0.]]))
    """
    epsilon = checks.fraction(label_smoothing, "nll")
    return loss(log_probabilities, targets, reduction, denominator, grad, out, epsilon, weight, ignore_index)
