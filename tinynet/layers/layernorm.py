"""LayerNorm: every row of numbers has mean 0 and variance 1; then a scale and a shift that are trained.

x, y (..., C), where a row is what lies along the last axis; w, b (C,).  With h ("x-hat") the normalised row:

    mu[n]  = 1/C sum_c x[n,c]                    v[n] = 1/C sum_c (x[n,c] - mu[n])^2
    h[n,c] = r[n] (x[n,c] - mu[n])               r[n] = 1 / sqrt(v[n] + eps)
    y[n,c] = w[c] h[n,c] + b[c]

It is BatchNorm with the mean taken over the other axis: a row depends on no other row, so there is nothing to keep
running, and predicting is the same as training.

Backward.  The same question as in batchnorm.py, step by step, gives the same answer, but for w, which now differs
from number to number of a row and stays inside the sums:

    b[c]    touched y[n,c] of every row, times 1:        db[c]   = sum_n dy[n,c]
    w[c]    touched y[n,c] of every row, times h[n,c]:   dw[c]   = sum_n dy[n,c] h[n,c]
    h[n,c]  touched y[n,c], times w[c]:                  dh[n,c] = w[c] dy[n,c]
    x[n,c]  touched h[n,c], times r[n], and all h of its row through mu[n] and v[n]:
            dx[n,c] = r[n] (dh[n,c] - 1/C sum_k dh[n,k] - h[n,c] 1/C sum_k dh[n,k] h[n,k])

Source: Ba, Kiros and Hinton 2016, section 3.
"""

import math
from types import MappingProxyType

import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.compile import chunk_count, kernel, sized_kernel
from tinynet.layers.base import Layer, checked_eps
from tinynet.layers.parameter import Parameter

THREADS_FROM = 16384  # numbers in the batch from which two threads beat one

# A row is a function of its own, compiled once, as in softmax.py: it has the same bits wherever in the batch it lies.
# It is read twice or three times, from the L1 cache.  The sums are in float64, and so are differences from the mean,
# which float32 could hold only to 7 digits.


@kernel(fast=True)
def row_moments(x, eps):
    s = 0.0
    for c in range(x.size):
        s += x[c]
    mean = s / x.size
    s = 0.0
    for c in range(x.size):
        d = x[c] - mean
        s += d * d
    variance = s / x.size + eps
    return mean, 1 / math.sqrt(variance) if variance < np.inf else np.nan  # 1 / infinity would make all y = b


@kernel()
def row_normalized(x, mean, r, w, b, y):
    for c in range(x.size):
        y[c] = (x[c] - mean) * r * w[c] + b[c]


@sized_kernel(THREADS_FROM)
def layernorm_forward(x, w, b, eps, moments, y):
    """y, and the pairs (mean, r) of its rows as moments (N, 2)."""
    N, C = x.shape
    for n in prange(N):
        row = memory.piece(x, n * C, C)
        mean, r = row_moments(row, eps)
        row_normalized(row, mean, r, w, b, memory.piece(y, n * C, C))
        moments[n, 0], moments[n, 1] = mean, r


@kernel(fast=True)
def row_sums(dy, x, w, mean, r, dw, db):
    """Adds the row to dw and db; returns sum dh and sum dh h."""
    plain = products = 0.0
    for c in range(x.size):
        h, g = (x[c] - mean) * r, np.float64(dy[c])
        dw[c] += g * h
        db[c] += g
        g *= w[c]
        plain += g
        products += g * h
    return plain, products


@kernel()
def row_input_gradient(dy, x, w, mean, r, offset, slope, dx):
    for c in range(x.size):
        dx[c] = (np.float64(dy[c]) * w[c] - offset - (x[c] - mean) * r * slope) * r


@kernel()
def chunk_backward(dy, x, w, moments, first, end, dw, db, dx):
    C = w.size
    for c in range(C):
        dw[c] = db[c] = 0.0
    for n in range(first, end):
        dy_row, x_row, mean, r = memory.piece(dy, n * C, C), memory.piece(x, n * C, C), moments[n, 0], moments[n, 1]
        plain, products = row_sums(dy_row, x_row, w, mean, r, dw, db)
        if dx.size:
            row_input_gradient(dy_row, x_row, w, mean, r, plain / C, products / C, memory.piece(dx, n * C, C))


@sized_kernel(THREADS_FROM, of=0)
def layernorm_backward(dy, x, w, moments, parts, dx):
    """dx unless it is empty, and parts (K, 2, C): dw and db of K chunks of rows.  A thread owns a chunk."""
    N, K = x.shape[0], parts.shape[0]
    for k in prange(K):
        chunk_backward(dy, x, w, moments, k * N // K, (k + 1) * N // K, parts[k, 0], parts[k, 1], dx)


class LayerNorm(Layer):
    """y = w (x - mean) / sqrt(var + eps) + b, mean and variance over the last axis: (N, C), (N, T, C), (N, H, W, C).

    eps  added to the variance, which may be 0

    Parameters "weight" (w, starts at 1) and "bias" (b, starts at 0), both without weight decay.  A row with a NaN or an
    infinity gives NaN.  In training it keeps x, and two numbers a row.

    >>> tn.Sequential([tn.LayerNorm()], input_shape=2).forward([[1, 3], [10, 30]]).round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    keeps_output = False
    settable = MappingProxyType({**Layer.settable, "eps": checked_eps})

    def __init__(self, eps=1e-5):
        super().__init__()
        self.eps = eps

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if not input_shape:
            raise ValueError(f"{self.label}: expected samples with at least one axis to normalise over, got scalars")
        C = input_shape[-1]
        self.parameters = [
            Parameter("weight", np.ones(C, self.dtype), decay=False),
            Parameter("bias", np.zeros(C, self.dtype), decay=False),
        ]
        self.flops = 8 * math.prod(input_shape)  # 1 for the mean, 3 for the variance, 4 for y
        self._kept = None
        return input_shape

    def forward(self, x, training=False):
        x = self.checked(x)
        w, b = (parameter._value for parameter in self.parameters)
        rows = x.reshape(-1, w.size)
        y, moments = np.empty_like(rows), np.empty((len(rows), 2))
        layernorm_forward(rows, w, b, self.eps, moments, y)
        if training:
            self._kept = x.view(), moments
        return y.reshape(x.shape)

    def backward(self, dy, input_grad=True):
        x, moments = self.kept("_kept")
        dy = self.checked_gradient(dy, len(x))
        w = self.parameters[0]._value
        rows = -1, w.size
        dx = np.empty_like(x if input_grad else x[:0])
        parts = np.empty((chunk_count(len(moments), max(32, 8192 // w.size)), 2, w.size))
        layernorm_backward(dy.reshape(rows), x.reshape(rows), w, moments, parts, dx.reshape(rows))
        sums = np.empty(parts.shape[1:])
        memory.sum_of_chunks(parts, sums)
        with np.errstate(over="ignore"):
            for parameter, total in zip(self.parameters, sums, strict=True):
                parameter._grad[...] = total
        return dx if input_grad else None

    def formula(self):
        return "y = w h + b, h = (x - mean) / sqrt(var + eps) over the last axis"

    def backward_formula(self):
        return "dw = sum dy h, db = sum dy, dx = (dh - mean(dh) - h mean(dh h)) / sqrt(var + eps), dh = w dy"
