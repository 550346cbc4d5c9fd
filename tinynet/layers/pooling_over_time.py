"""Pooling over time: one number for all of a sequence and each channel, its mean or its maximum.

    GlobalAvgPool1D   y[n,c] = 1/l[n] sum_t x[n,t,c]      over t < l[n], the sequence's length
    GlobalMaxPool1D   y[n,c] = max over t of x[n,t,c]     the same
    x (N, T, C)   l (N,) the lengths, T where none are given   y (N, C), 0 for a sequence of length 0

Backward.  x[n,t,c] touched y[n,c] if t < l[n]; what lies behind the length touched nothing, and its dx is 0.

    mean   times 1 / l[n]:                         dx[n,t,c] = dy[n,c] / l[n]
    max    times 1 where it is the maximum, else 0: dx[n,t,c] = dy[n,c] where t is the argmax, else 0

For the maximum, the forward pass keeps the argmax.  Of equal numbers that is the first; NaN counts as larger than any
number, and of several NaNs the last is kept, as in pooling.py.

Source of the mean over all positions: Lin et al. 2014; of the maximum over time: Collobert et al. 2011.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels import pooling_over_time as kernels
from tinynet.kernels.compile import either
from tinynet.layers.base import Layer
from tinynet.layers.onnx_pooling import whole_pool


def mean_over_time_forward_plain(x, lengths):
    (N, _, C), y = x.shape, np.zeros((len(x), x.shape[2]))
    for n in range(N):
        for c in range(C):
            if lengths[n] > 0:
                y[n, c] = x[n, : lengths[n], c].mean(dtype=np.float64)
    return y


def mean_over_time_backward_plain(dy, lengths, T):
    (N, C), dx = dy.shape, np.zeros((len(dy), T, dy.shape[1]))
    for n in range(N):
        for t in range(lengths[n]):
            for c in range(C):
                dx[n, t, c] = dy[n, c] / lengths[n]
    return dx


def max_over_time_forward_plain(x, lengths):
    N, _, C = x.shape
    y, argmax = np.zeros((N, C)), np.zeros((N, C), int)
    for n, c in np.ndindex(N, C):
        for t in range(lengths[n]):
            value = x[n, t, c]
            if t == 0 or value > y[n, c] or value != value:  # only a NaN differs from itself
                y[n, c], argmax[n, c] = value, t
    return y, argmax


def max_over_time_backward_plain(dy, argmax, lengths, T):
    (N, C), dx = dy.shape, np.zeros((len(dy), T, dy.shape[1]))
    for n, c in np.ndindex(N, C):
        if lengths[n] > 0:
            dx[n, argmax[n, c], c] = dy[n, c]
    return dx


mean_over_time_forward = either(mean_over_time_forward_plain, kernels.mean_over_time_forward)
mean_over_time_backward = either(mean_over_time_backward_plain, kernels.mean_over_time_backward)
max_over_time_forward = either(max_over_time_forward_plain, kernels.max_over_time_forward)
max_over_time_backward = either(max_over_time_backward_plain, kernels.max_over_time_backward)


class _OverTime(Layer):
    """What the two share."""

    keeps_output = False

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if len(input_shape) != 2:
            hint = f"; of images, {type(self).__name__[:-2]}2D" if len(input_shape) == 3 else ""
            raise ValueError(f"{self.label}: expected sequences (N, T, C), got samples of shape {input_shape}{hint}")
        T, C = input_shape
        self.flops = T * C
        self.output_shape = (C,)
        return self.output_shape

    def _checked(self, x, lengths, state):
        """x, and the lengths of its sequences."""
        x = self.checked(x)
        if state is not None:
            raise ValueError(f"{self.label}: it pools a whole sequence, and can't go on from a state")
        lengths = self.checked_lengths(lengths, x)
        return x, np.full(len(x), x.shape[1]) if lengths is None else lengths

    # What others ask of it.

    of_time = "lengths"
    torch_channels = "first"

    def output_lengths(self, lengths):
        """None: its output has no axis of time."""

    def onnx(self, graph, x):
        """A mean over T positions is made one over the length; of no positions, both are 0."""
        if x.lengths is None:
            return whole_pool(graph, x, self.onnx_name)
        is_mean = self.onnx_name == "ReduceMean"
        y = whole_pool(graph, x.filled(0.0 if is_mean else -np.inf), "ReduceSum" if is_mean else "ReduceMax")
        count = graph.add("Unsqueeze", x.lengths, [1])
        if is_mean:
            return y.map("Div", graph.add("Cast", graph.add("Max", count, 1), to=1))  # float32
        return graph.value(graph.add("Where", graph.add("Less", 0, count), y.last(), 0.0), 2)

    def ending(self, before):
        return before

    def torch_module(self, nn):
        return {"": getattr(nn, self.torch_names[0])(1), "_flatten": nn.Flatten()}

    def torch_options(self, module):
        size = module.output_size
        return [("output size", 1, size[0] if isinstance(size, tuple) else size)]


class GlobalAvgPool1D(_OverTime):
    """The mean of each channel over the time of a sequence: (N, T, C) becomes (N, C), within any lengths given.

    A sequence of length 0 has the mean 0.

    >>> x = np.arange(6.0).reshape(1, 3, 2)
    >>> model = tn.Sequential([tn.GlobalAvgPool1D()], (3, 2))
    >>> model.forward(x), model.forward((x, [2]))
    (array([[2., 3.]], dtype=float32), array([[1., 2.]], dtype=float32))
    """

    torch_names = ("AdaptiveAvgPool1d",)
    onnx_name = "ReduceMean"

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x, lengths = self._checked(x, lengths, state)
        y = np.empty((len(x), x.shape[2]), x.dtype)
        mean_over_time_forward(x, lengths, y)
        if training:
            self._kept = lengths, x.shape[1]
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        lengths, T = self.kept("_kept")
        dy = self.checked_gradient(dy, len(lengths))
        if not input_grad:
            return None
        dx = np.empty((len(dy), T, dy.shape[1]), dy.dtype)
        mean_over_time_backward(dy, lengths, T, dx)
        return dx

    def formula(self):
        return "y = mean of x over time"

    def backward_formula(self):
        return "dx = dy / length at each position"


class GlobalMaxPool1D(_OverTime):
    """The maximum of each channel over the time of a sequence: (N, T, C) becomes (N, C), within any lengths given.

    A sequence of length 0 has the maximum 0.  Of equal numbers the first gets the gradient.

    >>> x = np.arange(6.0).reshape(1, 3, 2)
    >>> model = tn.Sequential([tn.GlobalMaxPool1D()], (3, 2))
    >>> model.forward(x), model.forward((x, [2]))
    (array([[4., 5.]], dtype=float32), array([[2., 3.]], dtype=float32))
    """

    torch_names = ("AdaptiveMaxPool1d",)
    onnx_name = "ReduceMax"

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x, lengths = self._checked(x, lengths, state)
        y = np.empty((len(x), x.shape[2]), x.dtype)
        argmax = np.empty(y.shape, np.int32)
        max_over_time_forward(x, lengths, y, argmax)
        if training:
            self._kept = argmax, lengths, x.shape[1]
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        argmax, lengths, T = self.kept("_kept")
        dy = self.checked_gradient(dy, len(lengths))
        if not input_grad:
            return None
        dx = np.empty((len(dy), T, dy.shape[1]), dy.dtype)
        max_over_time_backward(dy, argmax, lengths, T, dx)
        return dx

    def formula(self):
        return "y = max of x over time"

    def backward_formula(self):
        return "dx = dy where x is the maximum, else 0"
