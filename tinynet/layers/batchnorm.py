"""BatchNorm: over a batch, every channel has mean 0 and variance 1; then a scale and a shift that are trained.

x, y (..., C): vectors (N, C), images (N, H, W, C), sequences (N, T, C).  A channel c has M = N, N H W or N T numbers
x[m,c] in a batch; w, b, mu, v (C,), and each formula below is about one channel, so its index is left out:

    mu   = 1/M sum_m x[m]                                      the mean
    v    = 1/M sum_m (x[m] - mu)^2                             the variance
    h[m] = r (x[m] - mu)             r = 1 / sqrt(v + eps)     normalised: "x-hat"
    y[m] = w h[m] + b

Predicting, mu and v are running averages of what training saw, so that a sample's y depends on no other sample:

    running <- momentum running + (1 - momentum) batch         with v M / (M - 1), which is right on average, for v

Backward.  Ask of each number, the last one first: which numbers did it touch, and times what?

    b     touched y[m] of every m, times 1:           db    = sum_m dy[m]
    w     touched y[m] of every m, times h[m]:        dw    = sum_m dy[m] h[m]
    h[m]  touched y[m], times w:                      dh[m] = w dy[m]
    r     touched h[m] of every m, times x[m] - mu:   dr    = sum_m dh[m] (x[m] - mu) = w dw / r
    v     touched r, times -1/2 (v + eps)^(-3/2):     dv    = -r^3/2 dr = -r^2 w dw / 2
    mu    touched h[m] of every m, times -r,          dmu   = -r sum_m dh[m] = -r w db
          and v, times -2/M sum_m (x[m] - mu) = 0
    x[m]  touched h[m], times r,                      dx[m] = r dh[m] + 2/M (x[m] - mu) dv + dmu / M
          v, times 2/M (x[m] - mu), and mu, times 1/M       = w r (dy[m] - db / M - h[m] dw / M)

The last line says that dx is what remains of dy once its mean and its part along h are taken out: moving or
stretching a whole channel of x changes no y.

Numerics.  sum x^2 / M - mu^2 would lose everything where mu is much larger than the deviation (in float32, from a mean
of 3000 deviations on).  So a chunk of rows sums d = x - p and d^2 in float64, with p its first row: as p is one of the
numbers, at most a factor of their count is lost of float64's 16 digits.  Chunks then merge (Chan et al. 1983): for
a and b with counts n, means mu and sums of squared deviations S,

    n = na + nb     mu = mua + (mub - mua) nb / n     S = Sa + Sb + (mub - mua)^2 na nb / n

The running statistics are in float64: float32 numbers of 1e20 have a variance of 1e40, which in float32 would be
infinite, and all predictions b.  What the model's dtype can hold is rounded to it, so that another framework, which has
one dtype for all of a model, can take it and give it back.

The shares of a batch that several machines hold merge in the same way, in the order of their ranks: then mu and v are
the whole batch's, and so must be M, db and dw in the last line of the backward pass.

Sources: Ioffe and Szegedy 2015, algorithms 1 and 2 and section 3; Chan, Golub and LeVeque 1983, equation 2.1.
"""

import math
from types import MappingProxyType

import numpy as np

from tinynet.checks import number
from tinynet.kernels import memory
from tinynet.kernels.batchnorm import (
    batchnorm_backward_input,
    batchnorm_forward,
    batchnorm_gradient_sums,
    batchnorm_moments,
    merge_moments,
    row_width,
)
from tinynet.kernels.compile import chunk_count
from tinynet.layers.base import Layer, checked_eps
from tinynet.layers.parameter import Parameter


def _checked_momentum(layer, momentum):
    given, momentum = momentum, number(momentum, f"{layer.label}: momentum")
    if not 0 <= momentum <= 1:
        raise ValueError(f"{layer.label}: momentum must lie between 0 and 1, got {given!r}")
    return momentum


def _checked_communicator(layer, communicator):
    needed = ("Get_size", "Allgather", "Allreduce")
    if communicator is not None and not all(callable(getattr(communicator, name, None)) for name in needed):
        raise TypeError(f"{layer.label}: communicator must be one of mpi4py's or None, got {communicator!r}")
    return communicator


class BatchNorm(Layer):
    """y = w (x - mean) / sqrt(var + eps) + b, over all axes but the last: (N, C), (N, H, W, C), (N, T, C).

    momentum  what stays of the running statistics at a step, 0.9: running = 0.9 running + 0.1 batch.  PyTorch calls
              the other part so: its momentum is 1 - this one, and its default, 0.1, is the same as here
    eps       added to the variance, which may be 0

    Parameters "weight" (w, gamma in the paper; starts at 1) and "bias" (b, beta; starts at 0), both without weight
    decay.  Buffers "running_mean" (starts at 0) and "running_var" (at 1), in float64: forward(x, training=True) moves
    them, forward(x) uses them in place of the batch's own.  As in PyTorch, a NaN or an infinity in a channel makes NaN
    of the whole channel of y, and its running statistics are not finite from then on.  In training it keeps x.

    Where `communicator` is set, to one of mpi4py, its ranks hold shares of one batch, and training takes the statistics
    of all of them: then every rank must call forward and backward, with an empty share too.

    Raises ValueError in training for a batch of one number a channel, whose variance says nothing.

    >>> model = tn.Sequential([tn.BatchNorm()], input_shape=2)
    >>> model.forward([[1, 10], [3, 30]], training=True).round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> model.buffers()["0.running_mean"]  # a tenth of the way from 0 to the mean of this batch
    array([0.2, 2. ])
    """

    keeps_output = False
    communicator = None
    settable = MappingProxyType(
        {
            **Layer.settable,
            "momentum": _checked_momentum,
            "eps": checked_eps,
            "communicator": _checked_communicator,
        }
    )

    def __init__(self, momentum=0.9, eps=1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if not input_shape:
            raise ValueError(f"{self.label}: expected samples with an axis of channels, got scalars")
        C = input_shape[-1]
        self.parameters = [
            Parameter("weight", np.ones(C, self.dtype), decay=False),
            Parameter("bias", np.zeros(C, self.dtype), decay=False),
        ]
        self.buffers = {"running_mean": np.zeros(C), "running_var": np.ones(C)}
        self.flops = 3 * math.prod(input_shape)  # subtract, scale, add
        self._kept = None
        return input_shape

    def forward(self, x, training=False):
        x = self.checked(x)
        if not training:
            running = self.buffers._arrays
            return self._normalized(x, running["running_mean"], running["running_var"])
        count, mean, squares = self._moments(x)
        if self.communicator is not None:
            count, mean, squares = self._moments_of_all(count, mean, squares)
        if count == 1:
            raise ValueError(f"{self.label}: training needs more than one number a channel, got input {x.shape}")
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows in y
            var = squares / max(count, 1)
            y = self._normalized(x, mean, var)
            if count:
                for name, batch in (("running_mean", mean), ("running_var", squares / (count - 1))):
                    running = self.buffers._arrays[name]
                    running[...] = self.momentum * running + (1 - self.momentum) * batch
                    narrow = running.astype(self.dtype)
                    np.copyto(running, narrow, where=np.isfinite(narrow))
        self._kept = x.view(), count, mean, var
        return y

    def backward(self, dy, input_grad=True):
        x, count, mean, var = self.kept("_kept")
        dy = self.checked_gradient(dy, len(x))
        w, r = self.parameters[0]._value, 1 / np.sqrt(var + self.eps)
        sums = self._gradient_sums(dy, x, mean)
        with np.errstate(over="ignore", invalid="ignore"):
            self.parameters[0]._grad[...] = r * sums[1]
            self.parameters[1]._grad[...] = sums[0]
            if not input_grad:
                return None
            if self.communicator is not None:  # dw and db stay sums over this share, as other layers' gradients are
                share, sums = sums, np.empty_like(sums)
                self.communicator.Allreduce(share, sums)
            offset, slope = sums / max(count, 1)
            dx = np.empty_like(x)
            batchnorm_backward_input(dy, x, *_widened(mean, w * r, offset, r * r * slope), dx)
        return dx

    def formula(self):
        return "y = w h + b, h = (x - mean) / sqrt(var + eps) by channel"

    def backward_formula(self):
        return "dw = sum dy h, db = sum dy, dx = w (dy - mean(dy) - h mean(dy h)) / sqrt(var + eps)"

    def _moments(self, x):
        """How many numbers a channel has, their means and their sums of squared deviations."""
        C = x.shape[-1]
        x = x.reshape(-1, C)
        K = chunk_count(len(x), max(32, 8192 // C))
        counts, means, squares, mean, total = np.empty(K), np.empty((K, C)), np.empty((K, C)), np.empty(C), np.empty(C)
        batchnorm_moments(x, row_width(C), counts, means, squares)
        return merge_moments(counts, means, squares, mean, total), mean, total

    def _moments_of_all(self, count, mean, squares):
        """The same of the whole batch, from those of this rank's share."""
        C, mine = mean.size, np.concatenate([[count], mean, squares])
        found = np.empty((self.communicator.Get_size(), mine.size))
        self.communicator.Allgather(mine, found)
        counts, means, squares = (part.copy() for part in np.split(found, [1, C + 1], axis=1))
        counts, mean, total = counts.ravel(), np.empty(C), np.empty(C)
        return merge_moments(counts, means, squares, mean, total), mean, total

    def _normalized(self, x, mean, var):
        w, b = (parameter._value for parameter in self.parameters)
        y = np.empty_like(x)
        deviation = np.sqrt(np.where(var < np.inf, var + self.eps, np.nan))  # by infinity, all y would be b
        batchnorm_forward(x, *_widened(mean, w / deviation, b), y)
        return y

    def _gradient_sums(self, dy, x, mean):
        """(2, C): sum dy and sum dy (x - mean)."""
        C = x.shape[-1]
        dy, x = dy.reshape(-1, C), x.reshape(-1, C)
        parts, sums = np.empty((chunk_count(len(x), max(32, 8192 // C)), 2, C)), np.empty((2, C))
        batchnorm_gradient_sums(dy, x, *_widened(mean), parts)
        memory.sum_of_chunks(parts, sums)
        return sums


def _widened(*arrays):
    """Arrays (C,) in float64, repeated to the width of the kernels' rows."""
    C = arrays[0].size
    return np.tile(np.array(arrays, np.float64), row_width(C) // C)
