"""What of interop.py is made of PyTorch's own classes: imported when it is first needed, and not before.

The modules are PyTorch's, but for three that it lacks: the sum and the concatenation of branches, and a Reshape that
keeps which number is which.

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

from tinynet.interop.torch import in_torch
from tinynet.layers.activations import GELU, LeakyReLU, ReLU, Sigmoid, Tanh
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.blocks import Parallel, Residual
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.embedding import Embedding
from tinynet.layers.layernorm import LayerNorm
from tinynet.layers.pooling import AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, MaxPool2D
from tinynet.layers.shape import Reshape
from tinynet.layers.softmax import Softmax
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}

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
    """The torch.nn.Sequential of interop.py's Steps, holding the tensors of the state dict `state`."""
    with torch.device("meta"):  # no memory, and no numbers from the caller's random generator
        modules = nn.Sequential(OrderedDict(_named(steps)))
    modules.load_state_dict(state, assign=True)
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
    layer = step.layer
    given, returned = layer.input_shape, layer.output_shape
    channels = 1 if len(returned) == 3 else -1
    match layer:
        case Dense():
            return {"": nn.Linear(*given, layer.units, layer.bias), **_activation(layer)}
        case Conv2D():
            return {**_convolution(layer), **_activation(layer)}
        case MaxPool2D():
            return {"": nn.MaxPool2d(layer.size, layer.stride)}
        case AvgPool2D():
            return {"": nn.AvgPool2d(layer.size, layer.stride)}
        case GlobalMaxPool2D():
            return {"": nn.AdaptiveMaxPool2d(1), "_flatten": nn.Flatten()}
        case GlobalAvgPool2D():
            return {"": nn.AdaptiveAvgPool2d(1), "_flatten": nn.Flatten()}
        case LeakyReLU():
            return {"": nn.LeakyReLU(layer.slope)}
        case ReLU() | Sigmoid() | Tanh() | GELU():
            return {"": ACTIVATIONS[layer.activation.name]()}
        case Softmax():
            return {"": nn.Softmax(channels)}
        case Dropout():
            return {"": nn.Dropout(layer.rate)}
        case Reshape():
            return {"": nn.Flatten() if len(returned) == 1 else _rearrange(given, step.order, returned)}
        case Embedding():
            return _on_last_axis(nn.Embedding(layer.vocabulary, layer.dim, layer.padding), given, returned)
        case LayerNorm():
            return _on_last_axis(nn.LayerNorm(given[-1], layer.eps), given, returned)
        case BatchNorm() if len(given) <= 4:
            axes = len(given)
            norm = {3: nn.BatchNorm2d, 4: nn.BatchNorm3d}.get(axes, nn.BatchNorm1d)
            found = {"": norm(given[-1], layer.eps, 1 - layer.momentum)}
            if axes in (2, 4):
                first, last = Permute(0, axes, *range(1, axes)), Permute(0, *range(2, axes + 1), 1)
                found = {"_channels_first": first, **found, "_channels_last": last}
            return found
        case Residual():
            return {"": Sum([_named(branch) for branch in step.branches])}
        case Parallel():
            return {"": Beside([_named(branch) for branch in step.branches], channels)}
    raise ValueError(f"to_torch_module: {layer.label} has no counterpart in PyTorch that tinynet knows of")


def _activation(layer):
    name = layer.activation_name
    return {} if name is None else {f"_{name}": ACTIVATIONS[name]()}


def _convolution(layer):
    (H, W, C), (P, Q, K) = layer.input_shape, layer.output_shape
    (I, J), (s, r) = layer.kernel_size, layer.stride
    padding, zeros = layer.padding, {}
    if padding == "valid":
        padding = 0
    elif padding == "same":
        high, wide = max((P - 1) * s + I - H, 0), max((Q - 1) * r + J - W, 0)
        padding = high // 2, wide // 2
        if high % 2 or wide % 2:  # the odd one below or to the right: PyTorch's own padding is symmetrical
            zeros["_padding"] = nn.ZeroPad2d((wide // 2, wide - wide // 2, high // 2, high - high // 2))
            padding = 0
    return {**zeros, "": nn.Conv2d(C, K, (I, J), (s, r), padding, bias=layer.bias)}


def _rearrange(given, order, returned):
    """PyTorch's number i is ours of number before[i], before the Reshape, and after[i] after it."""
    count = np.arange(math.prod(given))
    before, after = (count if o is None else o for o in (in_torch(given, order), in_torch(returned)))
    index = np.argsort(before)[after]
    last, *others = returned[-1], *returned[:-1]
    return Rearrange(None if (index == count).all() else index, (last, *others) if len(returned) == 3 else returned)


def _on_last_axis(module, given, returned):
    """A module that works on the last axis, where PyTorch's images have another one."""
    found = {"": module}
    if len(given) == 3:
        found = {"_channels_last": Permute(0, 2, 3, 1), **found}
    if len(returned) == 3:
        found["_channels_first"] = Permute(0, 3, 1, 2)
    return found


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
