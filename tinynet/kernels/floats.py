"""Functions of floats that vectorise: the exponential, logarithms, and integers of the same order.

exp         a branch-free exponential                                   (softmax, sigmoid, tanh, GELU)
log1p       log(1 + u), likewise, and log                               (the cross-entropies)
order_key   floats as integers of the same order: their max vectorises  (softmax's row maximum)

exp, log1p and log are of a number, or of a vector (vectors.py): the same operations in either case.
"""

import math

import numpy as np
from numba import types

from tinynet.kernels.compile import helper, implementation
from tinynet.kernels.vectors import Vector, as_floats, bits, fma, from_bits, select


def _numpy_type(x):
    """float32 or float64, where x is Numba's type of a number or of a vector of them, else None."""
    dtype = x.dtype if isinstance(x, Vector) else x
    return {types.float32: np.float32, types.float64: np.float64}.get(dtype)


# The whole numbers of a float's size, how many bits of its mantissa a float stores, and what its exponent is biased by.
_FORMAT = {np.float32: (np.int32, 23, 127), np.float64: (np.int64, 52, 1023)}

# ln 2 as a sum of two floats, the first of so few digits that its product with an exponent is exact.
_LN2 = {
    np.float32: (0.693359375, -2.12194440054690583e-4),
    np.float64: (6.93147180369123816490e-01, 1.90821492927058770002e-10),  # fdlibm, e_exp.c
}

# --- the exponential --------------------------------------------------------------------------------------


def exp(x):
    """exp(x) for x <= 0, correct to about an ulp: exp(-inf) is exactly 0 and exp(NaN) is NaN.

    Write x = n ln 2 + r with n a whole number and |r| <= ln(2)/2.  Then exp(x) = 2^n exp(r): the first factor is
    written straight into a float's exponent bits, the second is a polynomial.  For float64 that is Taylor's of degree
    13; for float32 the one of degree 6, from 1 + r + r^2/2 on, whose largest relative error is least, 4e-9 (found by
    least squares whose weights grow where the error is large: Lawson 1961).  ln 2 comes in two parts, so that r loses
    no digits (Cody and Waite 1980).  Adding 1.5 * 2^23 (or 2^52) rounds to a whole number and leaves n in the lowest
    bits.

    Results below the smallest normal number are flushed to 0.
    """
    return np.exp(x)


@implementation(exp)
def _exp(x):
    dtype = _numpy_type(x)
    if dtype is None:
        return None
    _, mantissa, bias = _FORMAT[dtype]
    high, low = (dtype(-part) for part in _LN2[dtype])
    magic, one, zero = dtype(1.5 * 2.0**mantissa), bias << mantissa, dtype(0)
    smallest = dtype(-87.33654 if dtype is np.float32 else -708.3964)
    log2e = dtype(1 / math.log(2))
    c = [1 / math.factorial(k) for k in range(14)]
    if dtype is np.float32:
        c[3:] = 0.16666533803268782, 0.041667238773983505, 0.008367509158134097, 0.0013863756597681945
    c = tuple(dtype(number) for number in c)

    # exp(r) = 1 + r q(r): only the last step's rounding counts.  Independent chains of several vectors hide a step's
    # latency, so the fewest multiplications win: 92 ns for 1024 exponentials, and 107 by pairs of terms, as in float64.
    if dtype is np.float32:

        def series(r):
            q = fma(fma(fma(fma(fma(r, c[6], c[5]), r, c[4]), r, c[3]), r, c[2]), r, c[1])
            return fma(q, r, c[0])
    else:

        def series(r):  # pairs of terms, then pairs of pairs (Estrin 1960): a chain of 6 steps, not 13
            r2 = r * r
            r4 = r2 * r2
            first = fma(r2, fma(r, c[4], c[3]), fma(r, c[2], c[1]))
            middle = fma(r2, fma(r, c[8], c[7]), fma(r, c[6], c[5]))
            last = fma(r2, fma(r, c[12], c[11]), fma(r, c[10], c[9]))
            return fma(fma(r4, fma(r4, fma(r4, c[13], last), middle), first), r, c[0])

    series = helper(series)

    def body(x):
        rounded = fma(x, log2e, magic)
        n = rounded - magic
        r = fma(n, low, fma(n, high, x))
        power = from_bits((bits(rounded) << mantissa) + one)  # 2^n
        return select(x < smallest, zero, series(r) * power)

    return body


# --- logarithms ------------------------------------------------------------------------------------------


def log1p(u):
    """log(1 + u) for 0 <= u < 1e38 (float64: 1e308), correct to 1.5 ulp (float64: 2.6) however small u is; NaN stays.

    With n the power of two for which f = 2^-n (1 + u) - 1 lies in [sqrt(1/2) - 1, sqrt(2) - 1],

        log(1 + u) = n ln 2 + log(1 + f)

    2^-n u + (2^-n - 1) is rounded once, and where n = 0 it is u itself: that is why no digit of a small u is lost.
    In float32 log(1 + f) = f - f^2/2 + f^3 P(f) with a polynomial P of degree 7, whose largest relative error is least,
    6e-9 (found as exp's is).  In float64 it is 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...) with s = f / (2 + f), and as
    |s| < 0.172, eleven terms do; a division takes longer than the terms of P that it saves in float32.
    """
    return np.log1p(u)


def log(x):
    """log x for normal numbers x < 1e38 (float64: 1e308), likewise.  Near 1, x - 1 is exact, so no digit is lost."""
    return np.log(x)


def _of_one_plus(dtype):
    """(n, f) -> n ln 2 + log(1 + f)."""
    high, low = (dtype(part) for part in _LN2[dtype])
    if dtype is np.float32:
        c = (
            0.3333333134651184, -0.2500081956386566, 0.20001226663589478, -0.16623356938362122, 0.14201757311820984,
            -0.13160182535648346, 0.1276157647371292, -0.07634496688842773, -0.5,
        )  # fmt: skip
        c = tuple(dtype(number) for number in c)

        def logarithm(n, f):
            p = fma(fma(fma(fma(f, c[7], c[6]), f, c[5]), f, c[4]), f, c[3])
            p = fma(fma(fma(p, f, c[2]), f, c[1]), f, c[0])
            return fma(n, high, fma(n, low, fma(f * f, fma(p, f, c[8]), f)))
    else:
        c = tuple(dtype(2 / (2 * k + 1)) for k in range(11))

        def logarithm(n, f):
            s = f / (f + c[0])
            w = s * s
            p = fma(fma(fma(w, c[10], c[9]), w, c[8]), w, c[7])
            p = fma(fma(fma(p, w, c[6]), w, c[5]), w, c[4])
            return fma(n, high, fma(n, low, fma(s * w, fma(fma(fma(p, w, c[3]), w, c[2]), w, c[1]), s + s)))

    return helper(logarithm)


def _with_power(dtype):
    """x -> n, as a float, and 2^-n, for which 2^-n x lies in [sqrt(1/2), sqrt(2)]."""
    integer, mantissa, bias = _FORMAT[dtype]
    root = int(np.array(math.sqrt(0.5), dtype).view(integer))

    def with_power(x):
        exponent = (bits(x) - root) >> mantissa
        return as_floats(exponent), from_bits((bias - exponent) << mantissa)

    return helper(with_power)


@implementation(log1p)
def _log1p(u):
    dtype = _numpy_type(u)
    if dtype is None:
        return None
    with_power, logarithm, one = _with_power(dtype), _of_one_plus(dtype), dtype(1)

    def body(u):
        n, power = with_power(u + one)
        return logarithm(n, fma(u, power, power - one))

    return body


@implementation(log)
def _log(x):
    dtype = _numpy_type(x)
    if dtype is None:
        return None
    with_power, logarithm, minus_one = _with_power(dtype), _of_one_plus(dtype), dtype(-1)

    def body(x):
        n, power = with_power(x)
        return logarithm(n, fma(x, power, minus_one))

    return body


# --- the order of floats ----------------------------------------------------------------------------------


def order_key(x):
    """A key with the order of floats: order_key(a) < order_key(b) where a < b.

    max() over floats doesn't vectorise, since it must mind NaN (1.06 ns an element); over integers it does (0.06).
    The bits of a float, read as an integer, already have the right order where the sign is +, and the
    reverse where it is -: flip all but the sign there.  A NaN takes part by its bits, so it can win or lose.
    """
    return x


def from_order_key(key):
    """The float whose order_key this is."""
    return key


def lowest_key(x):
    """A key no greater than the key of any float of x's type but a NaN: where a maximum starts."""
    return type(x)(-np.inf)


@implementation(order_key)
def _order_key(x):
    real, integer, sign = (np.float32, np.int32, 31) if x == types.float32 else (np.float64, np.int64, 63)
    rest = integer(2**sign - 1)

    def body(x):
        bits = real(x).view(integer)
        return integer(bits ^ ((bits >> sign) & rest))  # Numba widens int32 arithmetic to int64

    return body


@implementation(from_order_key)
def _from_order_key(key):
    real, integer, sign = (np.float32, np.int32, 31) if key == types.int32 else (np.float64, np.int64, 63)
    rest = integer(2**sign - 1)

    def body(key):
        return integer(key ^ ((key >> sign) & rest)).view(real)

    return body


@implementation(lowest_key)
def _lowest_key(x):
    dtype = np.float32 if x == types.float32 else np.float64
    infinity = dtype(-np.inf)

    def body(x):
        return order_key(infinity)

    return body
