"""Softmax: scores become probabilities.

    y[n,c] = exp(x[n,c]) / sum_k exp(x[n,k])        x, y (..., C), over the last axis

Stable form.  The same with every x[n,k] less their maximum: no exp can overflow, and one of them is 1.

Backward.  With s = sum_k exp(x[n,k]), x[n,c] touched y[n,c] through its own exp, times exp(x[n,c]) / s = y[n,c],
and every y[n,k] through s, times -exp(x[n,k]) exp(x[n,c]) / s^2 = -y[n,k] y[n,c]:

    dx[n,c] = y[n,c] dy[n,c] - sum_k y[n,k] y[n,c] dy[n,k]
            = y[n,c] (dy[n,c] - sum_k y[n,k] dy[n,k])

The (C, C) Jacobian of a row would have C^2 numbers; what it does to dy needs one sum.

To train a classifier, end the model in the logits instead: softmax_cross_entropy does both at once, and exactly.
"""

import math

import numpy as np
from numba import prange

from tinynet.kernels import floats
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.layers.base import Layer

THREADS_FROM = 4096  # elements from which two threads beat one


# The sum has a loop that writes nothing: a row has the same bits in any batch, on one thread or on several.  In a loop
# that also writes, LLVM first asks whether x and y overlap, takes numbers one by one if it can't tell, and adds in that
# order; on one row, that depended on whether y lay right behind x.


@kernel(fast=True)
def softmax_row(x, y):
    highest = floats.lowest_key(x[0])
    for c in range(x.size):
        highest = max(highest, floats.order_key(x[c]))
    m = floats.from_order_key(highest)
    s = 0.0  # in float64: a float32 sum of 100,000 probabilities would lose three digits
    for c in range(x.size):
        y[c] = floats.exp(x[c] - m)  # a NaN comes through here, though the maximum may have missed it
    for c in range(x.size):
        s += y[c]
    scale = x.dtype.type(1.0 / s)
    for c in range(x.size):
        y[c] *= scale


@kernel(fast=True)
def softmax_row_backward(dy, y, dx):
    dot = 0.0
    for c in range(y.size):
        dot += y[c] * dy[c]
    dot = y.dtype.type(dot)
    for c in range(y.size):
        dx[c] = y[c] * (dy[c] - dot)


@sized_kernel(THREADS_FROM)
def softmax_forward(x, y):
    for n in prange(x.shape[0]):
        softmax_row(x[n], y[n])


@sized_kernel(THREADS_FROM)
def softmax_backward(dy, y, dx):
    for n in prange(y.shape[0]):
        softmax_row_backward(dy[n], y[n], dx[n])


class Softmax(Layer):
    """y = exp(x) / sum exp(x) over the last axis; `axis` is there to say so, and can only be -1.

    A row with a NaN or +inf, or with nothing but -inf, gives NaN; a single -inf gives the probability 0.
    In training it keeps y.

    >>> tn.Sequential([tn.Softmax()], 2).forward([[0, np.log(3)]]).round(3)
    array([[0.25, 0.75]], dtype=float32)
    """

    def __init__(self, axis=-1):
        super().__init__()
        if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or axis != -1:
            raise ValueError(
                f"Softmax: it is over the last axis, axis=-1, got axis={axis!r}; leave it out where that is the "
                f"last, as axis 1 of (N, C) is, or else move it there: np.moveaxis(x, {axis}, -1)"
            )

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if not input_shape:
            raise ValueError(f"{self.label}: expected samples with at least one axis to sum over, got scalars")
        self.flops = 4 * math.prod(input_shape)  # subtract, exponentiate, add, scale
        return input_shape

    def forward(self, x, training=False):
        x = self.checked(x)
        y = np.empty_like(x)
        rows = (-1, x.shape[-1])
        softmax_forward(x.reshape(rows), y.reshape(rows))
        if training:
            self._y = y.view()
        return y

    def backward(self, dy, input_grad=True):
        y = self.kept("_y")
        dy = self.checked_gradient(dy, len(y))
        if not input_grad:
            return None
        dx = np.empty_like(dy)
        rows = (-1, y.shape[-1])
        softmax_backward(dy.reshape(rows), y.reshape(rows), dx.reshape(rows))
        return dx

    def formula(self):
        return "y = exp(x) / sum(exp(x)) over the last axis"

    def backward_formula(self):
        return "dx = y (dy - sum(y dy)) over the last axis"

    # What others ask of it.

    vector_order, torch_names = "kept", ("Softmax", "Softmax2d")

    def ending(self, before):
        return "probabilities", self.label

    def torch_module(self, nn):
        return nn.Softmax(1 if len(self.output_shape) == 3 else -1)

    def torch_options(self, module):
        axes = len(self.output_shape) + 1
        theirs = getattr(module, "dim", -3)  # that of a Softmax2d
        theirs = int(axes != 3) if theirs is None else theirs % axes
        channels = {1} if axes in (2, 4) else {1, axes - 1}  # a sequence may have them first or last there
        ours = 1 if axes in (2, 4) else axes - 1
        return [("axis, in PyTorch's layout,", ours, ours if theirs in channels else theirs)]
