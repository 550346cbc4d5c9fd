"""BatchNorm: over a batch, every channel has mean 0 and variance 1; then a scale and a shift that are trained.

x, y (..., C): vectors (N, C), images (N, H, W, C), sequences (N, T, C).  A channel c has M = N, N H W or N T numbers
x[m,c] in a batch; w, b, mu, v (C,), and each formula below is about one channel, so its index is left out:

    mu   = 1/M sum_m x[m]                                      the mean
    v    = 1/M sum_m (x[m] - mu)^2                             the variance
    h[m] = r (x[m] - mu)             r = 1 / sqrt(v + eps)     normalised: "x-hat"; eps, a small number, keeps r
    z[m] = w h[m] + b                                          finite where all x[m] are alike
    y[m] = f(z[m])                                             an activation, or z[m] itself

So the layers behind get numbers of one size, whatever the weights before, and can be trained with larger steps.

Predicting, mu and v are exponential moving averages over the batches of the training, so that no other sample matters:

    running <- momentum running + (1 - momentum) batch

where a batch's v counts as v M / (M - 1): squared deviations from the mean of the very same M numbers are on average
too small by that factor (Bessel's correction).

Backward.  Ask of each number, the last one first: which numbers did it touch, and times what?

    z[m]  touched y[m], times f'(z[m]):               dz[m] = f'(z[m]) dy[m]
    b     touched z[m] of every m, times 1:           db    = sum_m dz[m]
    w     touched z[m] of every m, times h[m]:        dw    = sum_m dz[m] h[m]
    h[m]  touched z[m], times w:                      dh[m] = w dz[m]
    r     touched h[m] of every m, times x[m] - mu,   dr    = sum_m dh[m] (x[m] - mu) = w dw / r
          which is h[m] / r:
    v     touched r, times -1/2 (v + eps)^(-3/2):     dv    = -1/2 r^3 dr = -1/2 r^2 w dw
    mu    touched h[m] of every m, times -r,          dmu   = -r sum_m dh[m] = -r w db
          and v, times -2/M sum_m (x[m] - mu) = 0
    x[m]  touched h[m], times r,                      dx[m] = r dh[m] + 2/M (x[m] - mu) dv + dmu / M
          v, times 2/M (x[m] - mu), and mu, times 1/M       = w r (dz[m] - db / M - h[m] dw / M)

The last line says that dx is what remains of w r dz once its mean and its part along h are taken out: moving a whole
channel of x changes no z, and stretching it changes y through eps alone.

Backward is in two parts, since processes that train together may share a batch: each has some of its rows as x; mu, v
and M are of the whole batch (whole_moments), and between the two parts so become dw and db (whole_sums).

Frozen (trainable = False), it trains as it predicts: mu and v are the running ones, which stay.  They are constants, so
x[m,c] touched h[m,c] alone, times r[c], and dx[m,c] = w[c] r[c] dz[m,c].

Of sequences with lengths, the rows x[m] are those within them: padding enters no mean, and its y and dx are 0.

Source: Ioffe and Szegedy 2015, algorithms 1 and 2 and section 3.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import number
from tinynet.kernels import batchnorm as kernels
from tinynet.kernels.compile import either
from tinynet.layers import along_time
from tinynet.layers.activated import Activated, through_relu
from tinynet.layers.affine import Affine
from tinynet.layers.base import checked_eps

# In these functions x, dy, h and z are (M, C), and what belongs to a channel is (C,).  ReLU is the one activation that
# they know: its y is at least 0, and its dy passes where y is more.


def batchnorm_moments_plain(x):
    """The means mu, and M v, the sums of squared deviations."""
    mu = x.sum(axis=0, dtype=np.float64) / max(len(x), 1)  # no rows have the mean 0
    return mu, ((x - mu) ** 2).sum(axis=0)


def batchnorm_running_plain(running, batch, momentum, like):
    moved = momentum * running + (1 - momentum) * batch
    narrow = moved.astype(like.dtype)  # other frameworks have one dtype for all of a model: what that can hold is
    return np.where(np.isfinite(narrow), narrow, moved)  # rounded to it


def batchnorm_forward_plain(x, mu, v, w, b, eps, is_relu):
    r = 1 / np.sqrt(np.where(v < np.inf, v + eps, np.nan))  # infinity gives r = 0 and would hide in z = b: show NaN
    h = r * (x - mu)
    z = w * h + b
    return np.maximum(z, 0) if is_relu else z


def batchnorm_backward_plain(dy, x, mu, v, w, b, eps, is_relu):
    h = (x - mu) / np.sqrt(v + eps)
    dz = through_relu(dy, w * h + b, is_relu)
    return (dz * h).sum(axis=0), dz.sum(axis=0, dtype=np.float64)  # dw, db


def batchnorm_backward_input_plain(dy, x, mu, v, w, b, eps, is_relu, dw, db, M):
    r = 1 / np.sqrt(v + eps)
    h = r * (x - mu)
    dz = through_relu(dy, w * h + b, is_relu)
    return w * r * (dz - db / M - h * dw / M)  # dx


def batchnorm_chain_plain(dy, x, mu, v, w, eps):
    """The same dx, of a whole batch x, by the steps of the derivation; nothing calls it but a test that they agree."""
    M, r = len(x), 1 / np.sqrt(v + eps)
    dh = w * dy
    dr = (dh * (x - mu)).sum(axis=0)
    dv = -1 / 2 * r**3 * dr
    dmu = -r * dh.sum(axis=0)
    return r * dh + 2 / M * (x - mu) * dv + dmu / M


batchnorm_moments = either(batchnorm_moments_plain, kernels.batchnorm_moments)
batchnorm_running = either(batchnorm_running_plain, kernels.batchnorm_running)
batchnorm_forward = either(batchnorm_forward_plain, kernels.batchnorm_forward)
batchnorm_backward = either(batchnorm_backward_plain, kernels.batchnorm_backward)
batchnorm_backward_input = either(batchnorm_backward_input_plain, kernels.batchnorm_backward_input)


def _checked_momentum(layer, momentum):
    given, momentum = momentum, number(momentum, f"{layer.label}: momentum")
    if not 0 <= momentum <= 1:
        hint = "; no layer is told its channels" if isinstance(given, int) else ""
        raise ValueError(f"{layer.label}: momentum must lie between 0 and 1, got {given!r}{hint}")
    return momentum


class BatchNorm(Activated, Affine):
    """Every channel of a batch gets mean 0 and variance 1, then a scale and a shift that are trained.

    y = activation(w (x - mean) / sqrt(var + eps) + b), with mean and var over all axes but the last: (N, C),
    (N, H, W, C), (N, T, C).

    momentum    what stays of the running statistics at a step.  PyTorch's momentum is 1 - momentum; the defaults agree
                (its 0.1 is 0.9 here)
    eps         added to the variance, keeps the division finite where that is 0
    affine      False leaves out w and b
    activation  f, by its name in activations.py ("relu", "tanh", ...), or None

    Parameters "weight" (w, gamma in the paper; starts at 1) and "bias" (b, beta; starts at 0), both without weight
    decay.  Buffers "running_mean" (starts at 0) and "running_var" (at 1), in float64, since float32 may not hold the
    variance of float32 numbers: forward(x, training=True) moves them, forward(x) uses them in place of the batch's own.
    As in PyTorch, a NaN or an infinity in a channel makes NaN of the whole channel of y, and its running statistics are
    not finite from then on.  In training it keeps x.

    Raises ValueError in training for a batch of one number a channel, whose variance says nothing.

    >>> model = tn.Sequential([tn.BatchNorm()], input_shape=2)
    >>> model.forward([[1, 10], [3, 30]], training=True).round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> model.buffers()["0.running_mean"]  # a tenth of the way from 0 to the mean of this batch
    array([0.2, 2. ])
    """

    @property
    def keeps_output(self):
        return self._after is not None and self._after.keeps == "output"

    settable = MappingProxyType({**Affine.settable, "momentum": _checked_momentum, "eps": checked_eps})

    def __init__(
        self, momentum: float = 0.9, eps: float = 1e-5, affine: bool = True, activation: str | None = None
    ) -> None:
        super().__init__()
        self.momentum, self.eps, self.affine = momentum, eps, bool(affine)
        self._end_in(activation)

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if not input_shape:
            raise ValueError(f"{self.label}: expected samples with an axis of channels, got scalars")
        C = input_shape[-1]
        self._start_affine(C, self.affine, self.affine)
        self.buffers = {"running_mean": np.zeros(C), "running_var": np.ones(C)}
        self.flops = 3 * math.prod(input_shape)  # subtract, scale, add
        self._kept = None
        return input_shape

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x = self.checked(x)
        lengths, shape, C = self.checked_lengths(lengths, x), x.shape, x.shape[-1]
        rows = _rows_within(x, lengths)
        if not (training and self.trainable):
            mu, v = self.buffers._arrays["running_mean"], self.buffers._arrays["running_var"]
            if training:
                mu, v = mu.copy(), v.copy()
            return self._finished(rows, None, mu, v, lengths, shape, training)
        mu, squares = np.empty(C), np.empty(C)  # squares: the sums of squared deviations, M v
        batchnorm_moments(rows, mu, squares)
        M, mu, squares = self.whole_moments(len(rows), mu, squares)
        if M == 1:
            raise ValueError(f"{self.label}: training needs more than one number a channel, got input {shape}")
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows in y
            v = squares / max(M, 1)
            if M:
                for name, batch in (("running_mean", mu), ("running_var", squares / (M - 1))):
                    running = self.buffers._arrays[name]
                    batchnorm_running(running, batch, self.momentum, self._constants[0], running)
            return self._finished(rows, M, mu, v, lengths, shape, training)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        x, M, mu, v, kept, lengths, shape = self.kept("_kept")
        dy, (dw, db) = _rows_within(self.checked_gradient(dy, *shape[:2]), lengths), np.empty((2, mu.size))
        dz, _, is_relu = self._through_activation(dy, kept)  # a ReLU's is still dy
        with np.errstate(over="ignore", invalid="ignore"):
            batch = dz, x, mu, v, *self._affine(), self.eps, is_relu
            if M is not None or self.trains:
                batchnorm_backward(*batch, dw, db)
                self._set_gradients(dw, db)
            if not input_grad:
                return None
            # Frozen, mu and v are constants, through which nothing goes.
            dw, db, M = (np.zeros_like(mu), np.zeros_like(mu), 1) if M is None else (*self.whole_sums(dw, db), M)
            dx = np.empty_like(x)
            batchnorm_backward_input(*batch, dw, db, M, dx)
        return _in_place(dx, lengths, shape)

    def _finished(self, x, M, mu, v, lengths, shape, training):
        """y of the rows x; in training, what backward needs is kept: of a ReLU not y, which it makes of x again."""
        z = np.empty_like(x)
        batchnorm_forward(x, mu, v, *self._affine(), self.eps, self._is_relu, z)
        y, kept = self._activated(z)
        if training:
            self._kept = x.view(), M, mu, v, None if self._after is None else kept.view(), lengths, shape
        return _in_place(y, lengths, shape)

    def formula(self):
        scale, shift = ("w ", " + b") if self.affine else ("", "")
        y = f"{self.activation_name}({scale}h{shift})" if self.activation else f"{scale}h{shift}"
        return f"y = {y}, h = (x - mean) / sqrt(var + eps) by channel"

    def backward_formula(self):
        dz, first = ("dz", f"dz = {self.activation_name}'(z) dy, ") if self.activation else ("dy", "")
        own, scale = (f"dw = sum {dz} h, db = sum {dz}, ", "w ") if self.affine else ("", "")
        return f"{first}{own}dx = {scale}({dz} - mean({dz}) - h mean({dz} h)) / sqrt(var + eps)"

    # What others ask of it.

    of_batch = any_scale = True
    vector_order = "kept"
    of_time = "lengths"
    torch_names = "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"
    torch_axes = MappingProxyType(dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (0,)))
    torch_channels = "first"

    def as_it_predicts(self):
        self.trainable = False

    def onnx(self, graph, x):
        (w, b), (mu, v) = self._affine(), (self.buffers._arrays[f"running_{name}"] for name in ("mean", "var"))
        if x.layout == "first":
            z = x.map("BatchNormalization", w, b, mu, v, epsilon=self.eps)
        else:
            scale = w / np.sqrt(v + self.eps)
            z = x.map("Mul", scale).map("Add", b - mu * scale)
        return z if self.activation is None else self.activation.onnx(graph, z)

    def torch_module(self, nn):
        axes = len(self.input_shape)
        if axes > 4:
            return super().torch_module(nn)
        norm = {3: nn.BatchNorm2d, 4: nn.BatchNorm3d}.get(axes, nn.BatchNorm1d)
        return norm(self.input_shape[-1], self.eps, 1 - self.momentum, self.affine)

    def torch_options(self, module):
        stays = None if module.momentum is None else 1 - module.momentum
        if stays is not None and math.isclose(stays, self.momentum, abs_tol=1e-9):
            stays = self.momentum
        momentum, affine = ("momentum (1 - PyTorch's)", self.momentum, stays), ("affine", self.affine, module.affine)
        return [("eps", self.eps, module.eps), momentum, affine]


def _rows_within(x, lengths):
    """The rows (M, C) of x (..., C), of sequences (N, T, ..., C) those within their lengths."""
    return (x if lengths is None else along_time.within(x, lengths)).reshape(-1, x.shape[-1])


def _in_place(rows, lengths, shape):
    """Such rows where they were in x of this shape, and 0 behind the lengths."""
    return rows.reshape(shape) if lengths is None else along_time.in_place(rows.reshape(-1, *shape[2:]), lengths, shape)
