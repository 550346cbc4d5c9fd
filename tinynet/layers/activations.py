"""Activations: y = f(x), each number by itself.

    ReLU       y = max(x, 0)
    LeakyReLU  y = x where x > 0, else slope x
    Sigmoid    y = 1 / (1 + exp(-x))
    Tanh       y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))
    GELU       y = x Phi(x)             Phi(x): the chance that a standard normal number is below x
    x, y (N, ...), any shape

Backward.  Each x touched one y, its own, times f'(x), so dx = f'(x) dy:

    ReLU       1 where x > 0, else 0;         slope instead of 0 for LeakyReLU
    Sigmoid    exp(-x) / (1 + exp(-x))^2  =  y (1 - y)
    Tanh       1 - y^2
    GELU       Phi(x) + x phi(x)              by the product rule; phi(x) = Phi'(x) = exp(-x^2/2) / sqrt(2 pi)

All but GELU know f' from y alone: y > 0 exactly where x > 0.  So they can overwrite x, and Dense and Conv2D
do that (`activation="tanh"`), with the functions below.

Sources: GELU, Hendrycks and Gimpel 2016; tanh near 0, Lambert 1768; the normal tail, Shepherd and Laframboise 1981.
"""

import math

import numpy as np
from numba import prange
from numba.extending import overload

from tinynet.checks import number
from tinynet.kernels import floats
from tinynet.kernels.compile import helper, sized_kernel
from tinynet.layers import other_names
from tinynet.layers.base import Layer
from tinynet.layers.guarded import Guarded

# Elements from which two threads beat one: one pass over memory, and an exponential for each element.
LIGHT, HEAVY = 65536, 16384


# --- ReLU and LeakyReLU.  A NaN is neither <= 0 nor > 0: written this way round, it passes through. -------


@sized_kernel(LIGHT)
def relu_forward(x, y):
    zero = x.dtype.type(0)
    for i in prange(x.size):
        y[i] = zero if x[i] <= zero else x[i]


@sized_kernel(LIGHT)
def relu_in_place(y):
    # Its own kernel, like the others in place: called with y = x, relu_forward would find that its arrays
    # overlap and take one number at a time.
    zero = y.dtype.type(0)
    for i in prange(y.size):
        y[i] = zero if y[i] <= zero else y[i]


@sized_kernel(LIGHT)
def relu_backward(dy, y, dx):
    zero = y.dtype.type(0)
    for i in prange(y.size):
        dx[i] = zero if y[i] <= zero else dy[i]


@sized_kernel(LIGHT)
def leaky_relu_forward(x, slope, y):
    zero, slope = x.dtype.type(0), x.dtype.type(slope)
    for i in prange(x.size):
        y[i] = x[i] if x[i] > zero else slope * x[i]


@sized_kernel(LIGHT)
def leaky_relu_in_place(slope, y):
    zero, slope = y.dtype.type(0), y.dtype.type(slope)
    for i in prange(y.size):
        y[i] = y[i] if y[i] > zero else slope * y[i]


@sized_kernel(LIGHT)
def leaky_relu_backward(dy, y, slope, dx):
    zero, slope = y.dtype.type(0), y.dtype.type(slope)
    for i in prange(y.size):
        dx[i] = dy[i] if y[i] > zero else slope * dy[i]


# --- Sigmoid ----------------------------------------------------------------------------------------------


@helper
def sigmoid(x):
    """1 / (1 + exp(-x)), as exp(x) / (1 + exp(x)) where x < 0, so that no exponential overflows."""
    one = type(x)(1)
    e = floats.exp(-abs(x))
    return (e if x < type(x)(0) else one) / (one + e)


@sized_kernel(HEAVY)
def sigmoid_forward(x, y):
    for i in prange(x.size):
        y[i] = sigmoid(x[i])


@sized_kernel(HEAVY)
def sigmoid_in_place(y):
    for i in prange(y.size):
        y[i] = sigmoid(y[i])


@sized_kernel(LIGHT)
def sigmoid_backward(dy, y, dx):
    one = y.dtype.type(1)
    for i in prange(y.size):
        dx[i] = dy[i] * (y[i] * (one - y[i]))


# --- Tanh -------------------------------------------------------------------------------------------------


@helper
def tanh(x):
    """(1 - e) / (1 + e) with e = exp(-2|x|), and the sign of x; near 0, where 1 - e cancels, Lambert's fraction

        x / (1 + x^2 / (3 + x^2 / (5 + x^2 / (7 + x^2 / (9 + x^2 / (11 + x^2 / 13))))))

    multiplied out: what it leaves away at |x| = 1/2 is 1e-16 of the result.
    """
    F = type(x)
    near = abs(x) < F(0.5)
    q = x * x
    e = floats.exp(F(-2) * abs(x))
    far = e - F(1) if x < F(0) else F(1) - e
    above = x * (F(135135) + q * (F(17325) + q * (F(378) + q)))
    below = F(135135) + q * (F(62370) + q * (F(3150) + q * F(28)))
    return (above if near else far) / (below if near else F(1) + e)


@sized_kernel(HEAVY)
def tanh_forward(x, y):
    for i in prange(x.size):
        y[i] = tanh(x[i])


@sized_kernel(HEAVY)
def tanh_in_place(y):
    for i in prange(y.size):
        y[i] = tanh(y[i])


@sized_kernel(LIGHT)
def tanh_backward(dy, y, dx):
    one = y.dtype.type(1)
    for i in prange(y.size):
        dx[i] = dy[i] * (one - y[i] * y[i])


# --- GELU -------------------------------------------------------------------------------------------------


# R(t) below by powers of t, as many as float32 and float64 can tell apart: its Chebyshev series, cut and
# multiplied out.  Relative error of the tail: 2 ulp in float32, 3 ulp in float64.
TAIL = {
    np.float32: (
        0.7552851271355856, -0.6078964038146354, 0.3871375629108491, -0.18652671087172498, 0.06039529586995691,
        -0.0075122313817515655, -0.0034761678949089226, 0.0015637868988265602, 0.00012932568134075276,
        -0.0001573205695845843,
    ),
    np.float64: (
        0.7552851304157514, -0.607896641971893, 0.3871374007422266, -0.1865218579595787, 0.06039657489036092,
        -0.007540188968891619, -0.0034796923566515025, 0.0016308184854735856, 0.00013334420916014778,
        -0.00023109513778728935, -1.907676030719098e-06, 3.514560235904452e-05, 7.146021531267462e-07,
        -5.922893777541928e-06, -6.249551077565178e-07, 1.026984070143193e-06, 2.647337281979868e-07,
        -1.622316320853567e-07, -7.878360342693638e-08, 1.9569608939974048e-08, 1.60673869573294e-08,
        -1.277235143295772e-09, -1.6886576966786735e-09,
    ),
}  # fmt: skip


def tail_polynomial(t):
    """R(t) of `normal`, by Horner's rule: highest power first."""
    result = type(t)(0)
    for c in reversed(TAIL[type(t)]):
        result = result * t + type(t)(c)
    return result


@overload(tail_polynomial, jit_options={"forceinline": True, "fastmath": False, "error_model": "numpy"})
def _tail_polynomial(t):
    dtype = np.float32 if t.bitwidth == 32 else np.float64
    coefficients = np.array(TAIL[dtype][::-1], dtype)  # an array: loops over it are unrolled, loops over a tuple aren't

    def body(t):
        result = coefficients[0]
        for k in range(1, len(coefficients)):
            result = result * t + coefficients[k]
        return result

    return body


@helper
def normal(x):
    """Phi(x) and phi(x).

    Far out, 1 - Phi(a) = (1 - erf(a / sqrt 2)) / 2 has no digits left.  But (1 - Phi(a)) / exp(-a^2/2) falls
    gently, and times a + 4 it is a smooth function R of t = (a - 4) / (a + 4), which maps a = 0 .. infinity to
    -1 .. 1: a polynomial.  The exponential is phi's, too.
    """
    F = type(x)
    a = abs(x)
    e = floats.exp(F(-0.5) * a * a)
    scale = F(1) / (a + F(4))
    tail = e * (scale * tail_polynomial(F(1) - F(8) * scale))
    return (tail if x < F(0) else F(1) - tail), e * F(1 / math.sqrt(2 * math.pi))


@helper
def gelu(x):
    below, _ = normal(x)
    return below if below == type(x)(0) else x * below  # 0 at -inf, where -inf * 0 is NaN


@helper
def gelu_slope(x):
    below, density = normal(x)
    return below + (density if density == type(x)(0) else x * density)


@sized_kernel(HEAVY)
def gelu_forward(x, y):
    for i in prange(x.size):
        y[i] = gelu(x[i])


@sized_kernel(HEAVY)
def gelu_in_place(y):
    for i in prange(y.size):
        y[i] = gelu(y[i])


@sized_kernel(HEAVY)
def gelu_backward(dy, x, dx):
    for i in prange(x.size):
        dx[i] = dy[i] * gelu_slope(x[i])


# --- for Dense and Conv2D ---------------------------------------------------------------------------------


class Activation(Guarded):
    """An activation as functions of arrays of any shape, float32 or float64 and C-contiguous.

    `keeps` says what backward needs to be given: "output" (then forward_in_place serves in training too) or
    "input".
    """

    def __init__(self, name, formula, backward_formula, keeps, forward, in_place, backward, *constants):
        self.name, self.formula, self.backward_formula = name, formula, backward_formula
        self.keeps, self.constants = keeps, constants
        self._forward, self._in_place, self._backward = forward, in_place, backward

    def forward(self, z):
        """y = f(z), a fresh array."""
        y = np.empty_like(z)
        self._forward(z.reshape(-1), *self.constants, y.reshape(-1))
        return y

    def forward_in_place(self, z):
        """Overwrite z with f(z)."""
        self._in_place(*self.constants, z.reshape(-1))

    def backward(self, dy, kept):
        """dz = f'(z) dy, a fresh array; `kept` is y or z, as `keeps` says."""
        dz = np.empty_like(dy)
        self._backward(dy.reshape(-1), kept.reshape(-1), *self.constants, dz.reshape(-1))
        return dz

    # PyTorch's, as of a layer (base.py).

    @property
    def torch_names(self):
        return (TORCH[self.name],)

    def torch_module(self, nn):
        return getattr(nn, TORCH[self.name])(*self.constants)

    def torch_options(self, module):
        if self.name == "leaky_relu":
            return [("slope", self.constants[0], module.negative_slope)]
        return [("approximate", "none", module.approximate)] if self.name == "gelu" else []


TORCH = {"relu": "ReLU", "leaky_relu": "LeakyReLU", "sigmoid": "Sigmoid", "tanh": "Tanh", "gelu": "GELU"}


def ending(layer):
    """The Layer.ending of one whose sums end in its activation."""
    if layer.activation is None:
        return "logits", layer.label
    return ("probabilities", f'{layer.label} with activation="sigmoid"') if layer.activation_name == "sigmoid" else None


def _leaky_relu(slope):
    kernels = leaky_relu_forward, leaky_relu_in_place, leaky_relu_backward
    formulas = f"y = x where x > 0, else {slope:g} x", f"dx = dy where x > 0, else {slope:g} dy"
    return Activation("leaky_relu", *formulas, "output", *kernels, slope)


ACTIVATIONS = {
    known.name: known
    for known in (
        Activation(
            "relu", "y = max(x, 0)", "dx = dy where x > 0, else 0", "output", relu_forward, relu_in_place, relu_backward
        ),
        _leaky_relu(0.01),
        Activation(
            "sigmoid",
            "y = 1 / (1 + exp(-x))",
            "dx = y (1 - y) dy",
            "output",
            sigmoid_forward,
            sigmoid_in_place,
            sigmoid_backward,
        ),
        Activation("tanh", "y = tanh(x)", "dx = (1 - y^2) dy", "output", tanh_forward, tanh_in_place, tanh_backward),
        Activation(
            "gelu", "y = x Phi(x)", "dx = (Phi(x) + x phi(x)) dy", "input", gelu_forward, gelu_in_place, gelu_backward
        ),
    )
}


def activation(name, where):
    """The Activation called `name`, or None for None; `where` is the layer that asks, for the message.

    Raises ValueError for an unknown name and TypeError for what is no name.
    """
    if name is None:
        return None
    accepted = ", ".join(map(repr, ACTIVATIONS))
    if not isinstance(name, str):
        if isinstance(name, Layer):
            got, its_name = f"a layer {type(name).__name__}", type(name).__name__
        else:
            got, its_name = repr(name), getattr(name, "__name__", type(name).__name__)
        hint = other_names.advice(its_name, ACTIVATIONS, other_names.ACTIVATIONS)
        raise TypeError(f"{where}: activation must be None or one of {accepted}; got {got}.{hint}")
    if name not in ACTIVATIONS:
        hint = other_names.advice(name, ACTIVATIONS, other_names.ACTIVATIONS)
        raise ValueError(f"{where}: unknown activation {name!r}; accepted are None, {accepted}.{hint}")
    return ACTIVATIONS[name]


# --- the layers -------------------------------------------------------------------------------------------


class _ActivationLayer(Layer):
    """What the five layers share; in training each keeps y, or GELU x: a reference, not a copy."""

    def build(self, input_shape, dtype, rng):
        output_shape = super().build(input_shape, dtype, rng)
        self.flops = math.prod(output_shape)
        return output_shape

    def forward(self, x, training=False):
        x = self.checked(x)
        y = self.activation.forward(x)
        if training:
            self._kept = (y if self.activation.keeps == "output" else x).view()
        return y

    def backward(self, dy, input_grad=True):
        kept = self.kept("_kept")
        dy = self.checked_gradient(dy, len(kept))
        return self.activation.backward(dy, kept) if input_grad else None

    @property
    def keeps_output(self):
        return self.activation.keeps == "output"

    def formula(self):
        return self.activation.formula

    def backward_formula(self):
        return self.activation.backward_formula

    # What others ask of it.

    vector_order = "kept"

    @property
    def torch_names(self):
        return self.activation.torch_names

    def torch_module(self, nn):
        return self.activation.torch_module(nn)

    def torch_options(self, module):
        return self.activation.torch_options(module)


class ReLU(_ActivationLayer):
    """y = max(x, 0).  Its slope at 0 is taken as 0.

    >>> tn.Sequential([tn.ReLU()], 3).forward([[-2, 0, 2]])
    array([[0., 0., 2.]], dtype=float32)
    """

    activation = ACTIVATIONS["relu"]


class LeakyReLU(_ActivationLayer):
    """y = x where x > 0, else slope x (Maas et al. 2013).  slope: a number >= 0, or y wouldn't tell where x > 0.

    >>> tn.Sequential([tn.LeakyReLU(0.1)], 3).forward([[-2, 0, 2]])
    array([[-0.2,  0. ,  2. ]], dtype=float32)
    """

    def __init__(self, slope=0.01):
        super().__init__()
        self.slope = number(slope, "LeakyReLU: slope")
        if not 0 <= self.slope < math.inf:
            raise ValueError(f"LeakyReLU: slope must be a finite number of at least 0, got {slope!r}")
        self.activation = _leaky_relu(self.slope)


class Sigmoid(_ActivationLayer):
    """y = 1 / (1 + exp(-x)).  To train a classifier, leave it out: the loss takes the logits, and is exact for them.

    >>> tn.Sequential([tn.Sigmoid()], 3).forward([[-2, 0, 2]]).round(3)
    array([[0.119, 0.5  , 0.881]], dtype=float32)
    """

    activation = ACTIVATIONS["sigmoid"]

    def ending(self, before):
        return "probabilities", self.label


class Tanh(_ActivationLayer):
    """y = tanh(x).

    >>> tn.Sequential([tn.Tanh()], 3).forward([[-2, 0, 2]]).round(3)
    array([[-0.964,  0.   ,  0.964]], dtype=float32)
    """

    activation = ACTIVATIONS["tanh"]


class GELU(_ActivationLayer):
    """y = x Phi(x), Phi the normal distribution's; exact, not the approximation by tanh (Hendrycks and Gimpel 2016).

    >>> tn.Sequential([tn.GELU()], 3).forward([[-2, 0, 2]]).round(3)
    array([[-0.046,  0.   ,  1.954]], dtype=float32)
    """

    activation = ACTIVATIONS["gelu"]
