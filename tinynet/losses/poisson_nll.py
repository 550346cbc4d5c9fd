"""Poisson negative log-likelihood: the loss of counts, such as calls in an hour or photons on a pixel.

    P(t) = r^t exp(-r) / t!                         the chance of t events where r are expected
    l(y) = -log P(t), but for log t!                y prediction, t targets >= 0, of one shape with n elements
         = exp(y) - t y          for y = log r, the usual one: any number is a log of a rate
         = y - t log y           for y = r itself, where y >= 0
    L    = 1/n sum_i l(y[i])

Backward.  y[i] touched one term:

    dy[i] = (exp(y[i]) - t[i]) / n                  for log r: what was expected, less what happened
    dy[i] = (1 - t[i] / y[i]) / n                   for r

Both are 0 where the rate is the target.  A Poisson variable's variance is its mean, so a miss by 3 weighs more where 2
were expected than where 200 were; mean_squared_error would weigh them alike.

log t! changes no gradient, and is left out unless it is asked for: then Stirling's t log t - t + log(2 pi t) / 2 is
added where t > 1, as in PyTorch.  It is below log t! by 1 / (12 t), or 0.04 for t = 2; for t = 0 and 1, that is 0.

Stable form.  exp(y) of a large y is 1 / h^2 with h = exp(-y/2), which is finite wherever exp(y) is.  log y of y > 1 is
log1p(y - 1), where log1p(u) = log(1 + u), and of others minus their surprisal: exact near 1, and no small number is
added inside of the logarithm.  A term with t = 0 is 0, also where the logarithm is infinite; a rate of 0 where t > 0
costs inf, and has the slope -inf.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks.losses import BAD_TARGET
from tinynet.kernels import floats
from tinynet.kernels.compile import helper
from tinynet.kernels.loss_elements import COUNTS, COUNTS_AND_RATES
from tinynet.kernels.surprisal import LOG_2, surprisal
from tinynet.kernels.vectors import select
from tinynet.losses.declaration import Result, declares
from tinynet.losses.elementwise import elementwise


def poisson_nll_plain(y, t, full):
    """The losses of logarithms of rates, and the slope of each, before the mean: 1/n multiplies both in elementwise.py.

    full is 1 to add log t!, else 0.
    """
    rate = np.exp(y)
    losses = np.where(rate == np.inf, np.inf, rate - np.where(t == 0, 0, t * y))
    return losses + full * log_factorial_plain(t), rate - t


def poisson_nll_of_rates_plain(y, t, full):
    """The same of the rates themselves."""
    losses = np.where(y == np.inf, np.inf, y - np.where(t == 0, 0, t * np.log(y)))
    return losses + full * log_factorial_plain(t), 1 - np.where((t == 0) & ~np.isnan(y), 0, t / y)


def log_factorial_plain(t):
    return np.where(t > 1, t * np.log(t) - t + np.log(2 * np.pi * t) / 2, 0)


@helper
def logarithm(x):
    """log x of a finite x >= 0; floats.log is not for numbers near the largest."""
    huge = x > 1e37
    above = floats.log(select(huge, x * 2.0**-53, x)) + select(huge, 53 * LOG_2, x - x)
    return select(x > 1, above, 0 - surprisal(x))


@helper
def log_factorial(t):
    log_t = logarithm(t)
    return select(t > 1, t * log_t - t + (log_t + math.log(2 * math.pi)) * 0.5, 0)


@helper
def element(y, t, full):
    h = floats.exp(select(y > 0, y * -0.5, y))
    rate = select(y > 0, 1 / h / h, h)
    loss = select(rate == np.inf, rate, rate - select(t == 0, 0, t * y))
    if full:
        loss = loss + log_factorial(t)
    return loss, rate - t


@helper
def element_of_rates(y, t, full):
    loss = select(y == np.inf, y, y - select(t == 0, 0, t * logarithm(y)))
    if full:
        loss = loss + log_factorial(t)
    return loss, 1 - select(t == 0, select(y == y, 0, y), t / y)  # a NaN stays one


def counts_error(y, t, ignore_index, reason, name):
    """The ValueError for targets of which one is no count, or for a rate below 0."""
    bad = ~((t >= 0) & (t < np.inf)) if reason == BAD_TARGET else y < 0
    where = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(bad)), y.shape))
    if reason == BAD_TARGET:
        return ValueError(f"{name}: targets must be finite and at least 0, got {t[where]} at position {where}")
    return ValueError(
        f"{name}: rates must be at least 0, got {y[where]} at position {where}."
        " Are they logarithms? Then leave out log_input=False."
    )


loss = elementwise(
    "poisson_nll", "prediction", poisson_nll_plain, element, 32768, targets=COUNTS, error=counts_error,
    padding=(-np.inf, 0),
)  # fmt: skip
loss_of_rates = elementwise(
    "poisson_nll", "prediction", poisson_nll_of_rates_plain, element_of_rates, 16384, targets=COUNTS_AND_RATES,
    error=counts_error,
)  # fmt: skip


@declares(
    "scores",
    "L = mean of exp(y) - t y",
    "dy = (exp(y) - t) / n",
    "poisson poissonnll poissonnllloss poissonloss",
)
def poisson_nll(
    prediction: ArrayLike, targets: ArrayLike, log_input: bool = True, full: bool = False, *, reduction: str = "mean",
    denominator: float | None = None, sample_weight: ArrayLike | None = None, grad: bool = True,
    out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The loss of counts: their negative log-likelihood under predicted rates, and its gradient by the prediction.

    prediction  any shape, float32 or float64: logarithms of rates, so that a model needs no activation at its end
    targets     the same shape: numbers of at least 0, such as counts; nothing is broadcast
    log_input   False: the prediction holds the rates themselves, at least 0
    full        True: also Stirling's approximation of log t!, which depends on the targets alone

    For the other options and what is returned, see tinynet.losses.

    >>> loss, gradient = tn.poisson_nll(np.array([0.0, 1.0]), [1, 3])  # rates of 1 and 2.718: as expected, and more
    >>> round(loss, 4), gradient.round(4)
    (0.3591, array([ 0.    , -0.1409]))
    """
    name = "poisson_nll"
    for what, flag in (("log_input", log_input), ("full", full)):
        if not isinstance(flag, (bool, np.bool_)):
            raise TypeError(f"{name}: {what} must be True or False, got {flag!r}")
    return (loss if log_input else loss_of_rates)(
        prediction, targets, reduction, denominator, grad, out, sample_weight, float(full)
    )
