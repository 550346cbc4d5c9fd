"""ClassToken and Select: one position that stands for a whole sequence.

    ClassToken    y[n,0] = w    y[n,t+1] = x[n,t]      x (N, T, C)   w (C,)   y (N, T + 1, C)
    Select        y[n] = x[n,t]                        x (N, T, C)   y (N, C)   t = position, from the end if it is < 0

A classifier of sequences or of images cut into patches puts a trained vector first, lets attention gather there what
matters, and selects that position in the end.  Select(-1) is the last position of each sequence, where a causal layer
has seen all of it.

Backward.  Each number was copied, that is, it touched one y, times 1:

    ClassToken    w touched y[n,0] of every sample n:       dw = sum_n dy[n,0]      dx[n,t] = dy[n,t+1]
    Select        only x[n,t] of the position touched y:    dx[n,t] = dy[n], and 0 at all other positions

Sources: Devlin et al. 2019 (BERT), section 3; Dosovitskiy et al. 2021 (vision transformers), section 3.1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.layers.along_time import padded
from tinynet.layers.base import Layer
from tinynet.layers.parameter import Parameter


class ClassToken(Layer):
    """Put one trained vector before each sequence: (N, T, C) -> (N, T + 1, C).

    Parameter "weight" (C,), which starts normal with deviation 0.02.  Lengths grow by 1.

    >>> tn.Sequential([tn.ClassToken()], input_shape=(16, 8)).output_shape
    (17, 8)
    """

    keeps_output = False

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        T, C = _sequence(self)
        self.parameters = [Parameter("weight", rng.normal(0, 0.02, C).astype(self.dtype))]
        self.output_shape = (T + 1, C)
        return self.output_shape

    def output_lengths(self, lengths):
        return lengths + 1

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x = self.checked(x)
        lengths = self.checked_lengths(lengths, x)
        if state is not None:
            raise ValueError(f"{self.label}: it can't go on from a state: each piece would begin with a token")
        N, T, C = x.shape
        if training:
            self._kept = N, T, lengths
        y = np.empty((N, T + 1, C), self.dtype)
        y[:, 0], y[:, 1:] = self.parameters[0]._value, x
        return y if lengths is None else padded(y, lengths + 1, T + 1)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        N, T, lengths = self.kept("_kept")
        dy = self.checked_gradient(dy, N, T + 1)
        if self.trains:
            self.parameters[0]._grad[...] = dy[:, 0].sum(axis=0, dtype=np.float64)
        if not input_grad:
            return None
        return dy[:, 1:].copy() if lengths is None else padded(dy[:, 1:], lengths, T)

    def formula(self):
        return "y = [w, x[0], x[1], ...]"

    def backward_formula(self):
        return "dw = sum_n dy[n,0], dx[t] = dy[t+1]"

    # What others ask of it.

    of_time = "lengths"

    def onnx(self, graph, x):
        C, w = self.input_shape[1], self.parameters[0]._value
        shape = graph.add("Concat", graph.add("Shape", x.last(), start=0, end=1), [1, C], axis=0)
        y = graph.value(graph.add("Concat", graph.add("Expand", w, shape), x.last(), axis=1), x.axes)
        y.lengths = None if x.lengths is None else graph.add("Add", x.lengths, 1)
        return y


class Select(Layer):
    """One position of each sequence: x (N, T, C) -> y (N, C), where x may have more axes behind T.

    position   a whole number: 0 is the first, -1 the last of each sequence, which `lengths` tell where they are given

    Raises ValueError for a sequence that is too short to have that position.

    >>> model = tn.Sequential([tn.Select(-1)], input_shape=(3, 1))
    >>> x = [[[1], [2], [3]], [[4], [5], [0]]]
    >>> model.forward((np.array(x), [3, 2]))
    array([[3.],
           [5.]], dtype=float32)
    """

    keeps_output = False

    def __init__(self, position: int) -> None:
        super().__init__()
        self.position = positive_int(position, "Select: position", least=-(2**62))

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        T, *others = _sequence(self, most=None)
        if not -T <= self.position < T:
            raise ValueError(f"{self.label}: there is no position {self.position} in sequences of {T}")
        self.output_shape = tuple(others)
        return self.output_shape

    def output_lengths(self, lengths):
        return None

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x = self.checked(x)
        lengths = self.checked_lengths(lengths, x)
        if state is not None and self.position >= 0:
            raise ValueError(
                f"{self.label}: it can't go on from a state: position {self.position} was in an earlier piece"
            )
        N, T = x.shape[:2]
        counts = np.full(N, T) if lengths is None else lengths
        positions = counts + self.position if self.position < 0 else np.full(N, self.position)
        missing = np.flatnonzero((positions < 0) | (positions >= counts))
        if missing.size:
            n = missing[0]
            raise ValueError(f"{self.label}: sequence {n} has {counts[n]} positions, so no position {self.position}")
        if training:
            self._kept = x.shape, positions
        return x[np.arange(N), positions]

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        shape, positions = self.kept("_kept")
        dy = self.checked_gradient(dy, shape[0])
        if not input_grad:
            return None
        dx = np.zeros(shape, self.dtype)
        dx[np.arange(len(dx)), positions] = dy
        return dx

    def formula(self):
        return f"y = x[{self.position}]"

    def backward_formula(self):
        return f"dx[{self.position}] = dy, 0 elsewhere"

    # What others ask of it.

    of_time = "lengths"

    def ending(self, before):
        return before

    def onnx(self, graph, x):
        if x.lengths is not None and self.position < 0:
            last = graph.add("Unsqueeze", graph.add("Add", x.lengths, self.position), [1])
            return graph.value(graph.add("GatherND", x.last(), last, batch_dims=1), x.axes - 1)
        name, axis = (x.time(), 0) if x.layout == "time" else (x.last(), 1)
        return graph.value(graph.add("Gather", name, self.position, axis=axis), x.axes - 1)


def _sequence(layer, most=2):
    """The input shape (T, C), or with more axes if `most` is None; a ValueError otherwise."""
    shape = layer.input_shape
    if len(shape) < 2 or (most and len(shape) > most):
        raise ValueError(f"{layer.label}: expected sequences, input shape (T, C), got {shape}")
    return shape
