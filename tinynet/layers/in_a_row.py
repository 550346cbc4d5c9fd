"""Layers one after another, of a model or inside a layer: the chain rule.

forward    x -> layer 0 -> layer 1 -> ... -> y
backward   dL/dx <- layer 0 <- layer 1 <- ... <- dL/dy
"""

from tinynet.layers.base import Layer
from tinynet.layers.options import in_place_of_models
from tinynet.layers.parameter import Parameter


def build_in_a_row(layers, shape, dtype, rng, place="", first=0):
    """Build each layer for what the one before it gives; returns the output's shape.

    They are numbered from `first` on, within the layer at `place` if it is one that holds them.
    """
    before = None
    for index, layer in enumerate(layers, first):
        layer.place = f"{place[:-1]}.{index})" if place else f" (layer {index})"
        if before is not None and layer.takes_integers:
            raise ValueError(f"{layer.label}: it takes whole numbers, but {before.label} before it gives real ones")
        shape = layer.build(shape, dtype, rng)
        for parameter in layer.parameters:
            parameter.name = f"{index}.{parameter.name}"
        before = layer
    return shape


def leave_unbuilt(layers):
    """After a failure: none of them is part of a model now."""
    for layer in layers:
        vars(layer).update(place="", dtype=None, _in_model=False)


def forward_in_a_row(layers, x, training, lengths=None, state=None):
    """y.  `lengths` and `state` are for the layers that look along time (along_time.py, Layer.forward)."""
    if lengths is None and state is None:
        for layer in layers:
            x = layer.forward(x, training)
        return x
    for layer in layers:
        if layer.of_time == "lengths":
            x = layer.forward(x, training, lengths, state)
        else:
            x = layer.forward(x, training)
        if lengths is not None:
            lengths = layer.output_lengths(lengths)
    return x


def backward_in_a_row(layers, dy, input_grad):
    """dL/dx if `input_grad`, else None: then the walk back ends at the first layer that has something to train."""
    first, layers = 0, tuple(layers)
    if not input_grad:
        while first < len(layers) and not layers[first].trains:
            first += 1
    for index in range(len(layers) - 1, first - 1, -1):
        dy = layers[index].backward(dy, input_grad or index > first)
        if Parameter.changes:
            for parameter in layers[index].parameters:
                if not parameter._trainable:
                    parameter._grad[...] = 0
    return dy if input_grad else None


def checked_layers(layers, where):
    """A list of layers as a list, each there once, counting those inside them; `where` is for the message.

    A model among them stands for its layers.
    """
    if not isinstance(layers, (list, tuple)):
        given = f"a {type(layers).__name__} alone" if isinstance(layers, Layer) else repr(layers)
        raise TypeError(f"{where}: layers must be a list of layers, got {given}")
    if not layers:
        raise ValueError(f"{where}: the list of layers is empty")
    layers, seen = in_place_of_models(layers), []
    for index, layer in enumerate(layers):
        if isinstance(layer, type) and issubclass(layer, Layer):
            raise TypeError(f"{where}: layer {index} is the class {layer.__name__}; write {layer.__name__}(...)")
        if not isinstance(layer, Layer):
            raise TypeError(f"{where}: layer {index} must be a layer, got {layer!r}")
        for part in layer.walk():
            what = f"{where}: layer {index} {'is' if part is layer else 'holds'} {part.label}, which"
            if part.dtype is not None and layer.dtype is None:
                raise ValueError(f"{what} is built already; make a new one")
            if any(part is earlier for earlier in seen):
                raise ValueError(f"{what} stands in the list twice; make a new one")
            seen.append(part)
    return layers


def ending_in_a_row(layers, before=None):
    """What a loss may take their output for, as Layer.ending says it; `before` is the same of their input."""
    for layer in layers:
        before = layer.ending(before)
    return before
