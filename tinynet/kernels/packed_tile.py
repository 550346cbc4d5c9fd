"""packed_tile: the product of a sliver and a panel, in registers.  packed.py says what they are.

    sums[t,n] = or += sum_k sliver[k,t] panel[k,n]

For each term two vectors of the panel are loaded and each number of the sliver is broadcast to all lanes: on AVX-512
28 multiply-adds for 16 loads.  A tile is of ROWS rows, or a SHORT one, so that hardly any is computed in vain.

Copying a factor beforehand takes as long as many multiplications: reading and writing 64 bytes of the L2 cache as
long as 200, of the L3 cache 500 (one thread of an Intel Xeon, Emerald Rapids).  So the first tile that needs a sliver
or a panel copies it: it reads the factor where it lies, and stores what it has in its registers anyway, while the
multipliers go on.  dw of 768 samples, 128 inputs and 512 outputs went from 136 GFLOP/s to 158, of 195 at most.
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


@primitive(
    lambda size, sliver, panel, sums, at, first: types.void(
        types.UniTuple(types.int64, 3), sliver, panel, sums, types.UniTuple(types.int64, 2), types.boolean
    )
)
def multiply(builder, made, size, sliver, panel, sums, at, first):
    """sums[t,n] = or, unless first, += sum_k sliver[k,t] panel[k,n]: `block` terms in registers, then in memory.

    size is (rows of the tile, K, block); `at`, where the sliver and the sums begin in their arrays.
    """
    _call_tile(builder, None, size, [builder.gep(sliver, at[:1]), panel, builder.gep(sums, at[1:]), first])


def _multiply_copying(factor):
    @primitive(
        lambda size, sliver, panel, sums, at, first, source, of, terms: types.void(
            *(types.UniTuple(types.int64, 3), sliver, panel, sums, types.UniTuple(types.int64, 2), types.boolean),
            *(source, types.UniTuple(types.int64, 3), terms),
        )
    )
    def multiply(builder, made, size, sliver, panel, sums, at, first, source, of, terms):
        """The same of source[i + terms[k]] and its neighbours, which on the way become the sliver or the panel.

        `of` is i, the first k, and how far ahead in source memory is asked for.
        """
        places = builder.gep(source, of[:1]), builder.gep(terms, of[1:2]), of[2]
        _call_tile(
            builder, factor, size, [builder.gep(sliver, at[:1]), panel, builder.gep(sums, at[1:]), first, *places]
        )

    return multiply


multiply_copying_a, multiply_copying_b = _multiply_copying("a"), _multiply_copying("b")


def _call_tile(builder, copied, size, args):
    height, K, block = size
    with builder.if_else(builder.icmp_signed("==", height, I64(ROWS))) as branches:
        for rows, branch in zip((ROWS, SHORT), branches, strict=True):
            with branch:
                function = _tile_function(builder.module, args[0].type.pointee, rows, copied)
                builder.call(function, [K, block, *args])


def _tile_function(module, scalar, rows, copied):
    """A function of the module, which all that call it share; `copied` is "a", "b" or None."""
    name = f"tinynet_tile_{scalar}_{rows}_{copied}"
    if name in module.globals:
        return module.globals[name]
    flag, pointer = ir.IntType(1), scalar.as_pointer()
    kinds = [I64, I64, *[pointer] * 3, flag, *([pointer, I64.as_pointer(), I64] if copied else [])]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    K, block, sliver, panel, sums, first = function.args[:6]
    source, terms, ahead = function.args[6:] or (None, None, None)
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
        for count, some in ((2, builder.icmp_signed(">", size, I64(1))), (1, None)):
            some = builder.icmp_signed(">", values[0], I64(0)) if some is None else some
            values = emit_if(builder, some, values, lambda *v, count=count: emit_loop(builder, v, some_terms(count)))
        totals = values[-len(zeros) :]
        fresh = builder.and_(first, builder.icmp_signed("==", k, I64(0)))
        with builder.if_else(fresh) as (at_first, later):
            with at_first:
                for v, total in enumerate(totals):
                    builder.store(total, at(sums, v), align=align)
            with later:
                for v, total in enumerate(totals):
                    builder.store(builder.fadd(builder.load(at(sums, v), align=align), total), at(sums, v), align=align)
        k = builder.add(k, size)
        return (k,), builder.icmp_signed("<", k, K)

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
