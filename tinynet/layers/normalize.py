"""Normalize: every channel less its mean, over its deviation, both found once from the data and then kept.

    y[n,...,c] = (x[n,...,c] - mean[c]) / std[c]        x (N, ..., C)   y (N, ..., C)   mean (C,)   std (C,)

Networks learn best from numbers around 0 that vary by about 1: pixels from 0 to 255, or a column of incomes beside one
of ages, are neither.  A layer of the model that does it is saved with the model, so that whoever loads that cannot
forget it or do it by other numbers.  mean and std are no parameters: nothing is learnt, and they change in no step.
(BatchNorm takes each batch's own mean and deviation, and learns a scale and a shift.)

Backward.  x[n,...,c] touched its own y only, times 1 / std[c]:

    dx[n,...,c] = dy[n,...,c] / std[c]

mean and std of many numbers come from those of some at a time (Chan, Golub and LeVeque 1983).  Let squares be the sum
of squared deviations of M numbers from their mean; and of M2 more numbers let mean2 and squares2 be the same.  With
d = mean2 - mean, those of all M + M2 are

    mean + d M2 / (M + M2)        squares + squares2 + d^2 M M2 / (M + M2)        and std = sqrt(squares / M) at the end
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import ArrayLike

from tinynet.checks import numbers
from tinynet.kernels.compile import sized_kernel
from tinynet.layers.along_time import checked_lengths, within
from tinynet.layers.base import Layer

THREADS_FROM = 32768  # numbers from which two threads beat one
SAMPLES = 256  # looked at at a time, of data that may lie on disk


@sized_kernel(THREADS_FROM)
def normalize_forward(x, mean, std, y):
    for row in prange(len(x)):  # a thread owns a row of y
        for c in range(x.shape[1]):
            y[row, c] = (x[row, c] - mean[c]) / std[c]  # mean and std in float64, as large numbers need it


@sized_kernel(THREADS_FROM)
def normalize_backward(dy, std, dx):
    for row in prange(len(dy)):
        for c in range(dy.shape[1]):
            dx[row, c] = dy[row, c] / std[c]


class Normalize(Layer):
    """y = (x - mean) / std by channel, the last axis; x may be (N, C), (N, H, W, C), (N, T, C).

    mean, std   one number, or one for each channel; or leave both out and let it find them: Normalize().fit(x_train)

    Buffers "mean" and "std", float64, which are saved with the model.  A channel that is the same in all of the data
    has the std 1.  Bytes, as images often are, are taken as they are: a model that begins with it needs no x / 255.

    Raises RuntimeError in forward where mean and std are not known.

    >>> x = np.array([[1, 10], [3, 30], [5, 50]], np.uint8)
    >>> model = tn.Sequential([tn.Normalize().fit(x), tn.Dense(1)], input_shape=2)
    >>> model.layers[0].forward(x)
    array([[-1.2247449, -1.2247449],
           [ 0.       ,  0.       ],
           [ 1.2247449,  1.2247449]], dtype=float32)
    """

    keeps_output = False

    def __init__(self, mean: ArrayLike | None = None, std: ArrayLike | None = None) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError("Normalize: give mean and std, or neither")
        self._found = None
        if mean is not None and std is not None:
            self._keep(numbers(mean, "Normalize: mean"), numbers(std, "Normalize: std"))

    def build(self, input_shape, dtype, rng):
        input_shape = super().build(input_shape, dtype, rng)
        if not input_shape:
            raise ValueError(f"{self.label}: expected samples with an axis of channels, got scalars")
        C = input_shape[-1]
        self.buffers = {"mean": np.full(C, np.nan), "std": np.full(C, np.nan)}
        if self._found is not None:
            self._fill(*self._found)
        self.flops = 2 * math.prod(input_shape)
        return input_shape

    def fit(self, x: Any) -> Normalize:
        """Find mean and std of x, whatever tn.batches takes for it; returns itself.

        Of sequences of unequal length, the pair (x, lengths), what lies behind the lengths does not count.  It may be
        called before the layer is part of a model, or after.
        """
        from tinynet.data.batches import batches  # which needs the layers
        from tinynet.data.sequences import as_one, count, split

        M, mean, squares, low, high = 0, np.zeros(1), np.zeros(1), np.inf, -np.inf
        for some, _ in batches(as_one(x), np.arange(count(x)), SAMPLES, shuffle=False):
            some, lengths = split(some)
            some = numbers(some, f"{self.label}: x")
            if some.ndim < 2:
                raise ValueError(f"{self.label}: x must be (N, ..., C), got samples of shape {some.shape[1:]}")
            if lengths is not None:
                some = within(some, checked_lengths(lengths, some, self.label))
            if not some.size:
                continue
            if not np.isfinite(some).all():
                raise ValueError(f"{self.label}: x must be finite, got {some[~np.isfinite(some)][0]}")
            # sums over many short rows take ten times as long: first those over samples, then over places
            C, rows = some.shape[-1], some.reshape(len(some), -1).astype(np.float64)
            here = rows.mean(axis=0).reshape(-1, C).mean(axis=0)
            of_these = ((rows - np.tile(here, rows.shape[1] // C)) ** 2).sum(axis=0).reshape(-1, C).sum(axis=0)
            k, d = rows.size // C, here - mean
            squares = squares + of_these + d**2 * (M * k / (M + k))
            mean, M = mean + d * (k / (M + k)), M + k
            low = np.minimum(low, rows.min(axis=0).reshape(-1, C).min(axis=0))
            high = np.maximum(high, rows.max(axis=0).reshape(-1, C).max(axis=0))
        if M == 0:
            raise ValueError(f"{self.label}: x has no numbers")
        std = np.sqrt(squares / M)  # of equal numbers rounding may leave some, as their mean is not quite what they are
        self._keep(mean, np.where((low < high) & (std > 0), std, 1.0))
        vars(self)["_given"] = {}  # so that it shows no other mean
        return self

    def _keep(self, mean, std):
        mean, std = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (mean, std)))
        if mean.ndim > 1 or not (np.isfinite(mean).all() and (std > 0).all() and np.isfinite(std).all()):
            raise ValueError(
                f"{self.label}: mean and std must be one number, or one a channel, finite, and std above 0; "
                f"got {mean} and {std}"
            )
        if self.buffers:
            self._fill(mean, std)
        vars(self)["_found"] = mean, std

    def _fill(self, mean, std):  # two of one shape
        C = len(self.buffers["mean"])
        if mean.shape not in ((), (1,), (C,)):
            raise ValueError(f"{self.label}: mean and std have {mean.size} numbers, and its input {C} channels")
        self.buffers["mean"][...], self.buffers["std"][...] = mean, std

    def _known(self):
        mean, std = self.buffers["mean"], self.buffers["std"]
        if np.isnan(std).any():
            raise RuntimeError(f"{self.label}: its mean and std are not known; find them first: .fit(x_train)")
        return mean, std

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        mean, std = self._known()
        y = np.empty_like(x)
        normalize_forward(x.reshape(-1, mean.size), mean, std, y.reshape(-1, mean.size))
        if training:
            self._shape = x.shape[:2]
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        dy = self.checked_gradient(dy, *self.kept("_shape")[: 1 + (len(self.input_shape) > 1)])
        if not input_grad:
            return None
        dx, std = np.empty_like(dy), self.buffers["std"]
        normalize_backward(dy.reshape(-1, std.size), std, dx.reshape(-1, std.size))
        return dx

    def formula(self):
        return "y = (x - mean) / std by channel"

    def backward_formula(self):
        return "dx = dy / std"

    # What others ask of it.

    any_scale = True
    of_time = "apart"

    def onnx(self, graph, x):
        mean, std = self._known()
        name, layout = x.rows()
        return graph.value(graph.add("Div", graph.add("Sub", name, mean), std), x.axes, layout)
