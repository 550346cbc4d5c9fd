"""What the kernels share: the SIMD tile, the exponential, the order of floats, and how a loop is split.

Numba compiles plain loops well, and nearly every kernel of tinynet is a plain loop.  Four things it can't
do from loops alone are here, each with a plain Python body of the same meaning that runs instead under
NUMBA_DISABLE_JIT=1, so that any kernel can be stepped through with a debugger:

    tile          a small matrix product whose result stays in registers      (dense and convolution layers)
    exp           a branch-free exponential that vectorises                   (softmax, sigmoid, tanh, GELU)
    order_key     floats as integers of the same order: their max vectorises  (softmax's row maximum)
    chunk_count   how many pieces a sum is cut into: by its shape, never by the number of threads

A kernel's cache on disk looks only at the kernel's own file.  After changing this file, remove the
__pycache__ folders.
"""

import math

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic, overload

# What the compiler may do to float arithmetic in a loop marked fast: reorder sums, use a*b+c in one step.
# Never "nnan" or "ninf", which let it assume that NaN and infinity don't occur and delete every test for them.
FAST = frozenset({"reassoc", "nsz", "arcp", "contract", "afn"})


def kernel(*, parallel=False, fast=False):
    """A decorator: compile a function of arrays at its first call, and keep the machine code on disk.

    fast      lets the compiler reorder sums (flags FAST), without which a sum over a row doesn't vectorise.
    parallel  runs prange loops on all threads.

    Every flag is stated, because Numba lets a function that is first compiled from within another one inherit
    what is left unsaid.  Where no folder is writable, the machine code just isn't kept.
    """
    options = {
        "parallel": parallel,
        "fastmath": set(FAST) if fast else False,
        "error_model": "numpy",  # x / 0 is inf, as in NumPy; a test at every division makes it 3 times slower
        "nogil": True,
        "boundscheck": None,
    }

    def decorate(function):
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            return numba.njit(**options)(function)

    return decorate


def chunk_count(n, smallest, most=64):
    """Into how many chunks to cut n items: at least `smallest` items each, at most `most` chunks, never fewer than 1.

    Chunks are what threads take.  Their number depends on n alone, so a sum over chunks, each summed in order
    and then added in order, has the same bits for any number of threads.
    """
    return max(1, min(most, n // smallest))


# --- bits of floats ---------------------------------------------------------------------------------------


def _bits_type(value):
    return types.int32 if value == types.float32 else types.int64


def _float_type(value):
    return types.float32 if value == types.int32 else types.float64


@intrinsic
def _as_int(typing_context, x):
    """The bits of a float, as an integer of its size."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return _bits_type(x)(x), codegen


@intrinsic
def _as_float(typing_context, i):
    """The float that has these bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return _float_type(i)(i), codegen


@intrinsic
def _fma(typing_context, a, b, c):
    """a * b + c, rounded once."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, a, a), codegen


def _implementation(of):
    """Mark what compiled code runs for the plain Python function `of`; its flags are stated, not inherited."""
    return overload(of, jit_options={"fastmath": False, "error_model": "numpy"}, inline="never")


# --- the exponential --------------------------------------------------------------------------------------


def exp(x):
    """exp(x) for x <= 0, correct to about an ulp: exp(-inf) is exactly 0 and exp(NaN) is NaN.

    Write x = n ln 2 + r with n a whole number and |r| <= ln(2)/2.  Then exp(x) = 2^n exp(r): the first factor is
    written straight into a float's exponent bits, the second is a Taylor series, so short that degree 7 (float32)
    or 13 (float64) is below the rounding error.  ln 2 comes in two parts, so that r loses no digits (Cody and
    Waite 1980).  Adding 1.5 * 2^23 (or 2^52) rounds to a whole number and leaves n in the lowest bits.

    Results below the smallest normal number are flushed to 0.
    """
    return np.exp(x)


def _exp_pieces(dtype):
    if dtype is np.float32:
        return 7, 1.5 * 2.0**23, (0.693359375, -2.12194440054690583e-4), np.int32, 23, 127 << 23, -87.33654
    high_low = (6.93147180369123816490e-01, 1.90821492927058770002e-10)  # fdlibm, e_exp.c
    return 13, 1.5 * 2.0**52, high_low, np.int64, 52, 1023 << 52, -708.3964


@_implementation(exp)
def _exp(x):
    dtype = {types.float32: np.float32, types.float64: np.float64}[x]
    degree, magic, (high, low), integer, mantissa, one, smallest = _exp_pieces(dtype)
    magic, high, low, smallest, zero = dtype(magic), dtype(-high), dtype(-low), dtype(smallest), dtype(0)
    log2e = dtype(1 / math.log(2))
    c = tuple(dtype(1 / math.factorial(k)) for k in range(degree + 1))

    if degree == 7:

        def series(r):
            p = _fma(c[7], r, c[6])
            p = _fma(_fma(_fma(p, r, c[5]), r, c[4]), r, c[3])
            return _fma(_fma(_fma(p, r, c[2]), r, c[1]), r, c[0])
    else:

        def series(r):
            p = _fma(_fma(_fma(c[13], r, c[12]), r, c[11]), r, c[10])
            p = _fma(_fma(_fma(p, r, c[9]), r, c[8]), r, c[7])
            p = _fma(_fma(_fma(_fma(p, r, c[6]), r, c[5]), r, c[4]), r, c[3])
            return _fma(_fma(_fma(p, r, c[2]), r, c[1]), r, c[0])

    series = numba.njit(series, fastmath=False, error_model="numpy")

    def body(x):
        rounded = x * log2e + magic
        n = rounded - magic
        r = _fma(n, low, _fma(n, high, x))
        power = _as_float(integer((_as_int(rounded) << mantissa) + one))
        return zero if x < smallest else series(r) * power

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


@_implementation(order_key)
def _order_key(x):
    integer, sign = (np.int32, 31) if x == types.float32 else (np.int64, 63)
    rest = integer(2**sign - 1)

    def body(x):
        bits = _as_int(x)
        return integer(bits ^ ((bits >> sign) & rest))  # Numba widens int32 arithmetic to int64

    return body


@_implementation(from_order_key)
def _from_order_key(key):
    integer, sign = (np.int32, 31) if key == types.int32 else (np.int64, 63)
    rest = integer(2**sign - 1)

    def body(key):
        return _as_float(integer(key ^ ((key >> sign) & rest)))

    return body


@_implementation(lowest_key)
def _lowest_key(x):
    dtype = np.float32 if x == types.float32 else np.float64
    infinity = dtype(-np.inf)

    def body(x):
        return order_key(infinity)

    return body
