"""Kullback-Leibler divergence: what it costs to take softmax(z) for the distribution q, beyond what q costs itself.

    p[n,c] = exp(z[n,c]) / sum_k exp(z[n,k])        z logits (N, C)   q target probabilities (N, C)
    L      = 1/N sum_n sum_c q[n,c] log(q[n,c] / p[n,c])

Split the logarithm, and it is a cross-entropy less an entropy:

    sum_c q[c] log(q[c] / p[c]) = -sum_c q[c] log p[c] + sum_c q[c] log q[c] = H(q, p) - H(q)

Backward.  H(q) doesn't depend on z, so the gradient is the cross-entropy's:

    dz[n,c] = (p[n,c] - q[n,c]) / N

Against a fixed q, the two losses train alike; this one says how far there is to go, since its least value is 0, where
p = q.  Distillation (Hinton et al. 2015) has q from a teacher's softmax.

A row's difference that rounding left below 0 is set to 0: no divergence is (Gibbs).  A class of q = 0 adds nothing,
also where p = 0; one of p = 0 < q makes the loss inf.

The terms of the sum over c show which classes make the difference.  Alone each may be below 0, where p[c] > q[c].  They
are no losses of their own, since each holds the same log sum_k exp(z[n,k]): there is one gradient, of their sum.

Source: Kullback and Leibler 1951, "On information and sufficiency".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.kernels import softmax_losses
from tinynet.kernels.compile import either
from tinynet.kernels.softmax_few_classes import FEW
from tinynet.kernels.softmax_losses import divergence_few_rows, divergence_rows
from tinynet.losses.declaration import Result, declares
from tinynet.losses.rowwise import DISTRIBUTIONS, rowwise


def divergence_terms_plain(z, q):
    """q log(q / p) of each class (N, C)."""
    m = z.max(axis=1, keepdims=True)
    s = np.exp(z - m).sum(axis=1, keepdims=True)
    log_p = (z - m) - np.log(s)
    with np.errstate(all="ignore"):
        return np.where(q > 0, q * (np.log(q) - log_p), 0 * s)  # 0, or NaN in a row that has no softmax


def kl_divergence_plain(z, q):
    """The rows' divergences and gradients, before the mean: 1/N multiplies both in rowwise.py."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    A = q.sum(axis=1, keepdims=True)  # 1, but for rounding
    return np.maximum(divergence_terms_plain(z, q).sum(axis=1), 0), A * p - q


loss = rowwise(
    "kl_divergence", "logits", kl_divergence_plain, divergence_rows, 16384, 16384, targets=DISTRIBUTIONS,
    keeps_losses=True, few_soft=divergence_few_rows, few_classes=FEW, multiple=32,
)  # fmt: skip
divergence_terms = either(divergence_terms_plain, softmax_losses.divergence_terms)


@declares("logits", "L = 1/N sum t log(t / p), p = softmax(z)", "dz = (p - t) / N", "kl kldiv kld kldivloss")
def kl_divergence(
    logits: ArrayLike, target_probabilities: ArrayLike, *, per_class: bool = False, reduction: str = "mean",
    denominator: float | None = None, sample_weight: ArrayLike | None = None, grad: bool = True,
    out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """How far p = softmax(logits) is from target probabilities q: the mean of sum q log(q / p), and its gradient by
    the logits.

    logits                (..., C), float32 or float64
    target_probabilities  (..., C): numbers in [0, 1], each row with the sum 1; they get no gradient
    per_class             for reduction="none": True for the terms of all classes (..., C), as PyTorch's "none" has
                          them, in place of the rows' divergences (...), which are their sums.  The gradient is the same

    For the other options and what is returned, see tinynet.losses; "mean" is over the rows, PyTorch's "batchmean".
    Infinite logits as in softmax_cross_entropy.  For two explicit distributions, see information.kl_divergence.

    >>> divergence, gradient = tn.kl_divergence(np.zeros((1, 2)), [[0.25, 0.75]])
    >>> round(divergence, 4), gradient
    (0.1308, array([[ 0.25, -0.25]]))
    """
    name = "kl_divergence"
    if per_class is not False and (per_class is not True or reduction != "none"):
        raise ValueError(f'{name}: per_class must be True or False, and belongs to reduction="none"; got {per_class!r}')
    if not per_class:
        return loss(logits, target_probabilities, reduction, denominator, grad, out, sample_weight)
    z = checks.prediction(logits, name, "logits")
    q = checks.like_prediction(target_probabilities, z.shape, z.dtype, name, "target probabilities")
    terms = np.empty_like(z)
    if z.ndim:
        divergence_terms(*(array.reshape(-1, z.shape[-1]) for array in (z, q, terms)))  # before `out`, which may be z
    if sample_weight is not None:
        s = checks.sample_weight(sample_weight, z.shape[:-1], name)[..., None]
        terms = np.where(s > 0, terms * s, 0).astype(z.dtype)
    _, gradient = loss(logits, target_probabilities, reduction, denominator, grad, out, sample_weight)
    return terms, gradient
