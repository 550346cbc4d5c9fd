"""Multi-class hinge loss: the right class must lead every other one by a margin of 1.

    h[n,c] = max(0, 1 - z[n,t[n]] + z[n,c])   c != t[n]         z scores (N, C)   t labels (N,)
    L      = 1/N sum_n 1/C sum_c h[n,c]

Backward.  The score of another class touched its own h, times 1 where that is above 0; the score of the right class
touched each of them, times -1:

    dz[n,c] = [h[n,c] > 0] / (C N)   c != t         dz[n,t] = -sum_{c != t} dz[n,c]

where [h > 0] is 1 where h is above 0, else 0.  The division by C is PyTorch's MultiMarginLoss, whose value this is.

Source: Weston and Watkins 1999, "Support vector machines for multi-class pattern recognition".
"""

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels.multiclass_hinge import multiclass_hinge_rows
from tinynet.losses.declaration import Result, declares
from tinynet.losses.rowwise import rowwise


def multiclass_hinge_plain(z, t):
    """The rows' losses and gradients, before the mean: 1/N multiplies both in rowwise.py."""
    (N, C), losses, dz = z.shape, np.zeros(len(z)), np.zeros(z.shape)
    for n in range(N):
        for c in range(C):
            h = 1 - z[n, t[n]] + z[n, c]
            if c != t[n] and not h <= 0:  # a NaN is neither: the difference of two masked scores
                losses[n] += h / C
            if c != t[n] and h > 0:
                dz[n, c] += 1 / C
                dz[n, t[n]] -= 1 / C
        if np.isnan(z[n]).any():
            losses[n], dz[n] = np.nan, np.nan
    return losses, dz


loss = rowwise("multiclass_hinge", "scores", multiclass_hinge_plain, multiclass_hinge_rows, 32768, 8192)


@declares(
    "scores",
    "L = 1/(N C) sum of h[c] = max(0, 1 - z[t] + z[c]) over c != t",
    "dz[c] = [h[c] > 0] / (C N), dz[t] = -their sum",
)
def multiclass_hinge(
    scores: ArrayLike, targets: ArrayLike, *, ignore_index: int = -100, reduction: str = "mean",
    denominator: float | None = None, sample_weight: ArrayLike | None = None, grad: bool = True,
    out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The multi-class hinge loss of scores against labels, and its gradient with respect to the scores.

    scores   (..., C), float32 or float64; a score of -inf is a class that is left out
    targets  (...) of any integer type: classes from 0 to C-1

    For the options and what is returned, see tinynet.losses.

    >>> tn.multiclass_hinge(np.array([[2.0, 1.5]]), [0])  # 1.5 is closer to 2.0 than the margin
    (0.25, array([[-0.5,  0.5]]))
    """
    return loss(scores, targets, reduction, denominator, grad, out, sample_weight, ignore_index=ignore_index)
