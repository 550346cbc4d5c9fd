"""PyTorch's weights in and out, and this package's cross-entropy inside PyTorch.

What differs is where the numbers lie.  PyTorch puts channels first, and what comes out before what goes in:

    an image           (N, H, W, C)     there (N, C, H, W)
    Conv2D's kernel    (I, J, C, K)     there (K, C, I, J), "OIHW"
    Dense's weights    (in, out)        there (out, in)
    all other arrays, and samples with one axis, two, or more than three: alike

The Dense after a Flatten.  Flatten reads an image in the order in which it lies there, so that number i of PyTorch's
vector is not number i of ours.  With o[i] the place in ours,

    o = the numbers 0 .. H W C - 1 as an array (H, W, C), read in the order (C, H, W)        theirs[i] = ours[o[i]]

a Dense there has its weights' rows in that order.  What lies between keeps it: Dropout, activations and Softmax have
nothing to reorder, BatchNorm and LayerNorm have their vectors in that order, too.  After a Dense both sides count
alike again, unless its output is added to numbers in such an order: in a Residual, its columns must have it, too.

A Reshape to or from anything else than a vector keeps which number is which: PyTorch's side must bring the channels
last, reshape, and bring them first again, as `to_torch_module` does.
"""

import math
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from tinynet.layers.base import Layer, real_array
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.blocks import Parallel, Residual
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.embedding import Embedding
from tinynet.layers.layernorm import LayerNorm
from tinynet.layers.shape import Reshape
from tinynet.model import Sequential

STEPS_SEEN = "num_batches_tracked"  # PyTorch's BatchNorm counts its batches, for a kind of mean that this one lacks


# --- where the numbers lie -----------------------------------------------------------------------------------


@dataclass
class _Array:
    """An array of a layer: value[order] along each axis that has one, then value.transpose(axes), is PyTorch's."""

    name: str
    value: np.ndarray
    axes: tuple
    orders: tuple  # of each axis of value, None where it is the same
    zero_row: int | None = None  # which holds whatever it holds, and counts as 0: an Embedding's padding

    @property
    def kind(self):
        return self.name.rpartition(".")[2]

    @property
    def shape(self):
        return tuple(self.value.shape[axis] for axis in self.axes)

    def to_torch(self):
        value = self.value.copy()
        if self.zero_row is not None:
            value[self.zero_row] = 0
        for axis, order in enumerate(self.orders):
            value = value if order is None else value.take(order, axis)
        return np.ascontiguousarray(value.transpose(self.axes))

    def from_torch(self, value):
        value = value.transpose(np.argsort(self.axes))
        for axis, order in enumerate(self.orders):
            value = value if order is None else value.take(np.argsort(order), axis)
        return value


@dataclass
class Step:
    """A layer, its number ("3.0" inside of layer 3), the order of its input there, its arrays, its branches' steps."""

    layer: Layer
    number: str
    order: np.ndarray | None
    arrays: list
    branches: list


def plan(layers, order=None, wanted=None, within="", first=0):
    """The Steps for layers in a row, given the order of their input there; and the order of their output.

    The last Dense gives its output in the order that is `wanted`, if it can.  Orders are of vectors; None is our own.
    """
    steps = []
    last = next((layer for layer in reversed(layers) if isinstance(layer, Dense)), None)
    for index, layer in enumerate(layers, first):
        step = Step(layer, f"{within}{index}", order, [], [])
        if isinstance(layer, Dense):
            fits = layer is last and wanted is not None and len(wanted) == layer.units
            before, order = order, wanted if fits else None
            _add(step, {"weight": (1, 0), "bias": (0,)}, {"weight": (before, order), "bias": (order,)})
        elif isinstance(layer, Conv2D):
            _add(step, {"weight": (3, 2, 0, 1), "bias": (0,)})
        elif isinstance(layer, Embedding):
            _add(step, {"weight": (0, 1)}, zero_row=layer.padding)
        elif isinstance(layer, (BatchNorm, LayerNorm)):
            names = "weight", "bias", "running_mean", "running_var"
            _add(step, dict.fromkeys(names, (0,)), dict.fromkeys(names, (order,)))
        elif isinstance(layer, Residual):
            order = _plan_residual(step)
        elif isinstance(layer, Parallel):
            order = _plan_parallel(step)
        elif isinstance(layer, Reshape):
            if len(layer.output_shape) > 1:
                order = None
            elif len(layer.input_shape) > 1:
                order = in_torch(layer.input_shape)
        elif layer.parameters or layer.buffers:
            raise ValueError(f"{layer.label} has no counterpart in PyTorch that tinynet knows of")
        elif not type(layer).__module__.startswith("tinynet.") and order is not None:
            raise ValueError(
                f"{layer.label}, a layer of your own, comes between a Flatten and the Dense after it: PyTorch has"
                " those numbers in another order; put it before the Flatten or after the Dense"
            )
        elif len(layer.output_shape) > 1 or len(layer.input_shape) > 1:  # pooling over the whole image, say
            order = None
        steps.append(step)
    return steps, order


def in_torch(shape, order=None):
    """Which of our numbers of a sample PyTorch has where: None if alike.  `order` is that of a vector."""
    if len(shape) == 3:
        order = np.arange(math.prod(shape)).reshape(shape).transpose(2, 0, 1).ravel()
    return None if order is None or (order == np.arange(len(order))).all() else order


def _add(step, axes, orders=None, zero_row=None):
    """Note the layer's parameters and buffers, of which `axes` says how PyTorch has their axes."""
    layer = step.layer
    values = {parameter.name.rpartition(".")[2]: parameter.value for parameter in layer.parameters}
    values.update(layer.buffers)
    for kind, order in axes.items():
        if kind in values:
            given = orders[kind] if orders else (None,) * len(order)
            step.arrays.append(_Array(f"{step.number}.{kind}", values[kind], order, given, zero_row))


def _plan_residual(step):
    """The sum's order.  Of the two that are added, the one that has a Dense to give it another order follows."""
    f, shortcut = step.layer.branches
    inside = f"{step.number}."
    follows = any(isinstance(layer, Dense) for layer in shortcut)
    wanted = None if follows else plan(shortcut, step.order, None, inside, len(f))[1]
    steps, order = plan(f, step.order, wanted, inside)
    others, other = plan(shortcut, step.order, order if follows else None, inside, len(f))
    step.branches = [steps, others]
    if (order is None) != (other is None) or (order is not None and (order != other).any()):
        raise ValueError(
            f"{step.layer.label}: after a Flatten, PyTorch has what is added here in two different orders; put a Dense"
            " between the Flatten and this layer"
        )
    return order


def _plan_parallel(step):
    """Vectors beside each other have their orders beside each other."""
    orders, first, width = [], 0, 0
    for branch in step.layer.branches:
        steps, order = plan(branch, step.order, None, f"{step.number}.", first)
        step.branches.append(steps)
        size = (branch[-1].output_shape if branch else step.layer.input_shape)[-1]
        orders.append(width + (np.arange(size) if order is None else order))
        first, width = first + len(branch), width + size
    return in_torch(step.layer.output_shape, np.concatenate(orders)) if len(step.layer.output_shape) == 1 else None


def _flat(steps):
    for step in steps:
        yield step
        for branch in step.branches:
            yield from _flat(branch)


# --- names ---------------------------------------------------------------------------------------------------


def _state_dict(given, name):
    """{name: array or tensor} of a state dict, or of a torch.nn.Module."""
    found = given.state_dict() if hasattr(given, "state_dict") else given
    if not hasattr(found, "items"):
        raise TypeError(f"{name}: expected a state dict or a torch.nn.Module, got {type(given).__name__}")
    for key, value in found.items():
        if not isinstance(key, str) or not hasattr(value, "shape"):
            hint = f"; is the state dict in it, [{key!r}]?" if hasattr(value, "items") else ""
            raise TypeError(f"{name}: the state dict has no array at {key!r}, but a {type(value).__name__}{hint}")
    return dict(found)


def _matched(model, theirs, name):
    """[(_Array, its name there)]: by name where all names are the same, else layer by layer as they come."""
    steps, _ = plan(model.layers)
    ours = {step.layer.label: step.arrays for step in _flat(steps) if step.arrays}
    own = [array.name for arrays in ours.values() for array in arrays]
    names = [key for key in theirs if key.rpartition(".")[2] != STEPS_SEEN]
    modules = {}
    for key in own if set(own) == set(names) else names:
        modules.setdefault(key.rpartition(".")[0], []).append(key)
    pairs = []
    for mine, keys in zip_longest(ours.items(), modules.values()):
        layer, arrays = mine or ("", [])
        here, there = ({key.rpartition(".")[2]: key for key in side} for side in ([a.name for a in arrays], keys or []))
        if here.keys() != there.keys() or any(tuple(theirs[there[a.kind]].shape) != a.shape for a in arrays):
            has = ", ".join(f"{a.name} {a.shape}" for a in arrays)
            given = ", ".join(f"{key} {tuple(theirs[key].shape)}" for key in keys or [])
            if not arrays:
                raise ValueError(f"{name}: the model has no more arrays, but PyTorch's side goes on with {given}")
            raise ValueError(
                f"{name}: {layer} has {has} in PyTorch's layout, but PyTorch's side "
                + (f"has {given} in that place" if given else "ends before it")
            )
        pairs += [(array, there[array.kind]) for array in arrays]
    return pairs


def _checked_model(model, name):
    if not isinstance(model, Sequential):
        given = f"{type(model).__module__}.{type(model).__name__}"  # PyTorch has a Sequential, too
        raise TypeError(f"{name}: expected a tinynet Sequential, got {given.removeprefix('builtins.')}")


def _torch_side(name):
    """The module of what needs PyTorch, which is imported now and not before."""
    try:
        from tinynet import interop_torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"{name} needs PyTorch, which is not installed here: pip install torch") from None
    return interop_torch


# --- weights -------------------------------------------------------------------------------------------------


def to_torch(model, like=None):
    """The model's parameters and running statistics as PyTorch has them: {name: fresh tensor}, a state dict.

    like   a torch.nn.Module of the same layers, or its state dict: its names are used, matched as in `from_torch`

    The names are tinynet's, which number the layers: "0.weight", "0.bias", "3.0.weight" inside layer 3.  They are those
    of the torch.nn.Sequential with a module for each layer; where an activation is part of a Dense or Conv2D and a
    module of its own there, or the modules have names, pass `like`:

        network.load_state_dict(tn.interop.to_torch(model, like=network))

    Shapes: Dense (out, in), Conv2D (out, in, rows, columns), the rest as in tinynet; the arrays behind a Flatten are in
    the order of PyTorch's, which is fed images (N, C, H, W).  Raises ImportError without PyTorch, and ValueError for a
    layer that PyTorch doesn't have, or where `like` has other arrays.
    """
    name = "to_torch"
    _checked_model(model, name)
    tensor = _torch_side(name).tensor
    if like is None:
        pairs = [(array, array.name) for step in _flat(plan(model.layers)[0]) for array in step.arrays]
    else:
        like = _state_dict(like, name)
        pairs = _matched(model, like, name)
    found = {}
    for array, key in pairs:
        found[key] = tensor(array.to_torch())
        counter = key.removesuffix("running_var") + STEPS_SEEN
        if array.kind == "running_var" and (like is None or counter in like):
            found[counter] = tensor(np.array(0))
    return found


def from_torch(model, state_dict):
    """Copy a PyTorch model's parameters and running statistics into `model`, which must have the same layers.

    state_dict   a state dict, of tensors or NumPy arrays of any float dtype, or the torch.nn.Module itself

    Where its names are not those of `to_torch`, its modules are taken in their order, one for each layer that has
    arrays, and within a module the arrays by their names: so "conv1.weight" may be what is "0.weight" here.  Modules
    whose shapes are alike and that were defined in another order than they are called in can't be told apart.  It is
    taken for granted that PyTorch's model flattens images (N, C, H, W), and turns vectors into images by way of
    (N, H, W, C).

    Raises ValueError for the first layer that has no counterpart, with both sides' names and shapes, and TypeError for
    what is no array; then nothing has changed.
    """
    name = "from_torch"
    _checked_model(model, name)
    theirs = _state_dict(state_dict, name)
    values = []
    for array, key in _matched(model, theirs, name):
        value = array.from_torch(_numbers(theirs[key], f"{name}: {key}", model.dtype))
        if array.zero_row is not None and value[array.zero_row].any():
            raise ValueError(
                f"{name}: row {array.zero_row} of {key} is the padding of {array.name} and must be 0; or build the"
                " Embedding without padding"
            )
        values.append((array.value, value))
    for own, value in values:
        own[...] = value


def _numbers(value, what, dtype):
    """A tensor or an array as an array of `dtype`."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()  # NumPy has no bfloat16
    return real_array(value, dtype, what)


def to_torch_module(model):
    """A torch.nn.Sequential that computes what `model` does, on images (N, C, H, W), with a copy of its weights.

    Its modules are named by the numbers of the layers, so that its state dict has the names of `to_torch`, and can come
    back by `from_torch`.  What takes several modules there has more of them, named "0_relu" or "2_flatten".  As any new
    module it is in training mode: call its eval() to predict.  Raises as `to_torch` does.
    """
    _checked_model(model, "to_torch_module")
    build = _torch_side("to_torch_module").sequential
    return build(plan(model.layers)[0], to_torch(model))


# --- the loss ------------------------------------------------------------------------------------------------


def torch_cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """torch.nn.functional.cross_entropy on the CPU, by tinynet's kernel: the gradient is there with the loss.

    input            logits (N, C), (C,) or (N, C, d1, ...): a CPU tensor of float32 or float64
    target           class indices of any integer dtype, (N,), () or (N, d1, ...), or probabilities of input's shape
    weight           (C,), a factor for each class
    ignore_index     class indices of this value don't count
    reduction        "mean", "sum" or "none"
    label_smoothing  in [0, 1]

    Returns the loss as a tensor of input's dtype: a number, or for "none" of the class indices' shape.  backward()
    multiplies the gradient by what comes from above, and where that is 1 hands it on as it is.  Nothing is copied for
    (N, C); with more axes the classes are brought last first, which takes two passes over memory.  The gradient is not
    computed where input doesn't require it, nor under torch.no_grad().

    What differs from PyTorch: with every sample ignored, or all their weights 0, the mean is 0 and not NaN; NaN or inf
    in an ignored row has no effect; class probabilities must be in [0, 1] and sum to 1; a probability of 0 on a class
    at -inf adds 0; with label smoothing, classes at -inf get none of it; an empty batch is an error.

    Raises TypeError and ValueError for what it can't use, a target or weight that requires a gradient too, RuntimeError
    where a second derivative is asked for (or one of torch.func's), and ImportError without PyTorch.
    """
    return _torch_side("torch_cross_entropy").cross_entropy(
        input, target, weight, ignore_index, reduction, label_smoothing
    )
