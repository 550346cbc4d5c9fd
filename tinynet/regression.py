"""Regression: how far predicted numbers are from the true ones.

    RMSE = sqrt( mean of (y - t)^2 )                                  in the unit of t

    R2   = 1 - sum_n (y[n] - t[n])^2 / sum_n (t[n] - mean of t)^2     the share of t's variance that y explains

RMSE is 0 where all is right.  R2 is then 1; it is 0 for whoever predicts the mean of t all the time, and below that for
whoever does worse.  With weights of samples, all sums and means are weighted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import numbers
from tinynet.checks.losses import sample_weight as checked_sample_weight

__all__ = ["r2", "root_mean_squared_error"]


def root_mean_squared_error(
    predictions: ArrayLike, targets: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    """The root of the mean squared difference: a float of at least 0, in the targets' unit, the lower the better.

    predictions and targets have one shape, (N,) or (N, ...), and sample_weight is (N,).

    >>> tn.metrics.root_mean_squared_error([1.0, 2.0], [4.0, 6.0]).__round__(3)
    3.536
    """
    y, t, weight = _checked(predictions, targets, sample_weight, "root_mean_squared_error")
    return float(np.sqrt(np.average(((y - t) ** 2).mean(axis=1), weights=weight)))


def r2(predictions: ArrayLike, targets: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """The share of the targets' variance that the predictions explain: a float, at most 1, the higher the better.

    The arguments are those of root_mean_squared_error; of several numbers a sample, it is the mean over these.  Raises
    ValueError where all targets are the same, for then there is nothing to explain.

    >>> tn.metrics.r2([1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    0.5
    """
    y, t, weight = _checked(predictions, targets, sample_weight, "r2")
    counted = t[weight > 0]
    spread = weight @ (t - np.average(t, axis=0, weights=weight)) ** 2
    if (counted == counted[0]).all(axis=0).any() or not spread.all():  # of equal numbers rounding may leave a spread
        raise ValueError("r2: all targets are the same, so there is no variance to explain")
    return float((1 - weight @ (y - t) ** 2 / spread).mean())


def _checked(predictions, targets, sample_weight, name):
    """Predictions and targets (N, D) in float64, and weights (N,)."""
    y, t = numbers(predictions, f"{name}: predictions"), numbers(targets, f"{name}: targets")
    if y.shape == (*t.shape, 1) or t.shape == (*y.shape, 1):
        y = y.reshape(t.shape)
    if y.shape != t.shape or y.ndim == 0 or y.size == 0:
        raise ValueError(f"{name}: predictions and targets must have one shape (N, ...), got {y.shape} and {t.shape}")
    weight = np.ones(len(y)) if sample_weight is None else checked_sample_weight(sample_weight, y.shape[:1], name)
    if not weight.any():
        raise ValueError(f"{name}: sample_weight is 0 for every sample, so none of them counts")
    return y.reshape(len(y), -1).astype(float), t.reshape(len(t), -1).astype(float), weight
