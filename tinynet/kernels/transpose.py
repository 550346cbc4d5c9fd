"""transpose: a matrix with its axes swapped, in squares that stay in registers.

    transpose(source, s0, s_step, result, r0, r_step, rows, columns)

    result[j,i] = source[i,j]          i < rows, j < columns
    source[i,j] is source.flat[s0 + i s_step + j]        result[j,i] is result.flat[r0 + j r_step + i]

The tile wants the axis that it doesn't sum over contiguous, so a layer's input gradient needs the weights with their
axes swapped.  Number by number that takes 1.2 ns an element: as long as the product itself with 64 samples.

A square of W x W numbers is W vectors.  Swapping its quarters, then the quarters of each quarter, and so on down to
single numbers transposes it: lg W rounds, each of W shuffles of two vectors (Eklundh 1972).  At the right and at the
bottom, what lies outside is masked: it is neither read nor written.

    square(source, s, s_step, result, r, r_step, rows, columns)       the first W of rows and columns
    square_to_vectors, square_from_vectors                            result, or source, has room for all of W x W

A vector that was written under a mask can't be read again before it has reached the cache: hence those two.
"""

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinynet.kernels import compile, memory
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.vectors import I64, alignment, lanes_of, llvm_function, width


def _square_in_python(source, s, s_step, result, r, r_step, rows, columns):
    side = width(source)
    for i in range(min(rows, side)):
        for j in range(min(columns, side)):
            result[r + j * r_step + i] = source[s + i * s_step + j]


def shuffled(builder, vector, other, order):
    kind = ir.VectorType(ir.IntType(32), len(order))
    return builder.shuffle_vector(vector, other, ir.Constant(kind, list(order)))


def swap_quarters(builder, vectors):
    """Transpose, in place, each square of R x R numbers that R vectors hold side by side."""
    lanes, half = vectors[0].type.count, len(vectors) // 2
    while half:
        for i in range(len(vectors)):
            if i & half == 0:  # a pair of rows: swap what lies off the diagonal of its quarters
                pair = vectors[i], vectors[i + half]
                kept = [j if j & half == 0 else lanes + j - half for j in range(lanes)]
                swapped = [j + half if j & half == 0 else lanes + j for j in range(lanes)]
                vectors[i], vectors[i + half] = (shuffled(builder, *pair, order) for order in (kept, swapped))
        half //= 2


def _square_in_registers(masks_source, masks_result):
    @intrinsic
    def square(typing_context, source, s, s_step, result, r, r_step, rows, columns):
        def codegen(context, builder, signature, args):
            side = lanes_of(source.dtype)
            vector = ir.VectorType(context.get_data_type(source.dtype), side)
            align, zero = alignment(vector), ir.Constant(vector, [0.0] * side)
            load, store = (llvm_function(builder.module, f"masked.{what}", vector) for what in ("load", "store"))

            def at_most_side(n):
                return builder.select(builder.icmp_signed("<", n, I64(side)), n, I64(side))

            def lines(position):
                """A pointer to each of W lines of an array."""
                first = context.make_array(signature.args[position])(context, builder, args[position]).data
                for i in range(side):
                    place = builder.add(args[position + 1], builder.mul(I64(i), args[position + 2]))
                    yield builder.bitcast(builder.gep(first, [place]), vector.as_pointer())

            def masks(count, size):
                """For each of W lines the mask of its first `size` numbers; of none from line `count` on."""
                bits = ir.IntType(side)
                mask = builder.trunc(builder.lshr(I64(2**side - 1), builder.sub(I64(side), size)), bits)
                for i in range(side):
                    inside = builder.select(builder.icmp_signed("<", I64(i), count), mask, bits(0))
                    yield builder.bitcast(inside, ir.VectorType(ir.IntType(1), side))

            rows, columns = at_most_side(args[6]), at_most_side(args[7])
            if masks_source:
                pairs = zip(lines(0), masks(rows, columns), strict=True)
                square = [builder.call(load, [p, align, mask, zero]) for p, mask in pairs]
            else:
                square = [builder.load(p, align=align.constant) for p in lines(0)]
            swap_quarters(builder, square)
            if masks_result:
                for line, p, mask in zip(square, lines(3), masks(columns, rows), strict=True):
                    builder.call(store, [line, p, align, mask])
            else:
                for line, p in zip(square, lines(3), strict=True):
                    builder.store(line, p, align=align.constant)
            return context.get_dummy_value()

        i64 = types.int64
        return types.void(source, i64, i64, result, i64, i64, i64, i64), codegen

    return square


def _square_within(masks_source, masks_result):
    in_registers = _square_in_registers(masks_source, masks_result)

    def square(source, s, s_step, result, r, r_step, rows, columns):
        W = width(source)
        m, n = (min(rows, W), min(columns, W)) if masks_source else (W, W)
        if m > 0 and n > 0:
            memory.within(source, s, (m - 1) * s_step, n - 1, 0)
        m, n = (min(rows, W), min(columns, W)) if masks_result else (W, W)
        if m > 0 and n > 0:
            memory.within(result, r, (n - 1) * r_step, m - 1, 0)
        in_registers(source, s, s_step, result, r, r_step, rows, columns)

    return helper(square)


if numba.config.DISABLE_JIT:
    square = square_to_vectors = square_from_vectors = _square_in_python
else:
    made = _square_within if compile.CHECKED else _square_in_registers
    square, square_to_vectors, square_from_vectors = made(True, True), made(True, False), made(False, True)


@kernel()
def transpose(source, s0, s_step, result, r0, r_step, rows, columns):
    given, to = memory.piece(source, 0, source.size), memory.piece(result, 0, result.size)
    W = width(source)
    for i in range(0, rows, W):
        for j in range(0, columns, W):
            s, r = s0 + i * s_step + j, r0 + j * r_step + i
            square(given, s, s_step, to, r, r_step, rows - i, columns - j)
