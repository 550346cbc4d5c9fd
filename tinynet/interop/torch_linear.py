"""The last layer of a PyTorch model and its softmax cross-entropy in one: the logits are never whole.

    z = x w.T + b           x (N, D)    w (C, D)    b (C,), as torch.nn.Linear keeps them      z (N, C)
    L = cross-entropy of z with t                                                              t (N,) or (N, C)

Backward.  With dz = dL/dz, as in any dense layer:

    dx = dz w               dw = dz.T x             db = column sums of dz

A row of z is needed only until its part of dx, dw and db is there.  On the CPU tinynet's own linear_cross_entropy does
all of it.  On a GPU the products are PyTorch's (cuBLAS), ROWS rows of z at a time: one product makes their logits, the
loss overwrites these with dz, and two products take dz into dx and dw.  What was made is the gradient of the sum; the
mean's divisor, and whatever comes from above, multiply it in the backward pass, once and in float32.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tinynet.checks import losses as checks
from tinynet.interop.torch_losses import HALVES, check_constant, check_tensors, fused, scaled
from tinynet.losses.linear_cross_entropy import linear_cross_entropy

NAME = "torch_linear_cross_entropy"

# Adding a piece of dw moves 2 C D numbers, and its product takes 2 ROWS C D operations: 512 for each byte in bfloat16,
# more than a GPU computes in the time in which it moves one (an H100: 300), so that the pieces cost little.
ROWS = 1024


def torch_linear_cross_entropy(
    input: Any, linear_weight: Any, target: Any, *, linear_bias: Any = None, weight: Any = None,
    reduction: str = "mean", ignore_index: int = -100, label_smoothing: float = 0.0, check: bool = True,
) -> Any:  # fmt: skip
    """torch.nn.functional.linear_cross_entropy by tinynet's kernels, for the CPU and CUDA, without the logits' memory.

    input          (..., D), what the last torch.nn.Linear of a model is given, of float32, float64 or 16 bits
    linear_weight  (C, D), that Linear's weight, of the same dtype
    target         class indices (...) of any integer dtype, or probabilities (..., C)
    linear_bias    that Linear's bias (C,), or None
    reduction      "mean", "sum", or "none" where no gradient is wanted
    weight, ignore_index, label_smoothing, check: as in torch_cross_entropy

    Returns the loss, float32 for 16 bits, whose backward() gives input, linear_weight and linear_bias their gradients:
    on a GPU those alone that require one.  Under torch.autocast for a GPU the products are computed in its dtype, as
    PyTorch's are; on the CPU at least in float32.  There, beyond arguments and gradients, it takes what tinynet's
    linear_cross_entropy does; on a GPU 1,024 rows of logits, and for 16 bits and more rows a float32 copy of
    linear_weight's gradient, since sums of 16 bits lose digits.  What the options do differently from PyTorch's is what
    torch_cross_entropy does.  Raises as that does.

    >>> import torch
    >>> tn.interop.torch_linear_cross_entropy(torch.ones(2, 3), torch.zeros(4, 3), torch.tensor([0, 1]))
    tensor(1.3863)
    """
    check_tensors(NAME, input=input, linear_weight=linear_weight, target=target, linear_bias=linear_bias, weight=weight)
    check_constant(NAME, target=target, weight=weight)
    checks.divisor(reduction, None, NAME)
    parameters = [x for x in (input, linear_weight, linear_bias) if x is not None]
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in parameters)
    if reduction == "none" and grad:
        raise ValueError(
            f"{NAME}: with reduction \"none\" the rows' gradients can't be added up before it is known what each is"
            ' multiplied by; use "mean" or "sum", or torch.no_grad()'
        )
    if input.is_cuda and torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        parameters = [x if x.dtype == torch.float64 else x.to(dtype) for x in parameters]
    elif not input.is_cuda:
        parameters = [x.float() if x.dtype in HALVES else x for x in parameters]
    check_shapes(target, *parameters)
    x, w, b = (*parameters, None)[:3]
    options = {
        "ignore_index": checks.whole_number(ignore_index, NAME),
        "reduction": reduction,
        "label_smoothing": checks.fraction(label_smoothing, NAME),
    }
    if grad:
        return LinearCrossEntropy.apply(x, w, b, target, weight, check, options)
    return gradients(x, w, b, target, weight, check, options, (False,) * 3)[0]


class LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b, *others):
        value, *found = gradients(x, w, b, *others, ctx.needs_input_grad[:3])
        ctx.dtype = w.dtype
        ctx.save_for_backward(*found)
        return value

    @staticmethod
    def backward(ctx, above):
        factor, *found = ctx.saved_tensors
        above = above * factor
        return *(None if g is None else scaled(g, above, NAME).to(ctx.dtype) for g in found), *(None,) * 4


def gradients(x, w, b, target, weight, check, options, wanted):
    """The loss; a number (), and what it makes gradients of when it multiplies them: dx, dw and db, those `wanted`."""
    x, w, b, weight = (None if y is None else y.detach() for y in (x, w, b, weight))
    if weight is not None and weight.dtype in HALVES:
        weight = weight.float()
    try:
        if x.is_cuda:
            return by_rows(x, w, b, target, weight, check, options, wanted)
        return on_cpu(x, w, b, target, weight, options, any(wanted))
    except (TypeError, ValueError) as error:
        name, colon, rest = str(error).partition(":")
        raise type(error)(f"{NAME}:{rest}" if name.endswith("_cross_entropy") else name + colon + rest) from None


def on_cpu(x, w, b, target, weight, options, grad):
    x, w, b, target, weight = (None if y is None else y.numpy(force=True) for y in (x, w.T, b, target, weight))
    value, dx, dw, db = linear_cross_entropy(x, w, b, target, weight=weight, grad=grad, **options)
    found = (None if y is None else torch.from_numpy(y) for y in (dx, dw if dw is None else dw.T, db))
    number = torch.from_numpy(x).dtype
    return torch.as_tensor(value, dtype=number), torch.ones((), dtype=number), *found


def by_rows(x, w, b, target, weight, check, options, wanted):
    """The same with ROWS rows of logits at a time."""
    C, soft, flat = len(w), target.is_floating_point(), x.reshape(-1, x.shape[-1])
    t = target.reshape(-1, C) if soft else target.reshape(-1).long()
    number = torch.promote_types(x.dtype, torch.float32)
    if check:
        check_targets(t, target, weight, C, options["ignore_index"])
    each = {**options, "reduction": "none" if options["reduction"] == "none" else "sum"}
    sums = number if len(t) > ROWS else x.dtype
    dx = torch.empty_like(flat) if wanted[0] else None
    dw = torch.zeros_like(w, dtype=sums) if wanted[1] else None
    db = torch.zeros_like(b, dtype=sums) if wanted[2] else None
    values = []
    for start in range(0, len(t), ROWS):
        piece, labels = flat[start : start + ROWS], t[start : start + ROWS]
        if not soft:  # in dw, 0 times NaN would be NaN
            piece = torch.where((labels != options["ignore_index"]).unsqueeze(1), piece, 0)
        z = F.linear(piece, w, b)
        z = z.float() if z.dtype == torch.float16 else z
        value, dz = fused(z, labels, weight, True, False, any(wanted), each)
        values.append(value.reshape(-1))
        if dz is None:
            continue
        dz = dz.to(x.dtype)
        if dx is not None:
            torch.mm(dz, w, out=dx[start : start + ROWS])
        if dw is not None:
            dw = dw.addmm_(dz.T, piece) if sums == x.dtype else dw.add_(dz.T @ piece)
        if db is not None:
            db += dz.sum(0, dtype=sums)
    value, factor = torch.cat(values), x.new_ones((), dtype=number)
    if options["reduction"] == "mean":
        factor = mean_factor(t, weight, C, options["ignore_index"], number)
    value = value.reshape(x.shape[:-1]) if options["reduction"] == "none" else value.sum() * factor
    return value, factor, None if dx is None else dx.reshape(x.shape), dw, db


def mean_factor(t, weight, C, ignore_index, number):
    """1 / what the mean divides by: the number of rows that count, or the sum of their labels' weights; or 0."""
    if t.is_floating_point():
        return t.new_full((), 1 / len(t), dtype=number)
    counts = t != ignore_index
    if weight is None:
        total = counts.sum(dtype=number)
    else:
        total = torch.where(counts, weight.to(number)[t.clamp(0, C - 1)], 0).sum()
    return torch.where(total > 0, 1 / total, 0)


# --- what is refused -----------------------------------------------------------------------------------------------


def check_shapes(target, x, w, b=None):
    if x.numel() == 0 or x.ndim == 0:
        raise ValueError(f"{NAME}: input must have shape (..., D) and not be empty, got {tuple(x.shape)}")
    if w.ndim != 2 or w.shape[1] != x.shape[-1]:
        shape = f"(C, D) = (C, {x.shape[-1]}) for input {tuple(x.shape)}"
        raise ValueError(f"{NAME}: linear_weight must have shape {shape}, got {tuple(w.shape)}")
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"{NAME}: linear_bias must have shape {tuple(w.shape[:1])}, got {tuple(b.shape)}")
    for what, given in (("linear_weight", w), ("linear_bias", b)):
        if given is not None and given.dtype != x.dtype:
            raise TypeError(f"{NAME}: {what} must have input's dtype {x.dtype}, got {given.dtype}")
    if target.dtype == torch.bool or target.is_complex():
        raise TypeError(f"{NAME}: target {checks.TARGETS}, got {target.dtype}")
    shape = (*x.shape[:-1], w.shape[0]) if target.is_floating_point() else x.shape[:-1]
    if target.shape != shape:
        what = "target probabilities" if target.is_floating_point() else "class indices"
        raise ValueError(
            f"{NAME}: {what} for input {tuple(x.shape)} and {len(w)} classes must have shape {tuple(shape)}, got"
            f" {tuple(target.shape)}"
        )


def check_targets(t, target, weight, C, ignore_index):
    """What a GPU must be waited for: are the labels classes, or the rows' probabilities, and the weights positive?"""
    if weight is not None:
        checks.per_class(weight.numpy(force=True), C, np.dtype(np.float64), NAME)
    if t.is_floating_point():
        off = (t.sum(1, dtype=torch.float32) - 1).abs() > (1e-2 if t.dtype in HALVES else 1e-3)
        wrong = off | ~((t >= 0) & (t <= 1 + 1e-6)).all(1)
    else:
        wrong = (t != ignore_index) & ((t < 0) | (t >= C))
    if wrong.any():
        shape = (*target.shape[:-1], C) if t.is_floating_point() else (*target.shape, C)
        host = (target.float() if target.dtype == torch.bfloat16 else target).numpy(force=True)
        raise checks.target_error(host, int(wrong.nonzero()[0]), shape, ignore_index, NAME)
