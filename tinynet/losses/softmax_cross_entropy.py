"""Softmax cross-entropy, fused: one pass over the logits gives the loss and all that its gradient needs.

    p[n,c] = exp(z[n,c]) / sum_k exp(z[n,k])       z logits (N, C)   t labels (N,)
    L      = -1/N sum_n log p[n, t[n]]

Stable form.  With m = max_k z[n,k] and s = sum_k exp(z[n,k] - m), no exp can overflow, and s >= 1:

    -log p[n,t] = (m - z[n,t]) + log s

One of the terms of s is exactly 1, the maximum's own.  Summing only the others, r = s - 1, and taking log1p(r)
keeps every digit of a small loss: for logits (20, 0) it is 2.1e-9 where log(1 + 2.1e-9) in float32 is 0.

Backward.  z[n,c] touched log s, times exp(z[n,c] - m) / s = p[n,c], and z[n,t] itself, times -1:

    dz[n,c] = (p[n,c] - [c = t[n]]) / N            at c = t, without cancellation: ((e - 1) - r) / s,  e = exp(z - m)

Why fuse: apart, softmax's backward multiplies by a (C, C) Jacobian per sample; together that Jacobian collapses
to one subtraction, and p is never stored.

Weights w (C,), soft targets q (N, C) and label smoothing are one formula more.  Each term of the loss gets a factor
a[n,c], whose sum over c is A[n]; z[n,c] now touched log s A[n] times, and itself a[n,c] times:

    L[n]    = sum_c a[n,c] ((m - z[n,c]) + log s)            a[n,c] = w[c] ((1 - eps) q[n,c] + eps / K)
    dz[n,c] = A[n] p[n,c] - a[n,c]                           q[n,c] = [c = t[n]] for labels

K is the number of classes that are not masked by a logit of -inf; a masked class gets no share of eps.

What makes it fast is in kernels/softmax_rows.py, and for few classes in kernels/softmax_few_classes.py.
"""

import numpy as np

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_TARGET, FINE
from tinynet.kernels.compile import kernel
from tinynet.kernels.softmax_few_classes import FEW, few_classes
from tinynet.kernels.softmax_rows import softmax_rows
from tinynet.losses.declaration import declares
from tinynet.losses.rowwise import EITHER, rowwise, strange_rows


def softmax_cross_entropy_plain(z, q, w, epsilon):
    """The rows' losses, and their gradients; q[n,c] = [c = t[n]] for labels."""
    losses, dz = np.empty(len(z)), np.empty(z.shape)
    for n in range(len(z)):
        e = np.exp(z[n] - z[n].max())
        s, open_classes = e.sum(), z[n] != -np.inf
        a = w * ((1 - epsilon) * q[n] + epsilon * open_classes / open_classes.sum())
        losses[n] = np.where(a == 0, 0, a * ((z[n].max() - z[n]) + np.log(s))).sum()
        dz[n] = a.sum() * e / s - a
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


@kernel()
def rows(z, t, q, w, ignore_index, epsilon, scale, check_only, losses, g, first, last):
    row = strange_rows(q, first, last) if q.size else -1
    if row >= 0 or check_only:
        return row, BAD_TARGET, 0.0
    return -1, FINE, softmax_rows(z, t, q, w, ignore_index, epsilon, scale, losses, g, first, last)


@kernel()
def few_rows(z, t, q, w, ignore_index, epsilon, scale, check_only, losses, g, first, last):
    """The same for labels of few classes: by itself, because it takes 2 s to compile and all the rest 4 s more."""
    return -1, FINE, few_classes(z, t, w, ignore_index, scale, losses, g, first, last)


loss = rowwise(
    "softmax_cross_entropy", "logits", softmax_cross_entropy_plain, rows, 16384, 4096, targets=EITHER, groups=64,
    multiple=32, few=few_rows, few_classes=FEW,
)  # fmt: skip


@declares("logits", "L = mean of -log p[t], p = softmax(z)", "dz[c] = (p[c] - [c = t]) / N", "softmax")
def softmax_cross_entropy(
    logits,
    targets,
    *,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
    stream=None,
    check=True,
):
    """The cross-entropy of softmax(logits) against targets, and its gradient with respect to the logits.

    logits           (..., C), float32 or float64
    targets          (...) of any integer type: classes from 0 to C-1; or (..., C) of floats: probabilities
    weight           (C,) factors of the classes' terms
    ignore_index     a label with this value adds no loss and no gradient, and does not count; logits there may be NaN
    label_smoothing  eps: targets become (1 - eps) q + eps / C (Szegedy et al. 2015, section 7); classes masked by a
                     logit of -inf get none of it
    reduction        "mean": over the weights w[t] of the labels that count (0 where there are none), or over the rows
                     of probabilities; "sum"; or "none", one loss for each row
    denominator      what "mean" divides by instead: a whole batch's count for one of its shards, say
    grad             False: the gradient isn't computed, and None is returned for it
    out              the array that receives the gradient; may be `logits`
    stream, check    for device arrays only, see below

    Returns (value, gradient): a float, or an array (...) for "none"; an array like logits, the gradient of the value
    (of its sum for "none").  A class at -inf has probability 0; if it is the target, the loss is inf.  A row with a
    NaN or +inf, or with all of its classes at -inf, has a gradient of NaN and no finite loss.  Raises ValueError or
    TypeError for what it can't use, before anything is written.

    Arrays on a GPU (PyTorch's, CuPy's, Numba's: whatever has __cuda_array_interface__) are worked on there, which needs
    the extra "cuda".  Numba device arrays come back.  Work runs on `stream` (a handle, or has __cuda_stream__), else
    on the stream that the logits' interface states, else on the default stream: PyTorch's interface states none.
    To raise an error for bad targets or weights, the call waits for the GPU; with check=False it doesn't, and a
    label that is no class makes its row NaN.

    >>> loss, gradient = tn.softmax_cross_entropy(np.zeros((1, 4)), [2])  # four classes, equally likely
    >>> round(loss, 4), gradient
    (1.3863, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    name = "softmax_cross_entropy"
    if checks.on_device(logits, targets, weight, out):
        from tinynet.cuda import softmax_cross_entropy as cuda  # numba-cuda need not be there before

        return cuda.softmax_cross_entropy(
            logits, targets, weight=weight, ignore_index=ignore_index,
            label_smoothing=label_smoothing, reduction=reduction, denominator=denominator, grad=grad, out=out,
            stream=stream, check=check,
        )  # fmt: skip
    if stream is not None:
        raise TypeError(f"{name}: stream belongs to device arrays, and the logits are on the host")
    epsilon = checks.fraction(label_smoothing, name)
    return loss(logits, targets, reduction, denominator, grad, out, epsilon, weight, ignore_index)
