"""tanh and the normal distribution, to their last digits, as functions that vectorise.

Sources: tanh near 0, Lambert 1768; the normal tail, Shepherd and Laframboise 1981.
"""

import math

import numpy as np
from numba.extending import overload

from tinynet.kernels import floats
from tinynet.kernels.compile import helper

LIGHT, HEAVY = 65536, 16384  # numbers from which two threads beat one: for a function with an exponential, fewer


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
