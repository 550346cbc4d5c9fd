"""Long sums: how the tile (tile.py) adds up terms of any number, and loses no more digits than in a short sum.

Numbers added one by one in float32 are rounded to the sum's last digit, each in the same direction where they are
equal.  So a sum of many terms is cut into blocks.  Registers sum one block, from 0, and are then added to sums in
memory; those of GROUP blocks are added to sums in float64.

What is cut where depends on the number of terms alone, so a row of the result has the same bits wherever it lies.
"""

from llvmlite import ir
from numba.core import cgutils

from tinynet.kernels.vectors import I64, alignment, emit_while

# Sums of more than WHOLE terms are cut into blocks of BLOCK.  Added one by one, 64 equal numbers lose up to 1e-6, and
# 256 up to 4e-6; PyTorch's products (MKL) lose 3e-6 of up to 1,024, and less of more.  A block's end takes as long
# as two more terms.
WHOLE, BLOCK, GROUP = 256, 64, 64
_DOUBLE = ir.DoubleType()


class LongSums:
    """The sums in memory of the tile's bodies, which take turns with them.

    some    whether the terms are more than a block: then all sums go through memory
    block   how many terms of an innermost loop make one
    """

    def __init__(self, builder, args, shape):
        _, _, J, K, *_ = args
        rows, vectors, lanes = shape
        self.scalar, self.width = args[-1].type, vectors * lanes
        self.sums = cgutils.alloca_once(builder, self.scalar, rows * self.width)
        self.wide = cgutils.alloca_once(builder, _DOUBLE, rows * self.width)
        self.since, self.blocks, self.groups = (cgutils.alloca_once(builder, I64) for _ in range(3))
        self.some = builder.icmp_signed(">", builder.mul(J, K), I64(WHOLE))
        with builder.if_then(self.some):
            vector = ir.VectorType(self.scalar, lanes)
            for i in range(rows * vectors):
                place = self._place(builder, i, vectors, vector)
                builder.store(ir.Constant(vector, [0.0] * lanes), place, align=alignment(vector).constant)
        self.block = builder.select(self.some, I64(BLOCK), I64(WHOLE))

    def start(self, builder):
        for count in (self.since, self.blocks, self.groups):
            builder.store(I64(0), count)

    def keep(self, builder, results, vectors, size):
        """Registers with the results of `size` terms more: as they are, or 0 after they were added to what is kept."""
        kind, before = results[0].type, builder.block
        full, going_on = builder.append_basic_block("full"), builder.append_basic_block("going.on")
        since = builder.add(builder.load(self.since), size)
        builder.store(since, self.since)
        enough = builder.icmp_signed(">=", since, self.block)
        builder.cbranch(builder.and_(self.some, enough), full, going_on)

        builder.position_at_end(full)
        align = alignment(kind).constant
        for i, result in enumerate(results):
            place = self._place(builder, i, vectors, kind)
            builder.store(builder.fadd(builder.load(place, align=align), result), place, align=align)
        builder.store(I64(0), self.since)
        blocks = builder.add(builder.load(self.blocks), I64(1))
        builder.store(blocks, self.blocks)
        with builder.if_then(builder.icmp_signed("==", blocks, I64(GROUP)), likely=False):
            groups = builder.load(self.groups)
            count = I64(len(results) // vectors * self.width)
            widen, first = _widen_function(builder.module, self.scalar), builder.icmp_signed("==", groups, I64(0))
            builder.call(widen, [self.sums, self.wide, count, first])
            builder.store(I64(0), self.blocks)
            builder.store(builder.add(groups, I64(1)), self.groups)
        full = builder.block
        builder.branch(going_on)

        builder.position_at_end(going_on)
        kept = [builder.phi(kind) for _ in results]
        for register, result in zip(kept, results, strict=True):
            register.add_incoming(result, before)
            register.add_incoming(ir.Constant(kind, [0.0] * kind.count), full)
        return kept

    def results(self, builder, results, vectors):
        """The results in these registers, with those in memory where `some` is true, which are 0 again then."""
        kind, before = results[0].type, builder.block
        in_memory, end = builder.append_basic_block("in.memory"), builder.append_basic_block("results")
        builder.cbranch(self.some, in_memory, end)

        builder.position_at_end(in_memory)
        count = I64(len(results) // vectors * self.width)
        with builder.if_then(builder.icmp_signed(">", builder.load(self.groups), I64(0)), likely=False):
            builder.call(_widen_function(builder.module, self.scalar), [self.sums, self.wide, count, ir.IntType(1)(0)])
            builder.call(_round_function(builder.module, self.scalar), [self.wide, self.sums, count])
        places = [self._place(builder, i, vectors, kind) for i in range(len(results))]
        align = alignment(kind).constant
        kept = [
            builder.fadd(builder.load(place, align=align), result)
            for place, result in zip(places, results, strict=True)
        ]
        for place in places:
            builder.store(ir.Constant(kind, [0.0] * kind.count), place, align=align)
        in_memory = builder.block
        builder.branch(end)

        builder.position_at_end(end)
        both = [builder.phi(kind) for _ in results]
        for register, result, sum_ in zip(both, results, kept, strict=True):
            register.add_incoming(result, before)
            register.add_incoming(sum_, in_memory)
        return both

    def _place(self, builder, i, vectors, kind):
        first = i // vectors * self.width + i % vectors * kind.count
        return builder.bitcast(builder.gep(self.sums, [I64(first)]), kind.as_pointer())


def _function(emit):
    """A function of LLVM's module for numbers of this type: emitted once, and called, since it is in no hot loop."""

    def function(module, scalar):
        name = f"tinynet{emit.__name__}.{scalar}"
        if name not in module.globals:
            kinds, body = emit(scalar)
            made = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
            made.linkage = "internal"
            made.attributes.add("noinline")
            builder = ir.IRBuilder(made.append_basic_block())
            body(builder, *made.args)
            builder.ret_void()
        return module.globals[name]

    return function


@_function
def _widen_function(scalar):
    def widen(builder, sums, wide, count, first):
        """wide += sums, or = where they are the first; sums = 0"""
        with emit_while(builder, I64(0), lambda i: builder.icmp_signed("<", i, count)) as (i, advance):
            narrow, to = builder.gep(sums, [i]), builder.gep(wide, [i])
            total = builder.load(narrow) if scalar == _DOUBLE else builder.fpext(builder.load(narrow), _DOUBLE)
            before = builder.select(first, _DOUBLE(0.0), builder.load(to))
            builder.store(builder.fadd(before, total), to)
            builder.store(scalar(0.0), narrow)
            advance(builder.add(i, I64(1)))

    return [scalar.as_pointer(), _DOUBLE.as_pointer(), I64, ir.IntType(1)], widen


@_function
def _round_function(scalar):
    def round_(builder, wide, sums, count):
        with emit_while(builder, I64(0), lambda i: builder.icmp_signed("<", i, count)) as (i, advance):
            total = builder.load(builder.gep(wide, [i]))
            builder.store(total if scalar == _DOUBLE else builder.fptrunc(total, scalar), builder.gep(sums, [i]))
            advance(builder.add(i, I64(1)))

    return [_DOUBLE.as_pointer(), scalar.as_pointer(), I64], round_
