"""RMSNorm: every row of numbers has the mean square 1; then a scale that is trained.

x, y (..., C), where a row is what lies along the last axis; w (C,).  With h the normalised row:

    v[n]   = 1/C sum_c x[n,c]^2                r[n] = 1 / sqrt(v[n] + eps)
    h[n,c] = r[n] x[n,c]                       y[n,c] = w[c] h[n,c]

It is LayerNorm without the mean, since what helps, its authors found, is the scale.

Backward.  Ask of each number, the last one first: which numbers did it touch, and times what?

    w[c]    touched y[n,c] of every row n, times h[n,c]:     dw[c]   = sum_n dy[n,c] h[n,c]
    h[n,c]  touched y[n,c], times w[c]:                      dh[n,c] = w[c] dy[n,c]
    r[n]    touched h[n,c] of every c, times x[n,c]:         dr[n]   = sum_c dh[n,c] x[n,c]
    v[n]    touched r[n], times -1/2 (v[n] + eps)^(-3/2):    dv[n]   = -1/2 r[n]^3 dr[n]
    x[n,c]  touched h[n,c], times r[n],                      dx[n,c] = r[n] dh[n,c] + 2/C x[n,c] dv[n]
            and v[n], times 2/C x[n,c]

Put in what dv is, with x[n,c] = h[n,c] / r[n] and a mean over the row n:

    dx[n,c] = r[n] (dh[n,c] - h[n,c] mean of dh h)

Source: Zhang and Sennrich 2019.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.kernels import rmsnorm as kernels
from tinynet.kernels.compile import either
from tinynet.layers.affine import Affine
from tinynet.layers.base import checked_eps


def rmsnorm_forward_plain(x, w, eps):
    N = len(x)
    r, y = np.empty(N), np.empty(x.shape)
    for n in range(N):
        v = (x[n].astype(np.float64) ** 2).mean()
        r[n] = 1 / math.sqrt(v + eps) if v < math.inf else math.nan  # r = 0 would hide in y = 0: show NaN
        y[n] = w * (r[n] * x[n])
    return r, y


def rmsnorm_backward_plain(dy, x, w, r):
    N, C = x.shape
    dw, dx = np.zeros(C), np.empty((N, C))
    for n in range(N):
        h = r[n] * x[n]
        dw += dy[n] * h
        dh = w * dy[n].astype(np.float64)
        dx[n] = r[n] * (dh - h * (dh * h).mean())
    return dw, dx


rmsnorm_forward = either(rmsnorm_forward_plain, kernels.rmsnorm_forward)
rmsnorm_backward = either(rmsnorm_backward_plain, kernels.rmsnorm_backward)


class RMSNorm(Affine):
    """Every row of numbers gets the mean square 1, then a scale that is trained.

    y = w x / sqrt(mean of x^2 + eps), the mean over the last axis: (N, C), (N, T, C), (N, H, W, C).

    eps     added to the mean square, keeps the division finite where that is 0
    affine  False leaves w out

    Parameter "weight" (w, starts at 1), without weight decay.  A row with a NaN or an infinity gives NaN.  In training
    it keeps x, and a number a row.

    >>> tn.Sequential([tn.RMSNorm()], input_shape=2).forward([[1, 7], [10, 70]]).round(3)
    array([[0.2, 1.4],
           [0.2, 1.4]], dtype=float32)
    """

    keeps_output = False
    settable = MappingProxyType({**Affine.settable, "eps": checked_eps})

    def __init__(self, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.eps, self.affine = eps, bool(affine)

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if not input_shape:
            raise ValueError(f"{self.label}: expected samples with at least one axis to normalise over, got scalars")
        self._start_affine(input_shape[-1], self.affine, False)
        self.flops = 4 * math.prod(input_shape)  # 2 for the mean, 2 for y
        self._kept = None
        return input_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x, (w, _) = self.checked(x), self._affine()
        rows = x.reshape(-1, w.size)
        r, y = np.empty(len(rows)), np.empty_like(rows)
        rmsnorm_forward(rows, w, self.eps, r, y)
        if training:
            self._kept = x.view(), r
        return y.reshape(x.shape)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        (x, r), (w, b) = self.kept("_kept"), self._affine()
        dy = self.checked_gradient(dy, *x.shape[:2])
        rows, dw = (-1, w.size), np.empty(w.size)
        dx = np.empty_like(x if input_grad else x[:0])
        rmsnorm_backward(dy.reshape(rows), x.reshape(rows), w, r, dw, dx.reshape(rows))
        self._set_gradients(dw, b)
        return dx if input_grad else None

    def formula(self):
        return self._formula_of("x / sqrt(mean of x^2 + eps) over the last axis")

    def backward_formula(self):
        return f"{self._gradients_of()}dx = (dh - h mean(dh h)) / sqrt(mean of x^2 + eps), dh = {'w ' * self.affine}dy"

    # What others ask of it.

    vector_order = "kept"
    of_time = "apart"
    torch_names = ("RMSNorm",)
    torch_axes = MappingProxyType({"weight": (0,)})
    torch_channels = "last"

    def onnx(self, graph, x):
        name, layout = x.rows()
        square = graph.add("ReduceMean", graph.add("Mul", name, name), [-1])
        root = graph.add("Sqrt", graph.add("Add", square, np.array(self.eps)))
        return graph.value(graph.add("Mul", graph.add("Div", name, root), self._affine()[0]), x.axes, layout)

    def torch_module(self, nn):
        return nn.RMSNorm(self.input_shape[-1], self.eps, self.affine)

    def torch_options(self, module):
        theirs = np.finfo(self.dtype).eps if module.eps is None else module.eps
        return [("eps", self.eps, theirs), ("affine", self.affine, module.elementwise_affine)]
