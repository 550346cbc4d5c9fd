"""Upsample2D: images that are larger, each pixel a block of pixels ("nearest neighbour").

    y[n,h,g,c] = x[n, h // s, g // r, c]        x (N, H, W, C)   y (N, s H, r W, C)   factor (s, r)

Backward.  x[n,p,q,c] touched the s r pixels of its block, each times 1:

    dx[n,p,q,c] = sum_a sum_b dy[n, p s + a, q r + b, c]        a < s, b < r
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange
from numpy.typing import ArrayLike

from tinynet.checks import pair
from tinynet.kernels.compile import sized_kernel
from tinynet.layers.base import Layer

THREADS_FROM = 32768  # numbers from which two threads beat one


@sized_kernel(THREADS_FROM)
def upsample_forward(x, factor, y):
    _, W, C = x.shape[1:]
    s, r = factor
    H = y.shape[1]
    for row in prange(y.shape[0] * H):  # a thread owns a row of y
        n, h = row // H, row % H
        for q in range(W):
            for b in range(r):
                for c in range(C):
                    y[n, h, q * r + b, c] = x[n, h // s, q, c]


@sized_kernel(THREADS_FROM, of=0)
def upsample_backward(dy, factor, dx):
    _, W, C = dx.shape[1:]
    s, r = factor
    H = dx.shape[1]
    for row in prange(dx.shape[0] * H):  # a thread owns a row of dx
        n, p = row // H, row % H
        for q in range(W):
            for c in range(C):
                dx[n, p, q, c] = 0
            for a in range(s):
                for b in range(r):
                    for c in range(C):
                        dx[n, p, q, c] += dy[n, p * s + a, q * r + b, c]


class Upsample2D(Layer):
    """Each pixel as a block of `factor` rows and columns: x (N, H, W, C) -> y (N, factor H, factor W, C).

    factor: a whole number, or a pair (height, width).

    >>> tn.Sequential([tn.Upsample2D(2)], (1, 2, 1)).forward([[[[1], [2]]]])[0, :, :, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.]], dtype=float32)
    """

    keeps_output = False

    def __init__(self, factor: int | tuple[int, int]):
        super().__init__()
        self.factor = pair(factor, "Upsample2D: factor")

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if len(input_shape) != 3:
            raise ValueError(f"{self.label}: expected images (N, H, W, C), got samples of shape {input_shape}")
        (H, W, C), (s, r) = input_shape, self.factor
        self.output_shape = s * H, r * W, C
        self.flops = math.prod(self.output_shape)
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        y = np.empty((len(x), *self.output_shape), x.dtype)
        upsample_forward(x, self.factor, y)
        if training:
            self._batch = len(x)
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        dy = self.checked_gradient(dy, self.kept("_batch"))
        if not input_grad:
            return None
        dx = np.empty((len(dy), *self.input_shape), dy.dtype)
        upsample_backward(dy, self.factor, dx)
        return dx

    def formula(self):
        return "y = x, each pixel as a block"

    def backward_formula(self):
        return "dx = sum of dy over a block"

    # What others ask of it.

    torch_names = ("Upsample", "UpsamplingNearest2d")

    def ending(self, before):
        return before

    def torch_module(self, nn):
        return nn.Upsample(scale_factor=tuple(map(float, self.factor)), mode="nearest")

    def torch_options(self, module):
        factor = module.scale_factor
        factor = factor if isinstance(factor, tuple) else (factor, factor)
        return [("factor", self.factor, factor), ("mode", "nearest", module.mode)]

    def onnx(self, graph, x):
        scales, options = np.array([1.0, 1, *self.factor]), {"coordinate_transformation_mode": "asymmetric"}
        y = graph.add("Resize", x.first(), "", scales, mode="nearest", nearest_mode="floor", **options)
        return graph.value(y, 4, "first")
