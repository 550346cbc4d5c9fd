"""Layer: what every layer has, and the checks they share.

A layer is built once for one input shape, then maps a batch x (N, ...) to y (N, ...).  Its backward pass is
given dy = dL/dy, shaped like y, fills the gradient of each of its parameters and returns dx = dL/dx, shaped
like x.  Nothing is recorded on a tape: forward(x, training=True) keeps on the layer the arrays that backward
needs, and every layer says in its file which and why.

Shapes given to and returned by build leave out the batch axis: (28, 28, 1) for images (N, 28, 28, 1).
"""

from __future__ import annotations

import copy
import math
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tinynet.checks import batch_hint, float_dtype, number, number_within, pair, positive_int, real_array
from tinynet.checks.assignments import Guarded, hold, of_package, setting
from tinynet.checks.own_layers import held_backward, held_build, held_forward
from tinynet.layers import along_time, options
from tinynet.layers.declared import Declared
from tinynet.layers.parameter import Parameter

__all__ = ["Layer", "Parameter", "float_dtype", "number", "pair", "positive_int", "real_array"]


class Layer(Declared, Guarded):
    """One step of a model.  A subclass sets its options in __init__, and has build, forward and backward.

    After build, `input_shape`, `output_shape` and `dtype` are set.  `parameters` is the list of its Parameters,
    `buffers` the dict of the arrays that it keeps beside them (running means), `layers` the list of the layers inside
    it: each empty for most.  To write one of your own: keep in forward what backward will need if `training` is true
    (and nothing otherwise, so that many threads may predict at once), return fresh arrays, overwrite gradients and
    buffers whole.  checks/own_layers.py says what else such a layer is held to; a mistake is named with its label.

    Once built, a layer's options are fixed, and so are the places of its arrays: assigning to a parameter's value or
    to a buffer copies into it.

    >>> class Halve(tn.Layer):
    ...     def forward(self, x, training=False):
    ...         return x / 2
    ...
    ...     def backward(self, dy, input_grad=True):
    ...         return dy / 2
    >>> tn.gradcheck.check(Halve(), (5, 4)).passed
    True
    """

    settable = MappingProxyType({"place": lambda layer, place: _checked_place(layer, place)})
    parameters, buffers = (), MappingProxyType({})
    input_shape = output_shape = dtype = None
    _trainable, _lr_factor = True, 1.0
    _at_build = None  # its attributes at the end of build
    _given, _carried = MappingProxyType({}), None  # the arguments of its __init__; numbers to begin with (options.py)
    place = ""  # " (layer 3)" once it is part of a model, " (layer 3.0)" inside that one: for error messages
    layers = ()
    flops = 0  # floating-point operations of one sample's forward pass; a multiply-add counts 2

    def __init__(self):
        self.parameters, self.buffers = [], {}

    def __init_subclass__(cls, **named):
        hold(cls, "__init__", lambda init: options.noted(setting(init)))
        super().__init_subclass__(**named)
        hold(cls, "build", held_build)
        for name, wrapper in (("forward", held_forward), ("backward", held_backward)):
            if not of_package(getattr(cls, name)):
                hold(cls, name, wrapper)

    def __repr__(self):
        return options.call(self)

    def __copy__(self):
        return super().__copy__() if self.dtype is not None else copy.deepcopy(self)

    def __getstate__(self):
        """What a copy or a pickle holds: not the arrays that forward kept of a batch, those that build didn't leave."""
        state = {**vars(self), "_in_model": False}
        if self._at_build is not None:
            for name, value in vars(self).items():
                before = self._at_build.get(name)
                if name in ("_at_build", "_carried") or value is before or _alike(value, before):
                    continue
                if _holds_arrays(value):
                    state[name] = before
        return state

    def build(self, input_shape: tuple[int, ...], dtype: DTypeLike, rng: np.random.Generator) -> tuple[int, ...]:
        """Allocate the parameters for inputs (N, *input_shape), drawing them from `rng`; returns the output's shape."""
        self.input_shape = _shape_of_sample(self, input_shape)
        self.dtype = float_dtype(dtype)
        self.output_shape = self.input_shape
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        """y for a batch x.  `training` keeps what backward needs, which may be x and y themselves: leave them alone.

        One that looks along time takes `lengths` and a `state`, too: declared.py says what they are, at `of_time`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward(x, training)")

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        """Fill the parameters' gradients from dy = dL/dy; return dx = dL/dx, or None when `input_grad` is False."""
        raise NotImplementedError(f"{type(self).__name__} has no backward(dy)")

    @property
    def trainable(self) -> bool:
        """False freezes it, with all layers inside: its parameters and, of a BatchNorm, its running statistics stay.

        The gradients that only they need are not computed.
        """
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        if not isinstance(trainable, (bool, np.bool_)):
            raise TypeError(f"{self.label}: trainable must be True or False, got {trainable!r}")
        for layer in self.walk():
            vars(layer)["_trainable"] = bool(trainable)
        for parameter in self.parameters:
            parameter.trainable = trainable

    @property
    def lr_factor(self) -> float:
        """What the learning rate is multiplied by for its parameters, those of layers inside too."""
        return self._lr_factor

    @lr_factor.setter
    def lr_factor(self, factor: float) -> None:
        factor = number_within(factor, f"{self.label}: lr_factor")
        for layer in self.walk():
            vars(layer)["_lr_factor"] = factor
        for parameter in self.parameters:
            parameter.lr_factor = factor

    @property
    def trains(self):
        """Whether it has a parameter that is not frozen."""
        for parameter in self.parameters:  # noqa: SIM110 (any takes three times as long)
            if parameter._trainable:
                return True
        return False

    @property
    def entries(self):
        """What takes the model's inputs, if it is the first layer: itself, or an Entry for each (inputs.py)."""
        return (self,)

    @property
    def keeps_output(self):
        """Whether backward needs the very memory that forward returned: a model then hands out a copy of it.

        So it is, too, where what forward returns is a view of its input, which the layer before may need.
        """
        return True

    @property
    def label(self):
        """How messages name it: "Dense (layer 3)"."""
        return type(self).__name__ + self.place

    def formula(self) -> str:
        """Its forward pass in a line of text."""
        return ""

    def backward_formula(self) -> str:
        """Its backward pass in a line of text: the gradients of its parameters and dx, all from dy."""
        return ""

    def walk(self):
        """This layer, then those inside it, each before what it holds itself."""
        yield self
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"{self.label}: its layers must be layers, got a {type(layer).__name__}")
            yield from layer.walk()

    # What subclasses call.

    def checked(self, x):
        """x as a C-contiguous array (N, *input_shape) of the layer's dtype; an error names the layer otherwise.

        One that is read-only or unaligned is copied too: to Numba its type is another one, and every kernel that
        reads it would be compiled again, for a second or so, to save a copy of microseconds.
        """
        if self.dtype is None:
            raise RuntimeError(f"{self.label} is not built: put it in a Sequential, or call its build first")
        as_built = type(x) is np.ndarray and x.dtype == self.dtype and x.shape[1:] == self._shapes[0]
        if as_built and x.flags.carray and x.ndim:
            return x
        x = np.require(real_array(x, self.dtype, f"{self.label}: the input"), requirements="AW")
        if not self.fits(x.shape):
            raise self.input_error(x.shape)
        return x

    def fits(self, shape):
        """Whether it takes a batch of this shape: sequences may be shorter than those that it was built for."""
        expected, axes = self._shapes[0], len(shape)
        if shape[1:] == expected:
            return axes > 0
        is_sequence = self.of_time is not None and axes == len(expected) + 1 > (1 if self.takes_integers else 2)
        return is_sequence and shape[2:] == expected[1:] and 0 < shape[1] <= expected[0]

    def checked_lengths(self, lengths, x):
        """The lengths of the sequences x, None or an array (N,) of int64; an error names the layer otherwise."""
        return None if lengths is None else along_time.checked_lengths(lengths, x, self.label)

    def input_error(self, shape):
        """The ValueError for an input of this shape, which is none of the layer's."""
        expected = ", ".join(["N", *map(str, self.input_shape)])
        hint = batch_hint(shape, self.input_shape) or self._sequence_hint(shape)
        return ValueError(f"{self.label}: expected input ({expected}), got {shape}{hint}")

    def _sequence_hint(self, shape):
        """What may be wrong with a batch of this shape, for a layer of sequences (T, ...)."""
        T, *of_step = self.input_shape if self.of_time and self.input_shape else (0,)
        if T and self.fits((1, *shape)):
            return "; one sequence? x[None]"
        if of_step and list(shape) == of_step:
            return "; one step of one sequence? x[None, None]"
        if T and len(shape) > 1 and list(shape[2:]) == of_step and shape[1] > T:
            return f"; the model was built for sequences of up to {T}, by its input_shape"
        return ""

    def checked_gradient(self, dy, batch, time=None):
        """dy as a C-contiguous array (batch, *output_shape) of the layer's dtype; `time`: of x's positions."""
        shape = (batch, *self._shapes[1]) if time is None else (batch, time, *self._shapes[1][1:])
        if type(dy) is np.ndarray and dy.dtype == self.dtype and dy.shape == shape and dy.flags.carray:
            return dy
        dy = np.require(real_array(dy, self.dtype, f"{self.label}: the gradient"), requirements="AW")
        if dy.shape != shape:
            hint = batch_hint(dy.shape, self.output_shape, "dy")
            raise ValueError(f"{self.label}: expected the gradient of its output, {shape}, got {dy.shape}{hint}")
        return dy

    def checked_parts(self, shape):
        """The shape of each of several inputs; a ValueError where the layer takes one."""
        raise ValueError(
            f"{self.label}: the input shape {tuple(shape)} is of several inputs: such a model must begin with a"
            " Parallel that has a branch for each"
        )

    def check_input_grad(self, input_grad):
        """A ValueError where the gradient of an input of whole numbers is asked for."""
        if input_grad and self.takes_integers:
            raise ValueError(f"{self.label}: its input is whole numbers, which have no gradient: pass input_grad=False")

    def kept(self, name):
        """What forward(x, training=True) kept as `name`; a RuntimeError says so where it did not run."""
        value = getattr(self, name, None)
        if value is None:
            raise RuntimeError(f"{self.label}: backward needs forward(x, training=True) first")
        return value


def checked_eps(layer, eps):
    """eps of a normalisation, as a float above 0."""
    given, eps = eps, number(eps, f"{layer.label}: eps")
    if layer.dtype is None and isinstance(given, int) and eps >= 1:  # LayerNorm(64), as elsewhere
        raise ValueError(
            f"{layer.label}: eps is a small number such as 1e-5, got {given}; no layer is told its channels"
        )
    if not 0 < eps < math.inf:
        raise ValueError(f"{layer.label}: eps must be a finite number above 0, got {given!r}")
    return eps


hold(Layer, "build", held_build)


def _checked_place(layer, place):
    if not isinstance(place, str):
        raise TypeError(f"{layer.label}: its place must be a text, got {place!r}")
    return place


def _alike(value, before):
    """Whether both are arrays of one shape: what a layer of one's own replaced, a mean that moves, say."""
    return isinstance(value, np.ndarray) and isinstance(before, np.ndarray) and value.shape == before.shape


def _holds_arrays(value):
    if isinstance(value, (tuple, list)):
        return any(map(_holds_arrays, value))
    if isinstance(value, dict):
        return any(map(_holds_arrays, value.values()))
    return isinstance(value, np.ndarray)


def _shape_of_sample(layer, shape):
    if isinstance(shape, (tuple, list)) and any(isinstance(part, (tuple, list)) for part in shape):
        return tuple(_shape_of_sample(layer, part) for part in layer.checked_parts(shape))
    if isinstance(shape, (int, np.integer)) and not isinstance(shape, bool):
        shape = (shape,)
    try:
        return tuple(positive_int(size, f"{layer.label}: a size of the input shape") for size in shape)
    except TypeError:
        unknown = isinstance(shape, (tuple, list)) and None in shape
        hint = "; of sequences, give the longest length: shorter ones are taken, too" if unknown else ""
        raise TypeError(
            f"{layer.label}: the input shape must be a tuple of whole numbers without the batch axis,"
            f" got {shape!r}{hint}"
        ) from None
