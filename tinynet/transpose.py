"""transpose: a matrix with its axes swapped, in squares that stay in registers.

    transpose(source, s0, s_step, result, r0, r_step, rows, columns)

    result[j,i] = source[i,j]          i < rows, j < columns
    source[i,j] is source.flat[s0 + i s_step + j]        result[j,i] is result.flat[r0 + j r_step + i]

The tile wants the axis that it doesn't sum over contiguous, so a layer's input gradient needs the weights with their
axes swapped.  Number by number that takes 1.2 ns an element: as long as the product itself with 64 samples.

A square of 8 x 8 numbers is eight vectors.  Swapping its quarters, then the quarters of each quarter, then single
numbers transposes it: three rounds, each of eight shuffles of two vectors (Eklundh 1972).
"""

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinynet import simd

SIDE = 8


def _square_in_python(source, s, s_step, result, r, r_step):
    for i in range(SIDE):
        for j in range(SIDE):
            result[r + j * r_step + i] = source[s + i * s_step + j]


@intrinsic
def _square_in_registers(typing_context, source, s, s_step, result, r, r_step):
    def codegen(context, builder, signature, args):
        align = source.dtype.bitwidth // 8
        vector = ir.VectorType(context.get_data_type(source.dtype), SIDE)

        def pointers(position):
            first = context.make_array(signature.args[position])(context, builder, args[position]).data
            start, step = args[position + 1], args[position + 2]
            places = [builder.add(start, builder.mul(ir.IntType(64)(i), step)) for i in range(SIDE)]
            return [builder.bitcast(builder.gep(first, [place]), vector.as_pointer()) for place in places]

        rows = [builder.load(p, align=align) for p in pointers(0)]
        half = SIDE // 2
        while half:
            for i in range(SIDE):
                if i & half == 0:  # a pair of rows: swap what lies off the diagonal of its quarters
                    upper, lower = rows[i], rows[i + half]
                    lanes = [j if j & half == 0 else SIDE + j - half for j in range(SIDE)]
                    others = [j + half if j & half == 0 else SIDE + j for j in range(SIDE)]
                    masks = [ir.Constant(ir.VectorType(ir.IntType(32), SIDE), order) for order in (lanes, others)]
                    rows[i], rows[i + half] = (builder.shuffle_vector(upper, lower, mask) for mask in masks)
            half //= 2
        for row, p in zip(rows, pointers(3), strict=True):
            builder.store(row, p, align=align)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(source, i64, i64, result, i64, i64), codegen


def _square_within(source, s, s_step, result, r, r_step):
    simd.within(source, s, (SIDE - 1) * s_step, SIDE - 1, 0)
    simd.within(result, r, (SIDE - 1) * r_step, SIDE - 1, 0)
    _square_in_registers(source, s, s_step, result, r, r_step)


if numba.config.DISABLE_JIT:
    square = _square_in_python
else:
    square = simd.helper(_square_within) if simd.CHECKED else _square_in_registers


@simd.kernel()
def transpose(source, s0, s_step, result, r0, r_step, rows, columns):
    source, result = simd.piece(source, 0, source.size), simd.piece(result, 0, result.size)
    whole = rows - rows % SIDE
    for i in range(0, whole, SIDE):
        for j in range(0, columns - SIDE + 1, SIDE):
            square(source, s0 + i * s_step + j, s_step, result, r0 + j * r_step + i, r_step)
        for j in range(columns - columns % SIDE, columns):
            for k in range(i, i + SIDE):
                result[r0 + j * r_step + k] = source[s0 + k * s_step + j]
    for i in range(whole, rows):
        for j in range(columns):
            result[r0 + j * r_step + i] = source[s0 + i * s_step + j]
