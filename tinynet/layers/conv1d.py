"""Conv1D: a convolution along time.  It is that of an image of one row, and so runs as one: conv2d.py derives it all.

    y = f(z)     z[n,q,k] = b[k] + sum_j sum_c x[n, q r + j e - left, c] w[j,c,k]

    x (N, T, C) sequences   w (J, C, K), K filters that look at J positions   b (K,)   z, y (N, Q, K)
    r the stride, e the dilation, left the zeros before the sequence
    Q = (T + zeros before and behind - (J - 1) e - 1) // r + 1

Backward, with dz = f'(z) dy:

    dw[j,c,k] = sum_n sum_q x[n, q r + j e - left, c] dz[n,q,k]        db[k] = sum_n sum_q dz[n,q,k]
    dx[n,t,c] = sum of dz[n,q,k] w[j,c,k] over those q and j with q r + j e - left = t, and all k

Sequences of unequal length.  One of length l gives what it gives alone: as many outputs as the formula for Q says with
l for T (with padding="same", l / r rounded up), none where no window fits, and behind them zeros.  What lies behind l
counts as the zeros of the padding do.  (To rounding: how long the batch is decides which way the products are made.)

A sequence in pieces.  With stride 1 and all zeros before it, left = (J - 1) e ("causal"), y[n,q] touches x[n,q] and the
`left` positions before, and none behind.  So whoever keeps the last `left` positions of a piece, and puts them before
the next one in the place of the zeros, gets of pieces what the whole gives.

Sources: Waibel et al. 1989, the time-delay neural network; for text, Collobert et al. 2011 and Kim 2014.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.checks.padding import checked_padding_of_time
from tinynet.layers import along_time
from tinynet.layers.activated import Weighted, through_relu
from tinynet.layers.conv2d import conv2d_backward, conv2d_backward_input, conv2d_forward
from tinynet.layers.padding import along_axis, reach


def as_images(array):
    """Sequences (N, T, C) as images of one row."""
    return array.reshape(len(array), 1, *array.shape[1:])


class Conv1D(Weighted):
    """Filters that look for a pattern everywhere in a sequence: x (N, T, C) -> y (N, Q, filters).

    At each of Q positions, every filter makes a weighted sum of the J C numbers in a window, with the same weights
    everywhere; then come its bias and the activation.  w is (J, C / groups, filters).

    kernel_size  J, how many positions the window has
    stride       how far it moves from one position to the next
    padding      "valid", "same", "causal", a whole number of zeros on both sides, or a pair (before, behind).  With
                 "causal", all zeros are before the sequence, so that no output looks ahead
    dilation     how far the positions are apart that the window looks at
    groups       into how many parts channels and filters are cut
    activation, bias, init   as in Conv2D

    Given sequences with their lengths, each has outputs as if it were alone, and zeros behind them.  A causal one with
    stride 1 takes a `state`, a dict, {} at first: there it leaves the end of a piece, and goes on from it in the next.

    Raises ValueError for inputs that are not sequences (N, T, C), and where the window does not fit into them.

    >>> tn.Sequential([tn.Conv1D(8, 3, padding="same")], (20, 5)).output_shape
    (20, 8)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        stride: int = 1,
        padding: str | int | tuple[int, int] = "valid",
        activation: str | None = None,
        bias: bool = True,
        init=None,
        *,
        dilation: int = 1,
        groups: int = 1,
    ):
        self.filters, self.kernel_size = (
            positive_int(filters, "Conv1D: filters"),
            positive_int(kernel_size, "Conv1D: kernel_size"),
        )
        self.stride, self.dilation = positive_int(stride, "Conv1D: stride"), positive_int(dilation, "Conv1D: dilation")
        self.padding = checked_padding_of_time(padding, "Conv1D: padding")
        self.groups = positive_int(groups, "Conv1D: groups")
        if self.filters % self.groups:
            raise ValueError(f"Conv1D: groups must divide the {filters} filters, got {groups!r}")
        super().__init__(activation, bias, init)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if len(self.input_shape) != 2:
            raise ValueError(f"{self.label}: expected sequences, input shape (T, C), got {self.input_shape}")
        (T, C), J, K = self.input_shape, self.kernel_size, self.filters
        if C % self.groups:
            raise ValueError(f"{self.label}: expected channels that {self.groups} groups divide, got {C}")
        C = C // self.groups
        padding = (reach(J, self.dilation) - 1, 0) if self.padding == "causal" else self.padding
        window = T, J, self.stride, padding, self.dilation
        Q, self._around = along_axis(self.label, "a sequence", "long", *window)
        self._start_parameters((J, C, K), J * C, J * K // self.groups, rng)
        self.output_shape = Q, K
        self.flops = 2 * Q * J * C * K
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x = self.checked(x)
        lengths, T = self.checked_lengths(lengths, x), x.shape[1]
        if lengths is not None:
            x = along_time.padded(x, lengths, max(T, self._shortest))
        elif self._shortest > T:
            raise ValueError(
                f"{self.label}: its window needs sequences of at least {self._shortest}, got {T} positions"
            )
        w, b = self._values()
        z, past = np.empty((len(x), self._count(x.shape[1]), self.filters), self.dtype), 0
        if state is not None:
            x, past = self._after_state(x, lengths, state)
        conv2d_forward(as_images(x), w[None], b, *self._windows(past), (1, z.shape[1]), self._floor, as_images(z))
        y, kept = (z, None) if self.activation is None else self._activated(z)
        if training:
            self._keep(x, kept)
            self._time = lengths, T, z.shape[1], past
        return y if lengths is None else along_time.padded(y, self.output_lengths(lengths), y.shape[1])

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        (x, kept), (w, _), (dw, db) = self.kept("_kept"), self._values(), self._gradients()
        lengths, T, Q, past = self._time
        dy = self.checked_gradient(dy, len(x), Q)
        if lengths is not None:
            dy = along_time.padded(dy, self.output_lengths(lengths), Q)
        dx = np.empty_like(x) if input_grad else np.empty((0, 0, 0), self.dtype)
        grad, y, is_relu = self._through_activation(dy, kept)
        arrays = as_images(x), w[None], as_images(grad), as_images(y)
        if self.trains:
            conv2d_backward(*arrays, is_relu, *self._windows(past), input_grad, dw[None], db, as_images(dx))
        elif input_grad:
            dz = as_images(through_relu(grad, y, is_relu))
            conv2d_backward_input(*arrays[:2], dz, *self._windows(past), as_images(dx))
        if not input_grad:
            return None
        dx = dx[:, past:]
        return dx if lengths is None else along_time.padded(dx, lengths, T)

    def _windows(self, past):
        """Strides, zeros before, dilation and groups, as of an image; `past` of the zeros are positions of x."""
        return (1, self.stride), (0, self._around[0] - past), (1, self.dilation), self.groups

    def _after_state(self, x, lengths, state):
        """x with the positions that the state has in place of the zeros, how many; leaves there x's own last ones."""
        before = reach(self.kernel_size, self.dilation) - 1
        if self.stride > 1 or self._around != (before, 0):
            raise ValueError(
                f"{self.label}: it looks at neighbours in time, and can't go on from a state; with stride 1 and"
                ' padding="causal" it can'
            )
        N, T = x.shape[:2]
        past = state.get(self)
        if past is None:
            past = np.zeros((N, before, x.shape[2]), self.dtype)
        if len(past) != N:
            raise ValueError(f"{self.label}: the state is that of {len(past)} sequences, got x with {N}")
        x = np.concatenate([past, x], axis=1)
        ends = np.full(N, T) if lengths is None else lengths
        state[self] = x[np.arange(N)[:, None], ends[:, None] + np.arange(before)]
        return x, before

    def _count(self, T):
        """Q of a sequence of length T, or of an array of them; below 1 where no window fits."""
        if self.padding == "same":
            return -(-T // self.stride)
        return (T + sum(self._around) - reach(self.kernel_size, self.dilation)) // self.stride + 1

    @property
    def _shortest(self):
        """The length of the shortest sequence that has an output."""
        return 1 if self.padding == "same" else max(1, reach(self.kernel_size, self.dilation) - sum(self._around))

    def formula(self):
        return self._formula_of("conv(x, w)")

    def backward_formula(self):
        return self._backward_formula_of("conv(x, dz)", "conv(dz, w flipped)")

    # What others ask of it.

    of_time = "lengths"
    torch_names = ("Conv1d",)
    torch_axes = MappingProxyType({"weight": (2, 1, 0), "bias": (0,)})
    torch_channels = "first"

    def output_lengths(self, lengths):
        return np.where(lengths > 0, np.maximum(self._count(lengths), 0), 0)

    @property
    def zeros_around(self):
        """((before, behind),)."""
        return (self._around,)

    def torch_module(self, nn):
        before, behind = self._around
        around, padding = {}, before
        if before != behind:  # PyTorch's own padding is symmetrical
            around, padding = {"_padding": nn.ConstantPad1d((before, behind), 0.0)}, 0
        options = self.kernel_size, self.stride, padding, self.dilation, self.groups, self.bias
        return {**around, "": nn.Conv1d(self.input_shape[-1], self.filters, *options)}

    def torch_options(self, module):
        return [
            ("stride", (self.stride,), module.stride),
            ("dilation", (self.dilation,), module.dilation),
            ("groups", self.groups, module.groups),
        ]

    @property
    def any_length(self):
        """Whether its padding is the same for all lengths."""
        return self.padding != "same" or self.stride == 1

    def onnx(self, graph, x):
        w, b = self._values()
        x = x.filled(0.0)
        w = w.transpose(self.torch_axes["weight"])
        pads = [zeros for side in zip(*self.zeros_around, strict=True) for zeros in side]
        options = {"strides": [self.stride], "dilations": [self.dilation], "group": self.groups}
        y = self._onnx_activated(graph, graph.add("Conv", x.first(), w, b, pads=pads, **options), "first")
        more = sum(self._around) - reach(self.kernel_size, self.dilation) + self.stride
        y.lengths = graph.windows(x.lengths, self.stride - 1 if self.padding == "same" else more, self.stride)
        return y
