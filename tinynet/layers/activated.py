"""What Dense, Conv2D and BatchNorm share: y = f(z), where z is the layer's own formula and f an activation, or none.

Backward.  Each z touched one y, its own, times f'(z):  dz = f'(z) dy, number by number.  From dz on, the derivation is
the layer's.

A ReLU is done by the kernels that make z: they return max(z, floor), where the floor is 0, and -inf for all others.
Backward, they make dz of a ReLU's dy and y (BatchNorm's: of x) as they read them.  Other activations are a step of
their own after z.
"""

import numpy as np

from tinynet.checks import other_names
from tinynet.layers.activations import ACTIVATIONS
from tinynet.layers.base import Layer
from tinynet.layers.initialization import initial_weights
from tinynet.layers.parameter import Parameter


class Activated(Layer):
    """A layer that ends in an `activation`."""

    def _end_in(self, activation):
        self.activation_name, self.activation = activation, known_activation(activation, type(self).__name__)
        self._is_relu = activation == "relu"
        self._after = None if self._is_relu else self.activation  # what follows z as a step of its own, if anything

    def _activated(self, z):
        """y = f(z), and which of the two backward needs.  z is y already of a ReLU, and may be overwritten by y."""
        if self._after is None:
            return z, z
        if self._after.keeps == "input":
            return self._after.forward(z), z
        self._after.forward_in_place(z)
        return z, z

    def _through_activation(self, dy, kept):
        """(grad, y, is_relu) for the backward kernel: of a ReLU grad is dy, else dz, and y is not read."""
        if self._is_relu:
            return dy, kept, True
        dz = dy if self._after is None else self._after.backward(dy, kept)
        return dz, dz, False

    @property
    def keeps_output(self):
        return self.activation is not None and self.activation.keeps == "output"

    def ending(self, before):
        if self.activation is None:
            return "logits", self.label
        return (
            ("probabilities", f'{self.label} with activation="sigmoid"') if self.activation.name == "sigmoid" else None
        )

    def _onnx_activated(self, graph, name, layout="last"):
        """The activation of z, which ONNX has by that name."""
        z = graph.value(name, len(self.output_shape) + 1, layout)
        return z if self.activation is None else self.activation.onnx(graph, z)


class Weighted(Activated):
    """A layer with weights w, biases b unless `bias` is False, an `activation` and its `init`, as Dense takes them."""

    def __init__(self, activation: str | None, bias: bool, init):
        super().__init__()
        self._end_in(activation)
        self.bias, self.init = bool(bias), init
        self._kept = None

    def _start_parameters(self, shape, fan_in, fan_out, rng):
        """Make w, of this shape, and b, with a number for each of its last axis."""
        init = self.init if self.init is not None else self.activation.init if self.activation else "glorot"
        w = initial_weights(init, shape, fan_in, fan_out, self.dtype, rng, self.label)
        self.parameters = [Parameter("weight", w)]
        self._no_bias = np.zeros(shape[-1], self.dtype)
        if self.bias:
            self.parameters.append(Parameter("bias", np.zeros(shape[-1], self.dtype), decay=False))
        self._floor = self.dtype.type(0 if self._is_relu else -np.inf)

    def _values(self):
        """w and b; without biases, b is 0."""
        w, b = self.parameters if self.bias else (*self.parameters, None)  # an index of a Fixed takes longer
        return w._value, self._no_bias if b is None else b._value

    def _gradients(self):
        """Where dw and db go."""
        w, b = self.parameters if self.bias else (*self.parameters, None)
        return w._grad, np.empty_like(self._no_bias) if b is None else b._grad

    def _keep(self, x, kept):
        """Keep both for backward, as views: no one else can reshape these."""
        self._kept = x.view(), None if kept is None else kept.view()

    def _formula_of(self, sums):
        """`sums` is a text, z without b."""
        sums = f"{sums} + b" if self.bias else sums
        return f"y = {self.activation_name}({sums})" if self.activation else f"y = {sums}"

    def _backward_formula_of(self, dw, dx):
        """`dw` and `dx` are texts in terms of "dz"."""
        first = f"dz = {self.activation_name}'(z) dy, " if self.activation else ""
        rest = f"dw = {dw}, {'db = sum dz, ' if self.bias else ''}dx = {dx}"
        return first + rest if self.activation else rest.replace("dz", "dy")


def through_relu(grad, y, is_relu):
    """dz, for the plain loops, of what `_through_activation` returns: a ReLU's y > 0 exactly where z > 0."""
    return np.where(y <= 0, 0, grad) if is_relu else grad


def known_activation(name, where):
    """The Activation called `name`, or None for None; `where` is the layer that asks, for the message.

    Raises ValueError for an unknown name and TypeError for what is no name.
    """
    if name is None:
        return None
    accepted = ", ".join(map(repr, ACTIVATIONS))
    if not isinstance(name, str):
        if isinstance(name, Layer):
            got, its_name = f"a layer {type(name).__name__}", type(name).__name__
        else:
            got, its_name = repr(name), getattr(name, "__name__", type(name).__name__)
        hint = other_names.advice(its_name, ACTIVATIONS, other_names.ACTIVATIONS)
        if isinstance(name, int):
            hint = " No layer is told what goes into it: the first number is how many come out."
        raise TypeError(f"{where}: activation must be None or one of {accepted}; got {got}.{hint}")
    if name not in ACTIVATIONS:
        hint = other_names.advice(name, ACTIVATIONS, other_names.ACTIVATIONS)
        raise ValueError(f"{where}: unknown activation {name!r}; accepted are None, {accepted}.{hint}")
    return ACTIVATIONS[name]
