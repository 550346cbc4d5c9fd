"""Activations: y = f(x), each number by itself.

    ReLU       y = max(x, 0)
    LeakyReLU  y = x where x > 0, else slope x
    Sigmoid    y = 1 / (1 + exp(-x))
    Tanh       y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))
    GELU       y = x Phi(x)             Phi(x): the chance that a standard normal number is below x
               or y = x (1 + tanh(g(x))) / 2 = x s(2 g(x)),    g(x) = k (x + c x^3), k = sqrt(2/pi), c = 0.044715
    Swish      y = x s(x)               s(x) = 1 / (1 + exp(-x)), the sigmoid; PyTorch calls it SiLU
    Softplus   y = log(1 + exp(x))  =  max(x, 0) + log(1 + exp(-|x|)), where no exponential overflows
    x, y (N, ...), any shape; in Dense and Conv2D, x is their z

Backward.  Each x touched one y, its own, times f'(x), the derivative of f, so dx = f'(x) dy:

    ReLU       1 where x > 0, else 0;         slope instead of 0 for LeakyReLU
    Sigmoid    exp(-x) / (1 + exp(-x))^2  =  y (1 - y)
    Tanh       1 - y^2                        by the quotient rule
    GELU       Phi(x) + x phi(x)              by the product rule; phi = dPhi/dx = exp(-x^2/2) / sqrt(2 pi)
               or s + x s (1 - s) 2 k (1 + 3 c x^2)    by the product and the chain rule; s = s(2 g(x))
    Swish      s(x) + x s(x) (1 - s(x))       by the product rule, with the sigmoid's slope from above
    Softplus   exp(x) / (1 + exp(x))  =  s(x)

The second GELU, "gelu_tanh", differs from the first by less than 0.0005 everywhere; it is GPT-2's.

f'(x) can be computed from y alone (y > 0 exactly where x > 0), but for GELU and Swish: they fall and rise again, so
that one y has two x.  They keep x, and so does Softplus, for simplicity.  With the others, Dense and Conv2D overwrite x
with y: the functions called `_in_place`.  ELU and SELU are in elu.py, ReLU6 in relu6.py.

In the functions below x, y, dy and dx are flat, (M,).  They are compiled, and prange is a range that is shared out to
threads.  Constants are made in x's dtype, as by x.dtype.type(0) or type(x)(0), so that float32 stays float32.

Sources: LeakyReLU, Maas et al. 2013; GELU, Hendrycks and Gimpel 2016; Swish, Elfwing et al. 2018 and Ramachandran et
al. 2017.
"""

import math

from numba import prange

from tinynet.checks import number
from tinynet.kernels import floats
from tinynet.kernels.compile import helper, sized_kernel
from tinynet.kernels.special import HEAVY, LIGHT, normal, tanh
from tinynet.layers.elementwise import Activation, ActivationLayer
from tinynet.layers.elu import ELU, SELU
from tinynet.layers.relu6 import ReLU6

# --- ReLU and LeakyReLU.  A NaN is neither <= 0 nor > 0: written this way round, it passes through. -------


@sized_kernel(LIGHT)
def relu_forward(x, y):
    zero = x.dtype.type(0)
    for i in prange(x.size):
        y[i] = zero if x[i] <= zero else x[i]


@sized_kernel(LIGHT)
def relu_backward(dy, y, dx):
    zero = y.dtype.type(0)
    for i in prange(y.size):
        dx[i] = zero if y[i] <= zero else dy[i]


class ReLU(ActivationLayer):
    """y = max(x, 0).  Its slope at 0 is taken as 0.

    >>> tn.Sequential([tn.ReLU()], 3).forward([[-2, 0, 2]])
    array([[0., 0., 2.]], dtype=float32)
    """

    activation = Activation(
        "relu", "ReLU", "y = max(x, 0)", "dx = dy where x > 0, else 0", relu_forward, relu_backward, init="he"
    )


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


class LeakyReLU(ActivationLayer):
    """y = x where x > 0, else slope x (Maas et al. 2013).  slope: a number >= 0, or y wouldn't tell where x > 0.

    >>> tn.Sequential([tn.LeakyReLU(0.1)], 3).forward([[-2, 0, 2]])
    array([[-0.2,  0. ,  2. ]], dtype=float32)
    """

    def __init__(self, slope: float = 0.01):
        super().__init__()
        self.slope = number(slope, "LeakyReLU: slope")
        if not 0 <= self.slope < math.inf:
            raise ValueError(f"LeakyReLU: slope must be a finite number of at least 0, got {slope!r}")
        self.activation = Activation(
            "leaky_relu", "LeakyReLU",
            f"y = x where x > 0, else {self.slope:g} x", f"dx = dy where x > 0, else {self.slope:g} dy",
            leaky_relu_forward, leaky_relu_backward, leaky_relu_in_place, init="he", constants=(self.slope,),
        )  # fmt: skip


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


class Sigmoid(ActivationLayer):
    """y = 1 / (1 + exp(-x)), an S from 0 to 1.  To train a classifier, leave it out: the losses take logits.

    >>> tn.Sequential([tn.Sigmoid()], 3).forward([[-2, 0, 2]]).round(3)
    array([[0.119, 0.5  , 0.881]], dtype=float32)
    """

    activation = Activation(
        "sigmoid", "Sigmoid", "y = 1 / (1 + exp(-x))", "dx = y (1 - y) dy",
        sigmoid_forward, sigmoid_backward, sigmoid_in_place,
    )  # fmt: skip

    def ending(self, before):
        return "probabilities", self.label


# --- Tanh -------------------------------------------------------------------------------------------------


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


class Tanh(ActivationLayer):
    """y = tanh(x), an S from -1 to 1, nearly x where x is small.

    >>> tn.Sequential([tn.Tanh()], 3).forward([[-2, 0, 2]]).round(3)
    array([[-0.964,  0.   ,  0.964]], dtype=float32)
    """

    activation = Activation(
        "tanh", "Tanh", "y = tanh(x)", "dx = (1 - y^2) dy", tanh_forward, tanh_backward, tanh_in_place
    )


# --- GELU.  normal(x) is the pair Phi(x), phi(x). -----------------------------------------------------------


@helper
def gelu(x):
    Phi, _ = normal(x)
    return Phi if Phi == type(x)(0) else x * Phi  # 0 at -inf, where -inf * 0 is NaN


@helper
def gelu_slope(x):
    Phi, phi = normal(x)
    return Phi + (phi if phi == type(x)(0) else x * phi)


@sized_kernel(HEAVY)
def gelu_forward(x, y):
    for i in prange(x.size):
        y[i] = gelu(x[i])


@sized_kernel(HEAVY)
def gelu_backward(dy, x, dx):
    for i in prange(x.size):
        dx[i] = dy[i] * gelu_slope(x[i])


@helper
def gelu_tanh_share(x):
    """s(2 g(x)), by which x is multiplied: (1 + tanh(g)) / 2 = e^g / (e^g + e^-g) = 1 / (1 + e^-2g)."""
    F = type(x)
    return sigmoid(F(2 * math.sqrt(2 / math.pi)) * (x + F(0.044715) * x * x * x))


@helper
def gelu_tanh(x):
    s = gelu_tanh_share(x)
    return s if s == type(x)(0) else x * s  # 0 at -inf, where -inf * 0 is NaN


@helper
def gelu_tanh_slope(x):
    F = type(x)
    s = gelu_tanh_share(x)
    rest = s * (F(1) - s) * F(2 * math.sqrt(2 / math.pi))
    return s + (rest if rest == F(0) else rest * (x + F(3 * 0.044715) * x * x * x))


@sized_kernel(HEAVY)
def gelu_tanh_forward(x, y):
    for i in prange(x.size):
        y[i] = gelu_tanh(x[i])


@sized_kernel(HEAVY)
def gelu_tanh_backward(dy, x, dx):
    for i in prange(x.size):
        dx[i] = dy[i] * gelu_tanh_slope(x[i])


GELUS = {
    None: Activation(
        "gelu", "GELU", "y = x Phi(x)", "dx = (Phi(x) + x phi(x)) dy",
        gelu_forward, gelu_backward, keeps="input", init="he",
    ),
    "tanh": Activation(
        "gelu_tanh", "GELU", "y = x s, s = (1 + tanh(k (x + c x^3))) / 2",
        "dx = (s + x s (1 - s) 2 k (1 + 3 c x^2)) dy", gelu_tanh_forward, gelu_tanh_backward, keeps="input", init="he",
    ),
}  # fmt: skip


class GELU(ActivationLayer):
    """y = x Phi(x), a ReLU without its corner; Phi is the normal distribution's (Hendrycks and Gimpel 2016).

    approximate   None for the exact one, or "tanh" for their approximation, as GPT-2 has it: "gelu_tanh" in Dense

    >>> tn.Sequential([tn.GELU()], 3).forward([[-2, 0, 2]]).round(3)
    array([[-0.046,  0.   ,  1.954]], dtype=float32)
    """

    def __init__(self, approximate: str | None = None):
        super().__init__()
        if approximate not in (None, "tanh"):
            raise ValueError(f'GELU: approximate must be None or "tanh", got {approximate!r}')
        self.approximate = approximate
        self.activation = GELUS[approximate]


# --- Swish ------------------------------------------------------------------------------------------------


@helper
def swish(x):
    s = sigmoid(x)
    return s if s == type(x)(0) else x * s  # 0 at -inf, where -inf * 0 is NaN


@helper
def swish_slope(x):
    one, s = type(x)(1), sigmoid(x)
    rest = s * (one - s)
    return s + (rest if rest == type(x)(0) else x * rest)


@sized_kernel(HEAVY)
def swish_forward(x, y):
    for i in prange(x.size):
        y[i] = swish(x[i])


@sized_kernel(HEAVY)
def swish_backward(dy, x, dx):
    for i in prange(x.size):
        dx[i] = dy[i] * swish_slope(x[i])


class Swish(ActivationLayer):
    """y = x sigmoid(x), a ReLU without its corner, in PyTorch SiLU (Elfwing et al. 2018; Ramachandran et al. 2017).

    >>> tn.Sequential([tn.Swish()], 3).forward([[-2, 0, 2]]).round(3)
    array([[-0.238,  0.   ,  1.762]], dtype=float32)
    """

    activation = Activation(
        "swish", "SiLU", "y = x sigmoid(x)", "dx = (s + x s (1 - s)) dy, s = sigmoid(x)",
        swish_forward, swish_backward, keeps="input", init="he",
    )  # fmt: skip


SiLU = Swish  # its other name


# --- Softplus ---------------------------------------------------------------------------------------------


@sized_kernel(HEAVY)
def softplus_forward(x, y):
    zero = x.dtype.type(0)
    for i in prange(x.size):
        y[i] = (x[i] if x[i] > zero else zero) + floats.log1p(floats.exp(-abs(x[i])))


@sized_kernel(HEAVY)
def softplus_backward(dy, x, dx):
    for i in prange(x.size):
        dx[i] = dy[i] * sigmoid(x[i])


class Softplus(ActivationLayer):
    """y = log(1 + exp(x)), a ReLU without its corner (Dugas et al. 2001): for what must be positive, a variance say.

    >>> tn.Sequential([tn.Softplus()], 3).forward([[-2, 0, 2]]).round(3)
    array([[0.127, 0.693, 2.127]], dtype=float32)
    """

    activation = Activation(
        "softplus", "Softplus", "y = log(1 + exp(x))", "dx = sigmoid(x) dy",
        softplus_forward, softplus_backward, keeps="input", init="he",
    )  # fmt: skip


LAYERS = ReLU, LeakyReLU(), ReLU6, Sigmoid, Tanh, GELU(), GELU("tanh"), Swish, ELU(), SELU, Softplus
ACTIVATIONS = {layer.activation.name: layer.activation for layer in LAYERS}
