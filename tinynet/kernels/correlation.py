"""Two products that are no matmul's: correlate, whose factors are both vectors, and linear_map, by constants."""

import functools
import zlib

import numpy as np
from llvmlite import ir
from numba import types

from tinynet.kernels.compile import emitted, helper
from tinynet.kernels.matmul import emit_pointer, emit_steps, emit_whole
from tinynet.kernels.memory import within
from tinynet.kernels.tile import HIGHEST, TILE, emit_loop
from tinynet.kernels.vectors import I64, alignment, emit_splat, emit_while, llvm_function, llvm_type, width

# --- both factors are vectors, of what is summed over -------------------


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
        size, numbers = emit_whole(context, builder, signature.args[0], args[0]), []
        for view in views:
            numbers += [emit_pointer(context, builder, *view), *emit_steps(context, builder, *view)]
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


def linear_map(matrix, add=False, finish=False):
    """A function for kernels that multiplies by a constant matrix (I, J):

    apply(source, result, count)                  result[i,c] = sum_j matrix[i,j] source[j,c], c < count
    apply(source, result, count, bias, floor)     ... = max(floor, bias[c] + ...), where `finish` is true

    View source has the step of j, result that of i; bias has none.  `add` adds to what is in result.  Zeros of the
    matrix cost nothing, and ones an addition.
    """
    I, J = matrix.shape

    @helper
    def apply_within(source, result, count):
        if count > 0:
            within(source.array, source.first, (J - 1) * source.steps, count - 1, 0)
            within(result.array, result.first, (I - 1) * result.steps, count - 1, 0)

    def finish_within(source, result, count, bias, floor):
        apply_within(source, result, count)
        if count > 0:
            within(bias.array, bias.first, count - 1, 0, 0)

    def call(context, builder, kinds, args):
        numbers = []
        for view in zip(kinds[:2], args[:2], strict=True):
            numbers += [emit_pointer(context, builder, *view), *emit_steps(context, builder, *view)]
        numbers += emit_whole(context, builder, kinds[2], args[2])
        if finish:
            numbers += [emit_pointer(context, builder, kinds[3], args[3])]
            numbers += [context.cast(builder, args[4], kinds[4], kinds[1][0].dtype)]
        builder.call(_linear_map_function(builder.module, matrix, add, finish, kinds[1][0].dtype), numbers)
        return context.get_dummy_value()

    @emitted(apply_within)
    def apply(typing_context, source, result, count):
        return types.void(source, result, count), lambda c, b, signature, args: call(c, b, signature.args, args)

    @emitted(finish_within)
    def apply_and_finish(typing_context, source, result, count, bias, floor):
        kinds = source, result, count, bias, floor
        return types.void(*kinds), lambda c, b, signature, args: call(c, b, signature.args, args)

    return apply_and_finish if finish else apply


def _emit_combination(builder, weights, vectors, total=None):
    """The sum of vectors times constants, and of a total, if there is one."""
    for w, x in sorted(zip(weights, vectors, strict=True), key=lambda term: abs(term[0]) != 1):
        if w == 0:
            continue
        weight = ir.Constant(x.type, [w] * x.type.count)
        if total is None:
            total = x if w == 1 else builder.fmul(weight, x)
        elif abs(w) == 1:
            total = (builder.fadd if w > 0 else builder.fsub)(total, x)
        else:
            total = builder.call(llvm_function(builder.module, "fmuladd", x.type), [weight, x, total])
    return total


def _linear_map_function(module, matrix, add, finish, real):
    """The map as a function of the module: several kernels call it, and inlined it is compiled each time."""
    name = f"tinynet_map_{zlib.crc32(matrix.tobytes())}_{add}_{finish}_{real}"
    if name in module.globals:
        return module.globals[name]
    pointer = llvm_type(real).as_pointer()
    function = _function(
        module, name, [pointer, I64, pointer, I64, I64, *([pointer, llvm_type(real)] if finish else [])]
    )
    source, s_step, result, r_step, count, *last = function.args
    builder, c = ir.IRBuilder(function.append_basic_block()), I64(0)
    for lanes in (TILE[np.dtype(real.name)][2], 1):  # what is left, one by one
        vector = ir.VectorType(llvm_type(real), lanes)
        align = alignment(vector).constant

        def at(p, step, row, c, vector=vector):
            p = builder.gep(p, [builder.add(builder.mul(I64(row), step), c)])
            return builder.bitcast(p, vector.as_pointer())

        def more(c, lanes=lanes):
            return builder.icmp_signed("<=", builder.add(c, I64(lanes)), count)

        with emit_while(builder, c, more) as (c, advance):
            rows = [builder.load(at(source, s_step, j, c), align=align) for j in range(matrix.shape[1])]
            bias = builder.load(at(last[0], I64(0), 0, c), align=align) if finish else None
            for i, weights in enumerate(matrix):
                place = at(result, r_step, i, c)
                total = _emit_combination(builder, weights, rows, builder.load(place, align=align) if add else None)
                if finish:
                    total, least = builder.fadd(total, bias), emit_splat(builder, last[1], lanes)
                    total = builder.select(builder.fcmp_ordered("<", total, least), least, total)  # NaN stays
                builder.store(total, place, align=align)
            advance(builder.add(c, I64(lanes)))
    builder.ret_void()
    return function


def mapped_products(matrix):
    """A function for kernels that maps squares of numbers and multiplies by them, without storing what they become:

    apply(windows, v, sums, C, K)      sums[i,j,k] += sum_c v[i,j,c] u[i,j],  u = matrix windows[:,:,c,k] matrix.T

    The matrix is (I, J).  View windows (J, J, C, K) has the step of j, which i has J times, and so have v (I, I, C) and
    sums (I, I, K); C is 1 at least.  The bits are those of linear_map, twice, and of matmul.
    """
    I, J = matrix.shape

    @helper
    def apply_within(windows, v, sums, C, K):
        if C > 0 and K > 0:
            within(windows.array, windows.first, (J * J - 1) * windows.steps, C * K - 1, 0)
            within(v.array, v.first, (I * I - 1) * v.steps, C - 1, 0)
            within(sums.array, sums.first, (I * I - 1) * sums.steps, K - 1, 0)

    @emitted(apply_within)
    def apply(typing_context, windows, v, sums, C, K):
        def codegen(context, builder, signature, args):
            numbers = []
            for view in zip(signature.args[:3], args[:3], strict=True):
                numbers += [emit_pointer(context, builder, *view), *emit_steps(context, builder, *view)]
            for count in zip(signature.args[3:], args[3:], strict=True):
                numbers += emit_whole(context, builder, *count)
            function = _mapped_products_function(builder.module, matrix, signature.args[2][0].dtype)
            builder.call(function, numbers)
            return context.get_dummy_value()

        return types.void(windows, v, sums, C, K), codegen

    return apply


def _mapped_products_function(module, matrix, real):
    name = f"tinynet_mapped_products_{zlib.crc32(matrix.tobytes())}_{real}"
    if name in module.globals:
        return module.globals[name]
    (I, J), pointer = matrix.shape, llvm_type(real).as_pointer()
    function = _function(module, name, [pointer, I64] * 3 + [I64, I64])
    windows, w_step, v, v_step, sums, s_step, C, K = function.args
    builder, k = ir.IRBuilder(function.append_basic_block()), I64(0)
    high = max(1, (HIGHEST * 2 - J * J) // I)  # rows of the result whose sums stay in registers
    for lanes in (TILE[np.dtype(real.name)][2], 1):  # what is left, one by one
        vector = ir.VectorType(llvm_type(real), lanes)
        fma, align = llvm_function(module, "fmuladd", vector), alignment(vector).constant

        def at(p, *steps, vector=vector):
            return builder.bitcast(builder.gep(p, [functools.reduce(builder.add, steps)]), vector.as_pointer())

        def step(row, step):
            return builder.mul(I64(row), step)

        def more(k, lanes=lanes):
            return builder.icmp_signed("<=", builder.add(k, I64(lanes)), K)

        with emit_while(builder, k, more) as (k, advance):
            for first in range(0, I, high):
                rows = range(first, min(I, first + high))
                places = [at(sums, step(i * I + j, s_step), k) for i in rows for j in range(I)]

                def over_c(c, *totals, rows=rows, k=k, lanes=lanes, at=at, align=align, fma=fma):
                    along = builder.add(builder.mul(c, K), k)
                    given = [builder.load(at(windows, step(n, w_step), along), align=align) for n in range(J * J)]
                    totals = list(totals)
                    for n, i in enumerate(rows):
                        half = [_emit_combination(builder, matrix[i], given[j::J]) for j in range(J)]
                        for j in range(I):
                            x = builder.load(builder.gep(v, [builder.add(step(i * I + j, v_step), c)]))
                            u = _emit_combination(builder, matrix[j], half)
                            total = totals[n * I + j]
                            totals[n * I + j] = builder.call(fma, [emit_splat(builder, x, lanes), u, total])
                    c = builder.add(c, I64(1))
                    return (c, *totals), builder.icmp_signed("<", c, C)

                totals = [builder.load(place, align=align) for place in places]
                _, *totals = emit_loop(builder, (I64(0), *totals), over_c)
                for total, place in zip(totals, places, strict=True):
                    builder.store(total, place, align=align)
            advance(builder.add(k, I64(lanes)))
    builder.ret_void()
    return function
