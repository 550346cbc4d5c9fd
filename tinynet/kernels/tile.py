"""matmul's second half: the code of the product, as LLVM's instructions.  With matmul.py it would be 650 lines.

The tile is the block of `out` whose sums stay in registers: on AVX-512 twelve rows of two vectors are 24 registers.
For each k two vectors of b are loaded, each a[m,k] is broadcast to all lanes, and 24 multiply-adds are done.  Numba
compiles no loop that keeps a block of sums in registers, so this one is emitted.  Nothing is packed or copied.

A long sum keeps its digits.  Numbers added one by one in float32 are rounded to the sum's last digit, each in the same
direction where they are equal: of 150,528 equal numbers the fourth digit is wrong.  So a sum of many terms is cut into
blocks.  Registers sum one block, from 0, and are then added to sums in memory; those of GROUP blocks are added to sums
in float64.  What is cut where depends on the number of terms alone, so a row of the result has the same bits wherever
it lies.
"""

from llvmlite import ir
from numba.core import cgutils

from tinynet.kernels.llvm import (
    FEATURES,
    I64,
    LANES,
    MASK_VECTORS,
    MASKS,
    alignment,
    emit_fetch,
    emit_first_lanes,
    emit_splat,
    emit_store,
    emit_store_first,
    emit_while,
    llvm_function,
    mask_vector,
)


def _tile_shapes(features):
    """(rows, vectors, lanes) of the block of `out` that stays in registers, the tile, for float32 and float64.

    Its sums, rows x vectors of them, must stay there with one vector of b for each column and the broadcast element of
    a: AVX-512 and NEON have 32 registers, AVX2 16.  On AVX2 8x2 spills: 97 GFLOP/s against 230 for 6x2.
    """
    rows = 12 if "avx512f" in features else 6 if "avx2" in features else 8 if "neon" in features else 4
    return {dtype: (rows, 2, lanes) for dtype, lanes in LANES.items()}


def height_of(rows, vectors):
    """How high a tile of 1 or 2 vectors is, if one of two has `rows` rows.

    A single vector leaves registers for more, and six sums are too few: a sum waits 4 cycles for its last multiply-add,
    and two begin in each cycle.
    """
    return 2 * rows if vectors == 1 and rows < 8 else rows


TILE = _tile_shapes(FEATURES)
HIGHEST = max(rows for rows, _, _ in TILE.values())  # of two vectors
TALLEST = height_of(HIGHEST, 1)
# Terms ahead of the one that is multiplied for which a row of b is asked for, where there are many.  Weights that
# another core has just written are far away: in training, a forward pass of (64, 784, 128) went from 76 us to 63 on two
# threads of an Intel Xeon (Emerald Rapids).
AHEAD = 16
# Rows of a tile from which there is time for that.  Three to five rows of a low tile have too few multiply-adds for it:
# without, forward passes of (64, 784, 128) and (32, 256, 256) take a twentieth less (one thread of a Zen 4 with AVX2).
WITH_TIME = HIGHEST if HIGHEST < 8 else (HIGHEST + 1) // 2
# Terms at once, of which one is asked for, where all lie in order.  A low tile has few multiply-adds for the other
# instructions: where a core runs two programs at once and decodes 3 for each in a cycle, 256 x 256 x 256 went from 0.91
# of OpenBLAS's speed to 1.02; alone from 1.03 to 1.02 (one thread of an AMD EPYC, Zen 3).
AT_ONCE = 2 if HIGHEST < 8 else 1

# Sums of more than WHOLE terms are cut into blocks of BLOCK.  Added one by one, 64 equal numbers lose up to 1e-6, and
# 256 up to 4e-6; PyTorch's products (MKL) lose 3e-6 of up to 1,024, and less of more.  A block's end takes as long
# as two more terms.
WHOLE, BLOCK, GROUP = 256, 64, 64
_DOUBLE = ir.DoubleType()


def terms_at_once(count, unit=1):
    """About so many, in whole units, where a long sum is made of several products.

    None of them shall have more than BLOCK terms but no more than WHOLE: each loses digits then, and so does the sum.
    """
    if count <= BLOCK:
        return count // unit * unit
    if count < WHOLE // 2:
        return BLOCK // unit * unit
    return -(-max(count, WHOLE + 1) // unit) * unit


# --- the product ---------------------------------------------------------------------------------------------


def emit_matmul(builder, args, shape):
    """Emit the code for a whole product: panels of columns, one after the other.

    At the right edge the last vector (of half the lanes where that is enough) is loaded under a mask, and stored so or
    in parts.  So nothing outside is read or written, and every element is the same sum in the same order.

    `later` points to a panel's columns of another matrix, which will be read after this product: unless later_k, the
    step between their rows, is 0, they are asked for meanwhile.
    """
    _, vectors, lanes = shape
    N, *others = args[1], args[0], *args[2:]
    width = I64(vectors * lanes)

    def panel(n, *kind):
        builder.call(_panel_function(builder.module, args, shape, *kind), [n, N, *others])

    with emit_while(builder, I64(0), lambda n: builder.icmp_signed(">=", builder.sub(N, n), width)) as (n, advance):
        panel(n, vectors, lanes, False)
        advance(builder.add(n, width))
    left, end = builder.sub(N, n), builder.append_basic_block("end")
    for count, size in [(1, lanes // 2), *((v, lanes) for v in range(1, vectors + 1))]:  # the narrowest that holds them
        fits, wider = builder.append_basic_block("fits"), builder.append_basic_block("wider")
        builder.cbranch(builder.icmp_signed("<=", left, I64(count * size)), fits, wider)
        builder.position_at_end(fits)
        with builder.if_then(builder.icmp_signed(">", left, I64(0))):
            panel(n, count, size, True)
        builder.branch(end)
        builder.position_at_end(wider)
    builder.branch(end)
    builder.position_at_end(end)


def _panel_function(module, args, shape, vectors, lanes, masked):
    """A function for all rows of the columns from n on: blocks of `rows`, and what is left in one or two of like size.

    (Of 13 rows as 12 and 1, the last would have too few sums to keep the multipliers busy.)  Each height has a body of
    its own.
    """
    rows, scalar = height_of(shape[0], vectors), args[-1].type
    name = f"tinynet_panel_{scalar}_{vectors}x{lanes}" + "_masked" * masked
    if name in module.globals:
        return module.globals[name]
    kinds = [I64, I64, args[0].type, *(value.type for value in args[2:])]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    n, N, M, *others = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    own, last = [M, N, *others], None
    if masked:
        count = builder.sub(builder.sub(N, n), I64((vectors - 1) * lanes))
        mask = emit_first_lanes(builder, count, lanes)
        if MASK_VECTORS:  # made here, since LLVM would make it anew for each term
            mask = builder.sext(mask, mask_vector(ir.VectorType(scalar, lanes)))
        last = count, mask
    long_sums = LongSums(builder, own, (rows, vectors, lanes))
    with emit_while(builder, I64(0), lambda m: builder.icmp_signed("<", m, M)) as (m, advance):
        left = builder.sub(M, m)
        half = builder.udiv(builder.add(left, I64(1)), I64(2))
        if rows == 6:  # ten rows go at 124 GFLOP/s as six and four, at 115 as twice five (one thread of a Zen 5, AVX2)
            half = builder.select(builder.icmp_signed("==", left, I64(10)), I64(6), half)
        one_or_two = builder.select(builder.icmp_signed("<=", left, I64(rows)), left, half)
        height = builder.select(builder.icmp_signed(">=", left, I64(2 * rows)), I64(rows), one_or_two)
        end = builder.append_basic_block("rows.end")
        choice = builder.switch(height, end)
        for count in range(1, rows + 1):
            choice.add_case(I64(count), builder.append_basic_block(f"rows.{count}"))
            builder.position_at_end(choice.cases[-1][1])
            _emit_tile(builder, own, long_sums, m, n, count, vectors, lanes, last)
            builder.branch(end)
        builder.position_at_end(end)
        advance(builder.add(m, height))
    builder.ret_void()
    return function


def _emit_tile(builder, args, long_sums, m, n, rows, vectors, lanes, last):
    """Emit rows x vectors sums over j and k, add `start`, store them in `out`.

    `last` is None where the last vector is whole, else how many of its lanes there are, and their mask.

    `start` comes last, since it is often a large sum already, which the products would be rounded to one by one.
    """
    _, _, J, K, a, b, s, o, later, a_m, a_j, a_k, b_j, b_k, s_m, o_m, later_k, floor = args
    vector = ir.VectorType(floor.type, lanes)
    align, zero = alignment(vector), ir.Constant(vector, [0.0] * lanes)
    fma = llvm_function(builder.module, "fmuladd", vector)
    tile = [(t, v) for t in range(rows) for v in range(vectors)]

    def load(p, v):
        p = builder.gep(p, [I64(v * lanes)])
        if last is None or v < vectors - 1:
            return builder.load(builder.bitcast(p, vector.as_pointer()), align=align.constant)
        if MASK_VECTORS:
            p = builder.bitcast(p, ir.IntType(8).as_pointer())
            return builder.call(llvm_function(builder.module, "maskload", vector), [p, last[1]])
        p = builder.bitcast(p, vector.as_pointer())
        return builder.call(llvm_function(builder.module, "masked.load", vector), [p, align, last[1], zero])

    def row(p, step, t):  # of the row m + t, at column n
        return builder.gep(p, [builder.add(builder.mul(builder.add(m, I64(t)), step), n)])

    a_row = [builder.mul(I64(t), a_m) for t in range(rows)]
    ahead = builder.select(builder.icmp_signed(">", K, I64(4 * AHEAD)), builder.mul(b_k, I64(AHEAD)), I64(0))
    # Of a's rows that the next tile reads as many numbers are asked for with each term as a tile multiplies, if they
    # lie side by side.  Else nothing new is: the same line each time.
    side_by_side = builder.icmp_signed("==", a_k, I64(1))
    step = builder.select(side_by_side, I64(rows), I64(0))

    # Or what is needed later: each of the first tiles takes a cache line of every row.
    nth = builder.udiv(m, I64(HIGHEST))
    of_later = builder.icmp_signed("<", nth, I64(vectors * lanes * align.constant // 64))
    of_later = builder.and_(of_later, builder.icmp_signed("!=", later_k, I64(0)))
    later = builder.gep(later, [builder.mul(nth, I64(64 // align.constant))])
    step = builder.select(of_later, later_k, step)

    def some_terms(count):
        """The body of a loop over k: a term, or several at once of a panel and of rows whose numbers lie in order."""
        on_panel = count > 1

        def over_k(todo, a, b, following_rows, *sums):
            if rows >= WITH_TIME and last is None:
                for i in range(0, 0 if on_panel else vectors * lanes, 64 // align.constant):
                    emit_fetch(builder, b, builder.add(ahead, I64(i)))
                emit_fetch(builder, following_rows, I64(0))
            # Each third row has a pointer of its own, from which x86 reaches the two below without another instruction.
            # That LLVM can't see where they come from keeps it from making each from the one before: a loop over 12
            # rows of 10 columns, where the next step so waited for 12 additions, took 1.5 times as long.  And b's row
            # is loaded before: in another order LLVM kept sums on the stack (tests/kernels/test_registers.py).
            columns = [[load(b, k * vectors + v) for v in range(vectors)] for k in range(count)]
            hidden = builder.asm(ir.FunctionType(a.type, [a.type]), "", "=r,0", [a], False)
            for k in range(count):
                totals = []
                for t in range(rows):
                    place = builder.gep(builder.gep(hidden, [a_row[t - t % 3]]), [a_row[t % 3]])
                    place = builder.gep(place, [I64(k)]) if k > 0 else place
                    x = emit_splat(builder, builder.load(place), lanes)
                    totals += [builder.call(fma, [x, columns[k][v], sums[t * vectors + v]]) for v in range(vectors)]
                sums = totals
            a = builder.gep(a, [I64(count) if on_panel else a_k])
            b = builder.gep(b, [I64(count * vectors * lanes) if on_panel else b_k])
            following_rows = builder.gep(following_rows, [builder.mul(step, I64(count))])
            todo = builder.sub(todo, I64(count))
            return (todo, a, b, following_rows, *sums), builder.icmp_signed(">=", todo, I64(count))

        return over_k

    in_order = builder.and_(side_by_side, builder.icmp_signed("==", b_k, I64(vectors * lanes)))

    def over_blocks(k, a, b, following_rows, *sums):
        left = builder.sub(K, k)
        size = builder.select(builder.icmp_signed("<", left, long_sums.block), left, long_sums.block)
        values = size, a, b, following_rows, *sums
        if AT_ONCE > 1 and rows == HIGHEST and last is None:
            many = builder.and_(in_order, builder.icmp_signed(">=", size, I64(AT_ONCE)))
            values = emit_if(builder, many, values, lambda *v: emit_loop(builder, v, some_terms(AT_ONCE)))
            rest = builder.icmp_signed(">", values[0], I64(0))
            values = emit_if(builder, rest, values, lambda *v: emit_loop(builder, v, some_terms(1)))
        else:
            values = emit_loop(builder, values, some_terms(1))
        _, a, b, following_rows, *sums = values
        k, sums = builder.add(k, size), long_sums.keep(builder, sums, vectors, size)
        return (k, a, b, following_rows, *sums), builder.icmp_signed("<", k, K)

    def over_j(j, a, b, following_rows, *sums):
        _, _, _, following_rows, *sums = emit_loop(builder, (I64(0), a, b, following_rows, *sums), over_blocks)
        j = builder.add(j, I64(1))
        return (j, builder.gep(a, [a_j]), builder.gep(b, [b_j]), following_rows, *sums), builder.icmp_signed("<", j, J)

    def all_terms(*sums):
        first = builder.gep(a, [builder.mul(m, a_m)])
        following_rows = builder.select(of_later, later, builder.gep(first, [builder.mul(a_m, I64(rows))]))
        return emit_loop(builder, (I64(0), first, builder.gep(b, [n]), following_rows, *sums), over_j)[4:]

    long_sums.start(builder)
    some = builder.and_(builder.icmp_signed(">", J, I64(0)), builder.icmp_signed(">", K, I64(0)))
    sums = long_sums.results(builder, emit_if(builder, some, [zero] * len(tile), all_terms), vectors)
    least = emit_splat(builder, floor, lanes)
    at_edge = []
    for (t, v), total in zip(tile, sums, strict=True):
        total = builder.fadd(load(row(s, s_m, t), v), total)
        less = builder.fcmp_ordered("<", total, least)  # false for NaN, which so stays
        total, to = builder.select(less, least, total), builder.gep(row(o, o_m, t), [I64(v * lanes)])
        if last is None or v < vectors - 1:
            emit_store(builder, total, to, I64(0))
        elif MASKS:
            emit_store(builder, total, to, I64(0), last[1])
        else:
            at_edge.append((total, to))
    if at_edge:
        emit_store_first(builder, at_edge, last[0])


# --- loops and choices that carry values in registers ----------------------------------------------------------


def emit_loop(builder, first, body):
    """A loop that carries values in registers: body(*values) returns the next ones, and whether to go on with them.

    Returns the last ones.  The body runs once at least.
    """
    before, block = builder.block, builder.append_basic_block("loop")
    builder.branch(block)
    builder.position_at_end(block)
    values = [builder.phi(value.type) for value in first]
    following, again = body(*values)
    for value, at_first, later in zip(values, first, following, strict=True):
        value.add_incoming(at_first, before)
        value.add_incoming(later, builder.block)
    end = builder.append_basic_block("loop.end")
    builder.cbranch(again, block, end)
    builder.position_at_end(end)
    return following


def emit_if(builder, condition, values, change):
    """change(*values) where the condition is true, else the values."""
    before, block, end = builder.block, builder.append_basic_block("then"), builder.append_basic_block("endif")
    builder.cbranch(condition, block, end)
    builder.position_at_end(block)
    changed = change(*values)
    block = builder.block
    builder.branch(end)
    builder.position_at_end(end)
    both = [builder.phi(value.type) for value in values]
    for register, value, other in zip(both, values, changed, strict=True):
        register.add_incoming(value, before)
        register.add_incoming(other, block)
    return both


# --- long sums -----------------------------------------------------------------------------------------------


class LongSums:
    """The sums in memory of matmul's bodies, which take turns with them.

    some    whether the terms are more than WHOLE: then all sums go through memory
    block   how many terms of an innermost loop make one
    """

    def __init__(self, builder, args, shape):
        _, _, J, K, *_ = args
        rows, vectors, lanes = shape
        self.scalar, self.width = args[-1].type, vectors * lanes
        self.sums = cgutils.alloca_once(builder, self.scalar, rows * self.width)
        self.wide = cgutils.alloca_once(builder, _DOUBLE, rows * self.width)
        self.since, self.blocks = (cgutils.alloca_once(builder, I64) for _ in range(2))
        self.some = builder.icmp_signed(">", builder.mul(J, K), I64(WHOLE))
        with builder.if_then(self.some):
            self._store(
                builder, [ir.Constant(ir.VectorType(self.scalar, lanes), [0.0] * lanes)] * (rows * vectors), vectors
            )
        self.block = builder.select(self.some, I64(BLOCK), I64(WHOLE))

    def start(self, builder):
        for count in (self.since, self.blocks):
            builder.store(I64(0), count)

    def keep(self, builder, registers, vectors, size):
        """Registers with the sums of `size` terms more: as they are, or 0 after they were added to those in memory."""

        def add(*registers):
            self._store(builder, self._with_memory(builder, registers, vectors), vectors)
            blocks = builder.add(builder.load(self.blocks), I64(1))
            builder.store(I64(0), self.since)
            builder.store(blocks, self.blocks)
            full = builder.icmp_signed("==", builder.and_(blocks, I64(GROUP - 1)), I64(0))
            with builder.if_then(full, likely=False):
                self._widen(builder, len(registers) // vectors, builder.icmp_signed("==", blocks, I64(GROUP)), False)
            return _zeros(registers)

        since = builder.add(builder.load(self.since), size)
        builder.store(since, self.since)
        full = builder.and_(self.some, builder.icmp_signed(">=", since, self.block))
        return emit_if(builder, full, registers, add)

    def results(self, builder, registers, vectors):
        """The sums in these registers, with those in memory where `some` is true, which are 0 again then."""

        def add(*registers):
            wide = builder.icmp_signed(">=", builder.load(self.blocks), I64(GROUP))
            with builder.if_then(wide, likely=False):
                self._widen(builder, len(registers) // vectors, False, True)
            sums = self._with_memory(builder, registers, vectors)
            self._store(builder, _zeros(registers), vectors)
            return sums

        return emit_if(builder, self.some, registers, add)

    def _with_memory(self, builder, registers, vectors):
        places = self._places(builder, registers, vectors)
        align = alignment(registers[0].type).constant
        return [
            builder.fadd(builder.load(p, align=align), register) for p, register in zip(places, registers, strict=True)
        ]

    def _store(self, builder, registers, vectors):
        for place, register in zip(self._places(builder, registers, vectors), registers, strict=True):
            builder.store(register, place, align=alignment(register.type).constant)

    def _places(self, builder, registers, vectors):
        kind = registers[0].type
        for i in range(len(registers)):
            first = i // vectors * self.width + i % vectors * kind.count
            yield builder.bitcast(builder.gep(self.sums, [I64(first)]), kind.as_pointer())

    def _widen(self, builder, rows, first, last):
        flags = [flag if isinstance(flag, ir.Value) else ir.IntType(1)(flag) for flag in (first, last)]
        function = _widen_function(builder.module, self.scalar)
        builder.call(function, [self.sums, self.wide, I64(rows * self.width), *flags])


def _zeros(registers):
    return [ir.Constant(register.type, [0.0] * register.type.count) for register in registers]


def _widen_function(module, scalar):
    """wide += sums, or = where they are the first; then sums = 0, or = wide, rounded, where they are the last.

    It is a function of its own, which all bodies call, since it is in no hot loop.
    """
    name = f"tinynet_widen.{scalar}"
    if name in module.globals:
        return module.globals[name]
    flag = ir.IntType(1)
    kind = ir.FunctionType(ir.VoidType(), [scalar.as_pointer(), _DOUBLE.as_pointer(), I64, flag, flag])
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    sums, wide, count, first, last = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    with emit_while(builder, I64(0), lambda i: builder.icmp_signed("<", i, count)) as (i, advance):
        narrow, to = builder.gep(sums, [i]), builder.gep(wide, [i])
        before, total = builder.select(first, _DOUBLE(0.0), builder.load(to)), builder.load(narrow)
        total = builder.fadd(before, total if scalar == _DOUBLE else builder.fpext(total, _DOUBLE))
        builder.store(total, to)
        rounded = total if scalar == _DOUBLE else builder.fptrunc(total, scalar)
        builder.store(builder.select(last, rounded, scalar(0.0)), narrow)
        advance(builder.add(i, I64(1)))
    builder.ret_void()
    return function
