"""What the kernels share: the SIMD tile, the exponential, the order of floats, and how a loop is split.

Numba compiles plain loops well, and nearly every kernel of tinynet is a plain loop.  Five things it can't
do from loops alone are here, each with a plain Python body of the same meaning that runs instead under
NUMBA_DISABLE_JIT=1, so that any kernel can be stepped through with a debugger:

    tile          a small matrix product whose result stays in registers      (dense and convolution layers)
    exp           a branch-free exponential that vectorises                   (softmax, sigmoid, tanh, GELU)
    log1p         log(1 + u), likewise                                        (the cross-entropies)
    order_key     floats as integers of the same order: their max vectorises  (softmax's row maximum)
    chunk_count   how many pieces a sum is cut into: by its shape, never by the number of threads

A kernel's cache on disk looks only at the kernel's own file.  After changing this file, remove the
__pycache__ folders.
"""

import math
from contextlib import contextmanager
from functools import wraps
from types import FunctionType

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

# What the compiler may do to float arithmetic in a loop marked fast: reorder sums, use a*b+c in one step.
# Never "nnan" or "ninf", which let it assume that NaN and infinity don't occur and delete every test for them.
FAST = frozenset({"reassoc", "nsz", "arcp", "contract", "afn"})


def kernel(*, parallel=False, fast=False, tiled=False):
    """A decorator: compile a function of arrays at its first call, and keep the machine code on disk.

    fast      lets the compiler reorder sums (flags FAST), without which a sum over a row doesn't vectorise.
    parallel  runs prange loops on all threads.
    tiled     for what Python calls and uses `tile`, itself or in a kernel it calls, with its first argument's dtype.

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
        if parallel:  # The cache knows a kernel by name and line, not by flags: a serial twin's code would be loaded.
            function = FunctionType(function.__code__, function.__globals__, function.__name__ + "_parallel")
            function.__qualname__ = function.__name__
        compiled = _cached(numba.njit, **options)(function)
        if not tiled or numba.config.DISABLE_JIT:
            return compiled

        @wraps(function)
        def with_tile(*arguments):
            if arguments[0].dtype not in _tiles:
                _compile_tile(arguments[0].dtype)
            return compiled(*arguments)

        return with_tile

    return decorate


def _cached(compiler, *args, **options):
    """The decorator compiler(*args, **options), which caches on disk where there is a place for it."""

    def decorate(function):
        try:
            return compiler(*args, cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            return compiler(*args, **options)(function)

    return decorate


def sized_kernel(threads_from, *, of=-1, fast=False):
    """A decorator like kernel, for a function that takes threads only where they pay.

    The function is compiled twice, each when it is first needed: for one thread, and with its prange loops on all
    threads where argument number `of` (the last, its output, unless said) has at least `threads_from` elements.
    Waking the threads costs 2 microseconds or more, and a small layer takes less than that.
    """

    def decorate(function):
        serial, threads = kernel(fast=fast)(function), kernel(parallel=True, fast=fast)(function)

        @wraps(function)
        def call(*arguments):
            (serial if arguments[of].size < threads_from else threads)(*arguments)

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


# --- the logarithm ----------------------------------------------------------------------------------------


def log1p(u):
    """log(1 + u) for 0 <= u < 1e30, correct to 2 ulp however small u is; NaN is passed on.

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


@_implementation(log1p)
def _log1p(u):
    dtype = {types.float32: np.float32, types.float64: np.float64}[u]
    terms, (high, low), integer, mantissa, bias = _log1p_pieces(dtype)
    one, two, high, low = dtype(1), dtype(2), dtype(high), dtype(low)
    root = integer(np.array(math.sqrt(0.5), dtype).view(integer))
    c = tuple(dtype(2 / (2 * k + 1)) for k in range(terms))

    if terms == 5:

        def series(w):
            return _fma(_fma(_fma(c[4], w, c[3]), w, c[2]), w, c[1])
    else:

        def series(w):
            p = _fma(_fma(_fma(c[10], w, c[9]), w, c[8]), w, c[7])
            p = _fma(_fma(_fma(p, w, c[6]), w, c[5]), w, c[4])
            return _fma(_fma(_fma(p, w, c[3]), w, c[2]), w, c[1])

    series = numba.njit(series, fastmath=False, error_model="numpy")

    def body(u):
        n = integer(integer(_as_int(u + one) - root) >> mantissa)
        power = _as_float(integer(integer(bias - n) << mantissa))
        f = _fma(u, power, power - one)
        s = f / (two + f)
        w = s * s
        n = dtype(n)
        return _fma(n, high, _fma(n, low, _fma(s * w, series(w), s + s)))

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


# --- the tile ---------------------------------------------------------------------------------------------


def _host_features():
    """The names of the SIMD features that Numba will compile for."""
    text = numba.config.CPU_FEATURES
    if text is None:
        return {name for name, present in binding.get_host_cpu_features().items() if present}
    return {name[1:] for name in text.split(",") if name.startswith("+")}


def _tile_shapes(features):
    """(rows, vectors, lanes) of the tile for float32 and float64.

    The accumulators, rows x vectors of them, must stay in registers with one vector of b for each column and the
    broadcast element of a: AVX-512 and NEON have 32 registers, AVX2 16.  On AVX2 8x2 spills: 97 GFLOP/s against
    230 for 6x2.
    """
    if "avx512f" in features:
        return {np.dtype(np.float32): (12, 2, 16), np.dtype(np.float64): (12, 2, 8)}
    if "avx2" in features:
        return {np.dtype(np.float32): (6, 2, 8), np.dtype(np.float64): (6, 2, 4)}
    rows = 8 if "neon" in features else 4
    return {np.dtype(np.float32): (rows, 2, 4), np.dtype(np.float64): (rows, 2, 2)}


TILE = _tile_shapes(_host_features())


# tile(size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor)
#
#     c[m, n] = max(floor, start[m, n] + sum_j sum_k a[m, j, k] b[j, k, n])        size = (M, N, J, K), J and K >= 1
#
# a small matrix product (J, K: a sum over two axes, as over the rows and columns of a window) whose M x N results
# stay in registers while j and k run.  The arrays are C-contiguous and of one dtype; what of them takes part is
# told by an offset and steps, counted in elements of the flat array:
#
#     a[m, j, k]   a.flat[a0 + m a_step[0] + j a_step[1] + k a_step[2]]     one element, broadcast to all lanes
#     b[j, k, n]   b.flat[b0 + j b_step[0] + k b_step[1] + n]               contiguous over n: a vector
#     start[m, n]  start.flat[s0 + m s_step + n]                            a bias (s_step = 0), or c itself
#     c[m, n]      c.flat[c0 + m c_step + n]
#
# floor = 0 is a fused ReLU, floor = -inf none.  No packing, no copies: 227 of the 236 GFLOP/s of two Zen 4 cores.


def _tile_in_python(size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor):
    a, b, start, c = a.reshape(-1), b.reshape(-1), start.reshape(-1), c.reshape(-1)
    M, N, J, K = size
    for m in range(M):
        for n in range(N):
            total = start[s0 + m * s_step + n]
            for j in range(J):
                for k in range(K):
                    x = a[a0 + m * a_step[0] + j * a_step[1] + k * a_step[2]]
                    total += x * b[b0 + j * b_step[0] + k * b_step[1] + n]
            c[c0 + m * c_step + n] = floor if total < floor else total


@intrinsic
def _tile_in_registers(typing_context, size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor):
    real = c.dtype
    signature = types.void(size, a, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor)

    def codegen(context, builder, signature, args):
        kinds = signature.args

        def whole(position):  # an argument, or each item of a tuple, as int64
            kind, value = kinds[position], args[position]
            items = [kind] if isinstance(kind, types.Integer) else list(kind)
            values = [value] if isinstance(kind, types.Integer) else cgutils.unpack_tuple(builder, value)
            return [context.cast(builder, v, k, types.int64) for v, k in zip(values, items, strict=True)]

        def address(position):  # of the element that an array and the offset behind it name
            array = context.make_array(kinds[position])(context, builder, args[position])
            return builder.gep(array.data, whole(position + 1))

        pointers = [address(1), address(4), address(7), address(10)]
        steps = [*whole(3), *whole(6), *whole(9), *whole(12)]
        floor = context.cast(builder, args[13], kinds[13], real)
        tile = _tile_declared(builder.module, floor.type)
        addresses = [builder.ptrtoint(p, _I64) for p in pointers]
        builder.call(tile, [*whole(0), *addresses, *steps, floor])
        return context.get_dummy_value()

    return signature, codegen


# The tile has 48 bodies, and LLVM takes 1.5 s to compile them; within a parallel kernel it would do so four times
# (Numba compiles the loop's body, its wrapper, and the function around them).  So it is compiled once for a dtype, to
# a C function that kernels call by a name; with_tile above makes sure that the name is known before a kernel is
# compiled or loaded.  A call costs some 5 ns.

_tiles = {}


def _compile_tile(dtype):
    real = types.float32 if dtype == np.float32 else types.float64

    def tinynet_tile(M, N, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor):
        _tile_defined(M, N, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor)

    compiled = _cached(numba.cfunc, types.void(*[types.int64] * 15, real))(tinynet_tile)
    binding.add_symbol(_tile_name(_llvm_type(real)), compiled.address)
    _tiles[np.dtype(dtype)] = compiled  # kept alive: kernels hold its address


def _tile_name(scalar):
    return f"tinynet_tile_{scalar}"


def _llvm_type(real):
    return ir.FloatType() if real == types.float32 else ir.DoubleType()


def _tile_declared(module, scalar):
    name, signature = _tile_name(scalar), ir.FunctionType(ir.VoidType(), [_I64] * 15 + [scalar])
    return module.globals.get(name) or ir.Function(module, signature, name)


@intrinsic
def _tile_defined(typing_context, M, N, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor):
    signature = types.void(M, N, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor)

    def codegen(context, builder, signature, args):
        args = list(args)
        pointer = _llvm_type(floor).as_pointer()
        args[4:8] = [builder.inttoptr(address, pointer) for address in args[4:8]]
        _emit_tile(builder, args, TILE[np.dtype(floor.name)])
        return context.get_dummy_value()

    return signature, codegen


def _emit_tile(builder, args, shape):
    """Emit the tile's code.

    It covers c by panels of columns, each panel by blocks of rows.  At the right edge the last vector is loaded and
    stored under a mask (a vector of half the lanes where that is enough); at the bottom each number of rows has a
    body of its own.  So nothing outside is read or written, and every element is the same sum in the same order.
    """
    rows, vectors, lanes = shape
    M, N = args[:2]

    def panel(n, width_vectors, width_lanes, mask):
        """All rows of the columns from n."""
        with _while(builder, _I64(0), lambda m: builder.icmp_signed(">=", builder.sub(M, m), _I64(rows))) as (
            m,
            advance,
        ):
            _tile_body(builder, args, m, n, rows, width_vectors, width_lanes, mask)
            advance(builder.add(m, _I64(rows)))
        end = builder.append_basic_block("rows.end")
        choice = builder.switch(builder.sub(M, m), end)
        for left in range(1, rows):
            choice.add_case(_I64(left), builder.append_basic_block(f"rows.{left}"))
            builder.position_at_end(choice.cases[-1][1])
            _tile_body(builder, args, m, n, left, width_vectors, width_lanes, mask)
            builder.branch(end)
        builder.position_at_end(end)

    width = vectors * lanes
    with _while(builder, _I64(0), lambda n: builder.icmp_signed(">=", builder.sub(N, n), _I64(width))) as (n, advance):
        panel(n, vectors, lanes, None)
        advance(builder.add(n, _I64(width)))
    left, end = builder.sub(N, n), builder.append_basic_block("end")
    for count, size in [(1, lanes // 2), *((v, lanes) for v in range(1, vectors + 1))]:  # the narrowest that holds them
        fits, wider = builder.append_basic_block("fits"), builder.append_basic_block("wider")
        builder.cbranch(builder.icmp_signed("<=", left, _I64(count * size)), fits, wider)
        builder.position_at_end(fits)
        with builder.if_then(builder.icmp_signed(">", left, _I64(0))):
            lane = ir.Constant(ir.VectorType(_I64, size), [(count - 1) * size + i for i in range(size)])
            panel(n, count, size, builder.icmp_signed("<", lane, _splat(builder, left, size)))
        builder.branch(end)
        builder.position_at_end(wider)
    builder.branch(end)
    builder.position_at_end(end)


def _tile_body(builder, args, m, n, rows, vectors, lanes, mask):
    """Emit rows x vectors accumulators: load `start`, sum over j and k, store c; `mask` is for the last vector."""
    _, _, J, K, a, b, s, c, a_m, a_j, a_k, b_j, b_k, s_m, c_m, floor = args
    vector = ir.VectorType(floor.type, lanes)
    fma = _llvm(builder.module, "fmuladd", vector)
    tile = [(t, v) for t in range(rows) for v in range(vectors)]

    def masked(v):
        return mask is not None and v == vectors - 1

    def load(p, v):
        p = builder.bitcast(builder.gep(p, [_I64(v * lanes)]), vector.as_pointer())
        if masked(v):
            zero = ir.Constant(vector, [0.0] * lanes)
            return builder.call(_llvm(builder.module, "masked.load", vector), [p, _alignment(vector), mask, zero])
        return builder.load(p, align=_alignment(vector).constant)

    def store(value, p, v):
        p = builder.bitcast(builder.gep(p, [_I64(v * lanes)]), vector.as_pointer())
        if masked(v):
            builder.call(_llvm(builder.module, "masked.store", vector), [value, p, _alignment(vector), mask])
        else:
            builder.store(value, p, align=_alignment(vector).constant)

    def row(p, step, t):  # of the row m + t, at column n
        return builder.gep(p, [builder.add(builder.mul(builder.add(m, _I64(t)), step), n)])

    a_row = [builder.mul(_I64(t), a_m) for t in range(rows)]
    starts = {(t, v): load(row(s, s_m, t), v) for t, v in tile}
    a_first, b_first = builder.gep(a, [builder.mul(m, a_m)]), builder.gep(b, [n])

    before = builder.block
    outer, inner = builder.append_basic_block("j"), builder.append_basic_block("k")
    inner_end, end = builder.append_basic_block("j.next"), builder.append_basic_block("end")
    builder.branch(outer)

    def phis(came_from, *values):
        nodes = [builder.phi(value.type) for value in values]
        for node, value in zip(nodes, values, strict=True):
            node.add_incoming(value, came_from)
        return nodes

    builder.position_at_end(outer)
    j, a_outer, b_outer, *sums_outer = phis(before, _I64(0), a_first, b_first, *starts.values())
    builder.branch(inner)
    builder.position_at_end(inner)
    k, a_now, b_now, *sums = phis(outer, _I64(0), a_outer, b_outer, *sums_outer)
    columns = [load(b_now, v) for v in range(vectors)]
    totals = []
    for t in range(rows):
        x = _splat(builder, builder.load(builder.gep(a_now, [a_row[t]])), lanes)
        totals += [builder.call(fma, [x, columns[v], sums[t * vectors + v]]) for v in range(vectors)]
    following = [builder.add(k, _I64(1)), builder.gep(a_now, [a_k]), builder.gep(b_now, [b_k]), *totals]
    for node, value in zip([k, a_now, b_now, *sums], following, strict=True):
        node.add_incoming(value, inner)
    builder.cbranch(builder.icmp_signed("<", following[0], K), inner, inner_end)
    builder.position_at_end(inner_end)
    following = [builder.add(j, _I64(1)), builder.gep(a_outer, [a_j]), builder.gep(b_outer, [b_j]), *totals]
    for node, value in zip([j, a_outer, b_outer, *sums_outer], following, strict=True):
        node.add_incoming(value, inner_end)
    builder.cbranch(builder.icmp_signed("<", following[0], J), outer, end)
    builder.position_at_end(end)

    least = _splat(builder, floor, lanes)
    for (t, v), total in zip(tile, totals, strict=True):
        less = builder.fcmp_ordered("<", total, least)  # false for NaN, which so stays
        store(builder.select(less, least, total), row(c, c_m, t), v)


_I64 = ir.IntType(64)


def _alignment(vector):
    return ir.IntType(32)(4 if vector.element == ir.FloatType() else 8)


def _splat(builder, value, lanes):
    """A vector with `value` in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def _llvm(module, what, vector):
    """LLVM's function `what` for this type of vector."""
    name = f"llvm.{what}.v{vector.count}f{32 if vector.element == ir.FloatType() else 64}"
    mask, align, pointer = ir.VectorType(ir.IntType(1), vector.count), ir.IntType(32), vector.as_pointer()
    name, result, arguments = {
        "fmuladd": (name, vector, [vector, vector, vector]),  # one instruction where the host has it
        "masked.load": (name + ".p0", vector, [pointer, align, mask, vector]),
        "masked.store": (name + ".p0", ir.VoidType(), [vector, pointer, align, mask]),
    }[what]
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


@contextmanager
def _while(builder, first, condition):
    """Blocks of a loop over i from `first` while condition(i); yields i and advance(next i), and goes on behind it."""
    before = builder.block
    head, body = builder.append_basic_block("while"), builder.append_basic_block("do")
    end = builder.append_basic_block("done")
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(first.type)
    i.add_incoming(first, before)
    builder.cbranch(condition(i), body, end)
    builder.position_at_end(body)

    def advance(following):
        i.add_incoming(following, builder.block)
        builder.branch(head)

    yield i, advance
    builder.position_at_end(end)


tile = _tile_in_python if numba.config.DISABLE_JIT else _tile_in_registers
