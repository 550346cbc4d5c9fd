"""Binary cross-entropy of probabilities: sigmoid_cross_entropy for those who already have p.

    H = -t log p - (1 - t) log(1 - p)               p probabilities, t targets in [0, 1], of one shape with n elements
    L = 1/n sum_i H[i]

Backward.  p[i] touched the first logarithm, times -t/p, and the second, times (1 - t) / (1 - p):

    dp[i] = (-t / p + (1 - t) / (1 - p)) / n

Weights as in sigmoid_cross_entropy: with a = weight pos_weight t and b = weight (1 - t), H = -a log p - b log(1 - p),
and a term whose factor is 0 is 0, even where its logarithm is infinite.  Label smoothing moves t to
(1 - eps) t + eps / 2.

Nothing is clipped, and no small number added: p = 0 where t = 1 costs inf, and has the gradient -inf.  That is one
reason to train on logits instead.  Others: a float p is 1 from the logit 17 on (float32), so that what happens beyond
is lost; and dp is huge where p is small, only for the sigmoid's backward pass to multiply it by p (1 - p) again.

The logarithms.  -log p keeps its digits near p = 1, where p - 1 is exact.  With log1p(u) = log(1 + u), which keeps the
digits of a small u,

    -log (1 - p) = log1p(p / (1 - p))               correct for p = 1e-30, where 1 - p is 1
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_TARGET
from tinynet.kernels import floats
from tinynet.kernels.compile import helper
from tinynet.kernels.loss_elements import BLOCK, PROBABILITIES
from tinynet.kernels.surprisal import surprisal
from tinynet.kernels.vectors import select
from tinynet.losses.declaration import Result, declares
from tinynet.losses.elementwise import elementwise


def binary_cross_entropy_plain(p, t, positive, negative, eps):
    """The losses, and the slope of each, before the mean: 1/n multiplies both in elementwise.py.

    positive is weight pos_weight, and negative is weight.
    """
    q = (1 - eps) * t + eps / 2
    a, b = positive * q, negative * (1 - q)
    losses = -np.where(a > 0, a * np.log(p), 0) - np.where(b > 0, b * np.log1p(-p), 0)
    return losses, np.where(b > 0, b / (1 - p), 0) - np.where(a > 0, a / p, 0)


@helper
def element(p, t, positive, negative, eps):
    q = (1 - eps) * t + eps * 0.5
    rest = 1 - p
    a, b = positive * q, negative * (1 - q)
    no = select(rest == 0, np.inf, floats.log1p(p / rest))
    loss = select(a == 0, 0, a * surprisal(p)) + select(b == 0, 0, b * no)
    return loss, select(b == 0, 0, b / rest) - select(a == 0, 0, a / p)


def interval_error(p, t, ignore_index, reason, name):
    """The ValueError for targets or probabilities of which one is not in [0, 1]."""
    if reason == BAD_TARGET:
        return checks.unit_interval_error(p, t, ignore_index, reason, name)
    bad = ((p < 0) | (p > 1)) & (t != ignore_index if ignore_index is not None else True)
    where = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(bad)), p.shape))
    return ValueError(
        f"{name}: probabilities must be in [0, 1], got {p[where]} at position {where}."
        " Are they logits? Those are sigmoid_cross_entropy's."
    )


loss = elementwise(
    "binary_cross_entropy", "probabilities", binary_cross_entropy_plain, element, 8192, 4 * BLOCK,
    targets=PROBABILITIES, error=interval_error, weighted=True, ignores=True,
)  # fmt: skip


@declares("probabilities", "L = mean of -t log p - (1-t) log(1-p)", "dp = ((1-t) / (1-p) - t / p) / n")
def binary_cross_entropy(
    probabilities: ArrayLike, targets: ArrayLike, *, weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None, ignore_index: int | None = None, label_smoothing: float = 0.0,
    reduction: str = "mean", denominator: float | None = None, sample_weight: ArrayLike | None = None,
    grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The loss of yes-or-no questions, for those who have p: the mean of -t log p - (1 - t) log(1 - p), and its
    gradient by p, the probability of yes; t, the target, is 1 for yes.

    probabilities  any shape, float32 or float64, in [0, 1]: what a sigmoid gave.  To train, leave the sigmoid out and
                   use sigmoid_cross_entropy: it is exact where this one is infinite
    targets        the same shape, in [0, 1]: labels 0 and 1 of any type, or probabilities
    weight, pos_weight, ignore_index, label_smoothing  as in sigmoid_cross_entropy

    For the other options and what is returned, see tinynet.losses; "mean" is over the targets that count, whatever
    their weight.  A probability of exactly 0 for what is true gives inf.

    >>> loss, gradient = tn.binary_cross_entropy(np.array([0.25]), [1])
    >>> round(loss, 4), gradient
    (1.3863, array([-4.]))
    """
    eps = checks.fraction(label_smoothing, "binary_cross_entropy")
    return loss(
        probabilities, targets, reduction, denominator, grad, out, sample_weight, eps, ignore_index, weight, pos_weight
    )
