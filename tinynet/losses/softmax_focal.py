"""Softmax focal loss: cross-entropy with less weight on samples that are already right.

    p[n,c] = exp(z[n,c]) / sum_k exp(z[n,k])        z logits (N, C)   t labels (N,)
    H[n]   = -log p[n,t[n]]                         the cross-entropy of row n
    q[n]   = 1 - p[n,t[n]]                          the chance of being wrong
    L      = 1/N sum_n q[n]^gamma H[n]

Backward.  Everything about row n goes through the one number p[n,t].  Leaving out n and 1/N, and with [c = t], which is
1 for the right class and 0 for the others,

    d log p[t] / dz[c] = [c = t] - p[c]             as in softmax_cross_entropy

so z[c] touches

    H  times  p[c] - [c = t]                        as H = -log p[t]
    q  times  p[t] (p[c] - [c = t])                 as dq = -dp[t] = -p[t] d log p[t]

and with q^gamma H differentiated by the product rule,

    dz[c] = (q^gamma + gamma q^(gamma-1) p[t] H) (p[c] - [c = t])
          = F (p[c] - [c = t])                      F = q^gamma (1 + gamma p[t] H / q)

So the gradient is the cross-entropy's, and every row has a factor F of its own; gamma = 0 is that loss.  As H goes to
0, so does q, and H / q goes to 1: F is finite for every gamma.  Weights of the classes (C,) multiply row n's loss and
gradient by weight[t[n]], and 1/N becomes 1 / sum_n weight[t[n]].

Soft targets s (N, C) give every class a share of the loss.  Each class c then has an H, a q and an F of its own,

    L[n]    = sum_c a[n,c] q[n,c]^gamma H[n,c]      a[n,c] = weight[c] s[n,c]
    dz[n,k] = sum_c a[n,c] F[n,c] (p[n,k] - [k = c])
            = (sum_c b[n,c]) p[n,k] - b[n,k]        b[n,c] = a[n,c] F[n,c]

which for s[n,c] = [c = t[n]] is the loss of labels, and for gamma = 0 the cross-entropy of soft targets.

Stable form.  1 - exp(-H) would cancel where H is small; q = 2 y / (1 + y) with y = tanh(H / 2) doesn't.  Only H is
needed for all of F, since p[t] = exp(-H), and it keeps its digits in softmax_cross_entropy.

Source: Lin et al. 2017, "Focal loss for dense object detection", who have two classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.kernels.softmax_losses import focal_rows
from tinynet.losses.declaration import Result, declares
from tinynet.losses.rowwise import EITHER, rowwise


def softmax_focal_plain(z, s, weight, gamma):
    """The rows' losses and gradients, before the mean: 1/N, or 1 / sum of weights, multiplies both in rowwise.py.

    s[n,c] = [c = t[n]] for labels.
    """
    losses, dz = np.zeros(len(z)), np.zeros(z.shape)
    for n in range(len(z)):
        e, a = np.exp(z[n] - z[n].max()), weight * s[n]
        p, H = e / e.sum(), np.log(e.sum()) - (z[n] - z[n].max())
        q = -np.expm1(-H)  # 1 - p
        inside = (q > 0) & (q < 1) if gamma else q < 0  # at q = 0 and q = 1, the limit of the second term is 0
        F = q**gamma + np.where(inside, gamma * q ** (gamma - 1) * p * H, 0)
        b = np.where(a == 0, 0, a * F)
        losses[n] = np.where((a == 0) & ~np.isnan(H), 0, a * q**gamma * H).sum()  # 0 times infinity is 0 here
        dz[n] = b.sum() * p - b
    return losses, dz


loss = rowwise(
    "softmax_focal", "logits", softmax_focal_plain, focal_rows, 16384, 4096, targets=EITHER, groups=64,
    keeps_losses=True,
)  # fmt: skip


@declares(
    "logits",
    "L = mean of (1 - p[t])^gamma (-log p[t]), p = softmax(z)",
    "dz[c] = F (p[c] - [c = t]) / N, F = q^gamma (1 - gamma p[t] log(p[t]) / q), q = 1 - p[t]",
)
def softmax_focal(
    logits: ArrayLike, targets: ArrayLike, gamma: float = 2.0, weight: ArrayLike | None = None, *,
    ignore_index: int = -100, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The cross-entropy of classifiers, less weight on what is right already, and its gradient by the logits.

    The weight of each sample is (1 - p[t])^gamma, p = softmax(logits).

    logits   (..., C), float32 or float64
    targets  (...) of any integer type: classes from 0 to C-1; or (..., C) of floats: probabilities
    gamma    how strongly what is right is left out; at least 0, where 0 is the cross-entropy
    weight   (C,) factors of the classes' losses: the paper's alpha

    For the other options and what is returned, see tinynet.losses.  Infinite logits as in softmax_cross_entropy.

    >>> losses, gradients = tn.softmax_focal(np.array([[0.0, 0.0], [3.0, 0.0]]), [0, 0], reduction="none")
    >>> losses.round(5).tolist()  # the second is right and sure
    [0.17329, 0.00011]
    """
    gamma = checks.real_number(gamma, "softmax_focal", "gamma", zero=True)
    return loss(logits, targets, reduction, denominator, grad, out, sample_weight, gamma, weight, ignore_index)
