"""Linear cross-entropy: a dense layer and its softmax cross-entropy in one.

    z = x w + b                                    x (N, D)   w (D, C)   b (C,)   z (N, C) logits
    L = softmax cross-entropy of z with labels t   (softmax_cross_entropy.py)

Backward.  With dz = dL/dz, (p - [c = t]) / N or what the options make of it, as in any dense layer:

    dx = dz w.T     dw = x.T dz     db = column sums of dz

where [c = t] is 1 for the right class and 0 for the others.  A row of z is needed only until its part of dx, dw and db
is summed, so the kernel takes a block of rows at a time, and z is never whole: see kernels/linear_cross_entropy.py.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.kernels.linear_cross_entropy import linear_cross_entropy_fused
from tinynet.kernels.loss_rows import bad_row, count_labels, total_or
from tinynet.losses.rowwise import share_of_rows
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy_plain


def linear_cross_entropy_plain(x, w, b, q, weight, eps, s):
    """The rows' losses times s (N,), and the gradients of their sum, before the mean.

    q[n,c] = [c = t[n]] for labels; s holds the weights of the samples.
    """
    losses, dz = softmax_cross_entropy_plain(x @ w + b, q, weight, eps)  # Dense, then its loss
    dz = s[:, None] * dz
    return s * losses, dz @ w.T, x.T @ dz, dz.sum(axis=0)


def linear_cross_entropy(
    x: ArrayLike, w: ArrayLike, b: ArrayLike | None, targets: ArrayLike, /, *, weight: ArrayLike | None = None,
    ignore_index: int = -100, label_smoothing: float = 0.0, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True,
) -> tuple[float | Any, np.ndarray | Any, np.ndarray | Any, np.ndarray | Any]:  # fmt: skip
    """The softmax cross-entropy of the logits x w + b against targets, and its gradients with respect to x, w and b.

    x        (..., D), float32 or float64
    w        (D, C), as Dense keeps it, of x's dtype; or the transpose of an array (C, D): E.T is not copied
    b        (C,), or None
    targets  and all options as in softmax_cross_entropy; `weight` is the classes' (C,)

    Returns (value, dx, dw, db): db is None where b is, and all three are None for grad=False.  Needs at most 16 MB
    beyond its arguments and results, or a third of what w takes.

    >>> x, w, b = np.ones((2, 3)), np.zeros((3, 4)), np.zeros(4)
    >>> loss, dx, dw, db = tn.linear_cross_entropy(x, w, b, [0, 1])
    >>> round(loss, 4), db
    (1.3863, array([-0.25, -0.25,  0.25,  0.25]))
    """
    return into(
        x, w, b, targets, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing,
        reduction=reduction, denominator=denominator, sample_weight=sample_weight, grad=grad,
    )  # fmt: skip


def into(
    x, w, b, targets, dw=None, db=None, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean",
    denominator=None, sample_weight=None, grad=True,
):  # fmt: skip
    """linear_cross_entropy; the arrays dw, as w lies in memory, and db receive its gradients, if they are given."""
    name = "linear_cross_entropy"
    x = checks.prediction(x, name, "x")
    if x.ndim == 0:
        raise ValueError(f"{name}: x must have shape (..., D), got one number")
    dtype, D = x.dtype, x.shape[-1]
    by_class = isinstance(w, np.ndarray) and w.ndim == 2 and not w.flags.c_contiguous and w.flags.f_contiguous
    w = checks.prediction(w.T, name, "w").T if by_class else checks.prediction(w, name, "w")
    if w.dtype != dtype:
        raise TypeError(f"{name}: w must have x's dtype {dtype}, got {w.dtype}")
    if w.ndim != 2 or w.shape[0] != D:
        raise ValueError(f"{name}: w must have shape (D, C) = ({D}, C) for x {x.shape}, got {w.shape}")
    C = w.shape[1]
    bias = np.zeros(C, dtype) if b is None else checks.like_prediction(b, (C,), dtype, name, "b")
    divisor = checks.divisor(reduction, denominator, name)
    eps = checks.fraction(label_smoothing, name)
    shape = (*x.shape[:-1], C)
    t, q, ignore_index = checks.class_targets(targets, shape, dtype, ignore_index, name)
    if weight is not None:
        classes = checks.per_class(weight, C, dtype, name)
    else:
        classes = np.ones(C, dtype) if q.size or eps > 0.0 else checks.NOTHING[dtype, 1]
    N, s = x.size // D, checks.NOTHING[checks.FLOAT64, 1]
    flat = x.reshape(N, D)
    if sample_weight is not None:
        s = checks.sample_weight(sample_weight, shape[:-1], name).reshape(-1)
        absent = s == 0
        if absent.any():  # as if those rows were not there, whatever they hold
            flat = np.where(absent[:, None], dtype.type(0), flat)
            t, q = (np.where(absent, ignore_index, t), q) if t.size else (t, np.where(absent[:, None], 1 / C, q))
            q = q.astype(dtype, copy=False)
    position, total = (bad_row(q, 0, N), N) if q.size else count_labels(t, C, classes, ignore_index)
    if position >= 0:
        raise checks.target_error(targets, position, shape, ignore_index, name)
    if s.size:
        total = float((s * share_of_rows(t, classes if classes.size else None, ignore_index, N)).sum())
    scale = 1.0 / total_or(divisor, total) if reduction == "mean" else 1.0

    if t.size and not np.isfinite(flat[t == ignore_index]).all():  # in dw, 0 times NaN would be NaN
        flat = np.where((t == ignore_index)[:, None], dtype.type(0), flat)
    losses = np.empty(N, dtype) if reduction == "none" or s.size else checks.NOTHING[dtype, 1]
    dx = np.empty((N, D), dtype) if grad else checks.NOTHING[dtype, 2]
    if not grad:
        dw, db = dx, checks.NOTHING[dtype, 1]
    elif dw is None:
        dw = np.empty((D, C), dtype, order="F" if by_class else "C")
    if db is None:
        db = np.empty(C, dtype)
    run = without_jit if numba.config.DISABLE_JIT else linear_cross_entropy_fused
    value = run(flat, w, bias, t, q, classes, ignore_index, eps, scale, s, losses, dx, dw, db)
    if reduction == "none":
        value = losses.reshape(shape[:-1])
    if not grad:
        return value, None, None, None
    return value, dx.reshape(x.shape), dw, None if b is None else db


def without_jit(x, w, b, t, q, weight, ignore_index, eps, scale, s, losses, dx, dw, db):
    """What the kernel does, by the plain formula: for NUMBA_DISABLE_JIT=1."""
    counts = t != ignore_index if t.size else np.ones(len(x), bool)
    weight, s = weight if weight.size else np.ones(len(b)), s if s.size else np.ones(len(x))
    arrays = (array.astype(float) for array in (x[counts], w, b))
    with np.errstate(all="ignore"):
        row_losses, rows_dx, sum_dw, sum_db = linear_cross_entropy_plain(
            *arrays, np.eye(len(b))[t[counts]] if t.size else q, weight, eps, s[counts]
        )
    if losses.size:
        losses[:], losses[counts] = 0, row_losses
    if dx.size:
        dx[:], dx[counts], dw[:], db[:] = 0, rows_dx * scale, sum_dw * scale, sum_db * scale
    return float(row_losses.sum() * scale)
