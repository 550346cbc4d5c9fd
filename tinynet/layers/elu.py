"""ELU and SELU: x where it is positive, and an exponential that levels off where it is not.

    ELU    y = x where x > 0, else alpha (exp(x) - 1)
    SELU   y = scale ELU(x), with the two constants for which mean 0 and variance 1 stay so from layer to
           layer, if weights have the variance 1 / inputs (Glorot's, if a layer has as many outputs)
    x, y (N, ...), any shape

Backward.  Each x touched its own y, times f'(x): 1 where x > 0, else alpha exp(x) = y + alpha; for SELU, scale times
these, scale and y + scale alpha.  So y tells it all.

exp(x) - 1 would lose all digits near 0.  But tanh(x / 2) = t = (exp(x) - 1) / (exp(x) + 1), solved for exp(x) - 1, is

    exp(x) - 1 = 2 t / (1 - t)

Sources: Clevert, Unterthiner and Hochreiter 2016; SELU, Klambauer et al. 2017.
"""

import math

from numba import prange

from tinynet.checks import number
from tinynet.kernels.compile import helper, sized_kernel
from tinynet.kernels.special import HEAVY, LIGHT, tanh
from tinynet.layers.elementwise import Activation, ActivationLayer

ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805  # SELU's, from the paper's equation 14


@helper
def elu(x, scale, alpha):
    F = type(x)
    t = tanh(F(0.5) * x)
    return scale * x if x > F(0) else scale * alpha * (F(2) * t / (F(1) - t))


@sized_kernel(HEAVY)
def elu_forward(x, alpha, y):
    one, alpha = x.dtype.type(1), x.dtype.type(alpha)
    for i in prange(x.size):
        y[i] = elu(x[i], one, alpha)


@sized_kernel(HEAVY)
def elu_in_place(alpha, y):
    one, alpha = y.dtype.type(1), y.dtype.type(alpha)
    for i in prange(y.size):
        y[i] = elu(y[i], one, alpha)


@sized_kernel(LIGHT)
def elu_backward(dy, y, alpha, dx):
    zero, alpha = y.dtype.type(0), y.dtype.type(alpha)
    for i in prange(y.size):
        dx[i] = dy[i] if y[i] > zero else (y[i] + alpha) * dy[i]


@sized_kernel(HEAVY)
def selu_forward(x, y):
    scale, alpha = x.dtype.type(SCALE), x.dtype.type(ALPHA)
    for i in prange(x.size):
        y[i] = elu(x[i], scale, alpha)


@sized_kernel(HEAVY)
def selu_in_place(y):
    scale, alpha = y.dtype.type(SCALE), y.dtype.type(ALPHA)
    for i in prange(y.size):
        y[i] = elu(y[i], scale, alpha)


@sized_kernel(LIGHT)
def selu_backward(dy, y, dx):
    zero, scale, lowest = y.dtype.type(0), y.dtype.type(SCALE), y.dtype.type(SCALE * ALPHA)
    for i in prange(y.size):
        dx[i] = (scale if y[i] > zero else y[i] + lowest) * dy[i]


class ELU(ActivationLayer):
    """y = x where x > 0, else alpha (exp(x) - 1) (Clevert et al. 2016).  alpha: a number >= 0.

    >>> tn.Sequential([tn.ELU()], 3).forward([[-2, 0, 2]]).round(3)
    array([[-0.865,  0.   ,  2.   ]], dtype=float32)
    """

    def __init__(self, alpha: float = 1.0):
        super().__init__()
        self.alpha = number(alpha, "ELU: alpha")
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"ELU: alpha must be a finite number of at least 0, got {alpha!r}")
        self.activation = Activation(
            "elu", "ELU", f"y = x where x > 0, else {self.alpha:g} (exp(x) - 1)",
            f"dx = dy where x > 0, else (y + {self.alpha:g}) dy",
            elu_forward, elu_backward, elu_in_place, init="he", constants=(self.alpha,),
        )  # fmt: skip


class SELU(ActivationLayer):
    """y = 1.0507 x where x > 0, else 1.7581 (exp(x) - 1) (Klambauer et al. 2017).

    >>> tn.Sequential([tn.SELU()], 3).forward([[-2, 0, 2]]).round(3)
    array([[-1.52 ,  0.   ,  2.101]], dtype=float32)
    """

    activation = Activation(
        "selu", "SELU", "y = scale x where x > 0, else scale alpha (exp(x) - 1)",
        "dx = scale dy where x > 0, else (y + scale alpha) dy",
        selu_forward, selu_backward, selu_in_place,
    )  # fmt: skip
