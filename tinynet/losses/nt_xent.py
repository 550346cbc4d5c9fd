"""NT-Xent, the loss of contrastive learning: find your partner among all others, by similarity alone.

    u[i]   = x[i] / |x[i]|                          x embeddings (2N, D); rows i and i + N are a pair
    z[i,j] = u[i] . u[j] / tau                      z similarities (2N, 2N), the logits; z[i,i] = -inf: not i itself
    L      = softmax cross-entropy of z, where the label of row i is its partner, (i + N) mod 2N

The pairs are two views of each of N images, cropped and coloured at random.  To tell its partner from the others, an
embedding must keep what the views share.  No label is needed: this is a classification into 2N classes, the images
themselves.  ("Normalised temperature-scaled cross-entropy.")

Backward.  softmax_cross_entropy gives dz.  u[i] touched row i of z, times u[j] / tau, and column i, the same:

    du[i] = sum_j (dz[i,j] + dz[j,i]) u[j] / tau

x[i] touched u[i] by its direction only, and the part of du along u comes to nothing:

    dx[i] = (du[i] - (u[i] . du[i]) u[i]) / |x[i]|      as d(x / |x|) = dx / |x| - x (x . dx) / |x|^3

Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations" (SimCLR).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.kernels.dense import dense_forward
from tinynet.kernels.loss_rows import total_or
from tinynet.kernels.nt_xent import add_transpose, normalize, normalize_backward
from tinynet.kernels.transpose import transpose
from tinynet.losses.declaration import Result
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy, softmax_cross_entropy_plain


def nt_xent_plain(x, tau, s):
    """The rows' losses times s (2N,), and the gradient of their sum: 1/2N, or 1 / sum s, multiplies both afterwards."""
    M = len(x)
    norms = np.sqrt((x**2).sum(axis=1, keepdims=True))
    u, partner = x / norms, (np.arange(M) + M // 2) % M
    z = u @ u.T / tau
    z[np.arange(M), np.arange(M)] = -np.inf
    losses, dz = softmax_cross_entropy_plain(z, np.eye(M)[partner], np.ones(M), 0.0)
    dz = s[:, None] * dz
    du = (dz + dz.T) @ u / tau
    return s * losses, (du - (u * du).sum(axis=1, keepdims=True) * u) / norms


def nt_xent(
    embeddings: ArrayLike, temperature: float = 0.5, *, reduction: str = "mean", denominator: float | None = None,
    sample_weight: ArrayLike | None = None, grad: bool = True, out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The loss of contrastive learning: find your partner among all others; and its gradient by the embeddings.

    embeddings   (2N, D), float32 or float64, not normalised; rows i and i + N are a pair
    temperature  tau, above 0: the lower, the more the most similar others count

    For the options and what is returned, see tinynet.losses; sample_weight (2N,) weighs the rows' losses, and a row of
    weight 0 is still among those that others are told from.  Needs memory for (2N)^2 similarities.  Every embedding is
    compared with all others, so a NaN or inf in one makes all losses NaN.  Raises ValueError for an embedding of zeros,
    which has no direction.

    >>> embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 2.0]])  # rows 0 and 2 agree, and rows 1 and 3
    >>> loss, gradient = tn.nt_xent(embeddings)
    >>> round(loss, 4), gradient.shape
    (0.2395, (4, 2))
    """
    name = "nt_xent"
    x = checks.prediction(embeddings, name, "embeddings")
    if x.ndim != 2 or len(x) % 2:
        raise ValueError(f"{name}: embeddings must have shape (2N, D), rows i and i + N being a pair, got {x.shape}")
    tau = checks.real_number(temperature, name, "temperature")
    divisor = checks.divisor(reduction, denominator, name)
    s = None if sample_weight is None else checks.sample_weight(sample_weight, (len(x),), name)
    gradient = checks.gradient(grad, out, embeddings, x, (), name)

    (M, D), dtype = x.shape, x.dtype
    norms, scaled, u = np.empty(M), np.empty_like(x), np.empty_like(x)
    normalize(x, dtype.type(tau), norms, scaled, u)
    if not norms.all():
        raise ValueError(f"{name}: the embedding in row {int(norms.argmin())} is all zeros: it has no direction")
    if numba.config.DISABLE_JIT:
        with np.errstate(all="ignore"):
            value, dx = nt_xent_plain(x.astype(float), tau, np.ones(M) if s is None else s)
        scale = 1 / total_or(divisor, M if s is None else s.sum()) if reduction == "mean" else 1
        if grad:
            gradient[...] = dx * scale
        value = value.astype(dtype) if reduction == "none" else float(value.sum() * scale)
        return value, checks.delivered(gradient, grad, out)
    z, none = np.empty((M, M), dtype), dtype.type(-np.inf)
    columns = np.empty((D, M), dtype)
    transpose(scaled, 0, D, columns, 0, M, M, D)
    dense_forward(u, columns, np.zeros(M, dtype), none, z)
    z.reshape(-1)[:: M + 1] = none
    partner = (np.arange(M) + M // 2) % M
    value, dz = softmax_cross_entropy(
        z, partner, reduction=reduction, denominator=divisor or None, sample_weight=s, grad=grad,
        out=z if grad else None,
    )  # fmt: skip
    if grad:
        add_transpose(dz)
        du = scaled
        dense_forward(dz, u, np.zeros(D, dtype), none, du)
        normalize_backward(du, u, norms, tau, gradient)
    return value, checks.delivered(gradient, grad, out)
