"""PyTorch's weights in and out.

What differs is where the numbers lie.  PyTorch puts channels first, and what comes out before what goes in:

    an image           (N, H, W, C)     there (N, C, H, W)
    Conv2D's kernel    (I, J, C, K)     there (K, C, I, J), "OIHW"
    Dense's weights    (in, out)        there (out, in)
    of LSTM and GRU    (in, 4H)         there (4H, in), and twice as many biases, of which pairs are added
    all other arrays, and samples with one axis, two, or more than three: alike

The Dense after a Flatten.  Flatten reads an image in the order in which it lies there, so that number i of PyTorch's
vector is not number i of ours.  With o[i] the place in ours,

    o = the numbers 0 .. H W C - 1 as an array (H, W, C), read in the order (C, H, W)        theirs[i] = ours[o[i]]

a Dense there has its weights' rows in that order.  What lies between keeps it, where it declares so (`vector_order` in
layers/declared.py): an activation has nothing to reorder, BatchNorm its vectors.  After a Dense both sides count alike
again, unless its output is added to numbers in such an order: in a Residual, its columns must have it, too.

A Reshape to or from anything else than a vector keeps which number is which: PyTorch's side must bring the channels
last, reshape, and bring them first again, as `to_torch_module` does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynet.checks import real_array
from tinynet.checks.assignments import of_package
from tinynet.interop import transformers
from tinynet.interop.matching import STEPS_SEEN, checked_state, flat, is_as_defined, matched, memory, modules_of
from tinynet.interop.torch_side import torch_side
from tinynet.layers.base import Layer
from tinynet.model import Sequential

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
        """Its name in the layer: "weight"."""
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

    def take(self, value):
        self.value[...] = value


@dataclass
class _OtherArray:
    """An array that a layer has otherwise: `value` is what PyTorch has, and `take` is given one as it is there."""

    name: str
    kind: str
    value: np.ndarray
    take: Callable
    zero_row = None

    @property
    def shape(self):
        return self.value.shape

    def to_torch(self):
        return self.value.copy()

    def from_torch(self, value):
        return value


@dataclass
class Step:
    """A layer, its number ("3.0" inside of layer 3), the order of its input there, its arrays, its branches' steps."""

    layer: Layer
    number: str
    order: np.ndarray | None
    arrays: list
    branches: list

    @property
    def kind(self):
        """The module of PyTorch's that stands for all that compute the same."""
        return self.layer.torch_names[0]


def plan(layers, order=None, wanted=None, within="", first=0):
    """The Steps for layers in a row, given the order of their input there; and the order of their output.

    The last Dense gives its output in the order that is `wanted`, if it can.  Orders are of vectors; None is our own.
    """
    steps = []
    last = next((layer for layer in reversed(layers) if layer.vector_order == "mixed"), None)
    for index, layer in enumerate(layers, first):
        before, vector = order, len(layer.input_shape) == len(layer.output_shape) == 1
        step = Step(layer, f"{within}{index}", before, [], [])
        if layer.joined:
            order = (_plan_sum if layer.joined == "sum" else _plan_beside)(step)
        elif (layer.parameters or layer.buffers) and not (layer.torch_axes or layer.torch_arrays()):
            raise ValueError(f"{layer.label} has no counterpart in PyTorch that tinynet knows of")
        elif layer.vector_order == "mixed":
            fits = layer is last and vector and wanted is not None and len(wanted) == layer.output_shape[0]
            order = wanted if fits else None
        elif layer.vector_order == "reshaped" and len(layer.output_shape) == 1:
            order = before if vector else in_torch(layer.input_shape)
        elif before is not None and layer.vector_order == "own":
            which = "" if of_package(type(layer)) else ", a layer of your own,"
            raise ValueError(
                f"{layer.label}{which} comes between a Flatten and the Dense after it: PyTorch has those numbers in"
                " another order; put it before the Flatten or after the Dense"
            )
        elif not vector:  # pooling over the whole image, say
            order = None
        _add_arrays(step, before, order)
        steps.append(step)
    return steps, order


def in_torch(shape, order=None):
    """Which of our numbers of a sample PyTorch has where: None if alike.  `order` is that of a vector."""
    if len(shape) == 3:
        order = np.arange(math.prod(shape)).reshape(shape).transpose(2, 0, 1).ravel()
    return None if order is None or (order == np.arange(len(order))).all() else order


def _add_arrays(step, before, after):
    """Note the layer's parameters and buffers, as PyTorch has their axes; before and after: a vector's orders there."""
    layer = step.layer
    for kind, value, take in layer.torch_arrays() or ():
        step.arrays.append(_OtherArray(f"{step.number}.{kind}", kind, value, take))
    tied = layer.tied.parameters if layer.tied is not None else []  # of which PyTorch's module has them, too
    values = {parameter.name.rpartition(".")[2]: parameter.value for parameter in (*tied, *layer.parameters)}
    values.update(layer.buffers)
    for kind, axes in layer.torch_axes.items():
        if kind in values:
            orders = (None,) * (len(axes) - 1) + (after,)  # what a layer puts out is its arrays' last axis
            if layer.vector_order == "mixed" and len(axes) == 2:
                orders = before, after
            step.arrays.append(_Array(f"{step.number}.{kind}", values[kind], axes, orders, layer.zero_row))


def _plan_sum(step):
    """The sum's order.  Of the two that are added, the one that has a Dense to give it another order follows."""
    f, shortcut = step.layer.branches
    inside = f"{step.number}."
    follows = any(layer.vector_order == "mixed" for layer in shortcut)
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


def _plan_beside(step):
    """Vectors beside each other have their orders beside each other."""
    orders, first, width = [], 0, 0
    shapes = step.layer.of_branches(step.layer.input_shape)
    for branch, shape in zip(step.layer.branches, shapes, strict=True):
        steps, order = plan(branch, step.order, None, f"{step.number}.", first)
        step.branches.append(steps)
        size = (branch[-1].output_shape if branch else shape)[-1]
        orders.append(width + (np.arange(size) if order is None else order))
        first, width = first + len(branch), width + size
    return in_torch(step.layer.output_shape, np.concatenate(orders)) if len(step.layer.output_shape) == 1 else None


# --- what PyTorch's side is ------------------------------------------------------------------------------------


def _matched(model, given, state, order, name):
    """[(_Array, its name in the state dict)] for a torch.nn.Module or a state dict; a Module's options must be ours."""
    steps, _ = plan(model.layers)
    if hasattr(given, "named_modules"):
        options = torch_side(name, "interop.torch_options")
        modules = modules_of(state, _held_inside(steps), options.types(given, steps))
        pairs = matched(steps, state, modules, True, order, name)
        options.check(given, steps, pairs, name)
    else:
        modules = modules_of(state, _held_inside(steps))
        pairs = matched(steps, state, modules, is_as_defined(given, state, modules), order, name)
    return [(array, module.keys[array.kind]) for step, module in pairs for array in step.arrays]


def _held_inside(steps):
    """Of layers whose module holds others with arrays, the first name in each: "in_proj_weight", of attention."""
    kinds = ([array.kind for array in step.arrays] for step in flat(steps))
    return {of_one[0] for of_one in kinds if any("." in kind for kind in of_one)}


def _checked_model(model, name):
    if not isinstance(model, Sequential):
        given = f"{type(model).__module__}.{type(model).__name__}"  # PyTorch has a Sequential, too
        raise TypeError(f"{name}: expected a tinynet Sequential, got {given.removeprefix('builtins.')}")


# --- weights -------------------------------------------------------------------------------------------------


def to_torch(model: Sequential, like: Any = None, order: list[str] | None = None) -> dict[str, Any]:
    """The model's parameters and running statistics as PyTorch has them: {name: fresh tensor}, a state dict.

    like    a torch.nn.Module of the same layers, or its state dict: its names are used, matched as in `from_torch`
    order   the names of its modules in the order of the layers here, as in `from_torch`

    The names are tinynet's, which number the layers: "0.weight", "0.bias", "3.0.weight" inside layer 3.  They are those
    of the torch.nn.Sequential with a module for each layer; where an activation is part of a Dense or Conv2D and a
    module of its own there, or the modules have names, pass `like`:

        network.load_state_dict(tn.interop.to_torch(model, like=network))

    Shapes: Dense (out, in), Conv2D (out, in, rows, columns), LSTM and GRU as PyTorch's, the rest as in tinynet; the
    arrays behind a Flatten are in the order of PyTorch's, which is fed images (N, C, H, W).  Raises ImportError without
    PyTorch, and ValueError for a layer that PyTorch doesn't have, where `like` has other arrays or options, can't be
    matched, or has one array for two of ours that differ.

    >>> model = tn.Sequential([tn.Dense(2)], 3)
    >>> {name: tuple(tensor.shape) for name, tensor in tn.interop.to_torch(model).items()}
    {'0.weight': (2, 3), '0.bias': (2,)}
    """
    name = "to_torch"
    _checked_model(model, name)
    tensor = torch_side(name).tensor
    if like is None:
        if order is not None:
            raise ValueError(f"{name}: order is of the modules of `like`, which is missing")
        pairs = [(array, array.name) for step in flat(plan(model.layers)[0]) for array in step.arrays]
        state = {array.name: array.value for array, _ in pairs}
    else:
        state = checked_state(like, name)
        pairs = _matched(model, like, state, order, name)
    found, first = {}, {}  # first: the first name of each array there
    for array, key in pairs:
        value = tensor(_fitting(array.to_torch(), model.dtype, f"{name}: {array.name}"))
        same = first.setdefault(memory(state[key]), key)
        if same in found and not value.equal(found[same]):
            other = next(array for array, key in pairs if key == same)
            raise ValueError(
                f"{name}: {other.name} and {array.name} differ, but share one array on PyTorch's side, {same}"
            )
        found[key] = value
        counter = key.removesuffix("running_var") + STEPS_SEEN
        if array.kind == "running_var" and (like is None or counter in state):
            found[counter] = tensor(np.array(0))
    first |= {memory(state[key]): key for key in found if key in state}
    for key, value in state.items():
        if key not in found and memory(value) in first:  # a further name of a module that has several
            found[key] = found[first[memory(value)]]
    return found


def _fitting(value, dtype, what):
    """An array as `dtype`, which PyTorch has for all of a model; running statistics are in float64 here."""
    with np.errstate(over="ignore"):
        cast = value.astype(dtype, copy=False)
    lost = np.isinf(cast) & ~np.isinf(value)
    if lost.any():
        raise ValueError(f"{what} has {value[lost][0]:.3g}, which PyTorch's {dtype} can't hold")
    return cast


def from_torch(model: Sequential, state_dict: Any, order: list[str] | None = None) -> None:
    """Copy a PyTorch model's parameters and running statistics into `model`, which must have the same layers.

    state_dict   the torch.nn.Module itself, or its state dict, of tensors or NumPy arrays of any float dtype
    order        where names and shapes don't tell which module is which layer: the names of PyTorch's modules that hold
                 arrays, in the order of the layers here.  Those that aren't named are left out

    Each layer that has arrays takes those of one module.  Which one, the names tell where they are those of `to_torch`;
    else the order in which PyTorch lists its modules, that of their definition; or the numbers in names ("fc2" before
    "fc10") and how they are nested, whatever the order: safetensors' load_file sorts names as text.  Where that leaves
    two ways, as for "body" and "hidden" of one shape in a sorted dict, it's an error, and `order` says which it is:

        tn.interop.from_torch(model, load_file("model.safetensors"), order=["hidden", "body", "head"])

    The order of definition is that of the calls in nearly all networks; where it isn't, give `order` too.  It is taken
    for granted that PyTorch's model flattens images (N, C, H, W), and turns vectors into images by way of (N, H, W, C).

    The names that the `transformers` package has for GPT-2 and BERT, and torchvision for ViT, are known
    (interop/transformers.py): they fit the models of tn.zoo, as do torchvision's other networks.

    A Module tells its modules' types and options, too, which must be ours: the stride, padding and padding mode of a
    convolution, eps and momentum of BatchNorm (PyTorch's is 1 - ours), the row of an Embedding's padding; in a
    torch.nn.Sequential also its activations, pooling and dropout.  A state dict holds none of that: pass
    `network.state_dict()` to take the arrays alone, where forward does by itself what an option would.

    Raises ValueError for the first layer that has no counterpart, with both sides' names and shapes, for options that
    differ and for modules that can't be told apart, and TypeError for what is no array; then nothing has changed.

    >>> model = tn.Sequential([tn.Dense(2)], 3)
    >>> tn.interop.from_torch(model, {"fc.weight": np.arange(6.0).reshape(2, 3), "fc.bias": np.ones(2)})
    >>> model.predict(np.eye(3))[:, 1].tolist()
    [4.0, 5.0, 6.0]
    """
    name = "from_torch"
    _checked_model(model, name)
    theirs = checked_state(state_dict, name)
    table, names = (None, {}) if order else transformers.recognised(theirs)
    if table is not None:
        numbers = lambda key: _numbers(theirs[key], f"{name}: {key}", model.dtype)  # noqa: E731
        for own, value in transformers.values(model, state_dict, theirs, table, names, numbers, name):
            own[...] = value
        return
    values, places = [], {}  # places: whose array it is, and the name there, by where it lies
    for array, key in _matched(model, state_dict, theirs, order, name):
        value = array.from_torch(_numbers(theirs[key], f"{name}: {key}", model.dtype))
        if array.zero_row is not None and value[array.zero_row].any():
            raise ValueError(
                f"{name}: row {array.zero_row} of {key} is the padding of {array.name} and must be 0; or build the"
                " Embedding without padding"
            )
        first, same, other = places.setdefault(array.value.ctypes.data, (array, value, key))
        if first is not array and not np.array_equal(same, value, equal_nan=True):
            raise ValueError(f"{name}: {array.name} is {first.name} here, one array, but {key} differs from {other}")
        values.append((array, value))
    for array, value in values:
        array.take(value)


def _numbers(value, what, dtype):
    """A tensor or an array as an array of `dtype`."""
    if hasattr(value, "detach"):
        if getattr(value, "is_meta", False):
            raise ValueError(f"{what} is on the meta device, which holds no numbers")
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()  # NumPy has no bfloat16
    return real_array(value, dtype, what)


def to_torch_module(model: Sequential) -> Any:
    """A torch.nn.Sequential that computes what `model` does, on images (N, C, H, W), with a copy of its weights.

    Its modules are named by the numbers of the layers, so that its state dict has the names of `to_torch`, and can come
    back by `from_torch`.  What takes several modules there has more of them, named "0_relu" or "2_flatten".  Several
    inputs are a tuple there, too.  As any new module it is in training mode: call its eval() to predict.  Raises as
    `to_torch` does.

    >>> model = tn.Sequential([tn.Conv2D(4, 3, activation="relu"), tn.Flatten(), tn.Dense(2)], (5, 5, 1))
    >>> list(tn.interop.to_torch_module(model).state_dict())
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    _checked_model(model, "to_torch_module")
    build = torch_side("to_torch_module").sequential
    return build(plan(model.layers)[0], to_torch(model))
