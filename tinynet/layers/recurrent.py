"""What LSTM and GRU share: their options, which steps of a batch they see, the state they start from, two directions.

A sequence is x[n] (T, I), of which lengths[n] steps count.  What lies behind is padding: no step of it is taken.  So
what lstm.py and gru.py are given is x without padding, (R, I): the R steps that count of all sequences, one sequence
after another.  Sequence n has the rows begins[n] to begins[n+1].

Direction 0 goes through these rows forwards, direction 1 backwards.  Both read the same x, and each has weights and
states of its own: so these have an axis D of 1 or 2 directions in front.  The two outputs stand side by side on the
last axis of y.

Source of running in both directions: Schuster and Paliwal 1997.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.kernels.aligned import vector_of_zeros
from tinynet.kernels.recurrent import row_of_da
from tinynet.layers.base import Layer
from tinynet.layers.parameter import Parameter


def rows_in_time(begins, n, d):
    """The rows of x that sequence n has, in the order in which direction d goes through them."""
    rows = range(begins[n], begins[n + 1])
    return rows if d == 0 else rows[::-1]


def sigmoid(a):
    return (1 + np.tanh(a / 2)) / 2  # 1 / (1 + exp(-a)), without an exponential that may overflow


class Recurrent(Layer):
    """A layer that goes through time with a state.  A subclass has the mathematics."""

    of_time = "lengths"
    keeps_output = False
    states = ()  # the names of what it carries from step to step: y's h is the first

    def __init__(self, units: int, bidirectional: bool = False, return_sequences: bool = True) -> None:
        super().__init__()
        self.units = positive_int(units, f"{type(self).__name__}: units")
        for name, value in (("bidirectional", bidirectional), ("return_sequences", return_sequences)):
            if not isinstance(value, (bool, np.bool_)):
                hint = "; no layer is told what goes into it" if isinstance(value, int) else ""
                raise TypeError(f"{type(self).__name__}: {name} must be True or False, got {value!r}{hint}")
        self.bidirectional, self.return_sequences = bool(bidirectional), bool(return_sequences)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if len(self.input_shape) != 2:
            hint = "; a layer before it may have return_sequences=False" if len(self.input_shape) == 1 else ""
            raise ValueError(f"{self.label}: expected sequences, input shape (T, I), got {self.input_shape}{hint}")
        (T, I), H, D = self.input_shape, self.units, self._directions
        bound = 1 / np.sqrt(H)
        self.parameters = []
        for suffix in ("", "_reverse")[:D]:
            for name, value in self._start_values(I, H, lambda *shape: rng.uniform(-bound, bound, shape)):
                self.parameters.append(Parameter(name + suffix, value.astype(self.dtype), decay=value.ndim > 1))
        self.flops = sum(2 * T * parameter._value.size for parameter in self.parameters if parameter.decay)
        self.output_shape = (T, D * H) if self.return_sequences else (D * H,)
        self._kept = self._memory = None
        return self.output_shape

    def output_lengths(self, lengths):
        return lengths if self.return_sequences else None

    def forward(
        self,
        x: ArrayLike,
        training: bool = False,
        lengths: ArrayLike | None = None,
        state: MutableMapping | None = None,
    ) -> np.ndarray:
        x = self.checked(x)
        lengths = self.checked_lengths(lengths, x)
        (N, T, I), H, D = x.shape, self.units, self._directions
        before = self._state_before(state, N)
        begins, counts = np.arange(N + 1) * T, None
        if lengths is not None and (lengths < T).any():
            begins[1:], counts = np.cumsum(lengths), np.arange(T) < lengths[:, None]  # (N, T): which steps count
        rows = x.reshape(N * T, I) if counts is None else x[counts]
        R = len(rows)
        y, after = np.empty((R, D * H), self.dtype), [np.empty_like(array) for array in before]
        *kept, da = self._room(R if training else 0)
        self._steps_forward(rows, begins, *self._stacked("_value"), *before, y, *after, *kept)
        if training:
            self._kept = rows.view(), begins, counts, (N, T), kept, da
        if state is not None:
            state[self] = tuple(array[0] for array in after)
        if not self.return_sequences:
            return np.concatenate(after[0], axis=1)
        return self._padded(y, counts, (N, T))

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        rows, begins, counts, (N, T), kept, da = self.kept("_kept")
        H, D = self.units, self._directions
        if self.return_sequences:
            dy = self.checked_gradient(dy, N, T)
            dy, dh = dy.reshape(N * T, D * H) if counts is None else dy[counts], np.zeros((D, N, H), self.dtype)
        else:  # y is the last h, and dy that one's gradient
            dh = np.ascontiguousarray(self.checked_gradient(dy, N).reshape(N, D, H).swapaxes(0, 1))
            dy = np.empty((0, D * H), self.dtype)
        w, u, *_ = self._stacked("_value")
        gradients = self._stacked("_grad") if self.trains else [array[:0] for array in self._stacked("_grad")]
        dx = np.empty_like(rows if input_grad else rows[:0])
        self._steps_backward(dy, dh, rows, begins, w, u, *kept, da, *gradients, dx)
        for i, parameter in enumerate(self.parameters if self.trains else ()):
            parameter._grad[...] = gradients[i % len(gradients)][i // len(gradients)]
        return self._padded(dx, counts, (N, T)) if input_grad else None

    def _room(self, R):
        """What forward keeps of R rows, gates and the states before each step, and room for backward's da.

        The memory stays with the layer for the next batch.
        """
        D, H = self._directions, self.units
        shapes = [(D, R, 4, H), *[(D, R, H)] * len(self.states), (D, R, row_of_da(H, self.dtype))]
        ends = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
        if R and (self._memory is None or self._memory.size < ends[-1]):
            self._memory = vector_of_zeros(ends[-1], self.dtype)
        whole = self._memory if R else np.empty(0, self.dtype)
        return [whole[a:b].reshape(shape) for a, b, shape in zip(ends, ends[1:], shapes, strict=False)]

    @property
    def _directions(self):
        return 2 if self.bidirectional else 1

    def _stacked(self, what):
        """The parameters' values or gradients: one array of each kind, with the directions on its first axis."""
        arrays = [getattr(parameter, what) for parameter in self.parameters]
        kinds = len(arrays) // self._directions
        return [arrays[k][None] if len(arrays) == kinds else np.stack(arrays[k::kinds]) for k in range(kinds)]

    def _state_before(self, state, N):
        """The states (D, N, H) to start from: those that the last call left in `state`, or 0."""
        if state is not None and self.bidirectional:
            raise ValueError(
                f"{self.label}: a bidirectional layer can't go on from a state: its way back begins at the end of the"
                " whole sequence"
            )
        found = None if state is None else state.get(self)
        if found is None:
            return [np.zeros((self._directions, N, self.units), self.dtype) for _ in self.states]
        if len(found[0]) != N:
            raise ValueError(f"{self.label}: the state is that of {len(found[0])} sequences, got x with {N}")
        return [array[None] for array in found]

    @staticmethod
    def _padded(rows, counts, shape):
        """The rows as an array (N, T, ...), 0 behind the lengths."""
        if counts is None:
            return rows.reshape(*shape, rows.shape[1])
        padded = np.zeros((*shape, rows.shape[1]), rows.dtype)
        padded[counts] = rows
        return padded

    # What others ask of it.

    @property
    def torch_output(self):
        """What its module returns first, y; or what it returns last, h."""
        return "sequence" if self.return_sequences else "last"

    def torch_arrays(self):
        """PyTorch has the weights transposed, and two biases, b_ih for x and b_hh for h; most of both are added."""
        found, kinds = [], len(self.parameters) // self._directions
        for d, suffix in enumerate(("_l0", "_l0_reverse")[: self._directions]):
            w, u, *biases = (parameter._value for parameter in self.parameters[d * kinds : (d + 1) * kinds])
            arrays = [("weight_ih", w.T, _into(w.T)), ("weight_hh", u.T, _into(u.T)), *self._torch_biases(*biases)]
            found += [(kind + suffix, np.ascontiguousarray(array), take) for kind, array, take in arrays]
        return found

    def _onnx(self, graph, x, order, biases, **options):
        """ONNX's LSTM or GRU.

        order    which of our gates is where there
        biases   its two biases, of x and of h, of each direction, with the gates in our order
        """
        H, D = self.units, self._directions

        def ordered(array):  # its last axis (gates H) in ONNX's order
            return array.reshape(*array.shape[:-1], -1, H)[..., order, :].reshape(array.shape)

        w, u, *_ = self._stacked("_value")
        arrays = ordered(w).transpose(0, 2, 1), ordered(u).transpose(0, 2, 1), np.concatenate(ordered(biases), axis=1)
        if x.lengths is not None:
            arrays = *arrays, graph.add("Cast", x.lengths, to=6)  # int32
        options |= {"hidden_size": H, "direction": "bidirectional" if self.bidirectional else "forward"}
        y, h = graph.add(self.torch_names[0], x.time(), *arrays, outputs=2, **options)  # (T, D, N, H), (D, N, H)
        if not self.return_sequences:
            return graph.value(graph.add("Reshape", graph.add("Transpose", h, perm=[1, 0, 2]), [0, D * H]), 2)
        y = graph.add("Reshape", graph.add("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, D * H])
        return graph.value(y, 3, "time")

    def torch_module(self, nn):
        (_, I), module = self.input_shape, getattr(nn, self.torch_names[0])
        return module(I, self.units, batch_first=True, bidirectional=self.bidirectional)


def _into(array):
    """What copies into the array."""

    def take(given):
        array[...] = given

    return take
