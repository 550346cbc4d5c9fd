"""A model's layers as JSON, and the model made of it again: what a file needs to be read by tn.load(path) alone.

    {"layer": "Dense", "options": {"units": 10, "activation": "relu"}}     a layer: its class, what __init__ was given
    {"own layer": "Swirl", "options": {...}}                               one of a class that is not this package's
    {"same": 0}                                                            the first of the layers written so far
    {"tuple": [...]}   {"dict": {...}}   [...]   numbers, texts, None      options
    {"array": "options/0"}                                                 an array, by its name in the file
    {"named": "ReLU"}                                                      a class of this package's layers
    {"own": "norm"}                                                        a function or a class that is not one
    {"unknown": "..."}                                                     what JSON can't hold, in words

A file names classes and never says what they do: reading one makes layers of this package, and of the classes and
functions that the caller passes by name, and runs nothing else.
"""

import inspect
from typing import Any

import numpy as np

from tinynet.checks.assignments import of_package
from tinynet.layers.base import Layer
from tinynet.layers.options import made_by, options, set_again, settings
from tinynet.model import Sequential

ARRAYS = "options/"


def packed(model: Sequential, arrays: dict) -> dict:
    """What `made` takes, as JSON can hold it; arrays among the options go to `arrays`, by the names it has for them."""
    packer = _Packer(arrays)
    layers = [packer.pack(layer) for layer in model.layers]
    of_layers, of_parameters = settings(model.layers)
    of_layers = [[*flags, {name: packer.pack(value) for name, value in since.items()}] for *flags, since in of_layers]
    return {
        "layers": layers,
        "input_shape": list(model.input_shape),
        "dtype": str(model.dtype),
        "seed": model.seed,
        "settings": [of_layers, of_parameters],
    }


class _Packer:
    def __init__(self, arrays):
        self.arrays, self.seen, self.named, self.ours = arrays, [], {}, _ours()

    def pack(self, value):
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, Layer):
            return self._layer(value)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if type(value) is list:
            return list(map(self.pack, value))
        if type(value) is tuple:
            return {"tuple": list(map(self.pack, value))}
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return {"dict": {key: self.pack(item) for key, item in value.items()}}
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
            name = f"{ARRAYS}{len(self.arrays)}"
            self.arrays[name] = value.astype(value.dtype.newbyteorder("="))
            return {"array": name}
        if isinstance(value, type) or inspect.isroutine(value):
            kind = "named" if self.ours.get(value.__name__) is value else "own"
            return self._of_one_name(value, {kind: value.__name__})
        return {"unknown": f"a {type(value).__name__}"}

    def _layer(self, layer):
        if any(layer is other for other in self.seen):
            return {"same": next(i for i, other in enumerate(self.seen) if layer is other)}
        self.seen.append(layer)
        given = options(layer)
        if callable(given.get("init")):  # how weights start does not matter to those that are read from a file
            del given["init"]
        kind = "layer" if of_package(type(layer)) else "own layer"
        about = {kind: type(layer).__name__, "options": {name: self.pack(value) for name, value in given.items()}}
        return about if kind == "layer" else self._of_one_name(type(layer), about)

    def _of_one_name(self, thing, about):
        """`about` the thing; but a second one of the same name could not be told from the first."""
        if self.named.setdefault(thing.__name__, thing) is thing:
            return about
        return {"unknown": f"a second {thing.__name__}"}


def packed_layer(layer: Layer) -> dict:
    """A layer as JSON can hold it, without its numbers."""
    return _Packer({}).pack(layer)


def made_layer(about: dict) -> Layer:
    """The layer that `packed_layer` told of.

    Raises KeyError where a class of one's own or an array is part of it, ValueError for an option unknown to JSON.
    """
    return _Unpacker({}.__getitem__, {}, "").unpack(about)


def made(about: Any, read: Any, own: dict, path: str) -> Sequential:
    """The model that `about`, which `packed` returned, tells of; its numbers are those that it starts with.

    read   name -> the array of that name in the file
    own    {name: class or function}, for what is not of this package
    path   for messages: a ValueError says what is missing in `own`, or that the file is damaged
    """
    missing = sorted(set(_own_names(about["layers"])) - own.keys())
    if missing:
        word = ", ".join(f'"{name}": {name}' for name in missing)
        raise ValueError(
            f"load: {path} has {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not this package's:"
            f" pass them by name, tn.load(path, layers={{{word}}})"
        )
    unpacker = _Unpacker(read, own, path)
    layers = [unpacker.unpack(layer) for layer in about["layers"]]
    model = Sequential(layers, tuple(about["input_shape"]), about["seed"], about["dtype"])
    of_layers, of_parameters = about["settings"]
    of_layers = [
        [*flags, {name: unpacker.unpack(value) for name, value in since.items()}] for *flags, since in of_layers
    ]
    set_again(model.layers, (of_layers, of_parameters))
    return model


def unknown(about):
    """In words, the options that are not in what `packed` returned, since JSON can't hold them."""
    return [each["unknown"] for each in _dicts(about["layers"]) if "unknown" in each]


def _own_names(layers):
    """The names of classes and functions that are not this package's in what `pack` returned."""
    for each in _dicts(layers):
        name = each.get("own layer") or each.get("own")
        if name is None and each.get("named") not in _ours():  # in files of earlier versions, one's own, too
            name = each.get("named")
        if name is not None:
            yield name


def _dicts(value):
    """Every dict in what `pack` returned, and in those."""
    if isinstance(value, dict):
        yield value
        inside = value.get("options") or value.get("dict")
        value = list(inside.values()) if inside else value.get("tuple")
    for item in value if isinstance(value, list) else ():
        yield from _dicts(item)


def _ours():
    """The layers of this package, by name."""
    import tinynet

    found = {name: getattr(tinynet, name) for name in tinynet.__all__}
    return {name: thing for name, thing in found.items() if isinstance(thing, type) and issubclass(thing, Layer)}


class _Unpacker:
    def __init__(self, read, own, path):
        self.read, self.own, self.path, self.seen, self.ours = read, own, path, [], _ours()

    def unpack(self, value):
        if isinstance(value, list):
            return list(map(self.unpack, value))
        if not isinstance(value, dict):
            return value
        if "tuple" in value:
            return tuple(map(self.unpack, value["tuple"]))
        if "dict" in value:
            return {key: self.unpack(item) for key, item in value["dict"].items()}
        if "array" in value:
            return self.read(value["array"])
        if "own" in value:
            return self.own[value["own"]]
        if "named" in value:
            return self.ours.get(value["named"]) or self.own[value["named"]]
        if "same" in value:
            return self.seen[value["same"]]
        if "unknown" in value:
            raise ValueError(
                f"load: {self.path} can't say how a layer is made, of which an option is {value['unknown']}; build the"
                " model and read its numbers: tn.load(model, path)"
            )
        return self._layer(value)

    def _layer(self, value):
        kind = self.own[value["own layer"]] if "own layer" in value else self.ours[value["layer"]]
        place = len(self.seen)
        self.seen.append(None)  # its number, which layers among its options come behind
        options = {name: self.unpack(item) for name, item in value["options"].items()}
        bound = inspect.BoundArguments(inspect.Signature(made_by(kind)), options)
        self.seen[place] = kind(*bound.args, **bound.kwargs)
        return self.seen[place]
