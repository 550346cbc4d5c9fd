"""Information: what cross-entropy means before there is any model.

    H(P)       = -sum_x P(x) log P(x)            entropy
    H(P, Q)    = -sum_x P(x) log Q(x)            cross-entropy
    KL(P || Q) =  sum_x P(x) log(P(x) / Q(x))    Kullback-Leibler divergence

A code that is best for Q spends -log Q(x) on saying that x happened: little on what Q expects, much on what surprises
it.  H(P, Q) is what it spends on average while things happen as P says; H(P) is what P's own best code spends, and no
code spends less (Shannon 1948).  So the price of believing Q is what lies between:

    H(P, Q) = H(P) + KL(P || Q)        KL >= 0, and 0 only where Q = P (Gibbs)

That is why a classifier is trained on cross-entropy.  With P the labels and Q the model's probabilities, H(P) does not
depend on the model, so lowering H(P, Q) is lowering KL(P || Q): moving Q towards P.  For a label that is certain,
P = (0, ..., 1, ..., 0), H(P) is 0 and H(P, Q) is -log Q(label), the loss of softmax_cross_entropy.

The logarithm's base is the unit: nats for e, bits for 2.  A term with P(x) = 0 is 0, the limit of p log p, whatever Q
says of x; where Q(x) = 0 < P(x), the impossible happened, and H(P, Q) and KL(P || Q) are infinite.

These three take distributions as they are, to be looked at.  To train on, see losses/: fused with their gradients,
and from logits, which don't lose a small probability to rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import number, real_array

__all__ = ["cross_entropy", "entropy", "kl_divergence"]

TOLERANCE = 1e-3  # how far from 1 a distribution may sum: (0.333, 0.333, 0.333), say, or a row in float16


def entropy(p: ArrayLike, *, base: float = math.e) -> float | np.ndarray:
    """H(P) = -sum P log P: how uncertain P is, from 0 (one outcome is certain) to log C (all C are equally likely).

    p (..., C) holds distributions along its last axis; each is divided by its sum, which must be within 1e-3 of 1.
    base is that of the logarithm: e for nats, 2 for bits, any number above 1.

    Returns a float, or an array (...) of float64.  Raises ValueError for what is no distribution, naming the row.

    >>> round(tn.information.entropy([0.5, 0.25, 0.25], base=2), 6)  # bits: a half says 1, a quarter 2
    1.5
    """
    unit = _unit(base, "entropy")
    p = _normalised(p, "entropy", "p")
    return _result(_expected(p, -_log(p)), unit)


def cross_entropy(p: ArrayLike, q: ArrayLike, *, base: float = math.e) -> float | np.ndarray:
    """H(P, Q) = -sum P log Q: the average surprise of one who believes Q, while things happen as P says.

    p and q (..., C) are as in entropy; axes before the last are broadcast, so one P meets several Qs.  Infinite where
    Q(x) = 0 < P(x); exactly entropy(p) where Q = P.

    Returns a float, or an array (...) of float64.  Raises ValueError for what is no distribution, naming the row.

    >>> round(tn.information.cross_entropy([0.5, 0.25, 0.25], [0.25, 0.25, 0.5], base=2), 6)
    1.75
    """
    unit = _unit(base, "cross_entropy")
    p, q = _pair(p, q, "cross_entropy")
    return _result(_expected(p, -_log(q)), unit)


def kl_divergence(p: ArrayLike, q: ArrayLike, *, base: float = math.e) -> float | np.ndarray:
    """KL(P || Q) = sum P log(P / Q): what believing Q costs beyond the entropy of P.  Not symmetric in P and Q.

    p and q (..., C) are as in cross_entropy.  Infinite where Q(x) = 0 < P(x); exactly 0 where Q = P, never below.

    Returns a float, or an array (...) of float64.  Raises ValueError for what is no distribution, naming the row.

    >>> round(tn.information.kl_divergence([0.5, 0.25, 0.25], [0.25, 0.25, 0.5], base=2), 6)
    0.25
    """
    unit = _unit(base, "kl_divergence")
    p, q = _pair(p, q, "kl_divergence")
    with np.errstate(invalid="ignore"):  # log 0 - log 0, in a term that counts 0
        terms = _log(p) - _log(q)  # not log(p / q): the quotient overflows where q is tiny
    return _result(np.maximum(_expected(p, terms), 0.0), unit)  # rounding left -1e-16 where Q is almost P


def _log(p):
    with np.errstate(divide="ignore"):
        return np.log(p)


def _expected(p, values):
    """sum_x p(x) values(x) over the last axis, where p(x) = 0 makes a term 0, even if the value is infinite."""
    shape = np.broadcast_shapes(p.shape, values.shape)
    return np.multiply(p, values, out=np.zeros(shape), where=p > 0).sum(axis=-1)


def _result(nats, unit):
    value = nats / unit + 0.0  # the entropy of certainty is 0, not -0
    return float(value) if value.ndim == 0 else value


# --- checks -------------------------------------------------------------------------------------------------


def distributions(p, name, what):
    """p as an array (..., C) of float64 whose rows are distributions; a ValueError names the first that is none."""
    p = real_array(p, np.float64, f"{name}: {what}")
    if p.ndim == 0 or p.size == 0:
        raise ValueError(f"{name}: {what} must be (..., C), one probability for each outcome, got shape {p.shape}")
    inside = (p >= 0) & (p <= 1 + 1e-6)  # the largest of a float32 softmax may be 1 and a little
    if not inside.all():
        where = tuple(int(axis) for axis in np.argwhere(~inside)[0])
        raise ValueError(f"{name}: {what} must be in [0, 1], got {p[where]} at position {where}")
    sums = p.sum(axis=-1)
    far = np.abs(sums - 1) > TOLERANCE
    if far.any():
        row = tuple(int(axis) for axis in np.argwhere(far)[0])
        place = f"those of row {', '.join(map(str, row))} sum" if row else "they sum"
        raise ValueError(f"{name}: {what} must sum to 1, but {place} to {sums[row]:.6g}")
    return p


def _normalised(p, name, what):
    p = distributions(p, name, what)
    return p / p.sum(axis=-1, keepdims=True)


def _pair(p, q, name):
    p, q = _normalised(p, name, "p"), _normalised(q, name, "q")
    try:
        np.broadcast_shapes(p.shape[:-1], q.shape[:-1])
        fits = p.shape[-1] == q.shape[-1]
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name}: p and q must be distributions over the same outcomes, got {p.shape} and {q.shape}")
    return p, q


def _unit(base, name):
    """How many nats the unit of this base is."""
    base = number(base, f"{name}: base")
    if not 1 < base < math.inf:
        raise ValueError(f"{name}: base must be above 1 and finite (e for nats, 2 for bits), got {base}")
    return math.log(base)
