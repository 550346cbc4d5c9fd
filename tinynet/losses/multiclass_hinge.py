"""Multi-class hinge loss: the right class must lead every other one by a margin of 1.

    h[n,c] = max(0, 1 - z[n,t[n]] + z[n,c])   c != t[n]         z scores (N, C)   t labels (N,)
    L      = 1/N sum_n 1/C sum_c h[n,c]

Backward.  The score of another class touched its own h, times 1 where that is above 0; the score of the right class
touched each of them, times -1:

    dz[n,c] = [h[n,c] > 0] / (C N)   c != t         dz[n,t] = -sum_{c != t} dz[n,c]

The division by C is PyTorch's MultiMarginLoss, whose value this is.

Source: Weston and Watkins 1999, "Support vector machines for multi-class pattern recognition".
"""

import numpy as np

from tinynet.checks.losses import FINE
from tinynet.kernels import memory
from tinynet.kernels.compile import kernel
from tinynet.losses.declaration import declares
from tinynet.losses.rowwise import rowwise


def multiclass_hinge_plain(z, t):
    """The rows' losses, and their gradients."""
    (N, C), losses, dz = z.shape, np.zeros(len(z)), np.zeros(z.shape)
    for n in range(N):
        for c in range(C):
            h = 1 - z[n, t[n]] + z[n, c]
            if c != t[n] and h > 0:
                losses[n] += h / C
                dz[n, c] += 1 / C
                dz[n, t[n]] -= 1 / C
        if np.isnan(z[n]).any():
            losses[n], dz[n] = np.nan, np.nan
    return losses, dz


@kernel(fast=True)
def row_loss(z, t):
    """sum_c h[c], in float64, and how many of them are above 0; a NaN in z makes the sum one."""
    zero, one, right = z.dtype.type(0), z.dtype.type(1), z[t]
    total, violations = np.nan if right != right else 0.0, 0  # which shows also where there is no other class
    for c in range(z.size):
        h = z[c] - right + one
        h = zero if h <= zero or c == t else h
        total += h
        violations += h > zero
    return total, violations


@kernel()
def row_gradient(z, t, violations, factor, g):
    """factor [h[c] > 0], and at t minus their sum.  g may be z, so what t was is read first."""
    zero, one, right = z.dtype.type(0), z.dtype.type(1), z[t]
    for c in range(z.size):
        g[c] = factor if z[c] - right + one > zero else zero
    g[t] = -factor * z.dtype.type(violations)


@kernel()
def rows(z, t, q, w, ignore_index, _, scale, check_only, losses, g, first, last):
    if check_only:
        return -1, FINE, 0.0
    C, total = z.shape[1], 0.0
    factor = z.dtype.type(scale / C)
    for i in range(first, last):
        zi, dz = memory.piece(z, i * C, C), memory.piece(g, i * C, C if g.size else 0)
        loss = 0.0
        if t[i] == ignore_index:
            for c in range(dz.size):
                dz[c] = 0
        else:
            total_h, violations = row_loss(zi, t[i])
            loss = total_h / C
            if g.size and loss == loss:
                row_gradient(zi, t[i], violations, factor, dz)
            elif g.size:
                for c in range(C):
                    dz[c] = loss  # NaN
        total += loss
        if losses.size:
            losses[i] = loss
    return -1, FINE, total


loss = rowwise("multiclass_hinge", "scores", multiclass_hinge_plain, rows, 32768, 8192)


@declares(
    "scores",
    "L = 1/(N C) sum of h[c] = max(0, 1 - z[t] + z[c]) over c != t",
    "dz[c] = [h[c] > 0] / (C N), dz[t] = -their sum",
)
def multiclass_hinge(scores, targets, *, ignore_index=-100, reduction="mean", denominator=None, grad=True, out=None):
    """The multi-class hinge loss of scores against labels, and its gradient with respect to the scores.

    scores        (..., C), float32 or float64
    targets       (...) of any integer type: classes from 0 to C-1
    ignore_index  a label with this value adds no loss and no gradient, and does not count; scores there may be NaN
    reduction     "mean" over the labels that count (0 where there are none), "sum", or "none", one loss for each row
    denominator   what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad          False: the gradient isn't computed, and None is returned for it
    out           the array that receives the gradient; may be `scores`

    Returns (value, gradient): a float, or an array (...) for "none"; an array like scores, the gradient of the value
    (of its sum for "none").  A score of -inf is a class that is left out; a row with a NaN has NaN for both.  Raises
    ValueError or TypeError for what it can't use, before anything is written.

    >>> tn.multiclass_hinge(np.array([[2.0, 1.5]]), [0])  # 1.5 is closer to 2.0 than the margin
    (0.25, array([[-0.5,  0.5]]))
    """
    return loss(scores, targets, reduction, denominator, grad, out, ignore_index=ignore_index)
