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

import math
from types import MappingProxyType

import numpy as np

from tinynet.checks import positive_int
from tinynet.kernels.dense import dense_backward, dense_forward
from tinynet.layers import activations
from tinynet.layers.base import Layer
from tinynet.layers.initialization import initial_weights
from tinynet.layers.parameter import Parameter


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

    # What others ask of it.

    vector_order = "mixed"
    torch_names = ("Linear",)
    torch_axes = MappingProxyType({"weight": (1, 0), "bias": (0,)})

    def ending(self, before):
        return activations.ending(self)

    def weight_images(self, shape):
        w = self.parameters[0].value
        return None if shape is None or math.prod(shape) != len(w) else w.T.reshape(-1, *shape)

    def torch_module(self, nn):
        return nn.Linear(*self.input_shape, self.units, self.bias)
