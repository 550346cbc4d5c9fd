"""Dropout: in training, drop each number with a probability, the rate, and scale the others up.

    y[i] = x[i] m[i],   m[i] = 0 with probability rate, else 1 / (1 - rate)        x, y, m (N, ...), any shape

SpatialDropout drops whole channels: y[n,...,c] = x[n,...,c] m[n,c].  Neighbouring pixels are so alike that they tell
what one of them was, and dropping them one by one changes little.

The mean of m is 1, so y is x on average, and predicting needs no correction: there y = x ("inverted" dropout).

Backward.  x[i] touched y[i] alone, times m[i]:  dx[i] = m[i] dy[i], with the m of the forward pass.

The random numbers come from a counter, the number of training steps so far: kernels/dropout.py says how.

Sources: Srivastava et al. 2014; of whole channels, Tompson et al. 2015.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import number, positive_int
from tinynet.kernels import dropout as kernels
from tinynet.kernels.compile import either
from tinynet.layers.base import Layer


def dropout_forward_plain(x, m):
    return np.where(m > 0, x, 0) * m  # x m, but 0 where a NaN is dropped: NaN times 0 would be NaN


def dropout_backward_plain(dy, m):
    return np.where(m > 0, dy, 0) * m


def with_mask(x, first, of_sample, keys, rate):
    return x, kernels.mask(x, first, of_sample, keys, rate)


# The kernel draws m as it goes; with_mask makes of its arguments what the plain loops take.
dropout_forward = either(dropout_forward_plain, kernels.dropout, with_mask)
dropout_backward = either(dropout_backward_plain, kernels.dropout, with_mask)


def checked_rate(layer, rate, option="rate"):
    given, rate = rate, number(rate, f"{layer.label}: {option}")
    if not 0 <= rate < 1:
        raise ValueError(f"{layer.label}: {option} must be at least 0 and below 1, got {given!r}")
    return rate


def checked_rate_or_all(layer, rate):
    """The same, but 1 is accepted too: nothing is left."""
    given, rate = rate, number(rate, f"{layer.label}: rate")
    if not 0 <= rate <= 1:
        raise ValueError(f"{layer.label}: rate must be at least 0 and at most 1, got {given!r}")
    return rate


class Random(Layer):
    """A layer that draws random numbers in training: they follow from its `state`, and from where x is in its batch."""

    first_row = 0
    settable = MappingProxyType(
        {
            **Layer.settable,
            "first_row": lambda layer, row: positive_int(row, f"{layer.label}: first_row", 0),
        }
    )

    def __init__(self):
        super().__init__()
        self._key = self._steps = 0

    def build(self, input_shape, dtype, rng):
        output_shape = super().build(input_shape, dtype, rng)
        self._key, self._steps = int(rng.integers(2**63)), 0
        return output_shape

    @property
    def state(self) -> tuple[int, int]:
        """The pair (key, number of training steps so far)."""
        return self._key, self._steps

    @state.setter
    def state(self, pair):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"{self.label}: the state must be a pair (key, steps), got {pair!r}")
        key, steps = (positive_int(value, f"{self.label}: a number of the state", 0) for value in pair)
        self._key, self._steps = key, steps

    def step_back(self):
        self._steps = max(self._steps - 1, 0)


class Dropout(Random):
    """Drop numbers with probability `rate`, at least 0 and at most 1, in training; y = x otherwise.

    A dropped number is 0 whatever it was, NaN included.  `state` is the pair (key, number of training steps so
    far): set it, and the same masks follow, for any number of threads.  `first_row` is where x begins in its batch: set
    it where x is only a part of one, as a rank's share is, and each part gets its part of the batch's mask.  Of shorter
    sequences than it was built for, it drops what it would drop of padded ones.

    >>> model = tn.Sequential([tn.Dropout(0.5)], 4)
    >>> sorted(set(model.forward(np.ones((9, 4)), training=True).ravel().tolist()))  # dropped or doubled
    [0.0, 2.0]
    >>> model.forward([[1, 2, 3, 4]])
    array([[1., 2., 3., 4.]], dtype=float32)
    """

    keeps_output = False
    settable = MappingProxyType({**Random.settable, "rate": checked_rate_or_all})

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def build(self, input_shape, dtype, rng):
        output_shape = super().build(input_shape, dtype, rng)
        self.flops = self._numbers = math.prod(output_shape)
        return output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        if not training:
            return x.copy()
        y, rows, of_sample = np.empty_like(x), self._rows(x.shape), self._numbers
        self._kept = x.shape, rows, self.first_row * of_sample, of_sample, kernels.step_keys(self._key, self._steps)
        self._steps += 1
        dropout_forward(x.reshape(rows), *self._kept[2:], self.rate, y.reshape(rows))
        return y

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        shape, rows, *numbers = self.kept("_kept")
        dy = self.checked_gradient(dy, *shape[:2])
        if not input_grad:
            return None
        dx = np.empty_like(dy)
        dropout_backward(dy.reshape(rows), *numbers, self.rate, dx.reshape(rows))
        return dx

    def _rows(self, shape):
        """The shape (rows, numbers) of an array in which numbers of a row are neighbours in the mask."""
        numbers = math.prod(shape[1:])  # fewer than those of a sample, where it is a shorter sequence
        return (1, shape[0] * numbers) if numbers == self._numbers else (shape[0], numbers)

    def formula(self):
        return f"y = x m, m = 0 with probability {self.rate:g}, else {kernels.scale_of(self.rate):g}"

    def backward_formula(self):
        return "dx = dy m"

    # What others ask of it.

    vector_order, same_numbers = "kept", True
    of_time = "apart"

    def ending(self, before):
        return before

    def as_it_predicts(self):
        self.rate = 0.0

    @property
    def torch_names(self):
        """The class of torch.nn that computes the same."""
        return ("Dropout",) if self.rate else ()  # a rate of 0 is as no layer

    def torch_module(self, nn):
        return nn.Dropout(self.rate)

    def onnx(self, graph, x):
        return x

    def torch_options(self, module):
        return [("rate", self.rate, module.p)]


class SpatialDropout(Dropout):
    """Drop whole channels of a sample with probability `rate`, at least 0 and at most 1, in training; y = x otherwise.

    x, y (N, T, C), (N, H, W, C), ...  `state` and `first_row` are as in Dropout.

    >>> y = tn.Sequential([tn.SpatialDropout(0.5)], (3, 3, 8)).forward(np.ones((9, 3, 3, 8)), training=True)
    >>> bool((y == y[:, :1, :1]).all())  # a channel is dropped, or doubled, as a whole
    True
    """

    def build(self, input_shape, dtype, rng):
        output_shape = super().build(input_shape, dtype, rng)
        if len(output_shape) < 2:
            raise ValueError(f"{self.label}: expected samples (..., C) with channels, got {output_shape}; try Dropout")
        return output_shape

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        if not training:
            return x.copy()
        C = x.shape[-1]
        self._kept = x.shape, self.first_row * C, C, kernels.step_keys(self._key, self._steps)
        self._steps += 1
        return self._times_mask(x)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        shape = self.kept("_kept")[0]
        dy = self.checked_gradient(dy, *shape[:2])
        return self._times_mask(dy) if input_grad else None

    def _times_mask(self, x):
        N, C = len(x), x.shape[-1]
        m = np.empty((N, C), x.dtype)
        dropout_forward(np.ones_like(m), *self._kept[1:], self.rate, m)
        m = m.reshape(N, *(1,) * (x.ndim - 2), C)
        return np.multiply(x, m, out=np.zeros_like(x), where=m > 0)  # 0 where a NaN is dropped

    def formula(self):
        return super().formula() + ", by channel"

    # What others ask of it.

    torch_channels = "first"

    @property
    def torch_names(self):
        """The classes of torch.nn that compute the same."""
        return ("Dropout2d", "Dropout1d", "Dropout3d") if self.rate else ()

    def torch_module(self, nn):
        kinds = {2: nn.Dropout1d, 3: nn.Dropout2d, 4: nn.Dropout3d}
        if len(self.input_shape) not in kinds:
            return Random.torch_module(self, nn)
        return kinds[len(self.input_shape)](self.rate)
