"""matmul: a product of matrices whose sums stay in registers.  Everything heavy in tinynet runs on it.

    matmul((M, N, K), a, b, start, out, floor)       out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n])
    matmul((M, N, J, K), a, b, start, out, floor)    over two axes, as the rows and columns of a window:
                                                         ... start[m,n] + sum_j sum_k a[m,j,k] b[j,k,n]
                                                     and never packed
    gathered((M, N, K), a, b, start, out, floor)     matmul's, of factors that may have no steps

All four are views of C-contiguous arrays of one dtype: View(array, first, steps), with the flat index of the view's
first element and what is added to it where an index goes up by one.  Which steps are given:

    a        of (m, k), or (m, j, k): any numbers, so View(x, 0, (1, I)) is x.T where View(x, 0, (I, 1)) is x
    b        of k, or (j, k); over n it is contiguous, so that a vector can be loaded.  Or of (k, n), any numbers
    start    of m; over n it is contiguous.  A bias has step 0, the same row for every m; and `start` may be `out`
    out      of m; over n it is contiguous

Dense is    matmul((N, O, I), View(x, 0, (I, 1)), View(w, 0, O), start=View(b, 0, 0), out=View(y, 0, O), floor=floor)

where a floor of 0 is a fused ReLU, and -inf, no_floor, is none.  A kernel that calls it is marked kernel(matmul=True).

Numba compiles no loop that keeps a block of sums in registers, so matmul is emitted as LLVM's instructions: tile.py has
that code, and how a sum of many terms keeps its digits.  A large product is packed (packed.py, packed_blocks.py), or
turned where b's columns are contiguous (turned.py); one of few rows by a large b reads that in order (few_rows.py); and
one row by a small b is in one_row.py.
"""

import ctypes
import threading
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from tinynet.kernels.compile import compiles_matmul, emitted, implementation, kernel
from tinynet.kernels.compile_cache import keep
from tinynet.kernels.compile_once import WholePipeline
from tinynet.kernels.few_rows import FEW, few_rows_pay, few_rows_product
from tinynet.kernels.memory import array_at, scratch, within
from tinynet.kernels.one_row import one_row
from tinynet.kernels.packed import (
    AS_THEY_LIE,
    HIGH,
    L2,
    PACKED,
    TURNED,
    best_way,
    copy_panels,
    in_a_row,
    packed_product,
    rows_at_a_time,
    together,
)
from tinynet.kernels.packed_blocks import product_of_blocks
from tinynet.kernels.packed_tile import VECTORS
from tinynet.kernels.transpose import transpose
from tinynet.kernels.turned import multiply_as_they_lie, turned_product
from tinynet.kernels.vectors import I64, llvm_type, width


class View(NamedTuple):
    """A matrix within an array: of row m and column k the element array.flat[first + m steps[0] + k steps[1]]."""

    array: Any
    first: int
    steps: Any  # a number, or a tuple of two or three


# Multiplications up to which a product goes as its factors lie, where b's columns lie side by side: other ways would
# take more before they begin, and to weigh them takes as long as 2**12 multiplications.
SMALL = 2**15
# Multiplications from which two threads beat one, for which they are 5 to 9 microseconds' work.  Waking threads takes
# 2, and 6 where the cores' caches lie far apart; and a thread waits for what another wrote.
THREADS_FROM = 2**19


# --- the call -----------------------------------------------------------------------------------------------


def emit_whole(context, builder, kind, value):
    """A whole number, or each of a tuple's, as LLVM's 64-bit ones in a list."""
    is_tuple = isinstance(kind, types.BaseTuple)
    kinds, values = (list(kind), cgutils.unpack_tuple(builder, value)) if is_tuple else ([kind], [value])
    return [context.cast(builder, v, k, types.int64) for v, k in zip(values, kinds, strict=True)]


def emit_steps(context, builder, kind, view):
    return emit_whole(context, builder, kind[2], builder.extract_value(view, 2))


def emit_pointer(context, builder, kind, view):
    """The address of a view's first element."""
    array = context.make_array(kind[0])(context, builder, builder.extract_value(view, 0))
    return builder.gep(array.data, emit_whole(context, builder, kind[1], builder.extract_value(view, 1)))


def _emit_numbers(context, builder, kinds, args):
    """M, N, J, K and the steps a_m, a_j, a_k, b_j, b_k, b_n, start_m, out_m, of matmul's arguments."""
    size = emit_whole(context, builder, kinds[0], args[0])
    a, b, start, out = (emit_steps(context, builder, *view) for view in zip(kinds[1:5], args[1:5], strict=True))
    if len(size) == 4:
        b_j, b_k, b_n = b[0], b[1], I64(0)  # 0: never packed
    else:
        size.insert(2, I64(1))
        b_j, b_k, b_n = I64(0), b[0], b[1] if len(b) == 2 else I64(1)
    return [*size, a[0], a[1] if len(a) == 3 else I64(0), a[-1], b_j, b_k, b_n, *start, *out]


@intrinsic
def _numbers(typing_context, size, a, b, start, out):
    result = types.UniTuple(types.int64, 12)

    def codegen(context, builder, signature, args):
        return context.make_tuple(builder, result, _emit_numbers(context, builder, signature.args, args))

    return result(size, a, b, start, out), codegen


def _within(size, a, b, start, out, floor):
    M, N, J, K, a_m, a_j, a_k, b_j, b_k, b_n, start_m, out_m = _numbers(size, a, b, start, out)
    if M > 0 and N > 0:
        if J > 0 and K > 0:
            within(a.array, a.first, (M - 1) * a_m, (J - 1) * a_j, (K - 1) * a_k)
            within(b.array, b.first, (J - 1) * b_j, (K - 1) * b_k, (N - 1) * (b_n if b_n else 1))
        within(start.array, start.first, (M - 1) * start_m, N - 1, 0)
        within(out.array, out.first, (M - 1) * out_m, N - 1, 0)


@emitted(_within)
def matmul(typing_context, size, a, b, start, out, floor):
    def codegen(context, builder, signature, args):
        kinds = signature.args
        numbers = _emit_numbers(context, builder, kinds, args)
        pointers = [emit_pointer(context, builder, *view) for view in zip(kinds[1:5], args[1:5], strict=True)]
        addresses = [builder.ptrtoint(pointer, I64) for pointer in pointers]
        least = context.cast(builder, args[5], kinds[5], kinds[4][0].dtype)
        numbers = [*numbers[:4], *addresses, *numbers[4:], least]
        builder.call(_c_function(builder.module, tinynet_matmul, least.type), numbers)
        return context.get_dummy_value()

    return types.void(size, a, b, start, out, floor), codegen


# --- factors without steps ----------------------------------------------------------------------------------


def places(steps, count):
    """An array of `count` offsets, which are given, or go up by `steps`."""
    return steps if isinstance(steps, np.ndarray) else steps * np.arange(count)


@implementation(places)
def _places(steps, count):
    def same(steps, count):
        return steps

    def counted(steps, count):
        offsets = np.empty(count, np.int64)
        for n in range(count):
            offsets[n] = n * steps
        return offsets

    return same if isinstance(steps, types.Array) else counted


@kernel()
def gathered(size, a, b, start, out, floor):
    """matmul's (M, N, K), for factors that may have no steps: each step may be an array of offsets instead.

    The views' steps are a pair (m, k) of a, a pair (k, n) of b, and those of m of start and out.
    """
    M, N, K = size
    a_rows, a_terms, b_terms, b_columns = (
        places(a.steps[0], M),
        places(a.steps[1], K),
        places(b.steps[0], K),
        places(b.steps[1], N),
    )
    lines = (a_rows, a_terms, b_columns, b_terms, places(start.steps, M), places(out.steps, M))
    _gathered(
        size, (a.array, b.array, start.array, out.array), (a.first, b.first, start.first, out.first), lines, floor
    )


def _gathered_within(size, arrays, first, lines, floor):
    M, N, K = size
    if M > 0 and N > 0:
        a_rows, a_terms, b_columns, b_terms, start_rows, out_rows = lines
        if K > 0:
            for k in range(K):
                for row in a_rows[:M]:
                    within(arrays[0], first[0] + row + a_terms[k], 0, 0, 0)
                for column in b_columns[:N]:
                    within(arrays[1], first[1] + column + b_terms[k], 0, 0, 0)
        for m in range(M):
            within(arrays[2], first[2] + start_rows[m], N - 1, 0, 0)
            within(arrays[3], first[3] + out_rows[m], N - 1, 0, 0)


@emitted(_gathered_within)
def _gathered(typing_context, size, arrays, first, lines, floor):
    def codegen(context, builder, signature, args):
        def unpacked(i):
            return zip(signature.args[i], cgutils.unpack_tuple(builder, args[i]), strict=True)

        def address(kind, array):
            return context.make_array(kind)(context, builder, array).data

        numbers = [context.cast(builder, n, kind, types.int64) for kind, n in unpacked(0)]
        offsets = [context.cast(builder, n, kind, types.int64) for kind, n in unpacked(2)]
        pointers = [builder.gep(address(*view), [n]) for view, n in zip(unpacked(1), offsets, strict=True)]
        pointers += [address(*view) for view in unpacked(3)]
        least = context.cast(builder, args[4], signature.args[4], signature.args[1][0].dtype)
        addresses = [builder.ptrtoint(pointer, I64) for pointer in pointers]
        function = _c_function(builder.module, tinynet_gathered, least.type)
        builder.call(function, [*numbers, *addresses, least])
        return context.get_dummy_value()

    return types.void(size, arrays, first, lines, floor), codegen


# --- compiled once for a dtype ------------------------------------------------------------------------------

# On AVX-512 the code below has 48 bodies, which LLVM takes 1.5 s to compile; within a parallel kernel it would do so
# four times (Numba compiles the loop's body, its wrapper, and the function around them).  So these are C functions,
# which kernels call by their names; kernel(matmul=True) makes sure that they are known before a kernel is compiled or
# loaded.

_compiled = {}
_compiling = threading.Lock()


def _c_function(module, function, scalar):
    """LLVM's declaration of one of the functions below, for this kind of number."""
    name, count = f"{function.__name__}_{scalar}", len(signature(function).parameters) - 1
    kind = ir.FunctionType(ir.VoidType(), [I64] * count + [scalar])
    return module.globals.get(name) or ir.Function(module, kind, name)


@compiles_matmul
def compile_for(dtype):
    """Compile them for this dtype, unless another thread of Python did so while this one waited."""
    with _compiling:
        if dtype not in _compiled:
            real = types.float32 if dtype == np.float32 else types.float64
            made = []
            for function in (tinynet_gathered, tinynet_matmul):  # which calls the first
                kind = (types.int64,) * (len(signature(function).parameters) - 1) + (real,)
                options, kind = {"error_model": "numpy"}, (kind, types.void)
                made.append(keep(CFunc(function, kind, locals={}, options=options, pipeline_class=WholePipeline)))
                made[-1].compile()
                binding.add_symbol(f"{function.__name__}_{llvm_type(real)}", made[-1].address)
            _compiled[np.dtype(dtype)] = made  # kept alive: kernels hold their addresses


def stand_in(dtype):
    """In place of compile_for, where kernels are only compiled: products then do nothing to `out`."""
    # Any function that does no harm and reads no arguments: whoever calls it takes those from the stack.
    nothing = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p).value
    real = types.float32 if dtype == np.float32 else types.float64
    for function in (tinynet_gathered, tinynet_matmul):
        binding.add_symbol(f"{function.__name__}_{llvm_type(real)}", nothing)


def tinynet_matmul(M, N, J, K, a, b, s, o, a_m, a_j, a_k, b_j, b_k, b_n, s_m, o_m, floor):
    """matmul: of few rows or packed, as gathered does it; turned; of one row; or as a lies, on b as it is or panels."""
    given = array_at(b, floor)
    few, way = False, AS_THEY_LIE
    if b_n != 0 and (b_n != 1 or M * N * K > SMALL):
        few = few_rows_pay(M, N, K, a_k == 1 and b_n == 1, b_k, given.itemsize)
        way = best_way(M, N, K, a_k, b_k, b_n, given.itemsize)
    if few or way == PACKED:
        lines = places(a_m, M), places(a_k, K), places(b_n, N), places(b_k, K), places(s_m, M), places(o_m, M)
        arrays = array_at(a, floor), given, array_at(s, floor), array_at(o, floor)
        _gathered((M, N, K), arrays, (0, 0, 0, 0), lines, floor)
        return
    if way == TURNED:
        turned_product(M, N, K, a, b, s, o, a_m, b_n, s_m, o_m, floor)
        return
    if M == 1 and b_n == 1 and way == AS_THEY_LIE:
        done = one_row(N, K, array_at(a, floor), a_k, given, b_k, array_at(s, floor), array_at(o, floor), floor)
        N, b, s, o = N - done, b + done * given.itemsize, s + done * given.itemsize, o + done * given.itemsize
        if N == 0:
            return
    panels = way != AS_THEY_LIE
    C = VECTORS * width(given) if panels else max(1, N)  # a step of 0 is none, also through nothing
    step, wide, high = b_k, 1, max(1, M)
    size, panel, terms = K * C, given, array_at(b, M)
    if panels:  # else no memory is asked for: that takes as long as a small product
        step, wide = C, max(1, min(together(C), 2 * L2 // max(1, size * given.itemsize)))
        panel, terms = scratch((wide * size,), given), places(b_k, K)
        high = max(1, rows_at_a_time(M, K, given.itemsize))
    for m in range(0, M, high):
        for n in range(0, N, C):
            columns, at, p = min(C, N - n), n * given.itemsize, n // C % wide * size
            if panels and b_n != 1:
                transpose(given, n * b_n, b_n, panel, p, C, columns, K)
            elif panels and p == 0:
                copy_panels(given, n, min(wide * C, N - n), terms, 0, K, C, panel, 0, size)
            # Numba keeps the panels until the loop ends, since its next round reads their name.
            of = np.int64(panel.ctypes.data) + p * given.itemsize if panels else b
            s_at, o_at = s + m * s_m * given.itemsize + at, o + m * o_m * given.itemsize + at
            rows, a_at = min(high, M - m), a + m * a_m * given.itemsize
            later = b + at + wide * C * given.itemsize  # the columns that will be copied over this panel
            later_k = b_k if panels and b_n == 1 and n + wide * C < N else 0
            multiply_as_they_lie(
                rows, columns, J, K, a_at, of, s_at, o_at, later, a_m, a_j, a_k, b_j, step, s_m, o_m, later_k, floor
            )


def tinynet_gathered(M, N, K, a, b, s, o, a_rows, a_terms, b_columns, b_terms, s_rows, o_rows, floor):
    i = np.int64(0)
    lines = (
        array_at(a_rows, i),
        array_at(a_terms, i),
        array_at(b_columns, i),
        array_at(b_terms, i),
        array_at(s_rows, i),
        array_at(o_rows, i),
    )
    arrays = array_at(a, floor), array_at(b, floor), array_at(s, floor), array_at(o, floor)
    in_order, b_k = in_a_row(lines[1], 0, K) and in_a_row(lines[2], 0, N), lines[3][1] - lines[3][0] if K > 1 else 0
    if M <= FEW or few_rows_pay(M, N, K, in_order, b_k, arrays[1].itemsize):
        few_rows_product((M, N, K), arrays, lines, floor)
    elif HIGH:
        packed_product((M, N, K), arrays, lines, floor)
    else:
        product_of_blocks((M, N, K), arrays, lines, floor)
