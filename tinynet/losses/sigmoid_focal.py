"""Sigmoid focal loss: cross-entropy with less weight on what is already right.

    p = 1 / (1 + exp(-z))                           z logits, t targets in [0, 1], of one shape with n elements
    H = -t log p - (1 - t) log(1 - p)               the cross-entropy of each
    q = t (1 - p) + (1 - t) p                       the chance of being wrong
    L = 1/n sum_i f q^gamma H                       f = a alpha t + a (1 - alpha) (1 - t), a the weight of each

An object detector asks some 100,000 times whether there is an object, and nearly always there is none, which it soon
knows.  In the cross-entropy the many small losses drown the few large ones; with gamma = 2, a loss at p = 0.99 is
divided by 10,000.  gamma = 0 leaves f H.

Backward, of one element.  z touched H, times p - t, and q, times (1 - 2t) p (1 - p); so its slope is

    f (q^gamma (p - t) + gamma q^(gamma-1) (1 - 2t) p (1 - p) H)                        and dz is that, divided by n
    = f q^gamma ((1 - t) p - t (1 - p) + gamma r H)      r = (1 - 2t) p (1 - p) / q

For t = 1, r = -p, and for t = 0, r = 1 - p; so r stays finite where q goes to 0, also for gamma < 1.

Stable form.  With u = exp(-|z|), p = 1 / (1 + u) for z >= 0, else u / (1 + u); 1 - p is the other one.  So neither
comes from a subtraction, and q is a sum of products of them; q^gamma = exp(-gamma (-log q)); H as in
sigmoid_cross_entropy.  A product of 0 and infinity, at z = +-inf, is the limit, 0, also where f is 0.

Source: Lin et al. 2017, "Focal loss for dense object detection", with the formula of torchvision for soft targets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.kernels import floats
from tinynet.kernels.compile import helper
from tinynet.kernels.loss_elements import BLOCK, UNIT_INTERVAL
from tinynet.kernels.surprisal import surprisal
from tinynet.kernels.vectors import maximum, select
from tinynet.losses.declaration import Result, declares
from tinynet.losses.elementwise import elementwise


def sigmoid_focal_plain(z, t, weight, _, gamma, yes, no):
    """The losses, and the slope of each, before the mean: 1/n multiplies both in elementwise.py.

    f = weight (yes t + no (1 - t)).
    """
    yes_term, no_term = np.logaddexp(0, -z), np.logaddexp(0, z)  # -log p, -log(1 - p)
    p, rest = np.exp(-yes_term), np.exp(-no_term)  # rest is 1 - p
    H = np.where(t == 0, 0, t * yes_term) + np.where(t == 1, 0, (1 - t) * no_term)
    f, q = weight * (yes * t + no * (1 - t)), t * rest + (1 - t) * p
    r = np.where(q == 0, 0, (1 - 2 * t) * p * rest / q)
    losses = np.where((f == 0) & np.isinf(H), 0, f * q**gamma * H)
    return losses, f * q**gamma * (p - t + gamma * np.where(r == 0, 0, r * H))


@helper
def to_the_power(q, gamma):
    """q^gamma of a vector in [0, 1]: by multiplication for the gamma that nearly everybody uses."""
    if gamma == 2:
        return q * q
    if gamma == 0:
        return q - q + 1
    return select(q == 0, q, floats.exp((0 - gamma) * surprisal(q)))


@helper
def element(z, t, weight, _, options):
    gamma, yes, no = options
    miss, distance, above = 1 - t, maximum(0 - z, z), z > 0
    u = floats.exp(0 - distance)
    factor, p, rest = select(above, miss, t), select(above, 1, u), select(above, u, 1)
    p, rest = p / (u + 1), rest / (u + 1)
    entropy = select(factor == 0, 0, factor * distance) + floats.log1p(u)
    q, f = t * rest + miss * p, weight * (t * yes + miss * no)
    power = to_the_power(q, gamma)
    r = select(q == 0, 0, (miss - t) * p * rest / q)
    rise = select(r == 0, 0, r * gamma * entropy)
    infinite = entropy == np.inf  # then q > 0, however small its power: the limit is infinite, or 0 where f is
    loss = f * select(infinite, entropy, power * entropy)
    loss = select(f == 0, select(infinite, 0, loss), loss)
    return loss, f * power * (miss * p - t * rest + rise)


loss = elementwise(
    "sigmoid_focal", "logits", sigmoid_focal_plain, element, 8192, 4 * BLOCK, targets=UNIT_INTERVAL,
    error=checks.unit_interval_error, weighted=True, ignores=True, padding=(-np.inf, 0),
)  # fmt: skip


@declares(
    "logits",
    "L = mean of f q^gamma H, H = cross-entropy of p = 1 / (1 + exp(-z)), q = chance of being wrong, f = alpha's",
    "dz = f (q^gamma (p - t) + gamma q^(gamma-1) (1 - 2t) p (1 - p) H) / n",
)
def sigmoid_focal(
    logits: ArrayLike, targets: ArrayLike, gamma: float = 2.0, alpha: float | None = 0.25, *,
    weight: ArrayLike | None = None, ignore_index: int | None = None, reduction: str = "mean",
    denominator: float | None = None, sample_weight: ArrayLike | None = None, grad: bool = True,
    out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The cross-entropy of yes-or-no questions, less weight on what is right already, and its gradient by the logits.

    The weight of each is (1 - p)^gamma, p the probability that the truth was given.

    logits        any shape, float32 or float64
    targets       the same shape, in [0, 1]: labels 0 and 1 of any type, or probabilities
    gamma         how strongly what is right is left out; at least 0, where 0 is the cross-entropy
    alpha         the weight of the 1s in [0, 1], where the 0s have 1 - alpha; None for no weights at all
    weight        factors of the losses, as in sigmoid_cross_entropy
    ignore_index  say -1, for targets that mark what is unknown

    For the other options and what is returned, see tinynet.losses; "mean" is over the targets that count, whatever
    their weight.  As `denominator`, Lin et al. take the number of
    objects, max(1, targets.sum()).  Logits of +-inf give the limits: 0 where the target agrees, else inf.

    >>> losses, gradients = tn.sigmoid_focal(np.array([0.0, 3.0]), [1, 1], reduction="none")
    >>> losses.round(5).tolist()  # the second is right and sure
    [0.04332, 3e-05]
    """
    name = "sigmoid_focal"
    gamma = checks.real_number(gamma, name, "gamma", zero=True)
    yes = 1.0 if alpha is None else checks.fraction(alpha, name, "alpha")
    options = gamma, yes, 1.0 if alpha is None else 1.0 - yes
    return loss(logits, targets, reduction, denominator, grad, out, sample_weight, options, ignore_index, weight)
