"""Self-distillation, DINO's loss: a student network learns to say what its teacher says of another view.

    q[n,k] = exp((T[n,k] - c[k]) / tau_t) / sum     T teacher logits (N, K), c (K,) their center: a distribution
    p[n,k] = exp(z[n,k] / tau_s) / sum              z student logits (N, K)
    L      = -1/N sum_n sum_k q[n,k] log p[n,k]     each sum is over k, of the row

Softmax cross-entropy with soft targets that a network makes.  The teacher has the student's architecture, and for
weights a running mean of the student's; it is not trained itself, and no gradient goes to T.  Two forces keep both from
saying the same of everything: subtracting the center, c <- 0.9 c + 0.1 mean of T, keeps any one k from winning always,
and a tau_t below tau_s sharpens q, which keeps it from being uniform.

Backward.  z[n,k] touched the cross-entropy through z / tau_s:

    dz[n,k] = (p[n,k] - q[n,k]) / (N tau_s)

Which views pair up.  Row n of the student is held against row n of the teacher: of the same image, but from different
views.  With arrays of two global views for the teacher, (2, N, K), and V views for the student, (V, N, K), of which
the first two are the same, the paper's sum is

    for i in range(2):
        for j in range(V):
            if i != j:
                value, gradient = self_distillation(student[j], teacher[i], center=center)
                total += value
                dstudent[j] += gradient                                and divide both by 2 V - 2

Source: Caron et al. 2021, "Emerging properties in self-supervised vision transformers".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import losses as checks
from tinynet.checks.losses import BAD_TARGET
from tinynet.kernels.softmax_losses import distillation_rows
from tinynet.losses.declaration import Result
from tinynet.losses.rowwise import NUMBERS, rowwise


def self_distillation_plain(z, T, tau_s, tau_t, center):
    """The rows' losses and gradients, before the mean: 1/N multiplies both in rowwise.py."""
    q, p = softmax((T - center) / tau_t), softmax(z / tau_s)
    below = z / tau_s - (z / tau_s).max(axis=1, keepdims=True)
    log_p = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
    return -np.where(q == 0, 0, q * log_p).sum(axis=1), (p - q) / tau_s


def softmax(x):
    exp = np.exp(x - x.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def finite_center(center, shape, dtype, name):
    """The center as an array of this shape (K,)."""
    c = np.zeros(shape, dtype) if center is None else checks.as_array(center, name, "center")
    if c.shape != shape:
        raise ValueError(f"{name}: center must have shape {shape}, one number for each logit, got {c.shape}")
    c = checks.like_prediction(c, shape, dtype, name, "center")
    if not np.isfinite(c).all():
        worst = int(np.isfinite(c).argmin())
        raise ValueError(f"{name}: center must be finite, got {c[worst]} at position {worst}")
    return c


def teacher_error(s, T, row, name):
    """The ValueError for a row of the teacher's that has no softmax."""
    where = tuple(int(axis) for axis in np.unravel_index(row, s.shape[:-1]))
    found = "nothing but -inf" if (T[row] == -np.inf).all() else "inf" if (T[row] == np.inf).any() else "NaN"
    return ValueError(f"{name}: teacher_logits have no softmax at position {where}, where they hold {found}")


loss = rowwise(
    "self_distillation", "student_logits", self_distillation_plain, distillation_rows, 16384, 16384, targets=NUMBERS,
    errors={BAD_TARGET: teacher_error}, classes="K", target_name="teacher_logits",
)  # fmt: skip


def self_distillation(
    student_logits: ArrayLike, teacher_logits: ArrayLike, student_temperature: float = 0.1,
    teacher_temperature: float = 0.04, center: ArrayLike | None = None, *, reduction: str = "mean",
    denominator: float | None = None, sample_weight: ArrayLike | None = None, grad: bool = True,
    out: np.ndarray | None = None,
) -> Result:  # fmt: skip
    """The cross-entropy of the student's softmax against the teacher's, and its gradient for the student's logits.

    student_logits       (..., K), float32 or float64
    teacher_logits       the same shape: for each row of the student, another view of the same image; -inf masks
    student_temperature  what the logits are divided by, above 0
    teacher_temperature  likewise; lower than the student's, it sharpens the targets
    center               (K,), subtracted from the teacher's logits first; None for zeros

    For the options and what is returned, see tinynet.losses.  Infinite logits of the student as in
    softmax_cross_entropy.  Raises ValueError for a row of the teacher that has no softmax: a NaN or +inf in it,
    or nothing but -inf.

    >>> loss, gradient = tn.self_distillation(np.array([[0.3, 0.1]]), np.array([[0.2, 0.1]]))
    >>> round(loss, 4), gradient.round(3)
    (0.2786, array([[-0.433,  0.433]]))
    """
    name = "self_distillation"
    tau_s = checks.real_number(student_temperature, name, "student_temperature")
    tau_t = checks.real_number(teacher_temperature, name, "teacher_temperature")
    s = checks.prediction(student_logits, name, "student_logits")
    options = s.dtype.type(tau_s), s.dtype.type(tau_t), finite_center(center, s.shape[-1:], s.dtype, name)
    return loss(student_logits, teacher_logits, reduction, denominator, grad, out, sample_weight, options)
