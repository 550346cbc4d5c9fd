"""Cross-correlation along rows: how much each shift of one row has in common with other rows, lane by lane.

    correlate(size, a, a0, a_step, b, b0, b_step, c, c0)

    c[m,n,l] += sum_p sum_q a[p, q W + l + m] b[p,n,q W + l]         size = (M, N, P, Q), l < W, the lanes of a vector

    a[p,i]      a.flat[a0 + p a_step + i]
    b[p,n,i]    b.flat[b0 + p b_step[0] + n b_step[1] + i]
    c[m,n,l]    c.flat[c0 + (m N + n) W + l]

    sum_lanes(c, count, result, r0)

    result.flat[r0 + i] = sum_l c.flat[i W + l]                      i < count

The sum over l is needed only once, after many correlations.  This is the other way to multiply matrices: where tile.py
broadcasts a number and keeps a row of results in a vector, here both factors are vectors, of what is summed over.  That
fills the lanes where there are few results in a row but many terms: the weight gradient of a convolution with few
filters.

Up to 4 x 6 sums stay in registers, while 4 + 6 loads feed 24 multiply-adds.  There is a loop for each size of block, in
a function of its own, which is compiled once for all that call it.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinynet.kernels import compile, memory
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.matmul import TILE
from tinynet.kernels.transpose import square_to_vectors
from tinynet.kernels.vectors import (
    I64,
    alignment,
    emit_while,
    lanes_of,
    llvm_function,
    llvm_type,
    load,
    store_some,
    width,
)


def _correlate_in_python(size, a, a0, a_step, b, b0, b_step, c, c0):
    a, b, c = a.reshape(-1), b.reshape(-1), c.reshape(-1)
    M, N, P, Q = size
    W = width(a)
    for m in range(M):
        for n in range(N):
            for p in range(P):
                for q in range(0, Q * W, W):
                    first, second = a0 + p * a_step + q + m, b0 + p * b_step[0] + n * b_step[1] + q
                    to = c0 + (m * N + n) * W
                    c[to : to + W] += a[first : first + W] * b[second : second + W]


@intrinsic
def _correlate_in_registers(typing_context, size, a, a0, a_step, b, b0, b_step, c, c0):
    def codegen(context, builder, signature, args):
        def whole(position):  # an argument, or each item of a tuple, as int64
            kind, value = signature.args[position], args[position]
            items = [kind] if isinstance(kind, types.Integer) else list(kind)
            values = [value] if isinstance(kind, types.Integer) else cgutils.unpack_tuple(builder, value)
            return [context.cast(builder, v, k, types.int64) for v, k in zip(values, items, strict=True)]

        def address(position):
            array = context.make_array(signature.args[position])(context, builder, args[position])
            return builder.gep(array.data, whole(position + 1))

        function = _function(builder.module, llvm_type(c.dtype), lanes_of(c.dtype))
        builder.call(function, [*whole(0), address(1), *whole(3), address(4), *whole(6), address(7)])
        return context.get_dummy_value()

    return types.void(size, a, a0, a_step, b, b0, b_step, c, c0), codegen


def _most():
    """(shifts, rows of b) whose sums, with the shifted vectors of a and one of b, fit into 32 registers, or 16."""
    return (4, 6) if TILE[np.dtype(np.float32)][0] >= 8 else (3, 3)


def _function(module, scalar, lanes):
    """All of c, by blocks of about the same size."""
    name = f"tinynet.correlate.{scalar}"
    if name in module.globals:
        return module.globals[name]
    pointer = scalar.as_pointer()
    kinds = [*[I64] * 4, pointer, I64, pointer, I64, I64, pointer]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    M, N, _, _, a, _, b, _, b_n, c = function.args
    builder = ir.IRBuilder(function.append_basic_block())

    def block(count, most):
        """How long a block is: as few blocks as can be, and all but the last of the same length."""
        blocks = builder.udiv(builder.add(count, I64(most - 1)), I64(most))
        return builder.udiv(builder.add(count, builder.sub(blocks, I64(1))), blocks)

    def least(i, j):
        return builder.select(builder.icmp_signed("<", i, j), i, j)

    (shifts, rows), end = _most(), function.append_basic_block("end")
    some = builder.and_(builder.icmp_signed(">", M, I64(0)), builder.icmp_signed(">", N, I64(0)))
    with builder.if_then(some):
        height, breadth = block(M, shifts), block(N, rows)
        with emit_while(builder, I64(0), lambda m: builder.icmp_signed("<", m, M)) as (m, next_m):
            high = least(height, builder.sub(M, m))
            with emit_while(builder, I64(0), lambda n: builder.icmp_signed("<", n, N)) as (n, next_n):
                broad = least(breadth, builder.sub(N, n))
                which = builder.add(builder.mul(high, I64(rows)), broad)
                to = builder.gep(c, [builder.mul(builder.add(builder.mul(m, N), n), I64(lanes))])
                first = builder.gep(a, [m]), builder.gep(b, [builder.mul(n, b_n)])
                done = builder.append_basic_block("block.done")
                choice = builder.switch(which, done)
                for i in range(1, shifts + 1):
                    for j in range(1, rows + 1):
                        choice.add_case(I64(i * rows + j), builder.append_basic_block(f"block.{i}.{j}"))
                        builder.position_at_end(choice.cases[-1][1])
                        _body(builder, function.args, *first, to, i, j, ir.VectorType(scalar, lanes))
                        builder.branch(done)
                builder.position_at_end(done)
                next_n(builder.add(n, broad))
            next_m(builder.add(m, high))
    builder.branch(end)
    builder.position_at_end(end)
    builder.ret_void()
    return function


def _body(builder, args, a, b, c, shifts, rows, vector):
    """Emit the sums over p and q for so many shifts and rows of b, and add them to c."""
    _, N, P, Q, _, a_p, _, b_p, b_n, _ = args
    lanes, align = vector.count, alignment(vector).constant
    fma = llvm_function(builder.module, "fmuladd", vector)
    zero = ir.Constant(vector, [0.0] * lanes)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(rows)] for _ in range(shifts)]

    def load(pointer, step):
        return builder.load(builder.bitcast(builder.gep(pointer, [step]), vector.as_pointer()), align=align)

    with emit_while(builder, I64(0), lambda q: builder.icmp_signed("<", q, Q)) as (q, next_q):
        at = builder.mul(q, I64(lanes))
        with emit_while(builder, I64(0), lambda p: builder.icmp_signed("<", p, P)) as (p, next_p):
            a_row = builder.gep(a, [builder.add(builder.mul(p, a_p), at)])
            b_row = builder.gep(b, [builder.add(builder.mul(p, b_p), at)])
            shifted = [load(a_row, I64(m)) for m in range(shifts)]
            for n in range(rows):
                factor = load(b_row, builder.mul(I64(n), b_n))
                for m in range(shifts):
                    builder.store(builder.call(fma, [shifted[m], factor, builder.load(sums[m][n])]), sums[m][n])
            next_p(builder.add(p, I64(1)))
        next_q(builder.add(q, I64(1)))
    for m in range(shifts):
        for n in range(rows):
            to = builder.mul(builder.add(builder.mul(I64(m), N), I64(n)), I64(lanes))
            place = builder.bitcast(builder.gep(c, [to]), vector.as_pointer())
            total = builder.fadd(builder.load(place, align=align), builder.load(sums[m][n]))
            builder.store(total, place, align=align)


def _correlate_within(size, a, a0, a_step, b, b0, b_step, c, c0):
    M, N, P, Q = size
    if M > 0 and N > 0:
        W = width(a)
        if P > 0 and Q > 0:
            memory.within(a, a0, (P - 1) * a_step, Q * W - 1, M - 1)
            memory.within(b, b0, (P - 1) * b_step[0], (N - 1) * b_step[1], Q * W - 1)
        memory.within(c, c0, M * N * W - 1, 0, 0)
    _correlate_in_registers(size, a, a0, a_step, b, b0, b_step, c, c0)


if numba.config.DISABLE_JIT:
    correlate = _correlate_in_python
else:
    correlate = helper(_correlate_within) if compile.CHECKED else _correlate_in_registers


@kernel()
def sum_lanes(c, count, result, r0):
    W = width(c)
    square, to = np.empty(W * W, c.dtype), memory.piece(result, 0, result.size)
    for i in range(0, count, W):
        square_to_vectors(c, i * W, W, square, 0, W, count - i, W)
        total = load(square, 0)
        for l in range(1, W):
            total = total + load(square, l * W)
        store_some(total, to, r0 + i, count - i)
