"""Kullback-Leibler divergence: what it costs to take softmax(z) for the distribution q, beyond what q costs itself.

    p[n,c] = exp(z[n,c]) / sum_k exp(z[n,k])        z logits (N, C)   q target probabilities (N, C)
    L      = 1/N sum_n sum_c q[n,c] log(q[n,c] / p[n,c])

Split the logarithm, and it is a cross-entropy less an entropy:

    sum_c q[c] log(q[c] / p[c]) = -sum_c q[c] log p[c] + sum_c q[c] log q[c] = H(q, p) - H(q)

Backward.  H(q) doesn't depend on z, so the gradient is the cross-entropy's:

    dz[n,c] = (p[n,c] - q[n,c]) / N

Against a fixed q, the two losses train alike; this one says how far there is to go, since its least value is 0, where
p = q.  Distillation (Hinton et al. 2015) has q from a teacher's softmax.

The rows are softmax_cross_entropy's kernel.  A row's difference that rounding left below 0 is set to 0: no divergence
is (Gibbs).  A class of q = 0 adds nothing, also where p = 0; one of p = 0 < q makes the loss inf.

Source: Kullback and Leibler 1951, "On information and sufficiency".
"""

import numpy as np

from tinynet.checks.losses import BAD_TARGET, FINE
from tinynet.kernels import memory
from tinynet.kernels.compile import kernel
from tinynet.kernels.softmax_rows import softmax_rows
from tinynet.kernels.surprisal import surprisal
from tinynet.losses.declaration import declares
from tinynet.losses.rowwise import DISTRIBUTIONS, rowwise, strange_rows


def kl_divergence_plain(z, q):
    """The rows' divergences, and their gradients."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    log_p = (z - z.max(axis=1, keepdims=True)) - np.log(e.sum(axis=1, keepdims=True))
    terms = np.where(q > 0, q * (np.log(q) - log_p), 0)
    A = q.sum(axis=1, keepdims=True)  # 1, but for rounding
    return np.maximum(terms.sum(axis=1), 0), A * np.exp(log_p) - q


@kernel(fast=True)
def entropy(q):
    """H(q) = -sum_c q[c] log q[c], in float64; 0 log 0 is 0."""
    zero, total = q.dtype.type(0), 0.0
    for c in range(q.size):
        term = zero if q[c] == zero else q[c] * surprisal(q[c])
        total += term
    return total


@kernel()
def rows(z, t, q, ones, ignore_index, _, scale, check_only, losses, g, first, last):
    row, C, total = strange_rows(q, first, last), z.shape[1], 0.0
    if row >= 0 or check_only:
        return row, BAD_TARGET, 0.0
    softmax_rows(z, t, q, ones, 0, 0.0, scale, losses, g, first, last)
    for i in range(first, last):  # the row of q is still in the cache
        loss = np.float64(losses[i]) - entropy(memory.piece(q, i * C, C))
        loss = 0.0 if loss < 0.0 else loss
        losses[i] = loss
        total += loss
    return -1, FINE, total


loss = rowwise(
    "kl_divergence", "logits", kl_divergence_plain, rows, 16384, 16384, targets=DISTRIBUTIONS, keeps_losses=True
)


@declares("logits", "L = 1/N sum t log(t / p), p = softmax(z)", "dz = (p - t) / N", "kl kldiv kld kldivloss")
def kl_divergence(logits, target_probabilities, *, reduction="mean", denominator=None, grad=True, out=None):
    """The divergence of softmax(logits) from target_probabilities, and its gradient with respect to the logits.

    logits                (..., C), float32 or float64
    target_probabilities  (..., C): numbers in [0, 1], each row with the sum 1; they get no gradient
    reduction             "mean" over the rows (PyTorch's "batchmean"), "sum", or "none", one divergence for each row
    denominator           what "mean" divides by instead: a whole batch's number of rows for one of its shards, say
    grad                  False: the gradient isn't computed, and None is returned for it
    out                   the array that receives the gradient; may be `logits`

    Returns (value, gradient): a float, or an array (...) for "none"; an array like logits, the gradient of the value
    (of its sum for "none").  Infinite logits and NaN as in softmax_cross_entropy.  For two explicit distributions, see
    information.kl_divergence.  Raises ValueError or TypeError for what it can't use, before anything is written.

    >>> divergence, gradient = tn.kl_divergence(np.zeros((1, 2)), [[0.25, 0.75]])
    >>> round(divergence, 4), gradient
    (0.1308, array([[ 0.25, -0.25]]))
    """
    return loss(logits, target_probabilities, reduction, denominator, grad, out)
