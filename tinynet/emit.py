"""What the files that emit LLVM's instructions share: names of types and functions, and a loop."""

from contextlib import contextmanager

from llvmlite import ir
from numba import types

_I64 = ir.IntType(64)


def _alignment(vector):
    return ir.IntType(32)(4 if vector.element == ir.FloatType() else 8)


def _splat(builder, value, lanes):
    """A vector with `value` in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def _llvm(module, what, vector):
    """LLVM's function `what` for this type of vector."""
    name = f"llvm.{what}.v{vector.count}f{32 if vector.element == ir.FloatType() else 64}"
    mask, align, pointer = ir.VectorType(ir.IntType(1), vector.count), ir.IntType(32), vector.as_pointer()
    name, result, arguments = {
        "fmuladd": (name, vector, [vector, vector, vector]),  # one instruction where the host has it
        "fma": (name, vector, [vector, vector, vector]),
        "masked.load": (name + ".p0", vector, [pointer, align, mask, vector]),
        "masked.store": (name + ".p0", ir.VoidType(), [vector, pointer, align, mask]),
    }[what]
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def _llvm_type(real):
    return ir.FloatType() if real == types.float32 else ir.DoubleType()


@contextmanager
def _while(builder, first, condition):
    """Blocks of a loop over i from `first` while condition(i); yields i and advance(next i), and goes on behind it."""
    before = builder.block
    head, body = builder.append_basic_block("while"), builder.append_basic_block("do")
    end = builder.append_basic_block("done")
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(first.type)
    i.add_incoming(first, before)
    builder.cbranch(condition(i), body, end)
    builder.position_at_end(body)

    def advance(following):
        i.add_incoming(following, builder.block)
        builder.branch(head)

    yield i, advance
    builder.position_at_end(end)
