"""Dense: every output is a weighted sum of every input.

    y = f(x w + b)      z[n,o] = b[o] + sum_i x[n,i] w[i,o]      y = f(z), the activation
    x (N, I)   w (I, O)   b (O,)   z, y (N, O)

A sequence (T, I) or an image (H, W, I) has such a vector at each of its positions, and the same w and b for them all:
then x (N, T, I) is N T rows, each of which is an n in the formulas here, and y is (N, T, O).

Backward.  L is the loss, one number.  dw is short for dL/dw and has w's shape.  The chain rule says that

    dL/dw[i,o] = sum of dL/dz times dz/dw[i,o], over all z that w[i,o] enters

so ask of each number: which z did it touch, and times what?  Given dy, the activation's backward pass gives first
dz[n,o] = f'(z[n,o]) dy[n,o], number by number (f' the derivative of f: activations.py).

    w[i,o]  touched z[n,o] of every sample n, times x[n,i]:   dw[i,o] = sum_n x[n,i] dz[n,o]
    b[o]    touched z[n,o] of every sample n, times 1:        db[o]   = sum_n dz[n,o]
    x[n,i]  touched z[n,o] of every output o, times w[i,o]:   dx[n,i] = sum_o dz[n,o] w[i,o]

As matrices:  dw = x.T dz     db = column sums of dz     dx = dz w.T

Source: Rumelhart, Hinton and Williams 1986.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.kernels import dense as kernels
from tinynet.kernels.compile import either
from tinynet.layers.activated import Weighted, through_relu


def dense_forward_plain(x, w, b, floor):
    z = x @ w + b
    return np.maximum(z, floor)  # f: ReLU for floor 0, identity for -inf; other activations are applied afterwards


def dense_backward_plain(x, w, dz):
    return x.T @ dz, dz.sum(axis=0), dz @ w.T  # dw, db, dx


# either: the compiled kernel, or the plain loops, where NUMBA_DISABLE_JIT=1 asks for what a debugger can follow.  The
# backward kernel takes more than the plain loops: it makes a ReLU's dz itself, and leaves out dx if not input_grad, as
# for a model's first layer.  The lambda turns its arguments into theirs.
dense_forward = either(dense_forward_plain, kernels.dense_forward)
dense_backward = either(
    dense_backward_plain,
    kernels.dense_backward,
    lambda x, w, grad, y, is_relu, input_grad: (x, w, through_relu(grad, y, is_relu)),
)


def dense_backward_input(w, dz, dx):
    """dx = dz w.T alone, where w is frozen."""
    dense_forward(dz, np.ascontiguousarray(w.T), np.zeros(len(w), w.dtype), w.dtype.type(-np.inf), dx)


class Dense(Weighted):
    """Weighted sums, y = activation(x w + b): x (N, I) -> y (N, units), with w (I, units) and b (units,).

    Each of the `units` outputs has a weight for each of the I inputs, and a bias.  Of more axes it takes the last, at
    each position by itself: (N, T, I) -> (N, T, units).  To see all of an image at once, put a Flatten before it.

    units       how many outputs; I is what comes in
    activation  a bend of each sum, by its name in activations.py ("relu", "tanh", ...), or None
    bias        False leaves b out
    init        how w starts: None (at random, He's variance for ReLU-like activations, Glorot's otherwise:
                initialization.py), or a name or function as `initialization.initial_weights` takes it; b starts at 0

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=2)
    >>> model.flat_values[:] = 2, 3, 1  # w, then b
    >>> model.forward([[10, 100]])  # 2 * 10 + 3 * 100 + 1
    array([[321.]], dtype=float32)
    """

    def __init__(self, units: int, activation: str | None = None, bias: bool = True, init=None):
        self.units = positive_int(units, "Dense: units")
        super().__init__(activation, bias, init)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if not self.input_shape:
            raise ValueError(f"{self.label}: expected vectors, input shape (I,), got scalars; put a Flatten before it")
        I, O = self.input_shape[-1], self.units
        self._start_parameters((I, O), I, O, rng)
        self.flops = 2 * math.prod(self.input_shape) * O
        self.output_shape = (*self.input_shape[:-1], O)
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x, (w, b) = self.checked(x), self._values()
        rows = x if x.ndim == 2 else x.reshape(-1, len(w))
        z = np.empty((len(rows), self.units), self.dtype)
        dense_forward(rows, w, b, self._floor, z)
        y, kept = (z, None) if self.activation is None else self._activated(z)
        if training:
            self._keep(x, kept)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self.units)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        (x, kept), (w, _), (dw, db) = self.kept("_kept"), self._values(), self._gradients()
        shape = x.shape
        dy = self.checked_gradient(dy, len(x), shape[1] if len(shape) > 2 else None)
        if len(shape) > 2:
            x, dy = x.reshape(-1, len(w)), dy.reshape(-1, self.units)
        dx = np.empty_like(x) if input_grad else np.empty((0, 0), self.dtype)
        grad, y, is_relu = self._through_activation(dy, kept)  # grad is dz; a ReLU's is dy, and the kernel makes dz
        if self.trains:
            dense_backward(x, w, grad, y, is_relu, input_grad, dw, db, dx)
        elif input_grad:
            dense_backward_input(w, through_relu(grad, y, is_relu), dx)
        return dx.reshape(shape) if input_grad else None

    def formula(self):
        return self._formula_of("x w")

    def backward_formula(self):
        return self._backward_formula_of("x.T dz", "dz w.T")

    # What others ask of it.

    def linear(self):
        if self.activation is not None:
            return None
        return self.parameters[0]._value, self.parameters[1]._value if self.bias else None

    def linear_gradients(self):
        return self.parameters[0]._grad, self.parameters[1]._grad if self.bias else None

    vector_order = "mixed"
    of_time = "apart"
    torch_names = ("Linear",)
    torch_axes = MappingProxyType({"weight": (1, 0), "bias": (0,)})
    torch_channels = "last"

    def weight_images(self, shape):
        w = self.parameters[0].value
        return None if shape is None or math.prod(shape) != len(w) else w.T.reshape(-1, *shape)

    def torch_module(self, nn):
        return nn.Linear(self.input_shape[-1], self.units, self.bias)

    def onnx(self, graph, x):
        (w, b), (name, layout) = self._values(), x.rows()
        if x.axes == 2:
            z = graph.add("Gemm", name, w, b)
        else:
            z = graph.add("MatMul", name, w)
            z = graph.add("Add", z, b) if self.bias else z
        return self._onnx_activated(graph, z, layout)
