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

One pass over the logits, and one over q: a few rows of it are checked, and their entropy taken, in the cache.  (With
out=, one more pass comes first, which only checks, since `out` must not change if a row of q is bad.)

Source: Kullback and Leibler 1951, "On information and sufficiency".
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.softmax_rows import softmax_rows
from tinynet.losses import checks
from tinynet.losses.binary_cross_entropy import surprisal
from tinynet.losses.softmax_cross_entropy import strange_rows

GROUP = 16384  # logits of a group of rows, which stay in the L2 cache
THREADS_FROM = 16384  # logits; below, waking the threads costs more than they save


@kernel(fast=True)
def entropy(q):
    """H(q) = -sum_c q[c] log q[c], in float64; 0 log 0 is 0."""
    zero, total = q.dtype.type(0), 0.0
    for c in range(q.size):
        term = zero if q[c] == zero else q[c] * surprisal(q[c])
        total += term
    return total


@kernel()
def divergence_rows(z, q, ones, scale, losses, g, first, last):
    """Rows `first` to `last`: one whose q is no distribution, or -1; and the sum of their divergences.

    Fills losses (N,), and g (N, C) with scale times the gradient, unless g is empty; neither where q is bad.
    """
    C = z.shape[1]
    position = strange_rows(q, first, last)
    if position >= 0:
        return position, 0.0
    labels = np.empty(0, np.int64)
    softmax_rows(z, labels, q, ones, 0, 0.0, scale, losses, g, first, last)
    total = 0.0
    for i in range(first, last):
        loss = np.float64(losses[i]) - entropy(memory.piece(q, i * C, C))
        loss = 0.0 if loss < 0.0 else loss
        losses[i] = loss
        total += loss
    return position, total


def loss_and_gradient(z, q, ones, scale, chunks, losses, g):
    """The first row of q that is no distribution, or -1, and the loss's value.

    Chunks of groups of rows are what threads take; each owns its rows of losses and g.
    """
    N, C = z.shape
    rows = max(1, GROUP // C)
    groups = (N + rows - 1) // rows
    partial, bad = np.zeros(chunks), np.full(chunks, -1)
    for k in prange(chunks):
        for group in range(k * groups // chunks, (k + 1) * groups // chunks):
            if bad[k] < 0:
                first, last = group * rows, min(group * rows + rows, N)
                bad[k], total = divergence_rows(z, q, ones, scale, losses, g, first, last)
                partial[k] += total
    value, position = 0.0, -1
    for k in range(chunks):
        value += partial[k]
        if position < 0:
            position = bad[k]
    return position, value * scale


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


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
    name = "kl_divergence"
    z = checks.prediction(logits, name, "logits")
    if z.ndim == 0:
        raise ValueError(f"{name}: logits must have shape (..., C), got one number")
    shape, C, dtype = z.shape, z.shape[-1], z.dtype
    q = checks.like_prediction(target_probabilities, z.shape, dtype, name, "target probabilities")
    divisor = checks.divisor(reduction, denominator, name)
    gradient = checks.gradient(grad, out, logits, z, (q,), name)
    N = z.size // C
    losses = np.empty(N, dtype)

    scale = 1.0 / (divisor or N) if reduction == "mean" else 1.0
    threads = N > 1 and z.size >= THREADS_FROM
    chunks = chunk_count(z.size, GROUP) if threads else 1
    kernel = all_threads if threads else one_thread
    z, q, ones = z.reshape(N, C), q.reshape(N, C), checks.ones(dtype, C)
    position = -1
    # With `out`, once without a gradient first: it is not touched if a row of q is bad.
    for g in (gradient,) if out is None else (checks.NOTHING[dtype, 2], gradient):
        if position < 0:
            position, value = kernel(z, q, ones, scale, chunks, losses, g.reshape(-1, C))
    if position >= 0:
        raise checks.not_a_target(q.reshape(shape), position, shape, None, name)
    return losses.reshape(shape[:-1]) if reduction == "none" else value, checks.delivered(gradient, grad, out)
