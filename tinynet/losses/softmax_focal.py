"""Softmax focal loss: cross-entropy that looks away from the samples that are already right.

    p[n,c] = exp(z[n,c]) / sum_k exp(z[n,k])        z logits (N, C)   t labels (N,)
    l[n]   = -log p[n,t[n]]                         the cross-entropy of row n
    q[n]   = 1 - p[n,t[n]]                          the chance of being wrong
    L      = sum_n w[t[n]] q[n]^gamma l[n] / sum_n w[t[n]]

Backward.  Everything about row n goes through the one number p[n,t].  z[n,c] touches its logarithm times
[c = t] - p[n,c], so it touches, leaving out n,

    l  times  p[c] - [c = t]                        as in softmax_cross_entropy
    q  times  p[t] (p[c] - [c = t])                 as dq = -dp[t] = p[t] dl

and with q^gamma l differentiated by the product rule,

    dz[c] = (q^gamma + gamma q^(gamma-1) p[t] l) (p[c] - [c = t])
          = F (p[c] - [c = t])                      F = q^gamma (1 + gamma p[t] l / q)

So the gradient is the cross-entropy's, and every row has a factor F of its own: the rows are softmax_cross_entropy's
kernel, and gamma = 0 is that loss.  As l goes to 0, so does q, and l / q goes to 1: F is finite for every gamma.

Stable form.  All of F comes from l, whose digits softmax_cross_entropy keeps: p[t] = exp(-l), and for q, where
1 - exp(-l) would cancel, q = 2 T / (1 + T) with T = tanh(l / 2); q^gamma = exp(-gamma (-log q)).

Source: Lin et al. 2017, "Focal loss for dense object detection", who have two classes.
"""

import numpy as np

from tinynet.checks import losses as checks
from tinynet.checks.losses import FINE
from tinynet.kernels import floats, memory
from tinynet.kernels.compile import kernel
from tinynet.kernels.softmax_rows import softmax_rows, weighted
from tinynet.kernels.surprisal import surprisal
from tinynet.layers.activations import tanh
from tinynet.losses.declaration import declares
from tinynet.losses.rowwise import rowwise

ROWS = 64  # at a time; softmax_rows takes 32 side by side, or 16, where classes are few


def softmax_focal_plain(z, t, w, gamma):
    """The rows' losses, and their gradients."""
    losses, dz = np.empty(len(z)), np.empty(z.shape)
    for n in range(len(z)):
        e = np.exp(z[n] - z[n].max())
        p, l = e / e.sum(), np.log(e.sum()) - (z[n, t[n]] - z[n].max())
        q = -np.expm1(-l)  # 1 - p[t]
        F = q**gamma + (gamma * q ** (gamma - 1) * p[t[n]] * l if gamma and 0 < q < 1 else 0)
        losses[n] = w[t[n]] * q**gamma * l if w[t[n]] else l * 0 if l < np.inf else 0
        dz[n] = w[t[n]] * F * (p - np.eye(len(p))[t[n]])
    return losses, dz


@kernel()
def focus(losses, gamma, F):
    """Losses (n,) go from l to q^gamma l; fills F (n,)."""
    one, two, zero, half = losses.dtype.type(1), losses.dtype.type(2), losses.dtype.type(0), losses.dtype.type(0.5)
    for i in range(losses.size):
        l = losses[i]
        T = tanh(half * l)
        q, p = two * T / (one + T), floats.exp(-l)
        power = one if gamma == zero else floats.exp(-gamma * surprisal(q))
        share = zero if p == zero else p * l / q  # p l goes to 0 as l goes to infinity
        share = one if l == zero else share
        losses[i] = power * l
        F[i] = power * (one + gamma * share)


@kernel()
def rows(z, t, q, w, ignore_index, gamma, scale, check_only, losses, g, first, last):
    """A few at a time: their gradient is the cross-entropy's, which is multiplied by F while it is in the cache."""
    if check_only:
        return -1, FINE, 0.0
    total, C, F = 0.0, z.shape[1], np.empty(min(ROWS, last - first), z.dtype)
    for group in range(first, last, ROWS):
        end = min(group + ROWS, last)
        softmax_rows(z, t, z[:0], w[:0], ignore_index, 0.0, 1.0, losses, g, group, end)
        focus(memory.piece(losses, group, end - group), z.dtype.type(gamma), F)
        for i in range(group, end):
            a = 0.0
            if t[i] != ignore_index:
                a = np.float64(w[t[i]]) if w.size else 1.0
            loss = weighted(a, np.float64(losses[i]))
            losses[i] = loss
            total += loss
            factor = z.dtype.type(a * scale * F[i - group])
            dz = memory.piece(g, i * C, C if g.size else 0)
            for c in range(dz.size):
                dz[c] *= factor
    return -1, FINE, total


loss = rowwise("softmax_focal", "logits", softmax_focal_plain, rows, 16384, 4096, groups=64, keeps_losses=True)


@declares(
    "logits",
    "L = mean of (1 - p[t])^gamma (-log p[t]), p = softmax(z)",
    "dz[c] = F (p[c] - [c = t]) / N, F = q^gamma (1 - gamma p[t] log(p[t]) / q), q = 1 - p[t]",
)
def softmax_focal(
    logits,
    targets,
    gamma=2.0,
    weight=None,
    *,
    ignore_index=-100,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
):
    """The focal loss of softmax(logits) against labels, and its gradient with respect to the logits.

    logits        (..., C), float32 or float64
    targets       (...) of any integer type: classes from 0 to C-1
    gamma         how strongly what is right is left out; at least 0, where 0 is the cross-entropy
    weight        (C,) factors of the classes' losses: the paper's alpha
    ignore_index  a label with this value adds no loss and no gradient, and does not count; logits there may be NaN
    reduction     "mean": over the weights w[t] of the labels that count (0 where there are none); "sum"; or "none"
    denominator   what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad          False: the gradient isn't computed, and None is returned for it
    out           the array that receives the gradient; may be `logits`

    Returns (value, gradient): a float, or an array (...) for "none"; an array like logits, the gradient of the value
    (of its sum for "none").  Infinite logits and NaN as in softmax_cross_entropy.  Raises ValueError or TypeError for
    what it can't use, before anything is written.

    >>> losses, gradients = tn.softmax_focal(np.array([[0.0, 0.0], [3.0, 0.0]]), [0, 0], reduction="none")
    >>> losses.round(5).tolist()  # the second is right and sure
    [0.17329, 0.00011]
    """
    gamma = checks.real_number(gamma, "softmax_focal", "gamma", zero=True)
    return loss(logits, targets, reduction, denominator, grad, out, gamma, weight, ignore_index)
