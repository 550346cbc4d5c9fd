"""The softmax cross-entropy inside PyTorch's models, on the CPU and on a GPU.

    L = cross-entropy of z with t       z (N, C) or (N, C, d1, ...), as PyTorch has them      t (N,) or (N, d1, ...)

Backward.  The forward pass has the gradient g = dL/dz at hand, and keeps it.  z touched whatever was made of L through
L alone, so backward, given s = d(whatever)/dL, returns s g; for reduction "none" there is an s for each row.  If the
graph is not kept for another pass, g is not needed any more: it is scaled in place, or handed on as it is where s = 1,
as it is whenever the loss is what backward() is called on.

In place.  Once g is there, the loss needs z no more, and with in_place=True g takes its memory.  PyTorch counts the
changes of a tensor: what has kept z for a backward pass of its own raises an error then, and gives no wrong gradient.

Half precision.  Everything is computed in float32.  But a gradient divided by N has numbers that are 0 in float16, and
a GradScaler that multiplies them later comes too late; so float16 logits are first copied to float32, as PyTorch does
under autocast, and their gradient is rounded after it was scaled.  bfloat16 has float32's range, and on a GPU no copy.
"""

from typing import Any

import torch
from torch import nn

from tinynet.checks import losses as checks
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy

NAME = "torch_cross_entropy"
HALVES = (torch.float16, torch.bfloat16)


def torch_cross_entropy(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0, in_place: bool = False, check: bool = True,
) -> Any:  # fmt: skip
    """torch.nn.functional.cross_entropy by tinynet's kernels, on the CPU or a GPU: the gradient is there with the loss.

    input            logits (N, C), (C,) or (N, C, d1, ...): a tensor of float32, float64, float16 or bfloat16
    target           class indices of any integer dtype, (N,), () or (N, d1, ...), or probabilities of input's shape
    weight           (C,), a factor for each class
    ignore_index     class indices of this value don't count
    reduction        "mean", "sum" or "none"
    label_smoothing  in [0, 1]
    in_place         the gradient overwrites input, if one is computed: no memory beside the logits.  What else was made
                     of input before and needs it for its own backward pass raises a RuntimeError there
    check            on a GPU, the call waits until the target is known to be fine; with False it doesn't, and an index
                     that is no class makes its row NaN

    Returns the loss as a tensor of input's dtype, float32 for 16 bits: a number, or for "none" of the class indices'
    shape.  backward() multiplies the gradient by what comes from above; where that is 1, it hands it on as it is.
    Nothing is copied for (N, C); with more axes the classes are brought last first, which takes two passes over memory,
    and float16 (on the CPU bfloat16, too) becomes float32.  The gradient is not computed where input doesn't require
    it, nor under torch.no_grad().  CUDA tensors need the extra "cuda"; their work is queued on PyTorch's current
    stream, in PyTorch's memory.

    What differs from PyTorch: with every sample ignored, or all their weights 0, the mean is 0 and not NaN; NaN or inf
    in an ignored row has no effect; class probabilities must be in [0, 1] and sum to 1; a probability of 0 on a class
    at -inf adds 0; with label smoothing, classes at -inf get none of it; an empty batch is an error.

    Raises TypeError and ValueError for what it can't use, a target or weight that requires a gradient too, RuntimeError
    where a second derivative is asked for (or one of torch.func's), and ImportError without PyTorch.

    >>> import torch
    >>> logits = torch.zeros(1, 4, requires_grad=True)
    >>> tn.interop.torch_cross_entropy(logits, torch.tensor([3])).backward()
    >>> logits.grad
    tensor([[ 0.2500,  0.2500,  0.2500, -0.7500]])
    """
    check_tensors(NAME, input=input, target=target, weight=weight)
    check_constant(NAME, target=target, weight=weight)
    check_shapes(input, target)
    grad = input.requires_grad and torch.is_grad_enabled()
    if input.dtype == torch.float16 or (input.dtype == torch.bfloat16 and not input.is_cuda):
        input, in_place = input.float(), True  # of the copy
    elif in_place and grad:
        check_may_be_overwritten(input)
    options = target, weight, ignore_index, reduction, label_smoothing, in_place, check
    return CrossEntropy.apply(input, *options) if grad else classes_second(input, *options, grad=False)[0]


class TorchCrossEntropyLoss(nn.CrossEntropyLoss):
    """torch_cross_entropy as a module, in place of torch.nn.CrossEntropyLoss; its options are the function's.

    >>> import torch
    >>> tn.interop.TorchCrossEntropyLoss()(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    tensor(1.3863)
    """

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0,
        in_place: bool = False, check: bool = True,
    ) -> None:  # fmt: skip
        checks.divisor(reduction, None, "TorchCrossEntropyLoss")
        checks.fraction(label_smoothing, "TorchCrossEntropyLoss")
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
        self.in_place, self.check = in_place, check

    def forward(self, input: Any, target: Any) -> Any:
        """The loss of logits, see torch_cross_entropy."""
        options = self.weight, self.ignore_index, self.reduction, self.label_smoothing, self.in_place, self.check
        return torch_cross_entropy(input, target, *options)


# --- the gradient ----------------------------------------------------------------------------------------------


class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, weight, ignore_index, reduction, label_smoothing, in_place, check):
        options = target, weight, ignore_index, reduction, label_smoothing, in_place, check
        value, gradient = classes_second(input, *options, grad=True)
        if in_place:
            torch.autograd.graph.increment_version(input)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx, above):
        return scaled(*ctx.saved_tensors, above, NAME), *(None,) * 7


def scaled(gradient, above, name):
    """The gradient times `above`, a number, or one for each row (N,) or pixel (N, d1, ...); in place if it may be."""
    if torch.is_grad_enabled():  # create_graph=True
        return Final.apply(product(gradient, above).detach().requires_grad_(), name)
    if is_needed_again(above):
        return product(gradient, above)
    if above.ndim:
        return gradient.mul_(above.unsqueeze(1))  # the same for all classes
    if gradient.is_cuda:
        from tinynet.interop.torch_cuda import scale

        scale(gradient, above)
    elif above.item() != 1:
        gradient.mul_(above)
    return gradient


def product(gradient, above):
    """Computed in float32 where the gradient has 16 bits: PyTorch first rounds a factor, if that is a number ()."""
    above = above.unsqueeze(1) if above.ndim else above.reshape((1,) * gradient.ndim)
    return (gradient * above).to(gradient.dtype)


def is_needed_again(above):
    """Whether the graph is kept, or `above` stands for many, given at once.  Perhaps, if this PyTorch doesn't tell."""
    try:
        kept, vmapped = torch._C._autograd._get_current_graph_task_keep_graph, torch._C._functorch
        return kept() or vmapped.is_batchedtensor(above) or vmapped.is_legacy_batchedtensor(above)
    except AttributeError:
        return True


class Final(torch.autograd.Function):
    """x itself; an error where its derivative is asked for."""

    @staticmethod
    def forward(ctx, x, name):
        ctx.name = name
        return x.view_as(x)

    @staticmethod
    def backward(ctx, above):
        raise RuntimeError(
            f"{ctx.name} has no second derivative; torch.nn.functional.{ctx.name.removeprefix('torch_')} has, where one"
            " is needed"
        )


# --- from tensors to arrays and back -----------------------------------------------------------------------------


def classes_second(input, target, weight, ignore_index, reduction, label_smoothing, in_place, check, grad):
    """Two tensors, of which the gradient may be a view with the classes in its second axis; None without `grad`."""
    z, t = (x.movedim(1, -1) if x.ndim == input.ndim > 2 else x for x in (input.detach(), target))
    options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
    try:
        value, gradient = fused(z, t, weight, in_place, check, grad, options)
    except (TypeError, ValueError) as error:
        message = str(error).replace("softmax_cross_entropy:", f"{NAME}:")
        if input.ndim > 2 and "target probabilities must be in" in message:
            message += ", of which the last number is the class"
        raise type(error)(message) from None
    return value, gradient.movedim(-1, 1) if grad and input.ndim > 2 else gradient


def fused(z, t, weight, in_place, check, grad, options):
    """tinynet's softmax_cross_entropy of tensors with the classes last: the loss and its gradient, as tensors."""
    if t.dtype in HALVES and not (t.dtype == z.dtype == torch.bfloat16):
        t = t.float()
    if weight is not None:
        weight = weight.detach().float() if weight.dtype in HALVES else weight.detach()
    if z.is_cuda:
        from tinynet.interop import torch_cuda

        return torch_cuda.fused(z, t, weight, in_place, check, grad, options)
    logits, targets = z.numpy(force=True), t.numpy(force=True)
    weight = None if weight is None else weight.numpy(force=True)
    out = logits if in_place and grad else None
    value, gradient = softmax_cross_entropy(logits, targets, weight=weight, grad=grad, out=out, **options)
    value = torch.as_tensor(value, dtype=z.dtype)
    return value, None if not grad else z if in_place else torch.from_numpy(gradient)


# --- what is refused -----------------------------------------------------------------------------------------------


def check_tensors(name, **tensors):
    """What must be so before tensors are taken for arrays; the first is what a gradient is computed for.

    Their numbers are softmax_cross_entropy's to check.
    """
    first, input = next(iter(tensors.items()))
    for what, given in tensors.items():
        if given is None and what != first:
            continue
        if not isinstance(given, torch.Tensor):
            raise TypeError(f"{name}: {what} must be a torch.Tensor, got {type(given).__name__}")
        if given.device.type not in ("cpu", "cuda"):
            raise ValueError(f"{name}: {what} must be on the CPU or a CUDA GPU, got a tensor on {given.device}")
        if given.device != input.device:
            raise ValueError(f"{name}: {what} must be on {input.device} like {first}, got a tensor on {given.device}")
        wanted = (torch.float32, torch.float64, *HALVES)
        if (given.is_floating_point() or what == first) and given.dtype not in wanted:
            raise TypeError(f"{name}: {what} must be float32, float64, float16 or bfloat16, got {given.dtype}")


def check_constant(name, **tensors):
    for what, given in tensors.items():
        if given is not None and given.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name}: the gradient for {what} is not computed: pass {what}.detach()")


def check_shapes(input, target):
    if input.ndim == 0:
        raise ValueError(f"{NAME}: input must have shape (N, C), (C,) or (N, C, d1, ...), got one number")
    shape = tuple(input.shape)
    of_indices = () if len(shape) == 1 else (shape[0], *shape[2:])
    given, probabilities = tuple(target.shape), target.is_floating_point()
    if probabilities and given == of_indices:
        raise TypeError(f"{NAME}: class indices must be integers, got target of {target.dtype}; try target.long()")
    if probabilities and given != shape:
        raise ValueError(f"{NAME}: target probabilities must have input's shape {shape}, got {given}")
    if not probabilities and given != of_indices:
        raise ValueError(
            f"{NAME}: class indices for input {shape} must have shape {of_indices}, got {given}"
            + ("; for one-hot rows, give target.argmax(1), or floats" if given == shape else "")
        )


def check_may_be_overwritten(input):
    if input.is_leaf:
        raise ValueError(f"{NAME}: in_place would overwrite a leaf of the graph, whose numbers are still needed")
    if not (input.movedim(1, -1) if input.ndim > 2 else input).is_contiguous():
        raise ValueError(
            f"{NAME}: in_place needs logits that lie row by row in memory, the classes of a row side by side, got"
            f" strides {input.stride()} for shape {tuple(input.shape)}; without in_place they are copied"
        )
