"""Layer: what every layer has, and the checks they share.

A layer is built once for one input shape, then maps a batch x (N, ...) to y (N, ...).  Its backward pass is
given dy = dL/dy, shaped like y, fills the gradient of each of its parameters and returns dx = dL/dx, shaped
like x.  Nothing is recorded on a tape: forward(x, training=True) keeps on the layer the arrays that backward
needs, and every layer says in its file which and why.

Shapes given to and returned by build leave out the batch axis: (28, 28, 1) for images (N, 28, 28, 1).
"""

import math

import numpy as np

from tinynet.checks import numbers


class Parameter:
    """A trained array and its gradient, dL/dvalue, of the same shape.

    Both are views into the model's flat vectors, so write into them (`p.value[...] = w`).  `name` is the
    layer's index in its model and the parameter's name there: "0.weight".  `decay` is False where weight decay
    does not belong by default: biases, and the scales and shifts of normalisation layers.

    >>> model = tn.Sequential([tn.Dense(3)], input_shape=2)
    >>> model.parameters()
    [Parameter('0.weight', shape=(2, 3), dtype=float32), Parameter('0.bias', shape=(3,), dtype=float32)]
    """

    __slots__ = ("name", "value", "grad", "decay")

    def __init__(self, name, value, decay=True):
        self.name, self.value, self.grad, self.decay = name, value, np.zeros_like(value), decay

    def __repr__(self):
        return f"Parameter({self.name!r}, shape={self.value.shape}, dtype={self.value.dtype})"


class Layer:
    """One step of a model.  A subclass sets its options in __init__, and has build, forward and backward.

    After build, `input_shape`, `output_shape` and `dtype` are set.  `parameters` is the list of its Parameters,
    `buffers` the dict of the arrays that it keeps beside them (running means), `layers` the list of the layers inside
    it: each empty for most.  To write one of your own: keep in forward what backward will need if `training` is true
    (and nothing otherwise, so that many threads may predict at once), return fresh arrays, overwrite gradients and
    buffers in place.
    """

    place = ""  # " (layer 3)" once it is part of a model, " (layer 3.0)" inside that one: for error messages
    layers = ()
    flops = 0  # floating-point operations of one sample's forward pass; a multiply-add counts 2
    takes_integers = False  # whether x is whole numbers, which have no gradient: such a layer can only come first

    def __init__(self):
        self.parameters, self.buffers = [], {}
        self.input_shape = self.output_shape = self.dtype = None

    def build(self, input_shape, dtype, rng):
        """Allocate the parameters for inputs (N, *input_shape), drawing them from `rng`; returns the output's shape."""
        self.input_shape = _shape_of_sample(self, input_shape)
        self.dtype = float_dtype(dtype)
        self.output_shape = self.input_shape
        return self.output_shape

    def forward(self, x, training=False):
        """y for a batch x.  `training` keeps what backward needs, which may be x and y themselves: leave them alone."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(x, training)")

    def backward(self, dy, input_grad=True):
        """Fill the parameters' gradients and return dx, or None when `input_grad` is False."""
        raise NotImplementedError(f"{type(self).__name__} has no backward(dy)")

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

    def formula(self):
        """Its forward pass in a line of text."""
        return ""

    def backward_formula(self):
        """Its backward pass in a line of text: the gradients of its parameters and dx, all from dy."""
        return ""

    def walk(self):
        """This layer, then those inside it, each before what it holds itself."""
        yield self
        for layer in self.layers:
            yield from layer.walk()

    # What subclasses call.

    def checked(self, x):
        """x as a C-contiguous array (N, *input_shape) of the layer's dtype; an error names the layer otherwise.

        One that is read-only or unaligned is copied too: to Numba its type is another one, and every kernel that
        reads it would be compiled again, for a second or so, to save a copy of microseconds.
        """
        if self.dtype is None:
            raise RuntimeError(f"{self.label} is not built: put it in a Sequential, or call its build first")
        if type(x) is np.ndarray and x.dtype == self.dtype and x.shape[1:] == self.input_shape and x.flags.carray:
            return x
        x = np.require(real_array(x, self.dtype, f"{self.label}: the input"), requirements="AW")
        if x.ndim != len(self.input_shape) + 1 or x.shape[1:] != self.input_shape:
            raise self.input_error(x.shape)
        return x

    def input_error(self, shape):
        """The ValueError for an input of this shape, which is none of the layer's."""
        expected = ", ".join(["N", *map(str, self.input_shape)])
        return ValueError(
            f"{self.label}: expected input ({expected}), got {shape}{batch_hint(shape, self.input_shape)}"
        )

    def checked_gradient(self, dy, batch):
        """dy as a C-contiguous array (batch, *output_shape) of the layer's dtype."""
        shape = (batch, *self.output_shape)
        if type(dy) is np.ndarray and dy.dtype == self.dtype and dy.shape == shape and dy.flags.carray:
            return dy
        dy = np.require(real_array(dy, self.dtype, f"{self.label}: the gradient"), requirements="AW")
        if dy.shape != shape:
            hint = batch_hint(dy.shape, self.output_shape, "dy")
            raise ValueError(f"{self.label}: expected the gradient of its output, {shape}, got {dy.shape}{hint}")
        return dy

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


def float_dtype(dtype):
    """The NumPy dtype, if it is one that the kernels know."""
    try:
        result = np.dtype(dtype) if dtype is not None else None
    except TypeError:
        raise TypeError(f'dtype must be float32 or float64, got {dtype!r}; write dtype="float32"') from None
    if result not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {result}")
    return result


def real_array(x, dtype, what):
    """x as a C-contiguous array of `dtype`; TypeError unless it holds real numbers (bools count as 0 and 1)."""
    x = numbers(x, what)
    return np.ascontiguousarray(x, dtype).reshape(x.shape)


def batch_hint(given, sample, x="x"):
    """What may be wrong with a batch of shape `given`, where samples of shape `sample` are expected."""
    given = tuple(given)
    if given == sample:
        return f"; one sample? {x}[None]"
    if (*given, 1) == sample:
        return f"; one sample without its last axis? {x}[None, ..., None]"
    if len(given) == len(sample) + 1 > 2 and (*given[2:], given[1]) == sample:
        return f"; are the channels first? np.moveaxis({x}, 1, -1)"
    if len(given) == len(sample) > 1 and (*given[1:], given[0]) == sample:
        return f"; one sample, with its channels first? np.moveaxis({x}, 0, -1)[None]"
    if sample[-1:] == (1,) and given[1:] == sample[:-1]:
        return f"; without the last axis? {x}[..., None]"
    if given[1:] == (*sample, 1):
        return f"; drop the last axis: {x}[..., 0]"
    if len(given) > 1 and math.prod(given[1:]) == math.prod(sample):
        return f"; the same numbers in another shape? {x}.reshape({', '.join(map(str, (-1, *sample)))})"
    return ""


def number(value, name):
    """value as a float; TypeError unless it is a real number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def positive_int(value, name, least=1):
    """value as an int of at least `least`; `name` says whose it is: "Dense: units"."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def pair(value, name, least=1):
    """An int, or a pair of them for height and width, as a pair."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be a whole number or a pair (height, width), got {value!r}")
        return positive_int(value[0], name, least), positive_int(value[1], name, least)
    both = positive_int(value, name, least)
    return both, both


def _shape_of_sample(layer, shape):
    if isinstance(shape, (int, np.integer)) and not isinstance(shape, bool):
        shape = (shape,)
    try:
        return tuple(positive_int(size, f"{layer.label}: a size of the input shape") for size in shape)
    except TypeError:
        raise TypeError(
            f"{layer.label}: the input shape must be a tuple of whole numbers without the batch axis, got {shape!r}"
        ) from None
