"""Dropout: in training, drop each number with probability r and scale the others up.

    y[i] = x[i] m[i],   m[i] = 0 with probability r, else 1 / (1 - r)          x, y (N, ...), any shape

The mean of m is 1, so y is x on average, and predicting needs no correction: there y = x ("inverted" dropout).

Backward.  x[i] touched y[i] alone, times m[i]:  dx[i] = m[i] dy[i]

The mask.  Nothing is stored: the i-th random number of a step is a hash of (key, step, i), and backward
computes it again.  So threads need no order among them, and two numbers bring back the whole sequence of masks:
the key, drawn once when the layer is built, and the number of steps so far.

Sources: dropout, Srivastava et al. 2014; counters instead of a generator's state, Salmon et al. 2011; the hash
of a step, SplitMix64 (Steele et al. 2014); the hash of an element, Wellons' lowbias32.
"""

import math
from types import MappingProxyType

import numpy as np
from numba import prange

from tinynet.checks import number, positive_int
from tinynet.kernels.compile import helper, kernel, sized_kernel
from tinynet.layers.base import Layer

THREADS_FROM = 16384  # elements from which two threads beat one
CHUNK = 4096  # elements that share a chunk's pair of keys
LOW = 0xFFFFFFFF  # the lowest 32 bits, of integers that have more


def step_keys(key, step):
    """Two numbers of 32 bits: the step-th output of the generator SplitMix64 with the seed `key`."""
    low = 0xFFFFFFFFFFFFFFFF
    z = (key + (step + 1) * 0x9E3779B97F4A7C15) & low
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & low
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & low
    z ^= z >> 31
    return z & LOW, z >> 32


@helper
def scramble(h, key):
    """One of 2^32 ways, chosen by `key`, to mix 32 bits such that each bit of h turns half of the result's."""
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & LOW
    h = ((h ^ (h >> 15) ^ key) * 0x846CA68B) & LOW
    return h ^ (h >> 16)


@kernel()
def dropout_chunk(x, start, key0, key1, limit, scale, y):
    zero, scale = x.dtype.type(0), x.dtype.type(scale)
    for i in range(x.size):
        y[i] = zero if scramble((start + i) ^ key0, key1) < limit else scale * x[i]


@sized_kernel(THREADS_FROM)
def dropout(x, first, key0, key1, limit, scale, y):
    """y = m x: forward, and given dy backward.  A number is dropped where its 32 random bits are below `limit`.

    The i-th number of x is number first + i of the step.  A thread owns a chunk of these.
    """
    skipped = first // CHUNK
    for k in prange((first + x.size + CHUNK - 1) // CHUNK - skipped):
        chunk = skipped + k
        begin, end = max(chunk * CHUNK - first, 0), min((chunk + 1) * CHUNK - first, x.size)
        start = first + begin - chunk * CHUNK
        keys = scramble(chunk ^ key0, key1), scramble(chunk ^ key1, key0)
        dropout_chunk(x[begin:end], start, keys[0], keys[1], limit, scale, y[begin:end])


def _checked_rate(layer, rate):
    given, rate = rate, number(rate, f"{layer.label}: rate")
    if not 0 <= rate < 1:
        raise ValueError(f"{layer.label}: rate must be at least 0 and below 1, got {given!r}")
    return rate


class Dropout(Layer):
    """Drop numbers with probability `rate`, at least 0 and below 1, in training; y = x otherwise.

    A dropped number is 0 whatever it was, NaN included.  `state` is the pair (key, number of training steps so
    far): set it, and the same masks follow, for any number of threads.  `first_row` is where x begins in its batch: set
    it where x is only a part of one, as a rank's share is, and each part gets its part of the batch's mask.

    >>> model = tn.Sequential([tn.Dropout(0.5)], 4)
    >>> sorted(set(model.forward(np.ones((9, 4)), training=True).ravel().tolist()))  # dropped or doubled
    [0.0, 2.0]
    >>> model.forward([[1, 2, 3, 4]])
    array([[1., 2., 3., 4.]], dtype=float32)
    """

    keeps_output = False
    first_row = 0
    settable = MappingProxyType(
        {
            **Layer.settable,
            "rate": _checked_rate,
            "first_row": lambda layer, row: positive_int(row, f"{layer.label}: first_row", 0),
        }
    )

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self._key = self._steps = 0

    def build(self, input_shape, dtype, rng):
        output_shape = super().build(input_shape, dtype, rng)
        self._key, self._steps = int(rng.integers(2**63)), 0
        self.flops = math.prod(output_shape)
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

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        x = self.checked(x)
        if not training:
            return x.copy()
        self._kept = len(x), self.first_row, step_keys(self._key, self._steps)
        self._steps += 1
        return self._masked(x)

    def backward(self, dy: np.ndarray, input_grad: bool = True) -> np.ndarray | None:
        dy = self.checked_gradient(dy, self.kept("_kept")[0])
        return self._masked(dy) if input_grad else None

    def formula(self):
        return f"y = x m, m = 0 with probability {self.rate:g}, else {1 / (1 - self.rate):g}"

    def backward_formula(self):
        return "dx = dy m"

    def _masked(self, x):
        y = np.empty_like(x)
        limit = min(round(self.rate * 2**32), LOW)
        _, row, keys = self._kept
        first = row * math.prod(self.input_shape)
        dropout(x.reshape(-1), first, *keys, limit, 1 / (1 - self.rate), y.reshape(-1))
        return y

    # What others ask of it.

    vector_order, same_numbers = "kept", True

    def ending(self, before):
        return before

    def as_it_predicts(self):
        self.rate = 0.0

    def step_back(self):
        self._steps = max(self._steps - 1, 0)

    @property
    def torch_names(self):
        """The class of torch.nn that computes the same."""
        return ("Dropout",) if self.rate else ()  # a rate of 0 is as no layer

    def torch_module(self, nn):
        return nn.Dropout(self.rate)

    def torch_options(self, module):
        return [("rate", self.rate, module.p)]
