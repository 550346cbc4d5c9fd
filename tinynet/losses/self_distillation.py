"""Self-distillation, DINO's loss: a student network learns to say what its teacher says of another view.

    P[n,k] = exp((T[n,k] - c[k]) / tau_t) / sum     T teacher logits (N, K), c (K,) their center: a distribution
    S[n,k] = exp(s[n,k] / tau_s) / sum              s student logits (N, K)
    L      = -1/N sum_n sum_k P[n,k] log S[n,k]

Softmax cross-entropy with soft targets that a network makes.  The teacher has the student's architecture, and for
weights a running mean of the student's; it is not trained itself, and no gradient goes to T.  Two forces keep both from
saying the same of everything: subtracting the center, c <- 0.9 c + 0.1 mean of T, keeps any one k from winning always,
and a tau_t below tau_s sharpens P, which keeps it from being uniform.

Backward.  s[n,k] touched the cross-entropy through s / tau_s:

    ds[n,k] = (S[n,k] - P[n,k]) / (N tau_s)

Which views pair up.  Row n of the student is held against row n of the teacher: of the same image, but from different
views.  With arrays of two global views for the teacher, (2, N, K), and V views for the student, (V, N, K), of which
the first two are the same, the paper's sum is

    for i in range(2):
        for j in range(V):
            if i != j:
                value, gradient = self_distillation(student[j], teacher[i], center=center)
                total += value
                dstudent[j] += gradient                                and divide both by 2 V - 2

One pass over the student's logits and one over the teacher's: a few rows of each are divided by their temperature into
arrays that stay in the cache, where softmax_cross_entropy's kernel takes them up.  (With out=, one more pass comes
first, which only checks, since `out` must not change if a row of the teacher is bad.)

Source: Caron et al. 2021, "Emerging properties in self-supervised vision transformers".
"""

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.softmax import softmax_row
from tinynet.kernels.softmax_rows import softmax_rows
from tinynet.losses import checks

GROUP = 16384  # logits of a group of rows
THREADS_FROM = 16384  # logits; below, waking the threads costs more than they save


@kernel()
def divided(x, tau, y):
    for k in range(x.size):
        y[k] = x[k] / tau


@kernel()
def centered_and_divided(x, center, tau, y):
    for k in range(x.size):
        y[k] = (x[k] - center[k]) / tau


@kernel()
def distillation_rows(s, T, tau_s, tau_t, center, ones, scale, losses, g, first, last, room):
    """Rows `first` to `last`: the first whose teacher has no softmax, or -1; and the sum of the losses.

    Fills losses (N,), and g (N, K) with scale times the gradient; either may be empty.  room is (3, rows, K).
    """
    K, n = s.shape[1], last - first
    z, shifted, P = room
    for r in range(n):
        at, row = (first + r) * K, memory.piece(shifted, r * K, K)
        divided(memory.piece(s, at, K), tau_s, memory.piece(z, r * K, K))
        centered_and_divided(memory.piece(T, at, K), center, tau_t, row)
        softmax_row(row, memory.piece(P, r * K, K))
        if P[r, 0] != P[r, 0]:
            return first + r, 0.0
    labels, slope = np.empty(0, np.int64), scale / tau_s
    total = softmax_rows(z, labels, P, ones, 0, 0.0, slope, losses[first:last], g[first:last], 0, n)
    return -1, total


def loss_and_gradient(s, T, tau_s, tau_t, center, ones, scale, chunks, losses, g):
    """The first row of T without a softmax, or -1, and the loss's value.

    Chunks of groups of rows are what threads take; each owns its rows of losses and g.
    """
    N, K = s.shape
    rows = max(1, GROUP // K)
    groups = (N + rows - 1) // rows
    partial, bad = np.zeros(chunks), np.full(chunks, -1)
    for k in prange(chunks):
        room = np.empty((3, min(rows, N), K), s.dtype)
        for group in range(k * groups // chunks, (k + 1) * groups // chunks):
            if bad[k] < 0:
                first, last = group * rows, min(group * rows + rows, N)
                bad[k], total = distillation_rows(s, T, tau_s, tau_t, center, ones, scale, losses, g, first, last, room)
                partial[k] += total
    value, position = 0.0, -1
    for k in range(chunks):
        value += partial[k]
        if position < 0:
            position = bad[k]
    return position, value * scale


one_thread, all_threads = kernel()(loss_and_gradient), kernel(parallel=True)(loss_and_gradient)


def self_distillation(
    student_logits,
    teacher_logits,
    student_temperature=0.1,
    teacher_temperature=0.04,
    center=None,
    *,
    reduction="mean",
    denominator=None,
    grad=True,
    out=None,
):
    """The cross-entropy of the student's softmax against the teacher's, and its gradient for the student's logits.

    student_logits       (..., K), float32 or float64
    teacher_logits       the same shape: for each row of the student, another view of the same image; -inf masks
    student_temperature  what the logits are divided by, above 0
    teacher_temperature  likewise; lower than the student's, it sharpens the targets
    center               (K,), subtracted from the teacher's logits first; None for zeros
    reduction            "mean" over the rows, "sum", or "none", one loss for each row
    denominator          what "mean" divides by instead: a whole batch's number of rows for one of its shards, say
    grad                 False: the gradient isn't computed, and None is returned for it
    out                  the array that receives the gradient; may be `student_logits`

    Returns (value, gradient): a float, or an array (...) for "none"; an array like student_logits, the gradient of the
    value (of its sum for "none").  Infinite logits and NaN of the student as in softmax_cross_entropy.  Raises
    ValueError for a row of the teacher that has no softmax (a NaN or +inf in it, or nothing but -inf), and ValueError
    or TypeError for what else it can't use, before anything is written.

    >>> loss, gradient = tn.self_distillation(np.array([[0.3, 0.1]]), np.array([[0.2, 0.1]]))
    >>> round(loss, 4), gradient.round(3)
    (0.2786, array([[-0.433,  0.433]]))
    """
    name = "self_distillation"
    s = checks.prediction(student_logits, name, "student_logits")
    if s.ndim == 0:
        raise ValueError(f"{name}: student_logits must have shape (..., K), got one number")
    shape, K, dtype = s.shape, s.shape[-1], s.dtype
    T = checks.like_prediction(teacher_logits, shape, dtype, name, "teacher_logits")
    tau_s = dtype.type(checks.real_number(student_temperature, name, "student_temperature"))
    tau_t = dtype.type(checks.real_number(teacher_temperature, name, "teacher_temperature"))
    c = np.zeros(K, dtype) if center is None else checks.as_array(center, name, "center")
    if c.shape != (K,):
        raise ValueError(f"{name}: center must have shape ({K},), one number for each logit, got {c.shape}")
    c = checks.like_prediction(c, (K,), dtype, name, "center")
    if not np.isfinite(c).all():
        worst = int(np.isfinite(c).argmin())
        raise ValueError(f"{name}: center must be finite, got {c[worst]} at position {worst}")
    divisor = checks.divisor(reduction, denominator, name)
    gradient = checks.gradient(grad, out, student_logits, s, (T, c), name)
    N = s.size // K
    losses = np.empty(N, dtype) if reduction == "none" else checks.NOTHING[dtype, 1]

    scale = 1.0 / (divisor or N) if reduction == "mean" else 1.0
    threads = N > 1 and s.size >= THREADS_FROM
    chunks = chunk_count(s.size, GROUP) if threads else 1
    kernel = all_threads if threads else one_thread
    s, T, ones = s.reshape(N, K), T.reshape(N, K), checks.ones(dtype, K)
    position = -1
    # With `out`, once without a gradient first: it is not touched if a row of the teacher is bad.
    for g in (gradient,) if out is None else (checks.NOTHING[dtype, 2], gradient):
        if position < 0:
            position, value = kernel(s, T, tau_s, tau_t, c, ones, scale, chunks, losses, g.reshape(-1, K))
    if position >= 0:
        where = tuple(int(axis) for axis in np.unravel_index(position, shape[:-1]))
        row = T[position]
        found = "nothing but -inf" if (row == -np.inf).all() else "inf" if (row == np.inf).any() else "NaN"
        raise ValueError(f"{name}: teacher_logits have no softmax at position {where}, where they hold {found}")
    return losses.reshape(shape[:-1]) if reduction == "none" else value, checks.delivered(gradient, grad, out)
