"""packed_tile: the product of a sliver and a panel, in registers.  packed.py says what they are.

    sums[t,n] = or += sum_k sliver[k,t] panel[k,n]            out[m+t,n] = max(floor, start[m+t,n] + sums[t,n])

For each term two vectors of the panel are loaded and each number of the sliver is broadcast to all lanes: on AVX-512
28 multiply-adds for 16 loads.  A tile is of ROWS rows, or a SHORT one, so that hardly any is computed in vain.

Copying a factor beforehand takes as long as many multiplications: reading and writing 64 bytes of the L2 cache as
long as 200, of the L3 cache 500 (one thread of an Intel Xeon, Emerald Rapids).  So the first tile that needs a sliver
or a panel copies it: it reads the factor where it lies, and stores what it has in its registers anyway, while the
multipliers go on.  dw of 768 samples, 128 inputs and 512 outputs went from 136 GFLOP/s to 158, of 195 at most.
And where all terms are summed, a tile that lies in `out` as a whole goes there from its registers.
"""

import numpy as np
from llvmlite import ir
from numba import types

from tinynet.kernels.compile import helper
from tinynet.kernels.llvm import (
    FEATURES,
    I64,
    LANES,
    alignment,
    emit_fetch,
    emit_load,
    emit_splat,
    emit_store,
    llvm_function,
    primitive,
)
from tinynet.kernels.tile import emit_if, emit_loop


def _tile_shape(features):
    """(rows, vectors) of the tile: as many sums as leave registers for a row of b and a number of a."""
    return (
        (14, 2) if "avx512f" in features else (6, 2) if "avx2" in features else (8, 2) if "neon" in features else (4, 2)
    )


ROWS, VECTORS = _tile_shape(FEATURES)
SHORT = {14: 8, 6: 4, 8: 4, 4: 2}[ROWS]  # a lower tile, which still has sums enough to keep the multipliers busy
PITCH = 1 << (ROWS - 1).bit_length()  # numbers from one term of a sliver to the next: whole registers
BYTES = LANES[np.dtype(np.float32)] * 4  # of a register

NUMBERS = types.UniTuple(types.int64, 3)


def _multiply(copied):
    @primitive(
        lambda size, scratch, at, first, ends, arrays, lines, floor, of: types.void(
            NUMBERS,
            scratch,
            NUMBERS,
            types.boolean,
            NUMBERS,
            arrays,
            lines,
            arrays.dtype.dtype,
            NUMBERS,
        )
    )
    def multiply(builder, made, size, scratch, at, first, ends, arrays, lines, floor, of):
        (sliver, panel, sums), (a, b, start, out) = scratch, arrays
        _, a_terms, _, b_terms, s_rows, o_rows = lines
        last, m, n = builder.trunc(ends[0], ir.IntType(1)), ends[1:2], ends[2:]
        args = [*(builder.gep(p, [i]) for p, i in zip((sliver, panel, sums), at, strict=True)), first, last]
        args += [builder.gep(p, i) for p, i in ((start, n), (s_rows, m), (out, n), (o_rows, m))]
        args.append(floor)
        if copied:
            source, terms = (a, a_terms) if copied == "a" else (b, b_terms)
            args += [builder.gep(source, of[:1]), builder.gep(terms, of[1:2]), of[2]]
        height, K, block = size
        with builder.if_else(builder.icmp_signed("==", height, I64(ROWS))) as branches:
            for rows, branch in zip((ROWS, SHORT), branches, strict=True):
                with branch:
                    builder.call(_tile_function(builder.module, floor.type, rows, copied), [K, block, *args])

    return multiply


# multiply(size, (sliver, panel, sums), at, first, ends, arrays, lines, floor, of): a tile's sums over k, as above.
#
# size     rows of the tile, K, and how many terms are summed in registers before they go to memory
# at       where the sliver, the panel and the sums begin in their arrays
# first    whether the sums begin with these terms
# ends     whether the tile goes to `out` instead of to the sums, and which of its rows and columns it begins with
# arrays   packed_product's, as are the places of their lines
# of       for the two that copy: the place of the sliver's rows or of the panel's columns, the first k, and how far
#          ahead in the factor memory is asked for
multiply, multiply_copying_a, multiply_copying_b = _multiply(None), _multiply("a"), _multiply("b")


def _tile_function(module, scalar, rows, copied):
    """A function of the module, which all that call it share; `copied` is "a", "b" or None."""
    name = f"tinynet_tile_{scalar}_{rows}_{copied}"
    if name in module.globals:
        return module.globals[name]
    flag, pointer = ir.IntType(1), scalar.as_pointer()
    places = I64.as_pointer()
    kinds = [I64, I64, *[pointer] * 3, flag, flag, pointer, places, pointer, places, scalar]
    kinds += [pointer, places, I64] if copied else []
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    K, block, sliver, panel, sums, first, last, start, s_rows, out, o_rows, floor = function.args[:12]
    source, terms, ahead = function.args[12:] or (None, None, None)
    builder = ir.IRBuilder(function.append_basic_block())
    lanes = LANES[np.dtype("float32" if scalar == ir.FloatType() else "float64")]
    vector = ir.VectorType(scalar, lanes)
    align, zeros = alignment(vector).constant, [ir.Constant(vector, [0.0] * lanes)] * (rows * VECTORS)
    fma = llvm_function(module, "fmuladd", vector)

    def at(p, v):
        return builder.bitcast(builder.gep(p, [I64(v * lanes)]), vector.as_pointer())

    def fetch(place, *numbers):
        """Ask for memory that will be read some terms later."""
        for n in numbers:
            emit_fetch(builder, place, builder.add(ahead, I64(n)))

    def copy_to_sliver(place, to):
        fetch(place, 0, rows - 1)
        for n in range(0, rows, lanes):
            inside = ir.Constant(ir.VectorType(flag, lanes), [n + i < rows for i in range(lanes)])
            emit_store(builder, emit_load(builder, place, I64(n), vector, inside, zeros[0]), to, I64(n))

    def copy_to_panel(place, row, to):
        fetch(place, *range(0, VECTORS * lanes, 64 * lanes // BYTES))
        for v, value in enumerate(row):
            builder.store(value, at(to, v), align=align)

    def some_terms(count):
        """The body of a loop over k, so many at a time."""

        def body(todo, a, b, terms, *totals):
            for k in range(count):
                column, line = builder.gep(a, [I64(k * PITCH)]), builder.gep(b, [I64(k * VECTORS * lanes)])
                to_column, to_line = column, line
                if copied:
                    place = builder.gep(source, [builder.load(builder.gep(terms, [I64(k)]))])
                    column, line = (place, line) if copied == "a" else (column, place)
                row, sums = [builder.load(at(line, v), align=align) for v in range(VECTORS)], []
                if copied == "a":
                    copy_to_sliver(column, to_column)
                elif copied == "b":
                    copy_to_panel(line, row, to_line)
                for t in range(rows):
                    x = emit_splat(builder, builder.load(builder.gep(column, [I64(t)])), lanes)
                    sums += [builder.call(fma, [x, row[v], totals[t * VECTORS + v]]) for v in range(VECTORS)]
                totals = sums
            todo = builder.sub(todo, I64(count))
            a, b = builder.gep(a, [I64(count * PITCH)]), builder.gep(b, [I64(count * VECTORS * lanes)])
            terms = builder.gep(terms, [I64(count)]) if copied else terms
            return (todo, a, b, terms, *totals), builder.icmp_signed(">=", todo, I64(count))

        return body

    def with_sums(*totals):
        return [builder.fadd(builder.load(at(sums, v), align=align), total) for v, total in enumerate(totals)]

    def rows_of(array, places):
        for t in range(rows):
            yield builder.gep(array, [builder.load(builder.gep(places, [I64(t)]))])

    def store_in_out(totals):
        least = emit_splat(builder, floor, lanes)
        for t, (given, to) in enumerate(zip(rows_of(start, s_rows), rows_of(out, o_rows), strict=True)):
            for v in range(VECTORS):
                total = builder.fadd(builder.load(at(given, v), align=align), totals[t * VECTORS + v])
                less = builder.fcmp_ordered("<", total, least)  # false for NaN, which so stays
                builder.store(builder.select(less, least, total), at(to, v), align=align)

    def one_block(k):
        left = builder.sub(K, k)
        size = builder.select(builder.icmp_signed("<", left, block), left, block)
        values = [
            size,
            builder.gep(sliver, [builder.mul(k, I64(PITCH))]),
            builder.gep(panel, [builder.mul(k, I64(VECTORS * lanes))]),
            builder.gep(terms, [k]) if copied else I64(0),
            *zeros,
        ]
        for count in (1,) if copied else (2, 1):  # no registers are left for a second term beside what is copied
            some = builder.icmp_signed(">=", values[0], I64(count))
            values = emit_if(builder, some, values, lambda *v, count=count: emit_loop(builder, v, some_terms(count)))
        totals = values[-len(zeros) :]
        later = builder.not_(builder.and_(first, builder.icmp_signed("==", k, I64(0))))
        totals = emit_if(builder, later, totals, with_sums)
        k = builder.add(k, size)
        more = builder.icmp_signed("<", k, K)
        with builder.if_else(builder.and_(last, builder.not_(more))) as (at_end, before):
            with at_end:
                store_in_out(totals)
            with before:
                for v, total in enumerate(totals):
                    builder.store(total, at(sums, v), align=align)
        return (k,), more

    with builder.if_then(last):  # out is far away
        for to in rows_of(out, o_rows):
            for n in range(0, VECTORS * lanes, 64 * lanes // BYTES):
                emit_fetch(builder, to, I64(n), writes=1)
    emit_loop(builder, (I64(0),), one_block)
    builder.ret_void()
    return function


@helper
def tiles(M):
    """(whole, short): how many tiles of each height cover M rows with the fewest."""
    whole, short, least = (M + ROWS - 1) // ROWS, 0, (M + ROWS - 1) // ROWS * ROWS
    for s in range(1, ROWS):
        w = max(0, M - s * SHORT + ROWS - 1) // ROWS
        if w * ROWS + s * SHORT < least:
            whole, short, least = w, s, w * ROWS + s * SHORT
    return whole, short
