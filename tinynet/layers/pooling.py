"""Pooling: one number for each window of an image and each channel, its maximum or its mean.

    MaxPool2D   y[n,p,q,c] = max  over (i, j) of x[n, p s + i, q r + j, c]
    AvgPool2D   y[n,p,q,c] = mean over (i, j) of the same
    x (N, H, W, C)   y (N, P, Q, C)   window (I, J), 0 <= i < I, 0 <= j < J   stride (s, r)
    P = (H - I) // s + 1, Q likewise: a rest of the image too small for a window is left out
    GlobalMaxPool2D, GlobalAvgPool2D: the window is the whole image, y (N, C)

Backward.  x[n,h,g,c] touched y[n,p,q,c] of every window (p, q) that it lies in:

    max    times 1 where it is the maximum, else 0:
               dx[n,h,g,c] = sum of dy[n,p,q,c] over the windows whose maximum it is
    mean   times 1 / (I J):
               dx[n,h,g,c] = sum of dy[n,p,q,c] / (I J) over all windows that it lies in

So the loops scatter each dy over its window.  For that, the forward pass of max keeps the argmax of each window, where
its maximum was: i J + j.  Of equal numbers that is the first.  NaN counts as larger than any number; of several NaNs
the last is kept.

Sources: mean, LeCun et al. 1998 (its subsampling); max, Scherer et al. 2010; over the whole image, Lin et al. 2014.
"""

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import pair
from tinynet.kernels import pooling as kernels
from tinynet.kernels.compile import either
from tinynet.layers.base import Layer
from tinynet.layers.padding import channels_first_hint, output_size


def max_pool_forward_plain(x, size, stride):
    (N, H, W, C), (I, J), (s, r) = x.shape, size, stride
    shape = N, (H - I) // s + 1, (W - J) // r + 1, C
    y, argmax = np.full(shape, -np.inf, x.dtype), np.zeros(shape, int)
    for n, p, q, c in np.ndindex(shape):
        for i, j in np.ndindex(I, J):
            value = x[n, p * s + i, q * r + j, c]
            if value > y[n, p, q, c] or value != value:  # only a NaN differs from itself
                y[n, p, q, c], argmax[n, p, q, c] = value, i * J + j
    return y, argmax


def max_pool_backward_plain(dy, argmax, size, stride, shape):  # the shape of x, and of dx
    (_, J), (s, r), dx = size, stride, np.zeros(shape, dy.dtype)
    for n, p, q, c in np.ndindex(dy.shape):
        i, j = divmod(int(argmax[n, p, q, c]), J)
        dx[n, p * s + i, q * r + j, c] += dy[n, p, q, c]  # +=: windows overlap where the stride is less than the size
    return dx


def avg_pool_forward_plain(x, size, stride):
    (N, H, W, C), (I, J), (s, r) = x.shape, size, stride
    y = np.empty((N, (H - I) // s + 1, (W - J) // r + 1, C), x.dtype)
    for n, p, q in np.ndindex(y.shape[:3]):
        y[n, p, q] = x[n, p * s : p * s + I, q * r : q * r + J].mean(axis=(0, 1))
    return y


def avg_pool_backward_plain(dy, size, stride, shape):
    (I, J), (s, r), dx = size, stride, np.zeros(shape, dy.dtype)
    for n, p, q in np.ndindex(dy.shape[:3]):
        dx[n, p * s : p * s + I, q * r : q * r + J] += dy[n, p, q] / (I * J)
    return dx


max_pool_forward = either(max_pool_forward_plain, kernels.max_pool_forward)
max_pool_backward = either(max_pool_backward_plain, kernels.max_pool_backward)
avg_pool_forward = either(avg_pool_forward_plain, kernels.avg_pool_forward)
avg_pool_backward = either(avg_pool_backward_plain, kernels.avg_pool_backward)


class _Pool2D(Layer):
    """What the four layers share.  `size` None: the window is the whole image, and y has no axes for P and Q."""

    size = stride = None
    keeps_output = False

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if len(input_shape) != 3:
            raise ValueError(f"{self.label}: expected images (N, H, W, C), got samples of shape {input_shape}")
        H, W, C = input_shape
        self._size = I, J = self.size or (H, W)
        self._stride = self.stride or self._size
        if I > H or J > W:
            hint = channels_first_hint(input_shape)
            raise ValueError(f"{self.label}: the window {self._size} is larger than the image ({H}, {W}){hint}")
        (P, Q), _ = output_size(self.label, input_shape, self._size, self._stride, "valid")
        self._pooled = P, Q, C
        self.output_shape = self._pooled if self.size else (C,)
        self.flops = P * Q * C * I * J
        return self.output_shape

    # What others ask of it.

    def ending(self, before):
        return before

    def torch_module(self, nn):
        local, whole = (getattr(nn, name) for name in self.torch_names)
        return local(self.size, self.stride) if self.size else {"": whole(1), "_flatten": nn.Flatten()}

    @property
    def window(self):
        """Its size and its stride."""
        return self._size, self._stride


class _Max(_Pool2D):
    torch_names = "MaxPool2d", "AdaptiveMaxPool2d"

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        y = np.empty((len(x), *self._pooled), x.dtype)
        I, J = self._size
        argmax = np.empty(y.shape, np.uint8 if I * J <= 256 else np.int32)
        max_pool_forward(x, self._size, self._stride, y, argmax)
        if training:
            self._argmax = argmax
        return y.reshape(len(x), *self.output_shape)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        argmax = self.kept("_argmax")
        dy = self.checked_gradient(dy, len(argmax))
        if not input_grad:
            return None
        dx = np.empty((len(dy), *self.input_shape), dy.dtype)
        max_pool_backward(dy.reshape(argmax.shape), argmax, self._size, self._stride, dx.shape, dx)
        return dx

    def formula(self):
        return "y = max of x over a window"

    def backward_formula(self):
        return "dx = sum of dy over the windows whose maximum x is"


class _Avg(_Pool2D):
    torch_names = "AvgPool2d", "AdaptiveAvgPool2d"

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        y = np.empty((len(x), *self._pooled), x.dtype)
        avg_pool_forward(x, self._size, self._stride, y)
        if training:
            self._batch = len(x)
        return y.reshape(len(x), *self.output_shape)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        batch = self.kept("_batch")
        dy = self.checked_gradient(dy, batch)
        if not input_grad:
            return None
        dx = np.empty((batch, *self.input_shape), dy.dtype)
        avg_pool_backward(dy.reshape(batch, *self._pooled), self._size, self._stride, dx.shape, dx)
        return dx

    def formula(self):
        return "y = mean of x over a window"

    def backward_formula(self):
        count = "window size" if self.output_shape is None else self._size[0] * self._size[1]
        return f"dx = sum of dy / {count} over the windows on x"


class MaxPool2D(_Max):
    """The maximum of each window: x (N, H, W, C) -> y (N, P, Q, C), for windows that are inside as a whole.

    size, stride: a whole number, or a pair (height, width); stride defaults to size.  Of equal numbers the first gets
    the gradient.

    Raises ValueError for inputs that are not images (N, H, W, C), and for windows larger than they are.

    >>> image = np.arange(8.0).reshape(1, 2, 4, 1)
    >>> tn.Sequential([tn.MaxPool2D(2)], (2, 4, 1)).forward(image).ravel()
    array([5., 7.], dtype=float32)
    """

    def __init__(self, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None):
        super().__init__()
        self.size = pair(size, "MaxPool2D: size")
        self.stride = self.size if stride is None else pair(stride, "MaxPool2D: stride")


class AvgPool2D(_Avg):
    """The mean of each window: x (N, H, W, C) -> y (N, P, Q, C), for windows that are inside as a whole.

    size, stride: a whole number, or a pair (height, width); stride defaults to size.  Raises ValueError as MaxPool2D.

    >>> image = np.arange(8.0).reshape(1, 2, 4, 1)
    >>> tn.Sequential([tn.AvgPool2D(2)], (2, 4, 1)).forward(image).ravel()
    array([2.5, 4.5], dtype=float32)
    """

    def __init__(self, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None):
        super().__init__()
        self.size = pair(size, "AvgPool2D: size")
        self.stride = self.size if stride is None else pair(stride, "AvgPool2D: stride")


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
