"""matmul: a small product of matrices whose results stay in registers.  Everything heavy in tinynet runs on it.

    matmul((M, N, K), a, b, start, out, floor)       out[m,n] = max(floor, start[m,n] + sum_k a[m,k] b[k,n])
    matmul((M, N, J, K), a, b, start, out, floor)    over two axes, as the rows and columns of a window:
                                                         ... start[m,n] + sum_j sum_k a[m,j,k] b[j,k,n]

All four are views of C-contiguous arrays of one dtype: View(array, first, steps), with the flat index of the view's
first element and what is added to it where an index goes up by one.  Which steps are given:

    a        of (m, k), or (m, j, k): any numbers, so View(x, 0, (1, I)) is x.T where View(x, 0, (I, 1)) is x
    b        of k, or (j, k); over n it is contiguous, so that a vector can be loaded.  Or of (k, n), any numbers
    start    of m; over n it is contiguous.  A bias has step 0, the same row for every m; and `start` may be `out`
    out      of m; over n it is contiguous

Dense is    matmul((N, O, I), View(x, 0, (I, 1)), View(w, 0, O), start=View(b, 0, 0), out=View(y, 0, O), floor=floor)

where a floor of 0 is a fused ReLU, and -inf, no_floor, is none.  A kernel that calls it is marked kernel(matmul=True).

Numba compiles no loop that keeps a block of sums in registers, so matmul is emitted as LLVM's instructions: tile.py has
that code, and how a sum of many terms keeps its digits.  Two other products stand at the end: correlate, whose factors
are both vectors, and linear_map, by a matrix of constants.
"""

import functools
import threading
import zlib
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
from tinynet.kernels.memory import array_at, within
from tinynet.kernels.packed import IN_PLACE, packed_product, packing_pays
from tinynet.kernels.tile import TILE, emit_loop, emit_matmul
from tinynet.kernels.vectors import (
    I64,
    alignment,
    emit_while,
    llvm_function,
    llvm_type,
    width,
)


class View(NamedTuple):
    """A matrix within an array: of row m and column k the element array.flat[first + m steps[0] + k steps[1]]."""

    array: Any
    first: int
    steps: Any  # a number, or a tuple of two or three


# Multiplications from which two threads beat one, for which they are 5 to 9 microseconds' work.  Waking threads takes
# 2, and 6 where the cores' caches lie far apart; and a thread waits for what another wrote.
THREADS_FROM = 2**19


# --- the call -----------------------------------------------------------------------------------------------


def _emit_whole(context, builder, kind, value):
    """A whole number, or each of a tuple's, as LLVM's 64-bit ones in a list."""
    is_tuple = isinstance(kind, types.BaseTuple)
    kinds, values = (list(kind), cgutils.unpack_tuple(builder, value)) if is_tuple else ([kind], [value])
    return [context.cast(builder, v, k, types.int64) for v, k in zip(values, kinds, strict=True)]


def _emit_steps(context, builder, kind, view):
    return _emit_whole(context, builder, kind[2], builder.extract_value(view, 2))


def _emit_pointer(context, builder, kind, view):
    """The address of a view's first element."""
    array = context.make_array(kind[0])(context, builder, builder.extract_value(view, 0))
    return builder.gep(array.data, _emit_whole(context, builder, kind[1], builder.extract_value(view, 1)))


def _emit_numbers(context, builder, kinds, args):
    """M, N, J, K and the steps a_m, a_j, a_k, b_j, b_k, b_n, start_m, out_m, of matmul's arguments."""
    size = _emit_whole(context, builder, kinds[0], args[0])
    a, b, start, out = (_emit_steps(context, builder, *view) for view in zip(kinds[1:5], args[1:5], strict=True))
    if len(size) == 4:
        b_j, b_k, b_n = b[0], b[1], I64(1)
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
            within(b.array, b.first, (J - 1) * b_j, (K - 1) * b_k, (N - 1) * b_n)
        within(start.array, start.first, (M - 1) * start_m, N - 1, 0)
        within(out.array, out.first, (M - 1) * out_m, N - 1, 0)


@emitted(_within)
def matmul(typing_context, size, a, b, start, out, floor):
    def codegen(context, builder, signature, args):
        kinds = signature.args
        numbers = _emit_numbers(context, builder, kinds, args)
        pointers = [_emit_pointer(context, builder, *view) for view in zip(kinds[1:5], args[1:5], strict=True)]
        addresses = [builder.ptrtoint(pointer, I64) for pointer in pointers]
        least = context.cast(builder, args[5], kinds[5], kinds[4][0].dtype)
        numbers = [*numbers[:4], *addresses, *numbers[4:], least]
        builder.call(_c_function(builder.module, tinynet_matmul, least.type), numbers)
        return context.get_dummy_value()

    return types.void(size, a, b, start, out, floor), codegen


# --- factors without steps ----------------------------------------------------------------------------------


def places(steps, count):
    """An array of `count` offsets, which are given, or go up by `steps`."""
    raise NotImplementedError


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
    """matmul's (M, N, K), packed, for factors that may have no steps: each step may be an array of offsets instead.

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
            for function in (tinynet_matmul, tinynet_gathered):
                kind = (types.int64,) * (len(signature(function).parameters) - 1) + (real,)
                options, kind = {"error_model": "numpy"}, (kind, types.void)
                made.append(keep(CFunc(function, kind, locals={}, options=options, pipeline_class=WholePipeline)))
                made[-1].compile()
                binding.add_symbol(f"{function.__name__}_{llvm_type(real)}", made[-1].address)
            _compiled[np.dtype(dtype)] = made  # kept alive: kernels hold their addresses


def tinynet_matmul(M, N, J, K, a, b, s, o, a_m, a_j, a_k, b_j, b_k, b_n, s_m, o_m, floor):
    """matmul: of a large product packed, else as the factors lie."""
    if b_n == 1 and not (J == 1 and packing_pays(M, N, K, IN_PLACE, array_at(a, floor).itemsize)):
        _matmul(M, N, J, K, a, b, s, o, a_m, a_j, a_k, b_j, b_k, s_m, o_m, floor)
    else:
        lines = places(a_m, M), places(a_k, K), places(b_n, N), places(b_k, K), places(s_m, M), places(o_m, M)
        arrays = array_at(a, floor), array_at(b, floor), array_at(s, floor), array_at(o, floor)
        packed_product((M, N, K), arrays, lines, floor)


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
    packed_product((M, N, K), arrays, lines, floor)


@intrinsic
def _matmul(typing_context, M, N, J, K, a, b, s, o, a_m, a_j, a_k, b_j, b_k, s_m, o_m, floor):
    def codegen(context, builder, signature, args):
        pointer = llvm_type(floor).as_pointer()
        addresses = [builder.inttoptr(address, pointer) for address in args[4:8]]
        emit_matmul(builder, [*args[:4], *addresses, *args[8:]], TILE[np.dtype(floor.name)])
        return context.get_dummy_value()

    return types.void(M, N, J, K, a, b, s, o, a_m, a_j, a_k, b_j, b_k, s_m, o_m, floor), codegen


# --- the other way to multiply matrices: both factors are vectors, of what is summed over -------------------


def _correlate_within(size, a, b, out):
    M, N, P, Q = size
    if M > 0 and N > 0:
        LANES = width(a.array)
        if P > 0 and Q > 0:
            within(a.array, a.first, (P - 1) * a.steps, Q * LANES - 1, M - 1)
            within(b.array, b.first, (P - 1) * b.steps[0], (N - 1) * b.steps[1], Q * LANES - 1)
        within(out.array, out.first, (M - 1) * out.steps[0], (N - 1) * out.steps[1], LANES - 1)


@emitted(_correlate_within)
def correlate(typing_context, size, a, b, out):
    """The cross-correlation of rows: how much each shift of a row has in common with other rows, lane by lane.

        out[m,n,l] += sum_p sum_q a[p, q LANES + l + m] b[p, n, q LANES + l]        size = (M, N, P, Q), l < LANES

    View a has the step of p, b those of p and n, out those of m and n.  The sum over l is needed only once, after many
    correlations.  This fills the lanes where there are few results in a row but many terms: the weight gradient of a
    convolution with few filters.
    """

    def codegen(context, builder, signature, args):
        views = zip(signature.args[1:], args[1:], strict=True)
        size, numbers = _emit_whole(context, builder, signature.args[0], args[0]), []
        for view in views:
            numbers += [_emit_pointer(context, builder, *view), *_emit_steps(context, builder, *view)]
        builder.call(_correlation(builder.module, out[0].dtype), [*size, *numbers])
        return context.get_dummy_value()

    return types.void(size, a, b, out), codegen


def _function(module, name, kinds):
    """A function of LLVM's module that all kernels in it share."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    return function


def _correlation(module, real):
    """A function of the module, for kernels to call: up to 4 x 6 sums at a time, blocks of about the same size.

    While they stay in registers, 4 + 6 loads feed 24 multiply-adds.  On AVX2, with 16 registers, they are 3 x 3.
    """
    name, (rows, _, lanes) = f"tinynet_correlation_{real}", TILE[np.dtype(real.name)]
    if name in module.globals:
        return module.globals[name]
    vector, pointer = ir.VectorType(llvm_type(real), lanes), llvm_type(real).as_pointer()
    function = _function(module, name, [I64] * 4 + [pointer, I64, pointer, I64, I64, pointer, I64, I64])
    builder, (M, N, P, Q, a, _, b, _, b_n, out, out_m, out_n) = (
        ir.IRBuilder(function.append_basic_block()),
        function.args,
    )

    def length(count, most):
        """Of as few blocks as can be, all but the last as long."""
        blocks = builder.udiv(builder.add(count, I64(most - 1)), I64(most))
        return builder.udiv(builder.add(count, builder.sub(blocks, I64(1))), blocks)

    def least(i, j):
        return builder.select(builder.icmp_signed("<", i, j), i, j)

    most_m, most_n = (4, 6) if rows >= 8 else (3, 3)
    some = [builder.icmp_signed(">", count, I64(0)) for count in (M, N, P, Q)]
    with builder.if_then(functools.reduce(builder.and_, some)):
        length_m, length_n = length(M, most_m), length(N, most_n)
        with emit_while(builder, I64(0), lambda m: builder.icmp_signed("<", m, M)) as (m, next_m):
            height = least(length_m, builder.sub(M, m))
            with emit_while(builder, I64(0), lambda n: builder.icmp_signed("<", n, N)) as (n, next_n):
                breadth = least(length_n, builder.sub(N, n))
                to = builder.gep(out, [builder.add(builder.mul(m, out_m), builder.mul(n, out_n))])
                first = builder.gep(a, [m]), builder.gep(b, [builder.mul(n, b_n)])
                done = builder.append_basic_block("done")
                choice = builder.switch(builder.add(builder.mul(height, I64(most_n)), breadth), done)
                for i, j in np.ndindex(most_m, most_n):
                    choice.add_case(I64((i + 1) * most_n + j + 1), builder.append_basic_block(f"block.{i + 1}.{j + 1}"))
                    builder.position_at_end(choice.cases[-1][1])
                    _emit_correlation(builder, function.args, *first, to, i + 1, j + 1, vector)
                    builder.branch(done)
                builder.position_at_end(done)
                next_n(builder.add(n, breadth))
            next_m(builder.add(m, height))
    builder.ret_void()
    return function


def _emit_correlation(builder, args, a, b, out, height, breadth, vector):
    """Emit the sums over p and q of so many shifts and rows of b, and add them to out."""
    _, _, P, Q, _, a_p, _, b_p, b_n, _, out_m, out_n = args
    lanes, align = vector.count, alignment(vector).constant
    fma = llvm_function(builder.module, "fmuladd", vector)

    def at(pointer, *steps):
        return builder.bitcast(builder.gep(pointer, [functools.reduce(builder.add, steps)]), vector.as_pointer())

    def over_p(todo, a, b, *sums):
        shifts = [builder.load(at(a, I64(m)), align=align) for m in range(height)]
        rows = [builder.load(at(b, builder.mul(I64(n), b_n)), align=align) for n in range(breadth)]
        sums = [builder.call(fma, [shifts[m], rows[n], sums[m * breadth + n]]) for m, n in np.ndindex(height, breadth)]
        todo = builder.sub(todo, I64(1))
        return (todo, builder.gep(a, [a_p]), builder.gep(b, [b_p]), *sums), builder.icmp_signed(">", todo, I64(0))

    def over_q(todo, a, b, *sums):
        _, _, _, *sums = emit_loop(builder, (P, a, b, *sums), over_p)
        todo = builder.sub(todo, I64(1))
        following = todo, builder.gep(a, [I64(lanes)]), builder.gep(b, [I64(lanes)]), *sums
        return following, builder.icmp_signed(">", todo, I64(0))

    zero = ir.Constant(vector, [0.0] * lanes)
    _, _, _, *sums = emit_loop(builder, (Q, a, b, *[zero] * (height * breadth)), over_q)
    for (m, n), total in zip(np.ndindex(height, breadth), sums, strict=True):
        place = at(out, builder.mul(I64(m), out_m), builder.mul(I64(n), out_n))
        builder.store(builder.fadd(builder.load(place, align=align), total), place, align=align)


# --- a small matrix of constants, applied to rows of numbers ---------------------------------------------------


def linear_map(matrix, add=False):
    """A function for kernels that multiplies by a constant matrix (I, J):

    apply(source, result, count)        result[i,c] = sum_j matrix[i,j] source[j,c], c < count

    View source has the step of j, result that of i.  `add` adds to what is in result.  Zeros of the matrix cost
    nothing, and ones an addition.
    """
    I, J = matrix.shape

    def apply_within(source, result, count):
        if count > 0:
            within(source.array, source.first, (J - 1) * source.steps, count - 1, 0)
            within(result.array, result.first, (I - 1) * result.steps, count - 1, 0)

    @emitted(apply_within)
    def apply(typing_context, source, result, count):
        def codegen(context, builder, signature, args):
            numbers = []
            for view in zip(signature.args[:2], args[:2], strict=True):
                numbers += [_emit_pointer(context, builder, *view), *_emit_steps(context, builder, *view)]
            numbers += _emit_whole(context, builder, signature.args[2], args[2])
            builder.call(_linear_map_function(builder.module, matrix, add, result[0].dtype), numbers)
            return context.get_dummy_value()

        return types.void(source, result, count), codegen

    return apply


def _linear_map_function(module, matrix, add, real):
    """The map as a function of the module: several kernels call it, and inlined it is compiled each time."""
    name = f"tinynet_map_{zlib.crc32(matrix.tobytes())}_{add}_{real}"
    if name in module.globals:
        return module.globals[name]
    pointer = llvm_type(real).as_pointer()
    function = _function(module, name, [pointer, I64, pointer, I64, I64])
    source, s_step, result, r_step, count = function.args
    builder, c = ir.IRBuilder(function.append_basic_block()), I64(0)
    for lanes in (TILE[np.dtype(real.name)][2], 1):  # what is left, one by one
        vector = ir.VectorType(llvm_type(real), lanes)
        fma, align = llvm_function(module, "fmuladd", vector), alignment(vector).constant

        def at(p, step, row, c, vector=vector):
            p = builder.gep(p, [builder.add(builder.mul(I64(row), step), c)])
            return builder.bitcast(p, vector.as_pointer())

        def more(c, lanes=lanes):
            return builder.icmp_signed("<=", builder.add(c, I64(lanes)), count)

        with emit_while(builder, c, more) as (c, advance):
            rows = [builder.load(at(source, s_step, j, c), align=align) for j in range(matrix.shape[1])]
            for i, weights in enumerate(matrix):
                place = at(result, r_step, i, c)
                total = builder.load(place, align=align) if add else None
                for w, x in sorted(zip(weights, rows, strict=True), key=lambda term: abs(term[0]) != 1):
                    weight = ir.Constant(vector, [w] * lanes)
                    if w == 0:
                        continue
                    if total is None:
                        total = x if w == 1 else builder.fmul(weight, x)
                    elif abs(w) == 1:
                        total = (builder.fadd if w > 0 else builder.fsub)(total, x)
                    else:
                        total = builder.call(fma, [weight, x, total])
                builder.store(total, place, align=align)
            advance(builder.add(c, I64(lanes)))
    builder.ret_void()
    return function
