"""What a layer was made with, and what is set of it afterwards: for repr, for files, and for copies in other models.

Whoever writes Conv2D(3, 3, stride=2) has said all there is to know of that layer, but for the numbers in its arrays.
So every layer keeps the arguments of its own __init__, as `_given`: no layer lists its options a second time.

A layer that is part of a model stays there.  Where it is put into another one, that one gets a copy, not built yet,
which starts from the numbers that it has now: `_carried`.
"""

import copy
import functools
import inspect

import numpy as np

from tinynet.layers.parameter import Buffers


def noted(init):
    """A class's __init__; the outermost one, of a class and those that it inherits from, notes its arguments."""

    @functools.wraps(init)
    def run(self, *args, **options):
        state = vars(self)
        outermost = "_given" not in state
        state.setdefault("_given", {})
        init(self, *args, **options)
        if outermost:
            given, copies = inspect.signature(init).bind(self, *args, **options).arguments, state.pop("_copies", {})
            state["_given"] = {name: _copied(value, copies) for name, value in list(given.items())[1:]}

    return run


def _copied(value, copies):
    """With lists of its own, for the caller may go on with theirs, and in them the layers that it has copies of."""
    if isinstance(value, dict):
        return {key: _copied(item, copies) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        found = [_copied(copies.get(id(item), item), copies) for item in in_place_of_models(value)]
        return found if isinstance(value, list) else tuple(found)
    return value.item() if isinstance(value, np.generic) else value


def in_place_of_models(things):
    """The list with the layers of each model among them in its place."""
    found = []
    for thing in things:
        is_model = not isinstance(thing, type) and hasattr(thing, "flat_values")
        found += thing.layers if is_model else [thing]
    return found


def made_by(kind):
    """The parameters of its __init__."""
    return list(inspect.signature(kind.__init__).parameters.values())[1:]


def options(layer):
    """{name: value} of what its __init__ was given, with the values that were set since."""
    return {**layer._given, **_set_since(layer)}


def _set_since(layer):
    """Those of its options that may be set at any time, a Dropout's rate say."""
    names = {parameter.name for parameter in made_by(type(layer))} & type(layer).settable.keys()
    return {name: getattr(layer, name) for name in sorted(names)}


def call(layer):
    """The call that makes such a layer, as text: what must be given, and what differs from its default, by name."""
    arguments, given = [], options(layer)
    for parameter in made_by(type(layer)):
        name, default = parameter.name, parameter.default
        if name not in given:
            continue
        value = given[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments += map(_text, value)
        elif parameter.kind is parameter.VAR_KEYWORD:
            arguments += [f"{key}={_text(item)}" for key, item in value.items()]
        elif default is parameter.empty:
            by_name = parameter.kind is parameter.KEYWORD_ONLY
            arguments.append(f"{name}={_text(value)}" if by_name else _text(value))
        elif value is not default and _text(value) != _text(default):
            arguments.append(f"{name}={_text(value)}")
    return f"{type(layer).__name__}({', '.join(arguments)})"


def _text(value):
    return value.__name__ if inspect.isroutine(value) or isinstance(value, type) else repr(value)


# --- what is set of layers and their parameters at any time -------------------------------------------------------


def settings(layers):
    """[trainable, lr_factor, options] of every layer, those inside too; [trainable, lr_factor, decay] of parameters."""
    parts = [part for layer in layers for part in layer.walk()]
    of_layers = [[part.trainable, part.lr_factor, _set_since(part)] for part in parts]
    return of_layers, [[p.trainable, p.lr_factor, p.decay] for layer in layers for p in layer.parameters]


def set_again(layers, settings):
    """Set what `settings` returned of layers like these; ValueError where there are more or fewer of them."""
    of_layers, of_parameters = settings
    parts = [part for layer in layers for part in layer.walk()]
    for part, (trainable, lr_factor, options) in zip(parts, of_layers, strict=True):
        if (part.trainable, part.lr_factor) != (trainable, lr_factor):  # their setters would set all inside
            vars(part).update(_trainable=trainable, _lr_factor=lr_factor)
        for name, value in options.items():
            if not np.array_equal(getattr(part, name), value):
                setattr(part, name, value)
    parameters = [parameter for layer in layers for parameter in layer.parameters]
    for parameter, values in zip(parameters, of_parameters, strict=True):
        if [parameter.trainable, parameter.lr_factor, parameter.decay] != values:
            parameter.trainable, parameter.lr_factor, parameter.decay = values


# --- a layer of one model in another ------------------------------------------------------------------------------


def copies(layers):
    """The layers, and in place of those that are built, copies to build, which begin with the numbers of these.

    A new TiedDense whose Embedding is among those uses its copy.  Returned with {id of a layer: its copy}.
    """
    memo, result = {}, []
    for layer in layers:
        if layer.dtype is None:
            result.append(layer)
            continue
        copied = copy.deepcopy(layer, memo)
        values = [parameter._value.copy() for parameter in copied.parameters]
        carried = values, Buffers(copied.buffers, "").copy(), settings([layer])
        for part in copied.walk():
            vars(part).update(place="", dtype=None, _at_build=None)
        vars(copied)["_carried"] = carried
        result.append(copied)
    for layer in result:
        for part in layer.walk():
            if id(part.tied) in memo:
                given = {name: memo.get(id(value), value) for name, value in part._given.items()}
                vars(part).update(tied=memo[id(part.tied)], _given=given)
    return result, memo


def fill_carried(layer):
    """Give a copy that was built the numbers and settings of the layer that it is a copy of."""
    if layer._carried is None:
        return
    values, buffers, of_it = layer._carried
    arrays = [(p.name, p._value) for p in layer.parameters]
    arrays += [(name, layer.buffers._arrays[name]) for name in buffers if name in layer.buffers]
    for (name, array), value in zip(arrays, [*values, *buffers.values()], strict=True):
        if array.shape != value.shape:
            raise ValueError(
                f"{layer.label}: it was built for another model, where its {name} has shape {value.shape}; for inputs"
                f" (N, {', '.join(map(str, layer.input_shape))}) it would be {array.shape}; make a new one"
            )
        array[...] = value
    set_again([layer], of_it)
