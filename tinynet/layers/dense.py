"""Dense: every output is a weighted sum of every input.

    y = f(x w + b)      z[n,o] = b[o] + sum_i x[n,i] w[i,o]      y = f(z), the activation
    x (N, I)   w (I, O)   b (O,)   y (N, O)

Backward.  Given dy = dL/dy, the activation's backward pass gives dz = f'(z) dy.  Then ask of each number: which z
did it touch, and times what?

    w[i,o]  touched z[n,o] of every sample n, times x[n,i]:   dw[i,o] = sum_n x[n,i] dz[n,o]
    b[o]    touched z[n,o] of every sample n, times 1:        db[o]   = sum_n dz[n,o]
    x[n,i]  touched z[n,o] of every output o, times w[i,o]:   dx[n,i] = sum_o dz[n,o] w[i,o]

As matrices:  dw = x' dz     db = column sums of dz     dx = dz w'

All three are products of matrices, and run on the SIMD tile (tile.py).  The tile wants the last axis of its second
factor contiguous: w and dz are so as they stand; for dx, w is transposed, some rows at a time.  A row of dw has a
number for each output, and ten classes fill ten lanes of 16; so where outputs are fewer than lanes, dw' = dz' x is
computed, whose rows run along the inputs, and transposed.  The backward pass from (64, 784) to 10 classes takes one
thread 7.2 us so, instead of 10.3.
"""

import numpy as np
from numba import prange

from tinynet import simd
from tinynet.checks import positive_int
from tinynet.layers import activations
from tinynet.layers.activations import rectified
from tinynet.layers.base import Layer
from tinynet.layers.initialization import initial_weights
from tinynet.layers.parameter import Parameter
from tinynet.tile import THREADS_FROM, tile
from tinynet.transpose import transpose
from tinynet.vectors import width as lanes

# A task is a block of the result.  48 rows are four tiles high on AVX-512 and eight on AVX2, and 64 columns of w stay
# in the L2 cache while they run over it.
ROWS, COLUMNS = 48, 64
TASKS, WORTH = 16, 2**16  # tasks of the backward pass; fewer, where each would have fewer multiplications than WORTH
# Samples whose sum is made at once; and so many of these sums are added in their own dtype.  More of those are added in
# float64, where they lose no digits, however large the batch.
SAMPLES, TOGETHER = 512, 8
PIECE = 16384  # numbers of dz from which two threads beat one


@simd.kernel()
def sums_of_rows(dz, db):
    """db (O,), the sum of the rows of dz (N, O): the bias is a weight whose input is always 1.

    64 rows at a time make a sum, and these are added in float64.
    """
    N, O = dz.shape
    one, zeros, wide = np.ones(1, dz.dtype), np.zeros(O, dz.dtype), np.empty(O if N > 64 else 0)
    for n in range(0, max(N, 1), 64):
        size = 1, O, 1, min(64, N - n)
        tile(size, one, 0, (0, 0, 0), dz, n * O, (0, O), zeros, 0, 0, db, 0, 0, dz.dtype.type(-np.inf))
        simd.add_to(wide, db, n == 0)
    simd.rounded(wide, db)


@simd.kernel()
def block(i, blocks, size):
    """Where the i-th of `blocks` nearly equal pieces of range(size) begins and ends."""
    return i * size // blocks, (i + 1) * size // blocks


@simd.sized_kernel(THREADS_FROM, of=lambda x, w, *_: len(x) * w.size, tiled=True)
def dense_forward(x, w, b, floor, y):
    """y = max(floor, x w + b); a floor of 0 is ReLU, -inf is none.  A thread owns its block of y."""
    N, I = x.shape
    O = w.shape[1]
    down, across = (N + ROWS - 1) // ROWS, (O + COLUMNS - 1) // COLUMNS
    for task in prange(down * across):
        n, n_end = block(task % down, down, N)
        o, o_end = task // down * COLUMNS, min(O, (task // down + 1) * COLUMNS)
        tile((n_end - n, o_end - o, 1, I), x, n * I, (I, 0, 1), w, o, (0, O), b, o, 0, y, n * O + o, O, floor)


@simd.sized_kernel(THREADS_FROM, of=lambda x, w, *_: len(x) * w.size, tiled=True)
def dense_backward(x, w, dy, y, is_relu, input_grad, dw, db, dx):
    """dw = x' dz, db = column sums of dz and, if asked for, dx = dz w'.

    `is_relu`: y is a ReLU's output and dy its gradient, so dz = dy where y > 0; else dz = dy.  A thread owns some
    inputs: their rows of dw, for which it sums over the samples in order, and their columns of dx.
    """
    N, I = x.shape
    O = dy.shape[1]
    none = x.dtype.type(-np.inf)
    few = lanes(x) > O
    zeros = np.empty(max(I, O), x.dtype)
    for o in range(zeros.size):
        zeros[o] = 0
    dz = dy
    if is_relu:
        dz = np.empty((N, O), x.dtype)
        if dz.size <= PIECE:
            rectified(dy, y, 0, dz.size, simd.piece(dz, 0, dz.size))
        else:
            for piece in prange((dz.size + PIECE - 1) // PIECE):
                size = min(PIECE, dz.size - piece * PIECE)
                rectified(dy, y, piece * PIECE, size, simd.piece(dz, piece * PIECE, size))
    wide = np.empty(I * O if N > TOGETHER * SAMPLES else 0)
    # One launch for both products: two cost a small layer more than the products do.
    unit = 32 if few else 16  # inputs: a tile of dw' is two vectors wide, and of dx at least one
    units = (I + unit - 1) // unit
    tasks = max(1, min(units, max(min(TASKS, N * w.size // WORTH // 2 * 2), units // 8 * 2)))
    for task in prange(tasks):
        i = task * units // tasks * unit
        width = min(I, (task + 1) * units // tasks * unit) - i
        turned = simd.scratch((O * width if few else 0,), x)
        part = turned if few else simd.piece(dw, i * O, width * O)
        total = simd.piece(wide, i * O, width * O if wide.size else 0)
        # SAMPLES at a time, so that their columns of dz stay in the L2 cache; no samples have the sum 0.
        for n in range(0, max(N, 1), SAMPLES):
            K, new = min(SAMPLES, N - n), n % (TOGETHER * SAMPLES) == 0
            if few:
                size, (start, row) = (O, width, 1, K), (zeros, 0) if new else (turned, width)
                tile(size, dz, n * O, (1, 0, O), x, n * I + i, (0, I), start, 0, row, turned, 0, width, none)
            for o in range(0, 0 if few else O, COLUMNS):
                start, at, row = (zeros, 0, 0) if new else (simd.piece(dw, 0, I * O), i * O + o, O)
                size = width, min(COLUMNS, O - o), 1, K
                tile(size, x, n * I + i, (1, 0, I), dz, n * O + o, (0, O), start, at, row, dw, i * O + o, O, none)
            if n + SAMPLES >= N or (n + SAMPLES) % (TOGETHER * SAMPLES) == 0:
                simd.add_to(total, part, n < TOGETHER * SAMPLES)
        simd.rounded(total, part)
        if i == 0:  # whoever has the first inputs also has the biases
            sums_of_rows(dz, db)
        if few:
            transpose(turned, 0, width, dw, i * O, O, O, width)
        if input_grad:
            wt = simd.scratch((O, width), x)
            transpose(w, i * O, O, wt, 0, width, width, O)
            tile((N, width, 1, O), dz, 0, (O, 0, 1), wt, 0, (0, width), zeros, 0, 0, dx, i, I, none)


class Dense(Layer):
    """y = activation(x w + b): x (N, I) -> y (N, units), with w (I, units) and b (units,).

    activation  None, "relu", "leaky_relu", "sigmoid", "tanh" or "gelu"; ReLU costs nothing extra, being done before
                the sums leave the registers
    bias        False leaves b out
    init        how w starts: None (He's for ReLU-like activations, Glorot's otherwise), or a name or
                function as `initialization.initial_weights` takes it; b starts at 0

    Raises ValueError for inputs that are not (N, I): put a Flatten before it to make vectors of images.

    >>> model = tn.Sequential([tn.Dense(1)], input_shape=2)
    >>> model.flat_values[:] = 2, 3, 1  # w, then b
    >>> model.forward([[10, 100]])  # 2 * 10 + 3 * 100 + 1
    array([[321.]], dtype=float32)
    """

    def __init__(self, units, activation=None, bias=True, init=None):
        super().__init__()
        self.units = positive_int(units, "Dense: units")
        self.activation_name, self.activation = activation, activations.activation(activation, "Dense")
        self.bias, self.init = bool(bias), init
        self._kept = None

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if len(self.input_shape) != 1:
            raise ValueError(
                f"{self.label}: expected vectors, input shape (I,), got {self.input_shape}; put a Flatten() before it"
            )
        I, O = self.input_shape[0], self.units
        w = initial_weights(self.init, self.activation_name, (I, O), I, O, self.dtype, rng, self.label)
        self.parameters = [Parameter("weight", w)]
        self._no_bias = np.zeros(O, self.dtype)
        if self.bias:
            self.parameters.append(Parameter("bias", np.zeros(O, self.dtype), decay=False))
        self.flops = 2 * I * O
        self.output_shape = (O,)
        return self.output_shape

    def forward(self, x, training=False):
        x = self.checked(x)
        w = self.parameters[0]._value
        b = self.parameters[1]._value if self.bias else self._no_bias
        y = np.empty((len(x), self.units), self.dtype)
        dense_forward(x, w, b, self.dtype.type(0 if self.activation_name == "relu" else -np.inf), y)
        kept = y if self.activation is not None else None
        if self.activation is not None and self.activation_name != "relu":
            if self.activation.keeps == "input":
                y = self.activation.forward(y)
            else:
                self.activation.forward_in_place(y)
        if training:
            self._kept = x.view(), None if kept is None else kept.view()  # no one else can reshape these
        return y

    @property
    def keeps_output(self):
        return self.activation is not None and self.activation.keeps == "output"

    def backward(self, dy, input_grad=True):
        (x, kept), w = self.kept("_kept"), self.parameters[0]._value
        dz = self.checked_gradient(dy, len(x))
        is_relu = self.activation_name == "relu"
        if self.activation is not None and not is_relu:
            dz = self.activation.backward(dz, kept)
        db = self.parameters[1]._grad if self.bias else np.empty_like(self._no_bias)
        dx = np.empty_like(x) if input_grad else np.empty((0, 0), self.dtype)
        dense_backward(x, w, dz, kept if is_relu else dz, is_relu, input_grad, self.parameters[0]._grad, db, dx)
        return dx if input_grad else None

    def formula(self):
        sums = "x w + b" if self.bias else "x w"
        return f"y = {self.activation_name}({sums})" if self.activation else f"y = {sums}"

    def backward_formula(self):
        dz = "dz" if self.activation else "dy"
        first = f"dz = {self.activation_name}'(z) dy, " if self.activation else ""
        return f"{first}dw = x' {dz}, {f'db = sum {dz}, ' if self.bias else ''}dx = {dz} w'"
