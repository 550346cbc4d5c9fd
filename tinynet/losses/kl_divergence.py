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

Source: Kullback and Leibler 1951, "On information and sufficiency".
"""

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels.softmax_few_classes import FEW
from tinynet.kernels.softmax_losses import divergence_few_rows, divergence_rows
from tinynet.losses.declaration import Result, declares
from tinynet.losses.rowwise import DISTRIBUTIONS, rowwise


def kl_divergence_plain(z, q):
    """The rows' divergences and gradients, before the mean: 1/N multiplies both in rowwise.py."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    log_p = (z - z.max(axis=1, keepdims=True)) - np.log(e.sum(axis=1, keepdims=True))
    terms = np.where(q > 0, q * (np.log(q) - log_p), 0)
    A = q.sum(axis=1, keepdims=True)  # 1, but for rounding
    return np.maximum(terms.sum(axis=1), 0), A * np.exp(log_p) - q


loss = rowwise(
    "kl_divergence", "logits", kl_divergence_plain, divergence_rows, 16384, 16384, targets=DISTRIBUTIONS,
    keeps_losses=True, few_soft=divergence_few_rows, few_classes=FEW, multiple=32,
)  # fmt: skip


@declares("logits", "L = 1/N sum t log(t / p), p = softmax(z)", "dz = (p - t) / N", "kl kldiv kld kldivloss")
def kl_divergence(
    logits: ArrayLike, target_probabilities: ArrayLike, *, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The divergence of softmax(logits) from target_probabilities, and its gradient with respect to the logits.

    logits                (..., C), float32 or float64
    target_probabilities  (..., C): numbers in [0, 1], each row with the sum 1; they get no gradient

    For the options and what is returned, see tinynet.losses; "mean" is over the rows, PyTorch's "batchmean".  Infinite
    logits as in softmax_cross_entropy.  For two explicit distributions, see information.kl_divergence.

    >>> divergence, gradient = tn.kl_divergence(np.zeros((1, 2)), [[0.25, 0.75]])
    >>> round(divergence, 4), gradient
    (0.1308, array([[ 0.25, -0.25]]))
    """
    return loss(logits, target_probabilities, reduction, denominator, grad, out, sample_weight)
