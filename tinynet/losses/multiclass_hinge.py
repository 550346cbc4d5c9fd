"""Multi-class hinge loss: the right class must lead every other one by a margin.

    h[n,c] = max(0, margin - z[n,t[n]] + z[n,c])   c != t[n]    z scores (N, C)   t labels (N,)
    L      = 1/N sum_n 1/C sum_c h[n,c]^p                       p = 1 or 2

Backward.  The score of another class touched its own h, times 1 where that is above 0; the score of the right class
touched each of them, times -1.  And h^p has the slope 1, or 2 h for squares:

    dz[n,c] = [h[n,c] > 0] / (C N)   c != t         for p = 1
            = 2 h[n,c] / (C N)                      for p = 2
    dz[n,t] = -sum_{c != t} dz[n,c]

where [h > 0] is 1 where h is above 0, else 0.  Squares ask more of what falls far short, and little of what is nearly
there, and have no corner.  The division by C is PyTorch's MultiMarginLoss.

Weights of the classes (C,) multiply row n's loss and gradient by weight[t[n]], and 1/N becomes 1 / sum_n weight[t[n]].

Source: Weston and Watkins 1999, "Support vector machines for multi-class pattern recognition".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.kernels.multiclass_hinge import multiclass_hinge_rows
from tinynet.losses.declaration import Result, declares
from tinynet.losses.rowwise import rowwise


def multiclass_hinge_plain(z, t, weight, p, margin):
    """The rows' losses and gradients, before the mean: 1/N, or 1 / sum of weights, multiplies both in rowwise.py."""
    (N, C), losses, dz = z.shape, np.zeros(len(z)), np.zeros(z.shape)
    for n in range(N):
        a = weight[t[n]] / C
        for c in range(C):
            h = margin - z[n, t[n]] + z[n, c]
            if c != t[n] and (np.isnan(h) or (h > 0 and a > 0)):  # it is NaN as the difference of two masked scores
                slope = a if p == 1 else 2 * a * h
                losses[n] += a * h**p
                dz[n, c] += slope
                dz[n, t[n]] -= slope
        if np.isnan(losses[n]) or np.isnan(z[n]).any():
            losses[n], dz[n] = np.nan, np.nan
    return losses, dz


loss = rowwise("multiclass_hinge", "scores", multiclass_hinge_plain, multiclass_hinge_rows, 32768, 8192)


@declares(
    "scores",
    "L = 1/(N C) sum of h[c] = max(0, 1 - z[t] + z[c]) over c != t",
    "dz[c] = [h[c] > 0] / (C N), dz[t] = -their sum",
    "multimargin multimarginloss",
)
def multiclass_hinge(
    scores: ArrayLike, targets: ArrayLike, p: int = 1, margin: float = 1.0, weight: ArrayLike | None = None, *,
    ignore_index: int = -100, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """How far the right class fails to lead each other one by a margin, as a mean, and its gradient by the scores.

    scores   (..., C), float32 or float64; a score of -inf is a class that is left out
    targets  (...) of any integer type: classes from 0 to C-1
    p        1, or 2 for the squares of what falls short
    margin   by how much the right class must lead; below 0, how far it may be behind
    weight   (C,) factors of the classes' losses

    For the other options and what is returned, see tinynet.losses.  Weighted, "mean" divides by the weights' sum, as in
    softmax_cross_entropy, where PyTorch's MultiMarginLoss divides by the rows: denominator=N does that.

    >>> tn.multiclass_hinge(np.array([[2.0, 1.5]]), [0])  # 1.5 is closer to 2.0 than the margin
    (0.25, array([[-0.5,  0.5]]))
    """
    name = "multiclass_hinge"
    if p not in (1, 2) or isinstance(p, (bool, np.bool_)):
        raise ValueError(f"{name}: p must be 1 or 2, got {p!r}")
    margin = checks.number(margin, f"{name}: margin")
    if not -np.inf < margin < np.inf:
        raise ValueError(f"{name}: margin must be finite, got {margin}")
    options = int(p), margin
    return loss(scores, targets, reduction, denominator, grad, out, sample_weight, options, weight, ignore_index)
