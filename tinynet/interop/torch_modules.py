"""What of torch.py is made of PyTorch's own classes: imported when it is first needed, and not before.

The modules are PyTorch's, but for those that it lacks: the sum and the concatenation of branches, a Reshape that keeps
which number is which, the output alone of what returns its state, too, and attention of x to x.

The loss.  Its forward pass has the gradient g = dL/dz at hand, and keeps it.  z touched whatever was made of L through
L alone, so backward, given s = d(whatever)/dL, returns s g; for reduction "none" there is an s for each row.  If the
graph is not kept for another pass, g is not needed any more: it is scaled in place, or handed on as it is where s = 1,
as it is whenever the loss is what backward() is called on.
"""

import math
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from tinynet.interop.matching import flat
from tinynet.interop.torch import in_torch
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy

tensor = torch.from_numpy


# --- modules -------------------------------------------------------------------------------------------------


class Permute(nn.Module):
    """The axes of x in another order."""

    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)

    def extra_repr(self):
        return ", ".join(map(str, self.axes))


class Rearrange(nn.Module):
    """The numbers of each sample in the order `index` (as they are if None), under another shape."""

    def __init__(self, index, shape):
        super().__init__()
        self.shape = shape
        self.register_buffer("index", None if index is None else tensor(index), persistent=False)

    def forward(self, x):
        x = x.flatten(1)
        return (x if self.index is None else x[:, self.index]).unflatten(1, self.shape)

    def extra_repr(self):
        return f"shape={self.shape}"


class Output(nn.Module):
    """y of an LSTM's or a GRU's (y, state); or the last h of each direction, side by side."""

    def __init__(self, which):
        super().__init__()
        self.which = which

    def forward(self, x):
        y, state = x
        if self.which == "sequence":
            return y
        h = state[0] if isinstance(state, tuple) else state
        return h.transpose(0, 1).flatten(1)

    def extra_repr(self):
        return self.which


class SelfAttention(nn.MultiheadAttention):
    """One whose queries, keys and values are all made of x; `causal` is whether a position sees what is before it."""

    causal = False

    def forward(self, x):
        return super().forward(x, x, x, attn_mask=_later(x) if self.causal else None, need_weights=False)[0]


class CausalEncoderLayer(nn.TransformerEncoderLayer):
    def forward(self, x):
        return super().forward(x, src_mask=_later(x))


def _later(x):
    """True where the key stands behind the query."""
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)


class Branches(nn.Module):
    """Modules side by side over one x, in lists of (name, module); an empty list is x itself."""

    def __init__(self, branches):
        super().__init__()
        self.names = [[name for name, _ in branch] for branch in branches]
        for branch in branches:
            for name, module in branch:
                self.add_module(name, module)

    def outputs(self, x):
        found = []
        for names in self.names:
            y = x
            for name in names:
                y = self.get_submodule(name)(y)
            found.append(y)
        return found


class Sum(Branches):
    """y = f(x) + s(x)."""

    def forward(self, x):
        f, shortcut = self.outputs(x)
        return shortcut + f


class Beside(Branches):
    """y = [f1(x), f2(x), ...] along the axis `dim`."""

    def __init__(self, branches, dim):
        super().__init__(branches)
        self.dim = dim

    def forward(self, x):
        return torch.cat(self.outputs(x), self.dim)


def sequential(steps, state):
    """The torch.nn.Sequential of torch.py's Steps, holding the tensors of the state dict `state`."""
    with torch.device("meta"):  # no memory, and no numbers from the caller's random generator
        modules = nn.Sequential(OrderedDict(_named(steps)))
    modules.load_state_dict(state, assign=True)
    numbers = {id(step.layer): step.number for step in flat(steps)}
    for step in flat(steps):
        if step.layer.tied is not None:
            module, other = (modules.get_submodule(numbers[id(layer)]) for layer in (step.layer, step.layer.tied))
            module.weight = other.weight
    return modules


def _named(steps):
    """The modules for layers in a row: [(name, module)]."""
    found = []
    for step in steps:
        number = step.number.rpartition(".")[2]
        for suffix, module in _modules(step).items():
            found.append((number + suffix, module))
    return found


def _modules(step):
    """{what follows the layer's number in its name: module}, in the order in which they are called."""
    layer, channels = step.layer, 1 if len(step.layer.output_shape) == 3 else -1
    if layer.joined:
        rows = [_named(branch) for branch in step.branches]
        return {"": Sum(rows) if layer.joined == "sum" else Beside(rows, channels)}
    if layer.vector_order == "reshaped":
        return {"": nn.Flatten() if len(layer.output_shape) == 1 else _rearrange(step)}
    found = layer.torch_module(nn)
    if isinstance(found, nn.MultiheadAttention):
        found.__class__, found.causal = SelfAttention, layer.causal
    if isinstance(found, nn.TransformerEncoderLayer) and layer.causal:
        found.__class__ = CausalEncoderLayer
    found = _with_channels(layer, found if isinstance(found, dict) else {"": found})
    if layer.torch_output is not None:
        found["_output"] = Output(layer.torch_output)
    if layer.torch_axes and layer.activation is not None:
        found[f"_{layer.activation.name}"] = layer.activation.torch_module(nn)
    return found


def _with_channels(layer, modules):
    """The modules, which look for channels where the layer declares, between Permutes where others have them."""
    given, returned = len(layer.input_shape), len(layer.output_shape)
    if layer.torch_channels == "last":  # PyTorch's images have them first
        before = {"_channels_last": Permute(0, 2, 3, 1)} if given == 3 else {}
        after = {"_channels_first": Permute(0, 3, 1, 2)} if returned == 3 else {}
        return {**before, **modules, **after}
    if layer.torch_channels == "first" and given not in (1, 3):
        first, last = Permute(0, given, *range(1, given)), Permute(0, *range(2, given + 1), 1)
        return {"_channels_first": first, **modules, **({"_channels_last": last} if returned > 1 else {})}
    return modules


def _rearrange(step):
    """PyTorch's number i is ours of number before[i], before the Reshape, and after[i] after it."""
    given, returned = step.layer.input_shape, step.layer.output_shape
    count = np.arange(math.prod(given))
    before, after = (count if o is None else o for o in (in_torch(given, step.order), in_torch(returned)))
    index = np.argsort(before)[after]
    last, *others = returned[-1], *returned[:-1]
    return Rearrange(None if (index == count).all() else index, (last, *others) if len(returned) == 3 else returned)


# --- the loss ------------------------------------------------------------------------------------------------

NAME = "torch_cross_entropy"


class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, *options):
        value, gradient = value_and_gradient(input, *options, grad=True)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx, above):
        (gradient,) = ctx.saved_tensors
        number = above.ndim == 0
        if not number:
            above = above.unsqueeze(1)  # the same for all classes
        if torch.is_grad_enabled():  # create_graph=True
            gradient = Final.apply((gradient * above).detach().requires_grad_())
        elif is_needed_again(above):
            gradient = gradient * above
        elif not (number and above.item() == 1):
            gradient.mul_(above)
        return gradient, None, None, None, None, None


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
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, above):
        raise RuntimeError(
            f"{NAME} has no second derivative; torch.nn.functional.cross_entropy has, where one is needed"
        )


def cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing):
    """See interop.torch_cross_entropy."""
    check(input, target, weight)
    options = target, weight, ignore_index, reduction, label_smoothing
    if input.requires_grad and torch.is_grad_enabled():
        return CrossEntropy.apply(input, *options)
    return value_and_gradient(input, *options, grad=False)[0]


def value_and_gradient(input, target, weight, ignore_index, reduction, label_smoothing, grad):
    """Two tensors, of which the gradient may be a view with the classes in its second axis; None without `grad`."""
    z, t = ((x.movedim(1, -1) if x.ndim == input.ndim > 2 else x).numpy(force=True) for x in (input, target))
    try:
        value, gradient = softmax_cross_entropy(
            z,
            t,
            weight=None if weight is None else weight.numpy(force=True),
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            grad=grad,
        )
    except (TypeError, ValueError) as error:
        message = str(error).replace("softmax_cross_entropy:", f"{NAME}:")
        if input.ndim > 2 and "target probabilities must be in" in message:
            message += ", of which the last number is the class"
        raise type(error)(message) from None
    value = tensor(value) if reduction == "none" else torch.tensor(value, dtype=input.dtype)
    if grad:
        gradient = tensor(gradient)
        gradient = gradient.movedim(-1, 1) if input.ndim > 2 else gradient
    return value, gradient


def check(input, target, weight):
    """What must be so before the tensors are taken for arrays; their numbers are softmax_cross_entropy's to check."""
    for what, given in (("input", input), ("target", target), ("weight", weight)):
        if given is None and what == "weight":
            continue
        if not isinstance(given, torch.Tensor):
            raise TypeError(f"{NAME}: {what} must be a torch.Tensor, got {type(given).__name__}")
        if given.device.type != "cpu":
            hint = "; on a GPU, tn.softmax_cross_entropy takes tensors" if given.device.type == "cuda" else ""
            raise ValueError(f"{NAME}: {what} must be on the CPU, got a tensor on {given.device}{hint}")
        if given.is_floating_point() and given.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{NAME}: {what} must be float32 or float64, got {given.dtype}; try {what}.float()")
        if given.requires_grad and what != "input" and torch.is_grad_enabled():
            raise ValueError(f"{NAME}: the gradient for {what} is not computed: pass {what}.detach()")
    if not input.is_floating_point():
        raise TypeError(f"{NAME}: input must be float32 or float64, got {input.dtype}")
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
