"""Softmax: scores become probabilities.

    y[n,c] = exp(x[n,c]) / sum_k exp(x[n,k])        x, y (..., C), over the last axis

Stable form.  Subtracting m = max_k x[n,k] from all of them multiplies numerator and denominator by exp(-m): y stays, no
exp can overflow, and one of them is 1.

Backward.  With s = sum_k exp(x[n,k]), x[n,c] touched y[n,c] through its own exp, times exp(x[n,c]) / s = y[n,c],
and every y[n,k] through s, times -exp(x[n,k]) exp(x[n,c]) / s^2 = -y[n,k] y[n,c]:

    dx[n,c] = y[n,c] dy[n,c] - sum_k y[n,k] y[n,c] dy[n,k]
            = y[n,c] (dy[n,c] - sum_k y[n,k] dy[n,k])

The first line is dx = dy J, with the Jacobian of a row, J[k,c] = d y[k] / d x[c] = y[k] ([k = c] - y[c]), where [k = c]
is 1 if that is true, else 0.  It has C^2 numbers; in the second line one sum does the same.

To train a classifier, end the model in the logits instead: softmax_cross_entropy does both at once, and exactly.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels import softmax as kernels
from tinynet.kernels.compile import either
from tinynet.layers.base import Layer


def softmax_forward_plain(x):
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def softmax_backward_plain(dy, y):
    return y * (dy - (y * dy).sum(axis=-1, keepdims=True))


def softmax_jacobian(y):
    """J (C, C) of one row y (C,): dx = dy @ J."""
    return np.diag(y) - np.outer(y, y)


softmax_forward = either(softmax_forward_plain, kernels.softmax_forward)
softmax_backward = either(softmax_backward_plain, kernels.softmax_backward)


class Softmax(Layer):
    """y = exp(x) / sum exp(x) over the last axis; `axis` is there to say so, and can only be -1.

    A row with a NaN or +inf, or with nothing but -inf, gives NaN; a single -inf gives the probability 0.
    In training it keeps y.

    >>> tn.Sequential([tn.Softmax()], 2).forward([[0, np.log(3)]]).round(3)
    array([[0.25, 0.75]], dtype=float32)
    """

    def __init__(self, axis: int = -1):
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

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        y = np.empty_like(x)
        rows = (-1, x.shape[-1])
        softmax_forward(x.reshape(rows), y.reshape(rows))
        if training:
            self._y = y.view()
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        y = self.kept("_y")
        dy = self.checked_gradient(dy, *y.shape[:2])
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
    of_time = "apart"

    def ending(self, before):
        return "probabilities", self.label

    def onnx(self, graph, x):
        return x.map("Softmax", axis=x.channels())

    def torch_module(self, nn):
        return nn.Softmax(1 if len(self.output_shape) == 3 else -1)

    def torch_options(self, module):
        axes = len(self.output_shape) + 1
        theirs = getattr(module, "dim", -3)  # that of a Softmax2d
        theirs = int(axes != 3) if theirs is None else theirs % axes
        channels = {1} if axes in (2, 4) else {1, axes - 1}  # a sequence may have them first or last there
        ours = 1 if axes in (2, 4) else axes - 1
        return [("axis, in PyTorch's layout,", ours, ours if theirs in channels else theirs)]
