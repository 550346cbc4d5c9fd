"""Pooling along time: of sequences what pooling.py does of images, as images of one row.

    MaxPool1D   y[n,q,c] = max  over j of x[n, q r + j e - left, c], the positions inside of the sequence
    AvgPool1D   y[n,q,c] = sum over the same, with e = 1, / m[q]
    x (N, T, C)   y (N, Q, C)   window J, 0 <= j < J   stride r   dilation e   left: the padding on both sides
    m[q]: J, or only the positions that are inside of the sequence, where the padding does not count

Sequences of unequal length.  One of length l gives what it gives alone: as many outputs as it has windows, and behind
them zeros.  What lies behind l is padding: it holds no numbers for a maximum, and zeros for a mean.

The backward pass is that of pooling.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.layers import along_time
from tinynet.layers.base import Layer
from tinynet.layers.onnx_pooling import avg_pool, max_pool, plain_avg_pool
from tinynet.layers.padding import reach
from tinynet.layers.pooling import (
    avg_pool_backward,
    avg_pool_forward,
    count_of_windows,
    max_pool_backward,
    max_pool_forward,
    windows_along,
)


def as_images(array):
    """Sequences (N, T, C) as images of one row."""
    return array.reshape(len(array), 1, *array.shape[1:])


class _Pool1D(Layer):
    """What both share."""

    keeps_output, dilation = False, 1

    def _set_windows(self, size, stride, padding, dilation, ceil_mode):
        name = type(self).__name__
        self.size = positive_int(size, f"{name}: size")
        self.stride = self.size if stride is None else positive_int(stride, f"{name}: stride")
        self.padding = positive_int(padding, f"{name}: padding", least=0)
        self.dilation, self.ceil_mode = positive_int(dilation, f"{name}: dilation"), bool(ceil_mode)
        if 2 * self.padding > self.size:
            raise ValueError(f"{name}: padding must be at most half of the window {size}, got {padding!r}")

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if len(input_shape) != 2:
            raise ValueError(f"{self.label}: expected sequences (N, T, C), got samples of shape {input_shape}")
        T, C = input_shape
        self._shortest = max(1, reach(self.size, self.dilation) - 2 * self.padding)
        self._check_long_enough(T)
        self.output_shape = self._count(T), C
        self.flops = self._count(T) * C * self.size
        return self.output_shape

    def _check_long_enough(self, T):
        if self._shortest > T:
            raise ValueError(
                f"{self.label}: its window needs sequences of at least {self._shortest} positions, got {T}"
            )

    def _count(self, T):
        """Q of a sequence of length T, or of an array of them; below 1 where no window fits."""
        return count_of_windows(T, reach(self.size, self.dilation), self.stride, self.padding, self.ceil_mode)

    def _checked(self, x, lengths, state):
        """x, with `behind` for what lies behind the lengths; these; and T."""
        x = self.checked(x)
        if state is not None:
            raise ValueError(f"{self.label}: it looks at neighbours in time, and can't go on from a state")
        lengths, T = self.checked_lengths(lengths, x), x.shape[1]
        if lengths is None:
            self._check_long_enough(T)
            return x, None, T
        x = along_time.padded(x, lengths, max(T, self._shortest))
        if self.behind != 0:
            x[np.broadcast_to(along_time.padding_of(x.shape, lengths), x.shape)] = self.behind
        return x, lengths, T

    def _check_onnx(self, x, same_count=True):
        if x.lengths is not None and (self.ceil_mode or not same_count):
            raise ValueError(
                f"to_onnx: {self.label} has windows that are others for each length; with lengths, it can't have"
                " ceil_mode, nor padding with count_include_pad=False"
            )

    def _onnx_within(self, graph, x, y):
        """y, with zeros behind its lengths."""
        more = 2 * self.padding - reach(self.size, self.dilation) + self.stride
        y.lengths = graph.windows(x.lengths, more, self.stride)
        return y.filled(0.0)

    def _within(self, y, lengths):
        return y if lengths is None else along_time.padded(y, self.output_lengths(lengths), y.shape[1])

    # What others ask of it.

    of_time = "lengths"
    torch_channels = "first"

    @property
    def any_length(self):
        """Whether its padding is the same for all lengths."""
        return not self.ceil_mode

    def output_lengths(self, lengths):
        return np.where(lengths > 0, np.maximum(self._count(lengths), 0), 0)

    def ending(self, before):
        return before

    def torch_options(self, module):
        def number(option):
            return option[0] if isinstance(option, tuple) else option

        names = {"size": "kernel_size", **{name: name for name in ("stride", "padding", "dilation")}}
        options = [(name, getattr(self, name), number(getattr(module, there, 1))) for name, there in names.items()]
        return [*options, ("ceil_mode", self.ceil_mode, module.ceil_mode)]


class MaxPool1D(_Pool1D):
    """The maximum of each window of a sequence: x (N, T, C) -> y (N, Q, C).

    size, stride, padding, dilation, ceil_mode as in MaxPool2D, whole numbers.  Of equal numbers the first gets the
    gradient.  Raises ValueError for what are no sequences, and where no window fits into them.

    >>> x = np.arange(6.0).reshape(1, 6, 1)
    >>> tn.Sequential([tn.MaxPool1D(2)], (6, 1)).forward(x).ravel()
    array([1., 3., 5.], dtype=float32)
    """

    torch_names = ("MaxPool1d",)
    behind = -np.inf

    def __init__(
        self, size: int, stride: int | None = None, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
    ):
        super().__init__()
        self._set_windows(size, stride, padding, dilation, ceil_mode)

    @property
    def _windows(self):
        return (1, self.size), (1, self.stride), (0, self.padding), (1, self.dilation)

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x, lengths, T = self._checked(x, lengths, state)
        y = np.empty((len(x), self._count(x.shape[1]), x.shape[2]), x.dtype)
        argmax = np.empty(as_images(y).shape, np.uint8 if self.size <= 256 else np.int32)
        max_pool_forward(as_images(x), *self._windows, argmax.shape[1:3], as_images(y), argmax)
        if training:
            self._kept = argmax, lengths, T, x.shape
        return self._within(y, lengths)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        argmax, lengths, T, shape = self.kept("_kept")
        dy = self.checked_gradient(dy, shape[0], argmax.shape[2])
        if not input_grad:
            return None
        dx = np.empty(shape, dy.dtype)
        given = as_images(self._within(dy, lengths))
        max_pool_backward(given, argmax, *self._windows, as_images(dx).shape, as_images(dx))
        return dx if lengths is None else along_time.padded(dx, lengths, T)

    def formula(self):
        return "y = max of x over a window"

    def backward_formula(self):
        return "dx = sum of dy over the windows whose maximum x is"

    def onnx(self, graph, x):
        self._check_onnx(x)
        windows = [self.size], [self.stride], [self.padding], [self.dilation]
        y = max_pool(graph, x.filled(-np.inf), self.output_shape[:1], self.input_shape[:1], *windows)
        return self._onnx_within(graph, x, y)

    def torch_module(self, nn):
        return nn.MaxPool1d(self.size, self.stride, self.padding, self.dilation, ceil_mode=self.ceil_mode)


class AvgPool1D(_Pool1D):
    """The mean of each window of a sequence: x (N, T, C) -> y (N, Q, C).

    size, stride, padding, ceil_mode, count_include_pad as in AvgPool2D, whole numbers.  Raises ValueError as MaxPool1D.

    >>> x = np.arange(6.0).reshape(1, 6, 1)
    >>> tn.Sequential([tn.AvgPool1D(2)], (6, 1)).forward(x).ravel()
    array([0.5, 2.5, 4.5], dtype=float32)
    """

    torch_names = ("AvgPool1d",)
    behind = 0

    def __init__(
        self,
        size: int,
        stride: int | None = None,
        padding: int = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__()
        self._set_windows(size, stride, padding, 1, ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x, lengths, T = self._checked(x, lengths, state)
        y = np.empty((len(x), self._count(x.shape[1]), x.shape[2]), x.dtype)
        row, columns, share = np.array([[0, 1, 1]]), self._columns(x.shape[1], y.shape[1]), None
        if lengths is not None and (self.ceil_mode or not self.count_include_pad):
            # Windows that count less are others in each sequence: so all are divided by `size` first.
            columns = np.column_stack((columns[:, :2], np.full(len(columns), self.size)))
            counts = np.array([self._columns(length, y.shape[1])[:, 2] for length in lengths]).reshape(y.shape[:2])
            share = (self.size / np.maximum(counts, 1)).astype(y.dtype)[..., None]
        avg_pool_forward(as_images(x), row, columns, as_images(y))
        if share is not None:
            y *= share
        if training:
            self._kept = row, columns, share, lengths, T, x.shape
        return self._within(y, lengths)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        row, columns, share, lengths, T, shape = self.kept("_kept")
        dy = self._within(self.checked_gradient(dy, shape[0], len(columns)), lengths)
        if not input_grad:
            return None
        dx = np.empty(shape, dy.dtype)
        dy = dy if share is None else dy * share
        avg_pool_backward(as_images(dy), row, columns, as_images(dx).shape, as_images(dx))
        return dx if lengths is None else along_time.padded(dx, lengths, T)

    def _columns(self, T, Q):
        return windows_along(T, Q, self.size, self.stride, self.padding, self.count_include_pad)

    def formula(self):
        return "y = mean of x over a window"

    def backward_formula(self):
        return f"dx = sum of dy / {self.size} over the windows on x"

    def onnx(self, graph, x):
        self._check_onnx(x, self.count_include_pad or self.padding == 0)
        T, Q = self.input_shape[0], self.output_shape[0]
        if self.ceil_mode:
            return avg_pool(graph, x, [self._columns(T, Q)], [T])
        windows = [self.size], [self.stride], [self.padding], self.count_include_pad
        return self._onnx_within(graph, x, plain_avg_pool(graph, x.filled(0.0), *windows))

    def torch_module(self, nn):
        return nn.AvgPool1d(self.size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def torch_options(self, module):
        counts = [("count_include_pad", self.count_include_pad, module.count_include_pad)] if self.padding else []
        return [*super().torch_options(module), *counts]
