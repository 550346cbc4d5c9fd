"""The instructions of which threads.py is made: on words that several threads read and write.

All numbers are int64, and addresses are numbers.
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tinynet.kernels.llvm import primitive

WORD = ir.IntType(64)
SPIN_HINT = {"x86_64": ("llvm.x86.sse2.pause", []), "aarch64": ("llvm.aarch64.hint", [1])}  # "pause", "yield"


def a_word(*kinds):
    return types.int64(*[types.int64] * len(kinds))


def nothing(*kinds):
    return types.void(*[types.int64] * len(kinds))


def _at(builder, address):
    return builder.inttoptr(address, WORD.as_pointer())


@primitive(a_word)
def the_pool(builder, made):
    """The pool's address.  It has a name, to be resolved when code is loaded, so that the code can be kept on disk."""
    name = "tinynet_pool"
    variable = builder.module.globals.get(name) or ir.GlobalVariable(builder.module, WORD, name)
    return builder.ptrtoint(variable, WORD)


@primitive(a_word)
def load(builder, made, address):
    return builder.load_atomic(_at(builder, address), "acquire", 8)


@primitive(nothing)
def store(builder, made, address, value):
    builder.store_atomic(value, _at(builder, address), "release", 8)


@primitive(a_word)
def add(builder, made, address, value):
    """Add to a word, and return what it was before."""
    return builder.atomic_rmw("add", _at(builder, address), value, "seq_cst")


@primitive(a_word)
def exchange(builder, made, address, value):
    """Write a word, and return what it was before."""
    return builder.atomic_rmw("xchg", _at(builder, address), value, "seq_cst")


@primitive(a_word)
def replace(builder, made, address, expected, value):
    """Write a word if it is what was expected, and return what it was before."""
    return builder.extract_value(builder.cmpxchg(_at(builder, address), expected, value, "seq_cst", "seq_cst"), 0)


@primitive(nothing)
def spin_hint(builder, made):
    name, numbers = SPIN_HINT[platform.machine()]
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)] * len(numbers))
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [ir.IntType(32)(number) for number in numbers])


@primitive(nothing)
def call(builder, made, function, arguments, shape, steps, data):
    """Call what Numba made of the body of a prange loop."""
    kind = ir.FunctionType(ir.VoidType(), [WORD] * 4)
    builder.call(builder.inttoptr(function, kind.as_pointer()), [arguments, shape, steps, data])
