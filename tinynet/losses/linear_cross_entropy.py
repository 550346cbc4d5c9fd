"""Linear cross-entropy: a dense layer and its softmax cross-entropy in one, without the logits ever being whole.

    z = x w + b                                    x (N, D)   w (D, C)   b (C,)   z (N, C) logits
    L = softmax cross-entropy of z with labels t   (softmax_cross_entropy.py)

Backward.  With dz = dL/dz, p - [c = t] or what the options make of it, as in any dense layer:

    dx = dz w.T     dw = x.T dz     db = column sums of dz

Why together: with a vocabulary of C = 32,000 and N = 2,048 tokens, z is 262 MB, and apart it is written, read, turned
into dz and read again.  But a row of z is needed only until its part of dx, dw and db is summed, so a block of rows is
taken at a time: see kernels/linear_cross_entropy.py.
"""

import numba
import numpy as np

from tinynet.checks import losses as checks
from tinynet.kernels.linear_cross_entropy import BLOCKS, LOGITS, linear_cross_entropy_blocks
from tinynet.losses.rowwise import count_labels, strange_rows, total_or
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy_plain


def linear_cross_entropy_plain(x, w, b, q, weight, epsilon):
    """The rows' losses, and the gradients of their sum; q[n,c] = [c = t[n]] for labels."""
    losses, dz = softmax_cross_entropy_plain(x @ w + b, q, weight, epsilon)  # Dense, then its loss
    return losses, dz @ w.T, x.T @ dz, dz.sum(axis=0)


def linear_cross_entropy(
    x,
    w,
    b,
    targets,
    /,
    *,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    denominator=None,
    grad=True,
):
    """The softmax cross-entropy of the logits x w + b against targets, and its gradients with respect to x, w and b.

    x        (..., D), float32 or float64
    w        (D, C), as Dense keeps it, of x's dtype
    b        (C,), or None
    targets  and all options as in softmax_cross_entropy; `weight` is the classes' (C,)

    Returns (value, dx, dw, db): db is None where b is, and all three are None for grad=False.  Needs some 14 MB beyond
    its arguments and results, and as much as dw again where the logits would be more than 400 MB.  Raises ValueError or
    TypeError for what it can't use, before anything is computed.

    >>> x, w, b = np.ones((2, 3)), np.zeros((3, 4)), np.zeros(4)
    >>> loss, dx, dw, db = tn.linear_cross_entropy(x, w, b, [0, 1])
    >>> round(loss, 4), db
    (1.3863, array([-0.25, -0.25,  0.25,  0.25]))
    """
    name = "linear_cross_entropy"
    given = checks.prediction(x, name, "x")
    if given.ndim == 0:
        raise ValueError(f"{name}: x must have shape (..., D), got one number")
    dtype, D = given.dtype, given.shape[-1]
    w = checks.prediction(w, name, "w")
    if w.dtype != dtype:
        raise TypeError(f"{name}: w must have x's dtype {dtype}, got {w.dtype}")
    if w.ndim != 2 or w.shape[0] != D:
        raise ValueError(f"{name}: w must have shape (D, C) = ({D}, C) for x {given.shape}, got {w.shape}")
    C = w.shape[1]
    bias = np.zeros(C, dtype) if b is None else checks.like_prediction(b, (C,), dtype, name, "b")
    divisor = checks.divisor(reduction, denominator, name)
    epsilon = checks.fraction(label_smoothing, name)
    shape = (*given.shape[:-1], C)
    t, q, ignore_index = checks.class_targets(targets, shape, dtype, ignore_index, name)
    if weight is not None:
        classes = checks.per_class(weight, C, dtype, name)
    else:
        classes = np.ones(C, dtype) if q.size or epsilon > 0.0 else checks.NOTHING[dtype, 1]
    N = given.size // D
    position, total = (strange_rows(q, 0, N), N) if q.size else count_labels(t, C, classes, ignore_index)
    if position >= 0:
        raise checks.target_error(targets, position, shape, ignore_index, name)
    scale = 1.0 / total_or(divisor, total) if reduction == "mean" else 1.0

    flat = given.reshape(N, D)
    if t.size and not np.isfinite(flat[t == ignore_index]).all():  # in dw, 0 times NaN would be NaN
        flat = np.where((t == ignore_index)[:, None], dtype.type(0), flat)
    rows = LOGITS // (C * dtype.itemsize)
    rows = max(1, min(N, rows - rows % (96 if rows >= 96 else 12)))  # whole tiles, of z and of dx
    losses = np.empty(N, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]
    dx = np.empty((N, D), dtype) if grad else checks.NOTHING[dtype, 2]
    dw, db = (np.empty((D, C), dtype), np.empty(C, dtype)) if grad else (dx, checks.NOTHING[dtype, 1])
    lost = np.zeros_like(dw if BLOCKS * rows < N else dw[:0])
    run = plainly if numba.config.DISABLE_JIT else linear_cross_entropy_blocks
    value = run(flat, w, bias, t, q, classes, ignore_index, epsilon, scale, rows, losses, dx, dw, db, lost)
    if reduction == "none":
        value = losses.reshape(shape[:-1])
    if not grad:
        return value, None, None, None
    return value, dx.reshape(given.shape), dw, None if b is None else db


def plainly(x, w, b, t, q, weight, ignore_index, epsilon, scale, rows, losses, dx, dw, db, lost):
    """What the kernel does, by the plain formula: for NUMBA_DISABLE_JIT=1."""
    counts = t != ignore_index if t.size else np.ones(len(x), bool)
    weight = weight if weight.size else np.ones(len(b))
    given = (array.astype(float) for array in (x[counts], w, b))
    with np.errstate(all="ignore"):
        own, own_dx, own_dw, own_db = linear_cross_entropy_plain(
            *given, np.eye(len(b))[t[counts]] if t.size else q, weight, epsilon
        )
    if losses.size:
        losses[:], losses[counts] = 0, own
    if dx.size:
        dx[:], dx[counts], dw[:], db[:] = 0, own_dx * scale, own_dw * scale, own_db * scale
    return float(own.sum() * scale)
