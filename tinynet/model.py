"""Sequential: layers one after another, and the chain rule that walks back through them.

    forward    x -> layer 0 -> layer 1 -> ... -> y
    backward   dL/dx <- layer 0 <- layer 1 <- ... <- dL/dy

Each layer turns the gradient of its output into that of its input, and that is the gradient of the output of the layer
before: the whole of backpropagation is one loop over the layers in reverse.

All parameters are views of one flat vector, and so are their gradients: an optimizer's step is one kernel over two
vectors, summing gradients over machines is one call, a checkpoint is one array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tinynet import compile_ahead
from tinynet.checks import copy_into, float_dtype, numbers, positive_int, refuse, view_of
from tinynet.checks.assignments import Fixed, Guarded
from tinynet.data.sequences import as_inputs, count, is_data_set, rows, split
from tinynet.kernels.aligned import vector_of_zeros
from tinynet.layers import along_time
from tinynet.layers.base import Layer
from tinynet.layers.in_a_row import (
    backward_in_a_row,
    build_in_a_row,
    checked_layers,
    forward_in_a_row,
    leave_unbuilt,
)
from tinynet.layers.inputs import takes_several
from tinynet.layers.options import copies
from tinynet.layers.parameter import Buffers, Parameter
from tinynet.notebook import Text, table

UNTRAINED = ()  # what stands for the padding of a model that no training step has run through yet


class Sequential(Guarded):
    """A model of layers in a row, built for inputs (N, *input_shape).

    forward makes y of a batch x, layer by layer; backward takes dL/dy, what a loss returns, the same way back, and
    fills every parameter's gradient; predict is forward for any number of samples.

    layers        a list of layers, each used once.  In place of a layer that is part of another model already, this one
                  gets a copy, with its numbers, and in place of a model, copies of its layers: neither learns with the
                  other.  Sequential([*model.layers[:-1], Dense(3)], ...) has another last layer
    input_shape   the shape of one sample, (28, 28, 1) say, or a whole number for vectors; of a model that takes several
                  inputs, a tuple of their shapes, ((28, 28, 1), (8,)): it begins with a Parallel
    seed          for the starting weights and for dropout: same seed, same model to the bit
    dtype         "float32" or "float64", of parameters, activations and gradients

    Raises ValueError where a layer does not fit what comes before it, naming the layer, its index and the shapes.

    layers (a tuple), input_shape, output_shape, dtype as built; flat_values and flat_grads (all parameters, all
    gradients), views that may be written into and assigned to, which copies.  Nothing else can be set.

    >>> model = tn.Sequential([tn.Dense(32, activation="relu"), tn.Dense(10)], input_shape=64, seed=0)
    >>> logits = model.forward(np.zeros((5, 64)), training=True)
    >>> loss, dlogits = tn.softmax_cross_entropy(logits, [0, 1, 2, 3, 4])
    >>> model.backward(dlogits)
    >>> [(p.name, p.grad.shape) for p in model.parameters()]
    [('0.weight', (64, 32)), ('0.bias', (32,)), ('1.weight', (32, 10)), ('1.bias', (10,))]
    """

    _padding: tuple | None = UNTRAINED  # of the last forward(x, training=True), None if it had no lengths

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: int | tuple[int, ...],
        seed: int = 0,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.layers = Fixed(copies(checked_layers(layers, "Sequential"))[0])
        self.dtype, self.seed = float_dtype(dtype), positive_int(seed, "Sequential: seed", least=0)
        rng = np.random.default_rng(self.seed)
        try:
            self.output_shape = build_in_a_row(self.layers, input_shape, self.dtype, rng)
            _check_distinct(self.parameters())
            _check_tied(self.walk())
        except Exception:
            leave_unbuilt(self.walk())
            raise
        self.input_shape = self.layers[0].input_shape
        self._flatten()

    @cached_property
    def _at_once(self):
        """How many samples predict takes at a time: so many that the widest layer's output fits into 3 MB.

        For a VGG-like network on 32 x 32 images: 256 of them take 18 ms, 24 at a time, and 32 ms, 64 at a time.  But
        each piece reads all parameters anew: it is so large that its layers' outputs are four times as many numbers.
        """
        sizes = [math.prod(layer.output_shape) for layer in self.walk()]
        return max(1, 3 * 2**20 // (max(sizes) * self.dtype.itemsize), 4 * self._flat_values.size // sum(sizes))

    def _flatten(self):
        """Move every parameter into one vector and every gradient into another, of which they become views."""
        parameters = self.parameters()
        size, end = sum(p._value.size for p in parameters), 0
        self._flat_values, self._flat_grads = vector_of_zeros(size, self.dtype), vector_of_zeros(size, self.dtype)
        for p in parameters:
            start, end, shape = end, end + p._value.size, p._value.shape
            value, grad = self._flat_values[start:end].reshape(shape), self._flat_grads[start:end].reshape(shape)
            value[...], grad[...] = p._value, p._grad
            p._value, p._grad, p._in_model = value, grad, True
        for layer in self.walk():
            layer._in_model, layer._carried = True, None

    def __getstate__(self):
        of_a_batch = ("_flat_values", "_flat_grads", "_padding")
        return {name: value for name, value in vars(self).items() if name not in of_a_batch}

    def __setstate__(self, state):  # a copy's or a pickle's parameters are arrays of their own until they are joined
        vars(self).update(state)
        self._flatten()

    @property
    def flat_values(self) -> np.ndarray:
        """All parameters as one vector, a view.  Assigning copies into it."""
        return view_of(self._flat_values)

    @flat_values.setter
    def flat_values(self, given: ArrayLike) -> None:
        copy_into(self._flat_values, given, "Sequential: flat_values")

    @property
    def flat_grads(self) -> np.ndarray:
        """All gradients as one vector, a view.  Assigning copies into it."""
        return view_of(self._flat_grads)

    @flat_grads.setter
    def flat_grads(self, given: ArrayLike) -> None:
        copy_into(self._flat_grads, given, "Sequential: flat_grads")

    def parameters(self) -> list[Parameter]:
        """The list of Parameters (.name, .value, .grad), layer by layer."""
        return [parameter for layer in self.layers for parameter in layer.parameters]

    def buffers(self) -> Buffers:
        """The arrays that layers keep beside their parameters, by name: {"1.running_mean": ...}.

        Write into them, or assign, which copies.
        """
        pairs = ((f"{i}.{name}", array) for i, layer in enumerate(self.layers) for name, array in layer.buffers.items())
        return Buffers(pairs, "Sequential")

    def walk(self) -> Iterator[Layer]:
        """Every layer in the order of the model, those inside other layers too."""
        for layer in self.layers:
            yield from layer.walk()

    def forward(self, x: Any, training: bool = False, state: dict | None = None) -> np.ndarray:
        """The output for a batch x (N, *input_shape), a fresh array.

        `training` keeps what backward will need, x itself among it: leave x as it is until then.

        Sequences of unequal length are a pair x = (x, lengths), x (N, T, ...) padded at the end, lengths (N,): what
        lies behind a sequence's length changes nothing, and the output there is 0.  T may be less than input_shape
        says.  Several inputs are a tuple of arrays or such pairs.  A `state`, a dict that is {} at first, is where the
        layers that look along time leave what they need to go on: a sequence given in pieces, with the same dict, gives
        what it gives in one.
        """
        if type(x) is tuple or state is not None:
            x, lengths = along_time.split_pair(x, self.input_shape)
            if lengths is not None or state is not None:
                return self._forward_along_time(x, lengths, training, state)
        if not training or self._padding is None:
            return self._fresh(forward_in_a_row(self.layers, x, training), x, training)
        with self._perhaps_first(x):
            y = forward_in_a_row(self.layers, x, training)
        self._padding = None
        return self._fresh(y, x, training)

    @contextmanager
    def _perhaps_first(self, x):
        """Within, a training step's forward pass: in the first one another process may help to compile."""
        if self._padding is UNTRAINED:
            compile_ahead.expect(self, x)
        try:
            yield
        finally:
            compile_ahead.expect_nothing()

    def _forward_along_time(self, x, lengths, training, state):
        if takes_several(self.input_shape):
            raise ValueError(
                "Sequential: a state is of one sequence given in pieces, and this model takes several inputs"
            )
        if state is not None and not isinstance(state, MutableMapping):
            raise TypeError(f"Sequential: state must be a dict, {{}} at the start of a sequence, got {state!r}")
        first, given = self.layers[0], state
        state = None if given is None else dict(given)  # so that after an error it is as it was
        x = along_time.in_numbers(x, self.dtype, first.takes_integers, f"{first.label}: the input")
        if x.ndim < 2 or not first.fits(x.shape):
            raise first.input_error(x.shape)
        T_in = x.shape[1]
        T_out = along_time.check_along_time(self.layers, T_in)
        if lengths is not None:
            lengths = along_time.checked_lengths(lengths, x, "Sequential")
            x = along_time.padded(x, lengths, max(1, lengths.max(initial=0)))
        with self._perhaps_first(x) if training else nullcontext():
            y = forward_in_a_row(self.layers, x, training, lengths, state)
        if state is not None:
            given.update(state)
        ends = self.output_lengths(lengths)
        if training:
            self._padding = None if lengths is None else (lengths, T_in, ends, T_out, y.shape[1:2])
        return self._fresh(y, x, training) if ends is None else along_time.padded(y, ends, T_out)

    def output_lengths(self, lengths: np.ndarray | None) -> np.ndarray | None:
        """How long the sequences of the output are, of inputs so long; None where it has no axis of time."""
        for layer in self.layers:
            lengths = None if lengths is None else layer.output_lengths(lengths)
        return lengths

    def _fresh(self, y, x, training):
        fresh = y is not x and y.base is None
        views_x = not fresh and isinstance(x, np.ndarray) and np.may_share_memory(y, x)  # nothing but Flatten, say
        if views_x or (training and self.layers[-1].keeps_output):
            return y.copy()  # so that nothing the caller does to it can change the gradients, or x
        return y

    def __call__(self, x: Any, training: bool = False, state: dict | None = None) -> np.ndarray:
        """forward(x, training, state)."""
        return self.forward(x, training) if state is None else self.forward(x, training, state)

    def backward(self, dy: ArrayLike, input_grad: bool = False) -> Any:
        """Fill every parameter's gradient from dy = dL/dy of the last forward(x, training=True).

        Returns dL/dx if `input_grad`, else None, and then leaves out the work that only dL/dx would need.  Of several
        inputs it is a tuple, with None for one of whole numbers.
        """
        self.layers[0].check_input_grad(input_grad)
        if not self._padding:
            return backward_in_a_row(self.layers, dy, input_grad)
        lengths, T_in, ends, T_out, t = self._padding
        if ends is not None:
            dy = along_time.padded(self.layers[-1].checked_gradient(dy, len(ends), T_out), ends, *t)
        dx = backward_in_a_row(self.layers, dy, input_grad)
        return along_time.padded(dx, lengths, T_in) if input_grad else None

    def predict(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """forward(x) for whatever forward takes, of any number of samples, `batch_size` of them at a time.

        Safe from several threads at once.  It takes fewer at a time where outputs of layers would leave the processor's
        cache: the numbers are the same.
        """
        batch_size = min(positive_int(batch_size, "predict: batch_size"), self._at_once)
        x, lengths = along_time.split_pair(x, self.input_shape)
        if lengths is not None or takes_several(self.input_shape):
            return self._predict_in_parts(x, lengths, batch_size)
        if type(x) is not np.ndarray:
            what = f"{self.layers[0].label}: the input"
            refuse(x, what)
            if is_data_set(x):
                starts = range(0, len(x), batch_size)
                return np.concatenate([self.forward(rows(x, slice(n, n + batch_size))) for n in starts])
            if not hasattr(x, "shape") or hasattr(x, "iloc"):
                x = numbers(x, what)
        if len(x.shape) == 0:
            raise ValueError(
                f"predict: expected a batch (N, {', '.join(map(str, self.input_shape))}), got a single number"
            )
        if len(x) <= batch_size:
            return self.forward(x)
        if not self.layers[0].fits(tuple(x.shape)):  # here, and not of a part, whose shape would puzzle
            raise self.layers[0].input_error(tuple(x.shape))
        y, parts = None, -(-len(x) // batch_size)
        for part in range(parts):  # all of nearly the same size
            some = slice(part * len(x) // parts, (part + 1) * len(x) // parts)
            found = self.forward(x[some])
            if y is None:  # of sequences shorter than the model was built for, it may be shorter, too
                y = np.empty((len(x), *found.shape[1:]), found.dtype)
            y[some] = found
        return y

    def _predict_in_parts(self, x, lengths, batch_size):
        first = self.layers[0]
        if lengths is None:
            x = as_inputs(x, self, "predict: x")
            for part, entry in zip(x, first.entries, strict=True):  # here, and not of a part, whose shape would puzzle
                shape = getattr(split(part)[0], "shape", None)
                if shape is not None and not entry.fits(tuple(shape)):
                    raise entry.input_error(tuple(shape))
        else:
            x = along_time.in_numbers(x, self.dtype, first.takes_integers, f"{first.label}: the input")
            x = x, along_time.checked_lengths(lengths, x, "predict")
        starts = range(0, max(1, count(x)), batch_size)
        parts = [self.forward(rows(x, slice(n, n + batch_size))) for n in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def summary(self) -> str:
        """The layers as a table of text: output shapes, parameters, and floating-point operations a sample takes.

        Layers inside another one are indented below it, and their numbers are left out of its own.  The last line says
        how many parameters are frozen, where some are.
        """
        rows = self._table()
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = []
        for row in rows:
            left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
            lines.append("  ".join(left + right).rstrip())
        rule, total = "-" * max(map(len, lines)), next(k for k, row in enumerate(rows) if row[0] == "total")
        return Text("\n".join([lines[0], rule, *lines[1:total], rule, *lines[total:]]))

    def _table(self):
        flops = sum(layer.flops for layer in self.layers)
        total = ("total", "", "", f"{self._flat_values.size:,}", f"{flops:,}")
        frozen = sum(p._value.size for p in self.parameters() if not p.trainable)
        ends = [total, ("of these frozen", "", "", f"{frozen:,}", "")] if frozen else [total]
        return [("layer", "", "output", "parameters", "FLOPs forward"), *_rows(self.layers), *ends]

    def _repr_html_(self):
        header, *rows = self._table()
        return table(repr(self), header, rows, words=3)

    def __repr__(self):
        return (
            f"Sequential({_names(self.layers)}, input_shape={self.input_shape}, {self._flat_values.size:,} parameters)"
        )


def _rows(layers, number="", indent=""):
    for index, layer in enumerate(layers):
        count = sum(p._value.size for p in layer.parameters)
        count -= sum(p._value.size for inner in layer.layers for p in inner.parameters)
        flops = layer.flops - sum(inner.flops for inner in layer.layers)
        shape = f"({', '.join(map(str, ('N', *layer.output_shape)))})"
        yield f"{indent}{number}{index} {type(layer).__name__}", layer.formula(), shape, f"{count:,}", f"{flops:,}"
        yield from _rows(layer.layers, f"{number}{index}.", indent + "  ")


def _names(layers):
    names = (type(layer).__name__ + (f"({_names(layer.layers)})" if layer.layers else "") for layer in layers)
    return f"[{', '.join(names)}]"


def _check_distinct(parameters):
    """Layers that share an array would each have one of their own once it is a part of the flat vector."""
    placed = sorted((p._value.ctypes.data, p._value.nbytes, p.name) for p in parameters)
    for (start, size, name), (following, _, other) in pairwise(placed):
        if following < start + size:
            raise ValueError(f"Sequential: the parameters {name} and {other} are one array; give each its own")


def _check_tied(layers):
    """What a layer uses of another one is in the same model, before it, and no third one's: else a ValueError."""
    before, users = [], {}
    for layer in layers:
        if layer.tied is not None:
            if not any(layer.tied is other for other in before):
                raise ValueError(
                    f"{layer.label}: its {type(layer.tied).__name__} must be a layer of the same model, before this one"
                )
            if (first := users.setdefault(id(layer.tied), layer)) is not layer:
                raise ValueError(f"{layer.label}: {first.label} uses {layer.tied.label} already; only one layer may")
        before.append(layer)
