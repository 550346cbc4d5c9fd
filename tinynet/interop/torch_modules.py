"""What of torch.py is made of PyTorch's own classes: imported when it is first needed, and not before.

The modules are PyTorch's, but for those that it lacks: the sum and the concatenation of branches, a Reshape that keeps
which number is which, the output alone of what returns its state, too, and attention of x to x.
"""

import math
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from tinynet.interop.matching import flat
from tinynet.interop.torch import in_torch
from tinynet.layers.inputs import takes_several

tensor = torch.from_numpy


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
    """Modules side by side over one x, in lists of (name, module); an empty list is x itself.

    several   whether x is a tuple instead, with an input for each list
    """

    def __init__(self, branches, several=False):
        super().__init__()
        self.several = several
        self.names = [[name for name, _ in branch] for branch in branches]
        for branch in branches:
            for name, module in branch:
                self.add_module(name, module)

    def outputs(self, x):
        found = []
        for names, y in zip(self.names, x if self.several else [x] * len(self.names), strict=True):
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

    def __init__(self, branches, dim, several):
        super().__init__(branches, several)
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
        several = takes_several(layer.input_shape)
        return {"": Sum(rows) if layer.joined == "sum" else Beside(rows, channels, several)}
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
