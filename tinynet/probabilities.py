"""Probabilities of logits: softmax over classes, sigmoid of each by itself.

    softmax    p[c] = exp(z[c]) / sum_i exp(z[i])        sigmoid    p = 1 / (1 + exp(-z))

A model that is trained with a cross-entropy ends in logits, from which the loss makes these itself.  Whoever wants to
read them makes them here.  Both are stable by form: the highest logit of a row is subtracted from all, which cancels in
the quotient, and exp is only taken of numbers of at most 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import numbers


def softmax(logits: ArrayLike) -> np.ndarray:
    """Probabilities (..., C) of logits (..., C), of the logits' dtype: at least 0, each row's sum 1.

    A class at -inf has the probability 0.  A row with a NaN, or whose highest logit is infinite, is NaN.

    >>> tn.softmax(np.log([[1.0, 3.0]]))
    array([[0.25, 0.75]])
    """
    z = _floats(logits, "softmax")
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ValueError(f"softmax: logits must be (..., C) with at least one class, got shape {z.shape}")
    with np.errstate(invalid="ignore"):  # inf - inf shows as NaN
        p = np.exp(z - z.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def sigmoid(logits: ArrayLike) -> np.ndarray:
    """Probabilities of logits, each by itself: an array of their shape and dtype, numbers from 0 to 1.

    >>> tn.sigmoid([0.0, -np.inf, np.log(3)])
    array([0.5 , 0.  , 0.75])
    """
    z = _floats(logits, "sigmoid")
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


def _floats(logits, name):
    z = numbers(logits, f"{name}: logits")
    return z if z.dtype in (np.float32, np.float64) else z.astype(np.float64)
