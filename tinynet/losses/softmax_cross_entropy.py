"""Softmax cross-entropy: minus the log of the probability that softmax gives the right class.

    p[n,c] = exp(z[n,c]) / sum_k exp(z[n,k])       z logits (N, C)   t labels (N,)
    L      = -1/N sum_n log p[n,t[n]]

Stable form.  With m = max_k z[n,k] and s = sum_k exp(z[n,k] - m), no exp can overflow, and s >= 1:

    -log p[n,t] = (m - z[n,t]) + log s

One of the terms of s is exactly 1, the maximum's own.  Summing only the others, rest = s - 1, and taking log1p(rest),
which is log(1 + rest) to its last digit, keeps every digit of a small loss: for logits (20, 0) it is 2.1e-9, where
log(1 + 2.1e-9) in float32 is 0.

Backward.  z[n,c] touched log s, times exp(z[n,c] - m) / s = p[n,c], and, if c is t, the loss itself, times -1.  (The
largest z touched m, too, but m cancels: the loss has the same value with any number in its place.)

    dz[n,c] = (p[n,c] - [c = t[n]]) / N            where [c = t] is 1 for the right class and 0 for the others

Why softmax and logarithm in one: apart, softmax's backward pass multiplies a row by its (C, C) matrix of derivatives,
dp[k]/dz[c]; together all of that becomes one subtraction, and p is never stored.

Weights of the classes (C,), soft targets q (N, C), which are probabilities, and label smoothing, which takes eps of the
target from the right class and shares it out, need one more factor.  Each class has its term in the loss, multiplied by
a[n,c]; their sum over c is A[n], by which log s is multiplied, and so its slope:

    L[n]    = sum_c a[n,c] ((m - z[n,c]) + log s)      a[n,c] = weight[c] ((1 - eps) q[n,c] + eps / K)
    dz[n,c] = A[n] p[n,c] - a[n,c]                     q[n,c] = [c = t[n]] for labels

K counts the open classes, which no logit of -inf masks; a masked class gets no share of eps.

The compiled rows are in kernels/softmax_rows.py, and for few classes in kernels/softmax_few_classes.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.kernels.softmax_few_classes import FEW
from tinynet.kernels.softmax_losses import cross_entropy_few_rows, cross_entropy_few_soft_rows, cross_entropy_rows
from tinynet.losses.declaration import Result, declares
from tinynet.losses.rowwise import EITHER, rowwise


def softmax_cross_entropy_plain(z, q, weight, eps):
    """The rows' losses and gradients, before the mean: 1/N, or 1 / sum of weights, multiplies both in rowwise.py.

    q[n,c] = [c = t[n]] for labels.
    """
    losses, dz = np.empty(len(z)), np.empty(z.shape)
    for n in range(len(z)):
        top = z[n].argmax()
        exp = np.exp(z[n] - z[n, top])
        rest = np.delete(exp, top).sum() + (exp[top] - 1)  # exp[top] is 1, and NaN for a logit of infinity
        is_open = z[n] != -np.inf
        a = weight * ((1 - eps) * q[n] + eps * is_open / is_open.sum())
        losses[n] = np.where(a == 0, 0, a * ((z[n, top] - z[n]) + np.log1p(rest))).sum()
        dz[n] = a.sum() * exp / (1 + rest) - a
    return losses, dz


def softmax_then_cross_entropy_plain(z, q):
    """The same without weights and smoothing, the separate way: softmax, logarithm, and back through each of them."""
    losses, dz = np.empty(len(z)), np.empty(z.shape)
    for n in range(len(z)):
        p = np.exp(z[n]) / np.exp(z[n]).sum()
        losses[n] = -(q[n] * np.log(p)).sum()
        dp = -q[n] / p
        jacobian = np.diag(p) - np.outer(p, p)  # dp[k]/dz[c] = p[k] ([k = c] - p[c])
        dz[n] = jacobian @ dp
    return losses, dz


loss = rowwise(
    "softmax_cross_entropy", "logits", softmax_cross_entropy_plain, cross_entropy_rows, 16384, 4096, targets=EITHER,
    groups=64, multiple=32, few=cross_entropy_few_rows, few_soft=cross_entropy_few_soft_rows, few_classes=FEW,
)  # fmt: skip


@declares("logits", "L = mean of -log p[t], p = softmax(z)", "dz[c] = (p[c] - [c = t]) / N", "softmax")
def softmax_cross_entropy(
    logits: ArrayLike, targets: ArrayLike, *, weight: ArrayLike | None = None, ignore_index: int = -100,
    label_smoothing: float = 0.0, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None, stream: Any = None,
    check: bool = True,
) -> Result:  # fmt: skip
    """The loss of classifiers: the mean of -log p[t], p = softmax(logits), and its gradient by the logits.

    Returned are both, loss and gradient: the one says how wrong the scores are; the other, (p - 1) / N for the right
    class and p / N for the others, in the logits' shape, is what model.backward takes.

    logits   (..., C), float32 or float64: a score for each of C classes
    targets  (...) of any integer type: the right class, from 0 to C-1; or (..., C) of floats: probabilities
    weight, ignore_index, label_smoothing, reduction, denominator, sample_weight, grad, out  as in help(tn.losses)
    stream, check  for device arrays only, see below

    A class at -inf has probability 0, and gets no share of label_smoothing; if it is the target, the loss is inf.  A
    row with a NaN or +inf, or with all of its classes at -inf, has a gradient of NaN and no finite loss.

    Arrays on a GPU (PyTorch's, CuPy's, Numba's: whatever has __cuda_array_interface__) are worked on there, which needs
    the extra "cuda".  Numba device arrays come back.  Work runs on `stream` (a handle, or has __cuda_stream__), else
    on the stream that the logits' interface states, else on the default stream: PyTorch's interface states none.
    To raise an error for bad targets or weights, the call waits for the GPU; with check=False it doesn't, and a
    label that is no class makes its row NaN.  They have no sample_weight.

    >>> loss, gradient = tn.softmax_cross_entropy(np.zeros((1, 4)), [2])  # four classes, equally likely
    >>> round(loss, 4), gradient
    (1.3863, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    name = "softmax_cross_entropy"
    arrays = type(logits) is type(targets) is np.ndarray and weight is None and type(out) in (np.ndarray, type(None))
    if not arrays and checks.on_device(logits, targets, weight, out):
        checks.no_sample_weight(sample_weight, name)
        from tinynet.cuda import softmax_cross_entropy as cuda  # numba-cuda need not be there before

        return cuda.softmax_cross_entropy(
            logits, targets, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing,
            reduction=reduction, denominator=denominator, grad=grad, out=out, stream=stream, check=check,
        )  # fmt: skip
    if stream is not None:
        raise TypeError(f"{name}: stream belongs to device arrays, and the logits are on the host")
    eps = checks.fraction(label_smoothing, name)
    return loss(logits, targets, reduction, denominator, grad, out, sample_weight, eps, weight, ignore_index)
