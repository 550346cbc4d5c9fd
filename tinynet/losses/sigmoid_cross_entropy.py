"""Sigmoid cross-entropy: each output is a yes-or-no question of its own.

    p = 1 / (1 + exp(-z))                           z logits, t targets in [0, 1], of one shape with n elements
    H = -t log p - (1 - t) log(1 - p)               of each element
    L = 1/n sum_i H[i]

Stable form.  With u = exp(-|z|) <= 1, nothing overflows, and log1p(u) = log(1 + u) loses no digit of a small u:

    -log p       = log(1 + exp(-z)) = max(-z, 0) + log1p(u)
    -log (1 - p) = log(1 + exp(z))  = max( z, 0) + log1p(u)

Backward, of one element.  The slope of log(1 + exp(z)) is exp(z) / (1 + exp(z)) = p, that of log(1 + exp(-z)) is
-(1 - p), so

    dH/dz = (1 - t) p - t (1 - p) = p - t           dz[i] = (p[i] - t[i]) / n

p = 1 / (1 + u) for z >= 0, else u / (1 + u); 1 - p is the other one.  The slope is computed as its two products: p - t
would lose its digits where p is near t.  So weights fit in, too: with a = weight pos_weight t and b = weight (1 - t),

    H  = a max(-z, 0) + b max(z, 0) + (a + b) log1p(u)                      dH/dz = b p - a (1 - p)

A term whose factor is 0 is 0, even at z = inf.  Label smoothing moves t to (1 - eps) t + eps / 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.kernels import floats
from tinynet.kernels.compile import helper
from tinynet.kernels.loss_elements import BLOCK, UNIT_INTERVAL
from tinynet.kernels.vectors import maximum, select
from tinynet.losses.declaration import Result, declares
from tinynet.losses.elementwise import elementwise


def sigmoid_cross_entropy_plain(z, t, positive, negative, eps):
    """The losses, and the slope of each, before the mean: 1/n multiplies both in elementwise.py.

    positive is weight pos_weight, and negative is weight.
    """
    q = (1 - eps) * t + eps / 2
    a, b = positive * q, negative * (1 - q)
    yes, no = np.logaddexp(0, -z), np.logaddexp(0, z)  # -log p and -log(1 - p)
    losses = np.where((a == 0) & (yes == np.inf), 0, a * yes) + np.where((b == 0) & (no == np.inf), 0, b * no)
    return losses, b * np.exp(-yes) - a * np.exp(-no)


@helper
def element(z, t, positive, negative, eps):
    q = (1 - eps) * t + eps * 0.5
    a, b, size = positive * q, negative * (1 - q), maximum(0 - z, z)
    u, above = floats.exp(0 - size), z > 0
    factor, p, rest = select(above, b, a), select(above, 1, u), select(above, u, 1)
    loss = select(factor == 0, 0, factor * size) + (a + b) * floats.log1p(u)
    return loss, (b * p - a * rest) / (u + 1)


loss = elementwise(
    "sigmoid_cross_entropy", "logits", sigmoid_cross_entropy_plain, element, 8192, 4 * BLOCK, targets=UNIT_INTERVAL,
    error=checks.unit_interval_error, weighted=True, ignores=True,
)  # fmt: skip


@declares(
    "logits",
    "L = mean of -t log p - (1-t) log(1-p), p = 1 / (1 + exp(-z))",
    "dz = (p - t) / n",
    "sigmoid bcewithlogits bcewithlogitsloss",
)
def sigmoid_cross_entropy(
    logits: ArrayLike, targets: ArrayLike, *, weight: ArrayLike | None = None, pos_weight: ArrayLike | None = None,
    ignore_index: int | None = None, label_smoothing: float = 0.0,
    reduction: str = "mean", denominator: float | None = None, sample_weight: ArrayLike | None = None,
    grad: bool = True, out: np.ndarray | None = None, stream: Any = None, check: bool = True,
) -> Result:  # fmt: skip
    """The loss of yes-or-no questions: the mean of -t log p - (1 - t) log(1 - p), and its gradient by the logits.

    p = 1 / (1 + exp(-logits)) is the probability of yes, and t, the target, is 1 for yes.  Returned are both, loss and
    gradient: the one says how wrong the logits are; the other, (p - t) / n, in their shape, is what model.backward
    takes.

    logits           any shape, float32 or float64
    targets          the same shape, in [0, 1]: labels 0 and 1 of any type, or probabilities
    weight           factors of the losses, at least 0: one number, one for each index of the last axis (C,), or one for
                     each loss, in the shape of the logits
    pos_weight       further factors of the terms -t log p, of the same shapes: above 1, a missed yes costs more
    ignore_index     say -1, for targets that mark what is unknown
    label_smoothing  eps: targets become (1 - eps) t + eps / 2
    stream, check    for device arrays only, see below
    reduction, denominator, sample_weight, grad, out  as in help(tn.losses)

    "mean" is over the targets that count, whatever their weight.  Logits of +-inf give the limits: 0 where the target
    agrees, else inf.

    Arrays on a GPU (PyTorch's, CuPy's, Numba's: whatever has __cuda_array_interface__) are worked on there, which needs
    the extra "cuda".  Numba device arrays come back.  Work runs on `stream` (a handle, or has __cuda_stream__), else
    on the stream that the logits' interface states, else on the default stream: PyTorch's interface states none.
    To raise an error for bad targets or weights, the call waits for the GPU; with check=False it doesn't, and they
    are used as they are.  They have no sample_weight, and no weight for each loss.

    >>> loss, gradient = tn.sigmoid_cross_entropy(np.zeros(1), [1])  # yes and no equally likely
    >>> round(loss, 4), gradient
    (0.6931, array([-0.5]))
    """
    name = "sigmoid_cross_entropy"
    arrays = type(logits) is type(targets) is np.ndarray and weight is pos_weight is None
    if not (arrays and type(out) in (np.ndarray, type(None))) and checks.on_device(
        logits, targets, weight, pos_weight, out
    ):
        checks.no_sample_weight(sample_weight, name)
        from tinynet.cuda import sigmoid_cross_entropy as cuda  # numba-cuda need not be there before

        return cuda.sigmoid_cross_entropy(
            logits, targets, weight=weight, pos_weight=pos_weight, ignore_index=ignore_index,
            label_smoothing=label_smoothing, reduction=reduction, denominator=denominator, grad=grad, out=out,
            stream=stream, check=check,
        )  # fmt: skip
    if stream is not None:
        raise TypeError(f"{name}: stream belongs to device arrays, and the logits are on the host")
    eps = checks.fraction(label_smoothing, name)
    return loss(
        logits, targets, reduction, denominator, grad, out, sample_weight, eps, ignore_index, weight, pos_weight
    )
