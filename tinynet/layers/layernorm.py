"""LayerNorm: every row of numbers has mean 0 and variance 1; then a scale and a shift that are trained.

x, y (..., C), where a row is what lies along the last axis; w, b (C,).  With h ("x-hat") the normalised row:

    mu[n]  = 1/C sum_c x[n,c]                    v[n] = 1/C sum_c (x[n,c] - mu[n])^2
    h[n,c] = r[n] (x[n,c] - mu[n])               r[n] = 1 / sqrt(v[n] + eps)
    y[n,c] = w[c] h[n,c] + b[c]

It is BatchNorm with the mean taken over the other axis: a row depends on no other row, so there is nothing to keep
running, and predicting is the same as training.

Backward.  Ask of each number, the last one first: which numbers did it touch, and times what?

    b[c]    touched y[n,c] of every row n, times 1:             db[c]   = sum_n dy[n,c]
    w[c]    touched y[n,c] of every row n, times h[n,c]:        dw[c]   = sum_n dy[n,c] h[n,c]
    h[n,c]  touched y[n,c], times w[c]:                         dh[n,c] = w[c] dy[n,c]
    r[n]    touched h[n,c] of every c, times x[n,c] - mu[n]:    dr[n]   = sum_c dh[n,c] (x[n,c] - mu[n])
    v[n]    touched r[n], times -1/2 (v[n] + eps)^(-3/2):       dv[n]   = -1/2 r[n]^3 dr[n]
    mu[n]   touched h[n,c] of every c, times -r[n],             dmu[n]  = -r[n] sum_c dh[n,c]
            and v[n], times -2/C sum_c (x[n,c] - mu[n]) = 0
    x[n,c]  touched h[n,c], times r[n],                         dx[n,c] = r[n] dh[n,c] + 2/C (x[n,c] - mu[n]) dv[n]
            v[n], times 2/C (x[n,c] - mu[n]),                             + dmu[n] / C
            and mu[n], times 1/C

Put in what dv and dmu are, with x[n,c] - mu[n] = h[n,c] / r[n] and means over the row n:

    dx[n,c] = r[n] (dh[n,c] - mean of dh - h[n,c] mean of dh h)

Source: Ba, Kiros and Hinton 2016, section 3.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels import layernorm as kernels
from tinynet.kernels.compile import either
from tinynet.layers.affine import Affine
from tinynet.layers.base import checked_eps


def layernorm_forward_plain(x, w, b, eps):
    N = len(x)
    mu, r, y = np.empty(N), np.empty(N), np.empty(x.shape)
    for n in range(N):
        mu[n] = x[n].mean(dtype=np.float64)
        v = ((x[n] - mu[n]) ** 2).mean()
        r[n] = 1 / math.sqrt(v + eps) if v < math.inf else math.nan  # r = 0 would hide in y = b: show NaN
        h = r[n] * (x[n] - mu[n])
        y[n] = w * h + b
    return mu, r, y


def layernorm_backward_plain(dy, x, w, mu, r):
    N, C = x.shape
    dw, db, dx = np.zeros(C), np.zeros(C), np.empty((N, C))
    for n in range(N):
        h = r[n] * (x[n] - mu[n])
        dw += dy[n] * h
        db += dy[n]
        dh = w * dy[n].astype(np.float64)
        dx[n] = r[n] * (dh - dh.mean() - h * (dh * h).mean())
    return dw, db, dx


layernorm_forward = either(layernorm_forward_plain, kernels.layernorm_forward)
layernorm_backward = either(layernorm_backward_plain, kernels.layernorm_backward)


class LayerNorm(Affine):
    """Every row of numbers gets mean 0 and variance 1, then a scale and a shift that are trained.

    y = w (x - mean) / sqrt(var + eps) + b, mean and var over the last axis: (N, C), (N, T, C), (N, H, W, C).

    eps     added to the variance, keeps the division finite where that is 0
    bias    False leaves b out
    affine  False leaves out both, w and b

    Parameters "weight" (w, starts at 1) and "bias" (b, starts at 0), both without weight decay.  A row with a NaN or an
    infinity gives NaN.  In training it keeps x, and two numbers a row.

    >>> tn.Sequential([tn.LayerNorm()], input_shape=2).forward([[1, 3], [10, 30]]).round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    keeps_output = False
    settable = MappingProxyType({**Affine.settable, "eps": checked_eps})

    def __init__(self, eps: float = 1e-5, bias: bool = True, affine: bool = True) -> None:
        super().__init__()
        self.eps, self.bias, self.affine = eps, bool(bias), bool(affine)

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if not input_shape:
            raise ValueError(f"{self.label}: expected samples with at least one axis to normalise over, got scalars")
        self._start_affine(input_shape[-1], self.affine, self.affine and self.bias)
        self.flops = 8 * math.prod(input_shape)  # 1 for the mean, 3 for the variance, 4 for y
        self._kept = None
        return input_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x, (w, b) = self.checked(x), self._affine()
        rows = x.reshape(-1, w.size)
        mu, r, y = np.empty(len(rows)), np.empty(len(rows)), np.empty_like(rows)
        layernorm_forward(rows, w, b, self.eps, mu, r, y)
        if training:
            self._kept = x.view(), mu, r
        return y.reshape(x.shape)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        (x, mu, r), (w, _) = self.kept("_kept"), self._affine()
        dy = self.checked_gradient(dy, *x.shape[:2])
        rows, (dw, db) = (-1, w.size), np.empty((2, w.size))
        dx = np.empty_like(x if input_grad else x[:0])
        layernorm_backward(dy.reshape(rows), x.reshape(rows), w, mu, r, dw, db, dx.reshape(rows))
        self._set_gradients(dw, db)
        return dx if input_grad else None

    def formula(self):
        return self._formula_of("(x - mean) / sqrt(var + eps) over the last axis")

    def backward_formula(self):
        dh = f"dh = {'w ' * self.affine}dy"
        return f"{self._gradients_of()}dx = (dh - mean(dh) - h mean(dh h)) / sqrt(var + eps), {dh}"

    # What others ask of it.

    vector_order = "kept"
    of_time = "apart"
    torch_names = ("LayerNorm",)
    torch_axes = MappingProxyType({"weight": (0,), "bias": (0,)})
    torch_channels = "last"

    def onnx(self, graph, x):
        name, layout = x.rows()
        y = graph.add("LayerNormalization", name, *self._affine(), axis=-1, epsilon=self.eps)
        return graph.value(y, x.axes, layout)

    def torch_module(self, nn):
        return nn.LayerNorm(self.input_shape[-1], self.eps, self.affine, self.bias)

    def torch_options(self, module):
        return [("eps", self.eps, module.eps), ("affine", self.affine, module.elementwise_affine)]
