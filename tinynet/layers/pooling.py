"""Pooling: one number for each window of an image and each channel, its maximum or its mean.

    MaxPool2D   y[n,i,j,c] = max  over (a, b) of x[n, i sh + a, j sw + b, c]
    AvgPool2D   y[n,i,j,c] = mean over (a, b) of the same
    x (N, H, W, C)   y (N, OH, OW, C)   window (kh, kw), 0 <= a < kh, 0 <= b < kw   stride (sh, sw)
    OH = (H - kh) // sh + 1, OW likewise: a rest of the image too small for a window is left out
    GlobalMaxPool2D, GlobalAvgPool2D: the window is the whole image, y (N, C)

Backward.  x[n,h,w,c] touched y[n,i,j,c] of every window (i, j) that it lies in:

    max    times 1 where it won, else 0:    dx[n,h,w,c] = sum of dy[n,i,j,c] over the windows that it won
    mean   times 1 / (kh kw):               dx[n,h,w,c] = sum of dy[n,i,j,c] over its windows / (kh kw)

The forward pass of max keeps who won, as the number a kw + b in the window: one byte an output, where an index
into the image takes eight.  Of equal numbers the first wins.  A NaN wins over any number, the last one over all.

Sums of more than LONG numbers are in float64: the mean of a constant image of 1024 x 1024 would be wrong by 1 % in
float32, where at last each pixel is rounded to the sum's last digit.

The innermost loops run over the channels, which lie side by side.  A thread owns the rows or images that it writes.
The maximum of 2 x 2 is in pooling_2x2.py.
"""

import numpy as np

from tinynet.checks import pair
from tinynet.kernels.pooling import avg_pool_backward, avg_pool_forward, max_pool_backward, max_pool_forward
from tinynet.kernels.pooling_2x2 import max_pool_2x2_backward, max_pool_2x2_forward
from tinynet.layers.base import Layer
from tinynet.layers.padding import channels_first_hint


class _Pool2D(Layer):
    """What the four layers share.  `size` None: the window is the whole image, and y has no axes for OH and OW."""

    size = stride = None
    keeps_output = False

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if len(input_shape) != 3:
            raise ValueError(f"{self.label}: expected images (N, H, W, C), got samples of shape {input_shape}")
        H, W, C = input_shape
        self._size = kh, kw = self.size or (H, W)
        self._stride = sh, sw = self.stride or self._size
        if kh > H or kw > W:
            hint = channels_first_hint(input_shape)
            raise ValueError(f"{self.label}: the window {self._size} is larger than the image ({H}, {W}){hint}")
        self._pooled = OH, OW, C = (H - kh) // sh + 1, (W - kw) // sw + 1, C
        self.output_shape = self._pooled if self.size else (C,)
        self.flops = OH * OW * C * kh * kw
        return self.output_shape

    # What others ask of it.

    def ending(self, before):
        return before

    def torch_module(self, nn):
        local, whole = (getattr(nn, name) for name in self.torch_names)
        return local(self.size, self.stride) if self.size else {"": whole(1), "_flatten": nn.Flatten()}

    @property
    def window(self):
        return self._size, self._stride


class _Max(_Pool2D):
    torch_names = "MaxPool2d", "AdaptiveMaxPool2d"

    def forward(self, x, training=False):
        x = self.checked(x)
        kh, kw = self._size
        y = np.empty((len(x), *self._pooled), x.dtype)
        winner = np.empty(y.shape, np.uint8 if kh * kw <= 256 else np.int32)
        if (kh, kw) == (2, 2):
            max_pool_2x2_forward(x, self._stride, y, winner)
        else:
            max_pool_forward(x, self._size, self._stride, y, winner)
        if training:
            self._winner = winner
        return y.reshape(len(x), *self.output_shape)

    def backward(self, dy, input_grad=True):
        winner = self.kept("_winner")
        dy = self.checked_gradient(dy, len(winner))
        if not input_grad:
            return None
        dx = np.empty((len(dy), *self.input_shape), dy.dtype)
        if self._size == self._stride == (2, 2):
            max_pool_2x2_backward(dy.reshape(winner.shape), winner, dx)
        else:
            max_pool_backward(dy.reshape(winner.shape), winner, self._size, self._stride, dx)
        return dx

    def formula(self):
        return "y = max of x over a window"

    def backward_formula(self):
        return "dx = sum of dy over the windows that x won"


class _Avg(_Pool2D):
    torch_names = "AvgPool2d", "AdaptiveAvgPool2d"

    def forward(self, x, training=False):
        x = self.checked(x)
        y = np.empty((len(x), *self._pooled), x.dtype)
        avg_pool_forward(x, self._size, self._stride, y)
        if training:
            self._batch = len(x)
        return y.reshape(len(x), *self.output_shape)

    def backward(self, dy, input_grad=True):
        batch = self.kept("_batch")
        dy = self.checked_gradient(dy, batch)
        if not input_grad:
            return None
        dx = np.empty((batch, *self.input_shape), dy.dtype)
        avg_pool_backward(dy.reshape(batch, *self._pooled), self._size, self._stride, dx)
        return dx

    def formula(self):
        return "y = mean of x over a window"

    def backward_formula(self):
        count = "window size" if self.output_shape is None else self._size[0] * self._size[1]
        return f"dx = sum of dy / {count} over the windows on x"


class MaxPool2D(_Max):
    """The maximum of each window: x (N, H, W, C) -> y (N, P, Q, C), for windows that are inside as a whole.

    size, stride: a whole number, or a pair (height, width); stride defaults to size.  Of equal numbers the first wins.

    >>> image = np.arange(8.0).reshape(1, 2, 4, 1)
    >>> tn.Sequential([tn.MaxPool2D(2)], (2, 4, 1)).forward(image).ravel()
    array([5., 7.], dtype=float32)
    """

    def __init__(self, size, stride=None):
        super().__init__()
        self.size = pair(size, "MaxPool2D: size")
        self.stride = self.size if stride is None else pair(stride, "MaxPool2D: stride")


class AvgPool2D(_Avg):
    """The mean of each window: x (N, H, W, C) -> y (N, P, Q, C), for windows that are inside as a whole.

    size, stride: a whole number, or a pair (height, width); stride defaults to size.

    >>> image = np.arange(8.0).reshape(1, 2, 4, 1)
    >>> tn.Sequential([tn.AvgPool2D(2)], (2, 4, 1)).forward(image).ravel()
    array([2.5, 4.5], dtype=float32)
    """

    def __init__(self, size, stride=None):
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
