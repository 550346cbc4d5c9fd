"""What the kernels share: how they are compiled, the exponential, the order of floats, how a loop is split.

Numba compiles plain loops well, and nearly every kernel of tinynet is a plain loop.  What it can't do from loops
alone is here and in tile.py (with long_sums.py), vectors.py, transpose.py, planes.py and correlation.py, each with a
plain Python body of the same meaning that runs instead under NUMBA_DISABLE_JIT=1, so that any kernel can be stepped
through with a debugger:

    kernel        compiles a function, keeps its machine code on disk; sized_kernel: with threads where they pay
    exp           a branch-free exponential that vectorises                   (softmax, sigmoid, tanh, GELU)
    log1p         log(1 + u), likewise                                        (the cross-entropies)
    order_key     floats as integers of the same order: their max vectorises  (softmax's row maximum)
    band_count    into how many bands of rows images are cut
    add_to        adds numbers to sums in float64
    chunk_count   how many pieces a sum is cut into: by its shape, never by the number of threads
    scratch       an array for one thread, on cache lines of its own
"""

import math
import os
import threading
from functools import wraps
from types import FunctionType

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.cpu_options import ParallelOptions
from numba.extending import intrinsic, overload
from numba.np import arrayobj

from tinynet.compile_cache import keep

# What the compiler may do to float arithmetic in a loop marked fast: reorder sums, use a*b+c in one step.
# Never "nnan" or "ninf", which let it assume that NaN and infinity don't occur and delete every test for them.
FAST = frozenset({"reassoc", "nsz", "arcp", "contract", "afn"})

# prange loops alone.  Numba would otherwise also run on all threads, as a loop of its own, each np.empty or a[i] = 0.
# It takes a dict too, but empties it at the first compilation: for other types of arguments it then does all of these.
NOT_PARALLEL = ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion")
PRANGE = ParallelOptions({**dict.fromkeys(NOT_PARALLEL, False), "prange": True})

# NUMBA_BOUNDSCHECK=1 makes an index outside of its array an IndexError, for tests.  Numba leaves prange loops out of
# that, and what is emitted as LLVM's instructions: so then kernels run on one thread, and `within` precedes those.
CHECKED = bool(numba.config.BOUNDSCHECK) and not numba.config.DISABLE_JIT


def kernel(*, parallel=False, fast=False, tiled=False):
    """A decorator: compile a function of arrays at its first call, and keep the machine code on disk.

    fast      lets the compiler reorder sums (flags FAST), without which a sum over a row doesn't vectorise.
    parallel  runs prange loops on all threads.
    tiled     for what Python calls and uses tile.py, itself or in a kernel it calls, with its first argument's dtype.

    Every flag is stated, because Numba lets a function that is first compiled from within another one inherit
    what is left unsaid.
    """
    parallel = parallel and not CHECKED
    options = {
        "parallel": PRANGE if parallel else False,
        "fastmath": set(FAST) if fast else False,
        "error_model": "numpy",  # x / 0 is inf, as in NumPy; a test at every division makes it 3 times slower
        "nogil": True,
        "boundscheck": None,
    }

    def decorate(function):
        if numba.config.DISABLE_JIT:
            return function
        if parallel:  # a name of its own, for profilers and in the cache
            name = function.__name__ + "_parallel"
            function = FunctionType(
                function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
            )
            function.__qualname__ = name
        compiled = run = keep(numba.njit(**options)(function))
        if not (parallel or tiled):
            return compiled

        def first(*arguments):
            nonlocal run
            run = on_threads(compiled)
            return run(*arguments)

        def start_again():
            nonlocal run
            run = first

        if parallel:
            start_again()
            _after_fork.append(start_again)
        if not tiled:
            return wraps(function)(lambda *arguments: run(*arguments))

        from tinynet.tile import compile_tile, compiled_tiles

        @wraps(function)
        def with_tile(*arguments):
            if arguments[0].dtype not in compiled_tiles:
                compile_tile(arguments[0].dtype)
            return run(*arguments)

        return with_tile

    return decorate


# --- threads ------------------------------------------------------------------------------------------------

_turn = threading.Lock()
_after_fork = []  # functions that let a parallel kernel ask on_threads again
_cut_off = False  # whether this process was forked from one whose threads it can't do without


def on_threads(compiled):
    """What to call instead of a parallel kernel in this process: mostly the kernel itself, at no cost.

    The library that runs the threads is chosen by Numba.  Of its three, "workqueue" ends the process when two threads
    of Python use it at once: they take turns.  And GNU's OpenMP, of "omp", ends a child that was forked after the
    threads had started: that is a RuntimeError.
    """
    if _cut_off:
        raise RuntimeError(
            "this process was forked from one that had already run kernels on several threads, and GNU OpenMP, which"
            ' runs them, does not survive that. Start processes with multiprocessing.get_context("spawn"), or fork'
            " before the first kernel runs, or set the environment variable NUMBA_THREADING_LAYER=workqueue"
        )
    numba.get_num_threads()  # starts the threads, and from then on their layer is known
    if numba.threading_layer() != "workqueue":
        return compiled

    def in_turn(*arguments):
        with _turn:
            return compiled(*arguments)

    return in_turn


def _forked():
    """In the child: every parallel kernel asks on_threads again; no thread is left that could give up its turn."""
    global _turn, _cut_off
    _turn = threading.Lock()
    try:
        layer = numba.threading_layer()
    except ValueError:  # no threads were started before the fork: the child starts its own
        return
    if layer == "omp":
        from numba.np.ufunc import omppool

        _cut_off = omppool.openmp_vendor == "GNU"
    for start_again in _after_fork:
        start_again()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def sized_kernel(threads_from, *, of=-1, fast=False, tiled=False):
    """A decorator like kernel, for a function that takes threads only where they pay.

    The function is compiled twice, each when it is first needed: for one thread, and with its prange loops on all
    threads where argument number `of` (the last, its output, unless said) has at least `threads_from` elements, or
    where of(*arguments) is at least that.  Waking the threads costs 2 microseconds or more.
    """

    def decorate(function):
        serial = kernel(fast=fast, tiled=tiled)(function)
        threads = kernel(parallel=True, fast=fast, tiled=tiled)(function)

        @wraps(function)
        def call(*arguments):
            count = of(*arguments) if callable(of) else arguments[of].size
            (serial if count < threads_from else threads)(*arguments)

        return call

    return decorate


def helper(function):
    """A decorator for a function of numbers that kernels call: it always becomes part of the loop that calls it.

    Left to choose, LLVM keeps a long one apart, and a loop with a call in it doesn't vectorise: GELU in float64
    took 27 ns an element instead of 2.8.
    """
    return numba.njit(forceinline=True, fastmath=False, error_model="numpy", boundscheck=None)(function)


def chunk_count(n, smallest, most=64):
    """Into how many chunks to cut n items: at least `smallest` items each, at most `most` chunks, never fewer than 1.

    Chunks are what threads take.  Their number depends on n alone, so a sum over chunks, each summed in order
    and then added in order, has the same bits for any number of threads.
    """
    return max(1, min(most, n // smallest))


@helper
def band_count(images, rows, size):
    """Into how many bands of rows to cut each image of `size` numbers, for threads to take.

    Several, where few images would leave threads idle, and where a large one would leave the cache.
    """
    return min(rows, max((8 + images - 1) // max(images, 1), size // 65536))


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


def implementation(of):
    """Mark what compiled code runs for the plain Python function `of`; its flags are stated, not inherited."""
    return overload(of, jit_options={"fastmath": False, "error_model": "numpy"}, inline="never")


# --- scratch arrays -----------------------------------------------------------------------------------------

MARGIN = 128  # bytes on each side of a scratch array


def _scratch_in_python(shape, like):
    """np.empty(shape, like.dtype) with 128 bytes on both sides that nobody uses: for what a thread writes all the time.

    It begins where a cache line does, so that no vector lies in two of them.

    Where such an array shares a cache line with what other threads read, the line goes back and forth between them: a
    convolution whose 672 bytes of sums began in the line in which its weights ended took 2.0 ms instead of 0.1.
    """
    size, line = math.prod(shape), 64 // like.itemsize
    whole = np.empty(size + 5 * line, like.dtype)
    first = 2 * line + -(whole.ctypes.data // like.itemsize) % line
    return whole[first : first + size].reshape(shape)


@intrinsic
def _scratch(typing_context, shape, like):
    """One array that owns its memory.

    As a slice of an array, reshaped, it was freed in use.  Numba's reshape hides from LLVM that the two share a
    reference count; Numba then takes the counting for the second as superfluous, and the first, which nothing uses any
    more, frees the memory.
    """
    made = types.Array(like.dtype, len(shape), "C")

    def codegen(context, builder, signature, args):
        def number(value):
            return context.get_constant(types.intp, value)

        lengths = cgutils.unpack_tuple(builder, args[0])
        lengths = [context.cast(builder, n, kind, types.intp) for n, kind in zip(lengths, shape, strict=True)]
        strides = [number(like.dtype.bitwidth // 8)]
        for length in reversed(lengths):
            strides.insert(0, builder.mul(strides[0], length))
        size, *strides = strides  # in bytes
        meminfo = context.nrt.meminfo_alloc_aligned(builder, builder.add(size, number(2 * MARGIN)), align=64)
        data = builder.gep(context.nrt.meminfo_data(builder, meminfo), [number(MARGIN)])
        result = arrayobj.make_array(made)(context, builder)
        arrayobj.populate_array(
            result,
            data=builder.bitcast(data, result.data.type),
            shape=lengths,
            strides=strides,
            itemsize=number(like.dtype.bitwidth // 8),
            meminfo=meminfo,
        )
        return result._getvalue()

    return made(shape, like), codegen


scratch = _scratch_in_python if numba.config.DISABLE_JIT else _scratch


# --- pieces of arrays ---------------------------------------------------------------------------------------


def piece(a, first, size):
    """The `size` elements of the C-contiguous array a from flat index `first` on, as a view (size,).

    Unlike a slice it counts no reference to the memory, so it must not outlive a; and Numba frees an array behind the
    last use of its name (tests/test_lifetimes.py looks for pieces that are used later).  Numba counts in step with
    other threads: two slices in a row's loop took as long as the exponentials of 30 numbers.
    """
    return a.reshape(-1)[first : first + size]


@intrinsic
def _view(typing_context, a, first, size):
    view = types.Array(a.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        data = builder.gep(arrayobj.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])
        result = arrayobj.make_array(view)(context, builder)
        stride = context.get_constant(types.intp, a.dtype.bitwidth // 8)
        arrayobj.populate_array(result, data=data, shape=[args[2]], strides=[stride], itemsize=stride, meminfo=None)
        return result._getvalue()

    return view(a, types.intp, types.intp), codegen


@implementation(piece)
def _piece(a, first, size):
    def body(a, first, size):
        return _view(a, first, size)

    def checked(a, first, size):
        if size > 0:
            within(a, first, size - 1, 0, 0)
        return _view(a, first, max(size, 0))

    return checked if CHECKED else body


@helper
def within(a, first, m, j, k):
    """An IndexError unless a has the flat index `first`, and all that are up to m, j and k from there; each may be < 0.

    What is emitted as LLVM's instructions is preceded by this where bounds are CHECKED.
    """
    if first + min(m, 0) + min(j, 0) + min(k, 0) < 0 or first + max(m, 0) + max(j, 0) + max(k, 0) >= a.size:
        raise IndexError("a piece, or what a kernel takes from an array, lies partly outside of it")


@kernel()
def sum_of_chunks(parts, total):
    """total = the sum over the first axis of parts, in order."""
    result = piece(total, 0, total.size)
    for m in range(total.size):
        result[m] = 0
    for chunk in range(parts.shape[0]):
        part = piece(parts, chunk * total.size, total.size)
        for m in range(total.size):
            result[m] += part[m]


@kernel()
def add_to(wide, part, first):
    """wide += part, or = where it is the first.  wide is in float64, or empty: then there is nothing to do."""
    for i in range(wide.size):
        wide[i] = part[i] if first else wide[i] + part[i]


@kernel()
def rounded(wide, total):
    """total = wide, unless that is empty."""
    for i in range(wide.size):
        total[i] = wide[i]


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


def _exp_pieces(dtype):
    if dtype is np.float32:
        return 1.5 * 2.0**23, (0.693359375, -2.12194440054690583e-4), np.int32, 23, 127 << 23, -87.33654
    high_low = (6.93147180369123816490e-01, 1.90821492927058770002e-10)  # fdlibm, e_exp.c
    return 1.5 * 2.0**52, high_low, np.int64, 52, 1023 << 52, -708.3964


def exp_body(dtype, fma, power_of_two, select):
    """exp for numbers of this dtype, or for vectors of them, in terms of three functions for either."""
    magic, (high, low), _, _, _, smallest = _exp_pieces(dtype)
    magic, high, low, smallest, zero = dtype(magic), dtype(-high), dtype(-low), dtype(smallest), dtype(0)
    log2e = dtype(1 / math.log(2))
    c = [1 / math.factorial(k) for k in range(14)]
    if dtype is np.float32:
        c[3:] = 0.16666533803268782, 0.041667238773983505, 0.008367509158134097, 0.0013863756597681945
    c = tuple(dtype(number) for number in c)

    # exp(r) = 1 + r q(r): only the last step's rounding counts.  Where several vectors fill each other's waits, the
    # fewest multiplications win: 92 ns for 1024 exponentials so, and 107 by pairs of terms, as in float64.
    if dtype is np.float32:

        def series(r):
            q = fma(fma(fma(fma(fma(r, c[6], c[5]), r, c[4]), r, c[3]), r, c[2]), r, c[1])
            return fma(q, r, c[0])
    else:

        def series(r):  # pairs of terms, then pairs of pairs (Estrin 1960): 6 steps wait for each other, not 13
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
        return select(x < smallest, zero, series(r) * power_of_two(rounded))

    return body


def emit_power_of_two(builder, rounded, dtype, like):
    """2^n from the number that ends in n, as exp says; `like` makes an LLVM constant of a whole number."""
    _, _, _, mantissa, one, _ = _exp_pieces(dtype)
    bits = builder.bitcast(rounded, like(0).type)
    return builder.bitcast(builder.add(builder.shl(bits, like(mantissa)), like(one)), rounded.type)


@intrinsic
def _power_of_two(typing_context, rounded):
    def codegen(context, builder, signature, args):
        integer = context.get_value_type(_bits_type(rounded))
        return emit_power_of_two(builder, args[0], _NUMPY[rounded], integer)

    return rounded(rounded), codegen


@intrinsic
def _select(typing_context, condition, a, b):
    def codegen(context, builder, signature, args):
        return builder.select(*args)

    return a(condition, a, a), codegen


_NUMPY = {types.float32: np.float32, types.float64: np.float64}


@implementation(exp)
def _exp(x):
    if x in _NUMPY:
        return exp_body(_NUMPY[x], _fma, _power_of_two, _select)


# --- the logarithm ----------------------------------------------------------------------------------------


def log1p(u):
    """log(1 + u) for 0 <= u < 1e38 (float64: 1e308), correct to 2 ulp however small u is; NaN is passed on.

    With n the power of two for which f = 2^-n (1 + u) - 1 lies in [sqrt(1/2) - 1, sqrt(2) - 1],

        log(1 + u) = n ln 2 + log(1 + f)        log(1 + f) = 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...)

    with s = f / (2 + f), |s| < 0.172, so that five (float32) or eleven (float64) terms do.  2^-n u + (2^-n - 1) is
    rounded once, and where n = 0 it is u itself: that is why no digit of a small u is lost.
    """
    return np.log1p(u)


def _log1p_pieces(dtype):
    if dtype is np.float32:
        return 5, (0.693359375, -2.12194440054690583e-4), np.int32, 23, 127
    return 11, (6.93147180369123816490e-01, 1.90821492927058770002e-10), np.int64, 52, 1023


def log1p_body(dtype, fma, exponent, two_to_minus):
    """log1p for numbers of this dtype, or for vectors of them, in terms of three functions for either."""
    terms, (high, low), _, _, _ = _log1p_pieces(dtype)
    one, two, high, low = dtype(1), dtype(2), dtype(high), dtype(low)
    c = tuple(dtype(2 / (2 * k + 1)) for k in range(terms))

    if terms == 5:

        def series(w):
            return fma(fma(fma(w, c[4], c[3]), w, c[2]), w, c[1])
    else:

        def series(w):
            p = fma(fma(fma(w, c[10], c[9]), w, c[8]), w, c[7])
            p = fma(fma(fma(p, w, c[6]), w, c[5]), w, c[4])
            return fma(fma(fma(p, w, c[3]), w, c[2]), w, c[1])

    series = helper(series)

    def body(u):
        n, power = exponent(u + one), two_to_minus(u + one)
        f = fma(u, power, power - one)
        s = f / (f + two)
        w = s * s
        return fma(n, high, fma(n, low, fma(s * w, series(w), s + s)))

    return body


def emit_exponent(builder, x, dtype, like):
    """The whole number n for which 2^-n x lies in [sqrt(1/2), sqrt(2)), from the bits of x."""
    _, _, integer, mantissa, _ = _log1p_pieces(dtype)
    root = int(np.array(math.sqrt(0.5), dtype).view(integer))
    return builder.ashr(builder.sub(builder.bitcast(x, like(0).type), like(root)), like(mantissa))


def emit_two_to_minus(builder, x, dtype, like):
    """2^-n for that n."""
    _, _, _, mantissa, bias = _log1p_pieces(dtype)
    n = emit_exponent(builder, x, dtype, like)
    return builder.bitcast(builder.shl(builder.sub(like(bias), n), like(mantissa)), x.type)


@intrinsic
def _exponent(typing_context, x):
    def codegen(context, builder, signature, args):
        n = emit_exponent(builder, args[0], _NUMPY[x], context.get_value_type(_bits_type(x)))
        return builder.sitofp(n, args[0].type)

    return x(x), codegen


@intrinsic
def _two_to_minus(typing_context, x):
    def codegen(context, builder, signature, args):
        return emit_two_to_minus(builder, args[0], _NUMPY[x], context.get_value_type(_bits_type(x)))

    return x(x), codegen


@implementation(log1p)
def _log1p(u):
    if u in _NUMPY:
        return log1p_body(_NUMPY[u], _fma, _exponent, _two_to_minus)


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
    integer, sign = (np.int32, 31) if x == types.float32 else (np.int64, 63)
    rest = integer(2**sign - 1)

    def body(x):
        bits = _as_int(x)
        return integer(bits ^ ((bits >> sign) & rest))  # Numba widens int32 arithmetic to int64

    return body


@implementation(from_order_key)
def _from_order_key(key):
    integer, sign = (np.int32, 31) if key == types.int32 else (np.int64, 63)
    rest = integer(2**sign - 1)

    def body(key):
        return _as_float(integer(key ^ ((key >> sign) & rest)))

    return body


@implementation(lowest_key)
def _lowest_key(x):
    dtype = np.float32 if x == types.float32 else np.float64
    infinity = dtype(-np.inf)

    def body(x):
        return order_key(infinity)

    return body
