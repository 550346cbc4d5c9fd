"""Pooling: one number for each window of an image and each channel, its maximum or its mean.

    MaxPool2D   y[n,p,q,c] = max  over (i, j) of x[n, p s + i d - top, q r + j e - left, c], those inside of the image
    AvgPool2D   y[n,p,q,c] = sum over the same, with d = e = 1, / m[p,q]
    x (N, H, W, C)   y (N, P, Q, C)   window (I, J), 0 <= i < I, 0 <= j < J   stride (s, r)   dilation (d, e)
    top, left: how many rows and columns of padding there are around the image, at most half a window
    m[p,q]: I J, or only the pixels that are inside of the image, where the padding does not count
    P = (H + 2 top - D) // s + 1, D = (I - 1) d + 1; Q likewise: a rest too small for a window is left out, or, with
    ceil_mode, gets one that reaches beyond the padding, where nothing counts
    GlobalMaxPool2D, GlobalAvgPool2D: the window is the whole image, y (N, C)
    AdaptiveAvgPool2D: P and Q are given; window p has the rows from floor(p H / P) to ceil((p + 1) H / P)

Backward.  x[n,h,g,c] touched y[n,p,q,c] of every window (p, q) that it lies in:

    max    times 1 where it is the maximum, else 0:
               dx[n,h,g,c] = sum of dy[n,p,q,c] over the windows whose maximum it is
    mean   times 1 / m[p,q]:
               dx[n,h,g,c] = sum of dy[n,p,q,c] / m[p,q] over all windows that it lies in

So the loops scatter each dy over its window.  For that, the forward pass of max keeps the argmax of each window, where
its maximum was: i J + j.  Of equal numbers that is the first.  NaN counts as larger than any number; of several NaNs
the last is kept.  The padding has no numbers: a window with nothing else has the maximum -inf, which nobody gave.

Sources: mean, LeCun et al. 1998 (its subsampling); max, Scherer et al. 2010; over the whole image, Lin et al. 2014.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import pair
from tinynet.kernels import pooling as kernels
from tinynet.kernels.compile import either
from tinynet.layers.base import Layer
from tinynet.layers.onnx_pooling import avg_pool, max_pool, plain_avg_pool, whole_pool
from tinynet.layers.padding import channels_first_hint, reach


def max_pool_forward_plain(x, size, stride, before, dilation, count):
    (N, H, W, C), (I, J), (s, r), (top, left), (d, e) = x.shape, size, stride, before, dilation
    shape = N, *count, C
    y, argmax = np.full(shape, -np.inf, x.dtype), np.full(shape, -1)
    for n, p, q, c in np.ndindex(shape):
        for i, j in np.ndindex(I, J):
            h, g = p * s + i * d - top, q * r + j * e - left
            if 0 <= h < H and 0 <= g < W:
                value, is_first = x[n, h, g, c], argmax[n, p, q, c] < 0
                if is_first or value > y[n, p, q, c] or value != value:  # only a NaN differs from itself
                    y[n, p, q, c], argmax[n, p, q, c] = value, i * J + j
    return y, np.maximum(argmax, 0)


def max_pool_backward_plain(dy, argmax, size, stride, before, dilation, shape):  # the shape of x, and of dx
    (_, H, W, _), (_, J), (s, r), (top, left), (d, e) = shape, size, stride, before, dilation
    dx = np.zeros(shape, dy.dtype)
    for n, p, q, c in np.ndindex(dy.shape):
        i, j = divmod(int(argmax[n, p, q, c]), J)
        h, g = p * s + i * d - top, q * r + j * e - left
        if 0 <= h < H and 0 <= g < W:  # else the window has no number of the image
            dx[n, h, g, c] += dy[n, p, q, c]  # +=: windows overlap where the stride is less than the size
    return dx


# Of a mean, rows[p] is (the first row of window p that is inside, the one behind the last, by how many rows it counts),
# and columns[q] alike: m[p,q] is the product of two counts.


def avg_pool_forward_plain(x, rows, columns):
    y = np.empty((len(x), len(rows), len(columns), x.shape[3]), x.dtype)
    for p, (h0, h1, height) in enumerate(rows):
        for q, (g0, g1, width) in enumerate(columns):
            y[:, p, q] = x[:, h0:h1, g0:g1].sum(axis=(1, 2)) / (height * width)
    return y


def avg_pool_backward_plain(dy, rows, columns, shape):
    dx = np.zeros(shape, dy.dtype)
    for p, (h0, h1, height) in enumerate(rows):
        for q, (g0, g1, width) in enumerate(columns):
            dx[:, h0:h1, g0:g1] += dy[:, p : p + 1, q : q + 1] / (height * width)
    return dx


max_pool_forward = either(max_pool_forward_plain, kernels.max_pool_forward)
max_pool_backward = either(max_pool_backward_plain, kernels.max_pool_backward)
avg_pool_forward = either(avg_pool_forward_plain, kernels.avg_pool_forward)
avg_pool_backward = either(avg_pool_backward_plain, kernels.avg_pool_backward)


# --- where windows lie, along one axis of H pixels --------------------------------------------------------------


def count_of_windows(H, D, stride, padding, ceil_mode):
    """P, for windows that reach over D of H pixels.  With ceil_mode none begins behind the image, in the padding."""
    rest = H + 2 * padding - D
    if not ceil_mode:
        return rest // stride + 1
    P = -(-rest // stride) + 1
    return P - ((P - 1) * stride >= H + padding)  # H may be an array


def windows_along(H, P, size, stride, padding, counts_padding):
    """The array (P, 3) of AvgPool2D."""
    first = np.arange(P) * stride - padding
    end = np.minimum(first + size, H + padding)  # what reaches beyond the padding counts for nothing
    inside = np.maximum(first, 0), np.minimum(end, H)
    return np.stack([*inside, (end - first) if counts_padding else inside[1] - inside[0]], axis=1)


def windows_to_fill(H, P):
    """The array (P, 3) of AdaptiveAvgPool2D: P windows, each as small as can be, which cover all of H."""
    p = np.arange(P)
    first, end = p * H // P, -(-(p + 1) * H // P)
    return np.stack([first, end, end - first], axis=1)


# --- the layers ---------------------------------------------------------------------------------------------------


class _Pool2D(Layer):
    """What the layers share.  `size` None: the window is the whole image, and y has no axes for P and Q."""

    size = stride = None
    padding, dilation, ceil_mode = (0, 0), (1, 1), False
    keeps_output = False

    def _set_windows(self, size, stride, padding, dilation, ceil_mode):
        name = type(self).__name__
        self.size = pair(size, f"{name}: size")
        self.stride = self.size if stride is None else pair(stride, f"{name}: stride")
        self.padding = pair(padding, f"{name}: padding", least=0)
        self.dilation, self.ceil_mode = pair(dilation, f"{name}: dilation"), bool(ceil_mode)
        if any(2 * zeros > window for zeros, window in zip(self.padding, self.size, strict=True)):
            raise ValueError(f"{name}: padding must be at most half of the window {self.size}, got {padding!r}")

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if len(input_shape) != 3:
            raise ValueError(f"{self.label}: expected images (N, H, W, C), got samples of shape {input_shape}")
        H, W, C = input_shape
        self._size = self.size or (H, W)
        self._stride = self.stride or self._size
        axes = (H, W), tuple(map(reach, self._size, self.dilation)), self._stride, self.padding
        if any(extent + 2 * zeros < D for extent, D, _, zeros in zip(*axes, strict=True)):
            padded = f" with padding {self.padding}" if self.padding != (0, 0) else ""
            raise ValueError(
                f"{self.label}: the window {axes[1]} is larger than the image ({H}, {W}){padded}"
                f"{channels_first_hint(input_shape)}"
            )
        self._count = P, Q = tuple(count_of_windows(*axis, self.ceil_mode) for axis in zip(*axes, strict=True))
        self._pooled = P, Q, C
        self.output_shape = self._pooled if self.size else (C,)
        self.flops = P * Q * C * self._size[0] * self._size[1]
        return self.output_shape

    # What others ask of it.

    def ending(self, before):
        return before

    @property
    def window(self):
        """Its size and its stride."""
        return self._size, self._stride

    @property
    def cuts_rest(self):
        """Whether a rest of the image is too small for a window."""
        axes = zip(self.input_shape[:2], self._size, self._stride, self.padding, self.dilation, strict=True)
        return any((extent + 2 * zeros - reach(size, step)) % stride > 0 for extent, size, stride, zeros, step in axes)


class _Max(_Pool2D):
    torch_names = "MaxPool2d", "AdaptiveMaxPool2d"

    def onnx(self, graph, x):
        if self.size is None:
            return whole_pool(graph, x, "ReduceMax")
        windows = self._size, self._stride, self.padding, self.dilation
        return max_pool(graph, x, self._pooled[:2], self.input_shape[:2], *windows)

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        y = np.empty((len(x), *self._pooled), x.dtype)
        I, J = self._size
        argmax = np.empty(y.shape, np.uint8 if I * J <= 256 else np.int32)
        max_pool_forward(x, self._size, self._stride, self.padding, self.dilation, self._count, y, argmax)
        if training:
            self._argmax = argmax
        return y.reshape(len(x), *self.output_shape)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        argmax = self.kept("_argmax")
        dy = self.checked_gradient(dy, len(argmax))
        if not input_grad:
            return None
        dx = np.empty((len(dy), *self.input_shape), dy.dtype)
        windows = self._size, self._stride, self.padding, self.dilation
        max_pool_backward(dy.reshape(argmax.shape), argmax, *windows, dx.shape, dx)
        return dx

    def formula(self):
        return "y = max of x over a window"

    def backward_formula(self):
        return "dx = sum of dy over the windows whose maximum x is"

    def torch_module(self, nn):
        if self.size is None:
            return {"": nn.AdaptiveMaxPool2d(1), "_flatten": nn.Flatten()}
        return nn.MaxPool2d(self.size, self.stride, self.padding, self.dilation, ceil_mode=self.ceil_mode)


class _Avg(_Pool2D):
    torch_names = "AvgPool2d", "AdaptiveAvgPool2d"
    count_include_pad = True

    def onnx(self, graph, x):
        if self.size is None and self.output_shape != self._pooled:
            return whole_pool(graph, x, "ReduceMean")
        if self.size is None or self.ceil_mode:
            return avg_pool(graph, x, (self._rows, self._columns), self.input_shape[:2])
        return plain_avg_pool(graph, x, self.size, self.stride, self.padding, self.count_include_pad)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        axes = self.input_shape[:2], self._count, self._size, self._stride, self.padding
        self._rows, self._columns = (windows_along(*axis, self.count_include_pad) for axis in zip(*axes, strict=True))
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        y = np.empty((len(x), *self._pooled), x.dtype)
        avg_pool_forward(x, self._rows, self._columns, y)
        if training:
            self._batch = len(x)
        return y.reshape(len(x), *self.output_shape)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        batch = self.kept("_batch")
        dy = self.checked_gradient(dy, batch)
        if not input_grad:
            return None
        dx = np.empty((batch, *self.input_shape), dy.dtype)
        avg_pool_backward(dy.reshape(batch, *self._pooled), self._rows, self._columns, dx.shape, dx)
        return dx

    def formula(self):
        return "y = mean of x over a window"

    def backward_formula(self):
        count = "window size" if self.output_shape is None else self._size[0] * self._size[1]
        return f"dx = sum of dy / {count} over the windows on x"

    def torch_module(self, nn):
        if self.size is None:
            return {"": nn.AdaptiveAvgPool2d(1), "_flatten": nn.Flatten()}
        return nn.AvgPool2d(self.size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class MaxPool2D(_Max):
    """The maximum of each window: x (N, H, W, C) -> y (N, P, Q, C).

    size, stride, padding, dilation: a whole number, or a pair (height, width); stride defaults to size
    padding     rows and columns around the image, at most half a window, which hold no numbers
    dilation    how far the pixels of a window are apart: 2 takes every second one
    ceil_mode   a rest of the image that is too small for a window gets one, too

    Of equal numbers the first gets the gradient.

    Raises ValueError for inputs that are not images (N, H, W, C), and for windows larger than they are.

    >>> image = np.arange(8.0).reshape(1, 2, 4, 1)
    >>> tn.Sequential([tn.MaxPool2D(2)], (2, 4, 1)).forward(image).ravel()
    array([5., 7.], dtype=float32)
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self._set_windows(size, stride, padding, dilation, ceil_mode)


class AvgPool2D(_Avg):
    """The mean of each window: x (N, H, W, C) -> y (N, P, Q, C).

    size, stride, padding: a whole number, or a pair (height, width); stride defaults to size
    padding             rows and columns of zeros around the image, at most half a window
    ceil_mode           a rest of the image that is too small for a window gets one, too
    count_include_pad   whether those zeros count in the mean; what reaches beyond them never does

    Raises ValueError as MaxPool2D.

    >>> image = np.arange(8.0).reshape(1, 2, 4, 1)
    >>> tn.Sequential([tn.AvgPool2D(2)], (2, 4, 1)).forward(image).ravel()
    array([2.5, 4.5], dtype=float32)
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__()
        self._set_windows(size, stride, padding, 1, ceil_mode)
        self.count_include_pad = bool(count_include_pad)


class AdaptiveAvgPool2D(_Avg):
    """The mean of windows as many as `output_size` says, which cover the image: (N, H, W, C) becomes (N, P, Q, C).

    output_size: a whole number, or a pair (height, width).  Where it divides the image, these are AvgPool2D's windows.

    >>> image = np.arange(6.0).reshape(1, 1, 6, 1)
    >>> tn.Sequential([tn.AdaptiveAvgPool2D((1, 4))], (1, 6, 1)).forward(image).ravel()
    array([0.5, 1.5, 3.5, 4.5], dtype=float32)
    """

    def __init__(self, output_size: int | tuple[int, int]):
        super().__init__()
        self.output_size = pair(output_size, "AdaptiveAvgPool2D: output_size")

    def build(self, input_shape, dtype, rng):
        H, W, C = super().build(input_shape, dtype, rng) and self.input_shape
        P, Q = self.output_size
        self._rows, self._columns = windows_to_fill(H, P), windows_to_fill(W, Q)
        self._pooled = self.output_shape = P, Q, C
        self.flops = int(self._rows[:, 2].sum() * self._columns[:, 2].sum()) * C
        return self.output_shape

    def backward_formula(self):
        return "dx = sum of dy / window size over the windows on x"

    def torch_module(self, nn):
        return nn.AdaptiveAvgPool2d(self.output_size)

    @property
    def window(self):
        """Its size and its stride; a text where the windows differ in size."""
        sizes = zip(self.input_shape[:2], self.output_size, strict=True)
        return (tuple(H // P if H % P == 0 else f"adaptive, {P} places" for H, P in sizes),) * 2


class GlobalMaxPool2D(_Max):
    """The maximum of each channel over the whole image: (N, H, W, C) becomes (N, C).

    >>> tn.Sequential([tn.GlobalMaxPool2D()], (1, 3, 2)).forward([[[[1, 10], [2, 20], [6, 60]]]])
    array([[ 6., 60.]], dtype=float32)
    """


class GlobalAvgPool2D(_Avg):
    """The mean of each channel over the whole image: (N, H, W, C) becomes (N, C).

    >>> tn.Sequential([tn.GlobalAvgPool2D()], (1, 3, 2)).forward([[[[1, 10], [2, 20], [6, 60]]]])
    array([[ 3., 30.]], dtype=float32)
    """
