"""Long sums: how matmul adds up terms of any number, and loses no more digits than in a short sum.

Numbers added one by one in float32 are rounded to the sum's last digit, each in the same direction where they are
equal: of 150,528 equal numbers the fourth digit is wrong.  So a sum of many terms is cut into blocks.  Registers sum
one block, from 0, and are then added to sums in memory; those of GROUP blocks are added to sums in float64.

What is cut where depends on the number of terms alone, so a row of the result has the same bits wherever it lies.

This is the second half of matmul.py, and the loops of LLVM's instructions that both emit: as one they were 450 lines.
"""

from llvmlite import ir
from numba.core import cgutils

from tinynet.kernels.vectors import I64, alignment, emit_while

# Sums of more than WHOLE terms are cut into blocks of BLOCK.  Added one by one, 64 equal numbers lose up to 1e-6, and
# 256 up to 4e-6; PyTorch's products (MKL) lose 3e-6 of up to 1,024, and less of more.  A block's end takes as long
# as two more terms.
WHOLE, BLOCK, GROUP = 256, 64, 64
_DOUBLE = ir.DoubleType()


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
