"""GroupNorm: in every sample, each group of channels has mean 0 and variance 1; then a scale and a shift, trained.

x, y (N, ..., C), channels last: (N, S, C) with S positions, the pixels of an image or the steps of a sequence.  The C
channels are cut into G groups of C / G that lie side by side; channel c is in group g = c G // C; w, b (C,).  With h
("x-hat") the normalised sample, and sum_(s,c) over the M = S C / G numbers of sample n in group g:

    mu[n,g]  = 1/M sum_(s,c) x[n,s,c]                 v[n,g] = 1/M sum_(s,c) (x[n,s,c] - mu[n,g])^2
    h[n,s,c] = r[n,g] (x[n,s,c] - mu[n,g])            r[n,g] = 1 / sqrt(v[n,g] + eps)
    y[n,s,c] = w[c] h[n,s,c] + b[c]

A sample depends on no other one: there is nothing to keep running, predicting is the same as training, and a batch may
be small, which is what it was made for.  With one group it normalises a whole sample, with C groups each channel of it.

Backward.  Ask of each number, the last one first: which numbers did it touch, and times what?

    b[c]      touched y[n,s,c] of all n and s, times 1:           db[c]     = sum_n sum_s dy[n,s,c]
    w[c]      touched y[n,s,c] of all n and s, times h[n,s,c]:    dw[c]     = sum_n sum_s dy[n,s,c] h[n,s,c]
    h[n,s,c]  touched y[n,s,c], times w[c]:                       dh[n,s,c] = w[c] dy[n,s,c]
    r[n,g]    touched h[n,s,c] of its group, times x - mu:        dr[n,g]   = sum_(s,c) dh[n,s,c] (x[n,s,c] - mu[n,g])
    v[n,g]    touched r[n,g], times -1/2 (v[n,g] + eps)^(-3/2):   dv[n,g]   = -1/2 r[n,g]^3 dr[n,g]
    mu[n,g]   touched h[n,s,c] of its group, times -r[n,g],       dmu[n,g]  = -r[n,g] sum_(s,c) dh[n,s,c]
              and v[n,g], times -2/M sum_(s,c) (x - mu) = 0
    x[n,s,c]  touched h[n,s,c], times r[n,g],                     dx[n,s,c] = r[n,g] dh[n,s,c] + dmu[n,g] / M
              v[n,g], times 2/M (x[n,s,c] - mu[n,g]),                         + 2/M (x[n,s,c] - mu[n,g]) dv[n,g]
              and mu[n,g], times 1/M

Put in what dv and dmu are, with x[n,s,c] - mu[n,g] = h[n,s,c] / r[n,g] and means over the group:

    dx[n,s,c] = r[n,g] (dh[n,s,c] - mean of dh - h[n,s,c] mean of dh h)

Of sequences with lengths, a sample has as many positions as count in it, S[n], and M[n] = S[n] C / G: padding enters no
mean, and its y and dx are 0, as are those of a sample without any.

Source: Wu and He 2018, equations 1 to 7.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.kernels import groupnorm as kernels
from tinynet.kernels.compile import either
from tinynet.layers.affine import Affine
from tinynet.layers.base import checked_eps


def groupnorm_forward_plain(x, S, w, b, G, eps):
    N, C = len(x), w.size
    mu, r, y = np.zeros((N, G)), np.zeros((N, G)), np.zeros(x.shape)
    for n, g in np.ndindex(N, G):
        group = slice(S[n]), slice(g * C // G, (g + 1) * C // G)  # its positions and channels
        if S[n] > 0:
            mu[n, g] = x[n][group].mean(dtype=np.float64)
            v = ((x[n][group] - mu[n, g]) ** 2).mean()
            r[n, g] = 1 / math.sqrt(v + eps) if v < math.inf else math.nan  # r = 0 would hide in y = b: show NaN
            h = r[n, g] * (x[n][group] - mu[n, g])
            y[n][group] = w[group[1]] * h + b[group[1]]
    return mu, r, y


def groupnorm_backward_plain(dy, x, S, w, mu, r):
    N, C, G = len(x), w.size, mu.shape[1]
    dw, db, dx = np.zeros(C), np.zeros(C), np.zeros(x.shape)
    for n, g in np.ndindex(N, G):
        group = slice(S[n]), slice(g * C // G, (g + 1) * C // G)  # its positions and channels
        if S[n] > 0:
            h = r[n, g] * (x[n][group] - mu[n, g])
            dw[group[1]] += (dy[n][group] * h).sum(axis=0)
            db[group[1]] += dy[n][group].sum(axis=0, dtype=np.float64)
            dh = w[group[1]] * dy[n][group].astype(np.float64)
            dx[n][group] = r[n, g] * (dh - dh.mean() - h * (dh * h).mean())
    return dw, db, dx


groupnorm_forward = either(groupnorm_forward_plain, kernels.groupnorm_forward)
groupnorm_backward = either(groupnorm_backward_plain, kernels.groupnorm_backward)


class GroupNorm(Affine):
    """Every group of a sample's channels gets mean 0 and variance 1, then a scale and a shift that are trained.

    y = w (x - mean) / sqrt(var + eps) + b, mean and var over a sample's group of channels: (N, ..., C).

    groups  into how many groups the channels are cut; it must divide their number
    eps     added to the variance, keeps the division finite where that is 0
    affine  False leaves out w and b

    Parameters "weight" (w, starts at 1) and "bias" (b, starts at 0), (C,), both without weight decay.  A group with a
    NaN or an infinity gives NaN.  In training it keeps x, and two numbers a group.

    Raises ValueError when it is built for channels that `groups` does not divide.

    >>> tn.Sequential([tn.GroupNorm(2)], input_shape=4).forward([[1, 3, 10, 30]]).round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    keeps_output = False
    settable = MappingProxyType({**Affine.settable, "eps": checked_eps})

    def __init__(self, groups: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.affine = bool(affine)
        self.groups, self.eps = positive_int(groups, "GroupNorm: groups"), eps

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        C = input_shape[-1] if input_shape else 0
        if C == 0 or C % self.groups:
            given = f"{C} channels" if C else "scalars"
            raise ValueError(f"{self.label}: expected channels that {self.groups} groups divide, got {given}")
        self._start_affine(C, self.affine, self.affine)
        self.flops = 8 * math.prod(input_shape)  # 1 for the mean, 3 for the variance, 4 for y
        self._kept = None
        return input_shape

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x = self.checked(x)
        if state is not None and len(x.shape) > 2:
            raise ValueError(f"{self.label}: its mean is over a whole sequence, so it can't go on from a state")
        lengths, positions = self.checked_lengths(lengths, x), self._positions(x)
        S = np.full(len(x), positions[1]) if lengths is None else lengths * math.prod(x.shape[2:-1])
        w, b = self._affine()
        mu, r = np.empty((2, len(x), self.groups))
        y = np.empty_like(x)
        groupnorm_forward(x.reshape(positions), S, w, b, self.groups, self.eps, mu, r, y.reshape(positions))
        if training:
            self._kept = x.view(), S, mu, r
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        x, S, mu, r = self.kept("_kept")
        dy = self.checked_gradient(dy, *x.shape[:2])
        w, positions = self._affine()[0], self._positions(x)
        dw, db = np.empty((2, w.size))
        dx = np.empty(positions if input_grad else (0, 0, 0), x.dtype)
        groupnorm_backward(dy.reshape(positions), x.reshape(positions), S, w, mu, r, dw, db, dx)
        self._set_gradients(dw, db)
        return dx.reshape(x.shape) if input_grad else None

    def _positions(self, x):
        """The shape (N, S, C)."""
        return len(x), math.prod(x.shape[1:-1]), x.shape[-1]

    def formula(self):
        by = f"by sample and each of {self.groups} groups of channels"
        return self._formula_of(f"(x - mean) / sqrt(var + eps) {by}")

    def backward_formula(self):
        dh = f"dh = {'w ' * self.affine}dy"
        return f"{self._gradients_of()}dx = (dh - mean(dh) - h mean(dh h)) / sqrt(var + eps), {dh}"

    # What others ask of it.

    of_time = "lengths"
    torch_names = ("GroupNorm",)
    torch_axes = MappingProxyType({"weight": (0,), "bias": (0,)})
    torch_channels = "first"

    def onnx(self, graph, x):
        if x.lengths is not None:
            raise ValueError(f"to_onnx: {self.label} has a mean over whole sequences there, and can't mind lengths")
        groups = graph.add("Reshape", x.first(), [0, self.groups, -1])
        h = graph.add("InstanceNormalization", groups, *np.eye(2)[:, :1].repeat(self.groups, 1), epsilon=self.eps)
        h = graph.value(graph.add("Reshape", h, graph.add("Shape", x.first())), x.axes, "first")
        w, b = (array.reshape(-1, *(1,) * (x.axes - 2)) for array in self._affine())
        return h.map("Mul", w).map("Add", b) if self.affine else h

    def torch_module(self, nn):
        return nn.GroupNorm(self.groups, self.input_shape[-1], self.eps, self.affine)

    def torch_options(self, module):
        affine = ("affine", self.affine, module.affine)
        return [("groups", self.groups, module.num_groups), ("eps", self.eps, module.eps), affine]
