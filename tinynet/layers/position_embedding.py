"""PositionEmbedding: a vector for each position is added to what stands there.

Attention that is not causal compares positions with each other and can't tell in which order they come; this lets it.

    y[n,t,c] = x[n,t,c] + w[t,c]          x, y (N, T, C)   w (length, C), T <= length

Backward.  Ask of each number: which y did it touch, and times what?

    w[t,c]    touched y[n,t,c] of every sample n, times 1:     dw[t,c] = sum_n dy[n,t,c]     0 for t >= T
    x[n,t,c]  touched y[n,t,c], times 1:                       dx = dy

Sources: Gehring et al. 2017, section 3.1; Devlin et al. 2019 (BERT), from which it has how w starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.layers.along_time import padded
from tinynet.layers.base import Layer
from tinynet.layers.parameter import Parameter

FEW = 64  # samples that are added in their own dtype; more are added in float64, where no digits are lost


class PositionEmbedding(Layer):
    """Adds a trained vector for each position: y[n,t] = x[n,t] + w[t], x, y (N, T, C), for at most `length` positions.

    Parameter "weight" (length, C), which starts normal with deviation 0.02.  With `lengths`, y is 0 behind them.  With
    a `state`, a sequence's positions go on from the one that it has reached there.

    >>> model = tn.Sequential([tn.Embedding(50, 4), tn.PositionEmbedding(8)], input_shape=8)
    >>> same = model.forward([[7] * 8])  # one word at all positions
    >>> bool((same[0, 0] == same[0, 1]).any())
    False
    """

    keeps_output = False

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = positive_int(length, "PositionEmbedding: length")

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if len(self.input_shape) != 2:
            raise ValueError(f"{self.label}: expected sequences, input shape (T, C), got {self.input_shape}")
        T, C = self.input_shape
        if self.length < T:
            raise ValueError(f"{self.label}: it has vectors for {self.length} positions, and sequences here have {T}")
        self.parameters = [Parameter("weight", rng.normal(0, 0.02, (self.length, C)).astype(self.dtype))]
        self.flops = T * C
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x = self.checked(x)
        lengths = self.checked_lengths(lengths, x)
        (N, T, _), w, first = x.shape, self.parameters[0]._value, None
        if lengths is not None:
            x = padded(x, lengths, T)
        if state is not None:
            first = self._reached(state, N, np.full(N, T) if lengths is None else lengths)
        if training:
            self._kept = N, T, lengths, first
        if first is None:
            y = x + w[:T]
        else:
            y = x + w[np.minimum(first[:, None] + np.arange(T), self.length - 1)]
        return y if lengths is None else padded(y, lengths, T)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        N, T, lengths, first = self.kept("_kept")
        dy, dw = self.checked_gradient(dy, N, T), self.parameters[0]._grad
        if lengths is not None:
            dy = padded(dy, lengths, T)
        if self.trains:
            self._add_up(dy, first, dw)
        return dy.copy() if input_grad else None

    def _add_up(self, dy, first, dw):
        N, T, _ = dy.shape
        dw[...] = 0
        if first is None:
            dw[:T] = dy.sum(axis=0, dtype=None if N <= FEW else np.float64)
        else:
            for n, start in enumerate(first):
                dw[start : start + T] += dy[n, : self.length - start]

    def _reached(self, state, N, counts):
        """The position (N,) that each sequence of the state has reached, which goes up by `counts` there."""
        first = state.get(self, np.zeros(N, np.int64))
        if len(first) != N:
            raise ValueError(f"{self.label}: the state is of {len(first)} sequences, and x has {N}")
        ends = first + counts
        if ends.max(initial=0) > self.length:
            n = int(ends.argmax())
            raise ValueError(
                f"{self.label}: sequence {n} goes on to {ends[n]} positions with this state, and there are vectors for"
                f" {self.length}"
            )
        state[self] = ends
        return first

    def formula(self):
        return "y = x + w[t]"

    def backward_formula(self):
        return "dw[t] = sum_n dy[n,t], dx = dy"

    # What others ask of it.

    of_time = "lengths"

    @property
    def longest(self):
        """The number of positions that it has vectors for."""
        return self.length

    def ending(self, before):
        return before if before and before[0] == "logits" else None

    def onnx(self, graph, x):
        T = graph.add("Shape", x.last(), start=1, end=2)
        return graph.value(graph.add("Add", x.last(), graph.add("Slice", self.parameters[0]._value, [0], T)), x.axes)
