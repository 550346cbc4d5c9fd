"""Denormals: numbers below the smallest normal one, 1.2e-38 in float32, for which a processor takes some 150 cycles.

A gate that stays closed multiplies what passes it by a small number at every step, and so do gradients on their way
back: after some steps they are denormal, each product with them is slow, and what they say is lost in rounding anyway.
The running mean of a gradient that has become 0, as that of a closed ReLU or of a pixel that is always black, goes the
same way, and stays denormal for good: 0.9 times the smallest number is rounded to that number.  On MNIST a step of an
MLP (784-128-10, batch 64) with momentum took a 2-core Intel Xeon (Emerald Rapids) 320 us from the second epoch on, and
takes 216 without denormals.  Between the two calls, a thread takes such numbers for 0 and makes none.

    before = flush_denormals()
    ...
    restore_denormals(before)

Where the processor is not x86, or where bounds are checked, an error may leave the code in between: there nothing is
changed.
"""

import platform

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils

from tinynet.kernels.compile import CHECKED
from tinynet.kernels.llvm import I32, primitive

CAN = platform.machine().lower() in ("x86_64", "amd64") and not CHECKED and not numba.config.DISABLE_JIT
FLUSH = 0x8040  # bits of the control register: results that are denormal become 0, and so do such operands


def _call(builder, name, place):
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [builder.bitcast(place, byte)])


def flush_denormals():
    """Returns the control register as it was."""
    return 0


def restore_denormals(before):
    """Sets it."""


@primitive(lambda: types.int32)
def _flush(builder, made):
    if not CAN:
        return I32(0)
    place = cgutils.alloca_once(builder, I32)
    _call(builder, "llvm.x86.sse.stmxcsr", place)
    before = builder.load(place)
    builder.store(builder.or_(before, I32(FLUSH)), place)
    _call(builder, "llvm.x86.sse.ldmxcsr", place)
    return before


@primitive(lambda before: types.void(types.int32))
def _restore(builder, made, before):
    if CAN:
        place = cgutils.alloca_once(builder, I32)
        builder.store(before, place)
        _call(builder, "llvm.x86.sse.ldmxcsr", place)


if not numba.config.DISABLE_JIT:
    flush_denormals, restore_denormals = _flush, _restore
