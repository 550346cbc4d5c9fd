"""What vectors.py and matmul.py, which emit LLVM's instructions, share: the machine's registers, memory, lanes, loops.

An instruction of LLVM's has no effect but its result, and llvmlite's builder writes it down behind the one before.
"""

import inspect
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import lower_cast, models, register_model

from tinynet.kernels.compile import emitted

# --- the machine's registers --------------------------------------------------------------------------------


def _host_features() -> set[str]:
    """The names of the SIMD features that Numba will compile for.

    On a Mac LLVM names none; but each 64-bit ARM processor has NEON.
    """
    always = {"neon"} if platform.machine().lower() in ("aarch64", "arm64") else set()
    text = numba.config.CPU_FEATURES
    if text is None:
        return always | {name for name, present in binding.get_host_cpu_features().items() if present}
    return always | {name[1:] for name in text.split(",") if name.startswith("+")}


FEATURES = _host_features()
_BYTES = 64 if "avx512f" in FEATURES else 32 if "avx2" in FEATURES else 16
LANES = {np.dtype(np.float32): _BYTES // 4, np.dtype(np.float64): _BYTES // 8}  # numbers in a register
# Of x86, only AVX-512 has registers for masks.  AVX has loads whose mask is a vector of whole numbers.
MASKS = "avx512f" in FEATURES
MASK_VECTORS = "avx" in FEATURES and not MASKS

I32, I64 = ir.IntType(32), ir.IntType(64)


def llvm_type(real: types.Float) -> ir.Type:
    return ir.FloatType() if real == types.float32 else ir.DoubleType()


def mask_vector(vector: ir.VectorType) -> ir.VectorType:
    """What AVX's loads of such a vector take as a mask: all bits of a lane, or none."""
    return ir.VectorType(I32 if vector.element == ir.FloatType() else I64, vector.count)


def _avx_name(what: str, vector: ir.VectorType) -> str:
    single = vector.element == ir.FloatType()
    return f"llvm.x86.avx.{what}.{'ps' if single else 'pd'}" + ".256" * (vector.count == (8 if single else 4))


def llvm_function(module: ir.Module, what: str, vector: ir.VectorType) -> ir.Function:
    """LLVM's function `what` for this type of vector."""
    name = f"llvm.{what}.v{vector.count}f{32 if vector.element == ir.FloatType() else 64}"
    mask, pointer = ir.VectorType(ir.IntType(1), vector.count), vector.as_pointer()
    name, result, arguments = {
        "fmuladd": (name, vector, [vector, vector, vector]),  # one instruction where the host has it
        "fma": (name, vector, [vector, vector, vector]),
        "masked.load": (name + ".p0", vector, [pointer, I32, mask, vector]),
        "masked.store": (name + ".p0", ir.VoidType(), [vector, pointer, I32, mask]),
        "maskload": (_avx_name("maskload", vector), vector, [ir.IntType(8).as_pointer(), mask_vector(vector)]),
        "prefetch": ("llvm.prefetch.p0", ir.VoidType(), [pointer, I32, I32, I32]),
    }[what]
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


# --- memory -------------------------------------------------------------------------------------------------


def alignment(vector: ir.VectorType) -> ir.Constant:
    """That of one of its numbers, in bytes."""
    return I32({ir.FloatType(): 4, ir.DoubleType(): 8}.get(vector.element, 1))


def emit_fetch(builder: ir.IRBuilder, a, i, writes=0):
    """Ask for the cache line of a[i], which need not be a's, to read it or to write it."""
    line = ir.VectorType(ir.IntType(8), 64)
    pointer = builder.bitcast(builder.gep(a, [i]), line.as_pointer())
    builder.call(llvm_function(builder.module, "prefetch", line), [pointer, I32(writes), I32(3), I32(1)])


def emit_load(builder: ir.IRBuilder, a, i, vector: ir.VectorType, mask=None, others=None):
    """The vector from a[i] on; where there is a mask and it is false, the lanes of `others`, and nothing is read."""
    pointer = builder.bitcast(builder.gep(a, [i]), vector.as_pointer())
    if mask is None:
        return builder.load(pointer, align=alignment(vector).constant)
    masked = llvm_function(builder.module, "masked.load", vector)
    return builder.call(masked, [pointer, alignment(vector), mask, others])


def emit_store(builder: ir.IRBuilder, v, a, i, mask=None) -> None:
    """And back; where there is a mask and it is false, nothing is written."""
    pointer = builder.bitcast(builder.gep(a, [i]), v.type.as_pointer())
    if mask is None:
        builder.store(v, pointer, align=alignment(v.type).constant)
    else:
        masked = llvm_function(builder.module, "masked.store", v.type)
        builder.call(masked, [v, pointer, alignment(v.type), mask])


def emit_store_first(builder: ir.IRBuilder, places: list, n) -> None:
    """Store the first n lanes of each vector v from address p on, for all (v, p), and no more: a half, a quarter, ...

    That is for processors without registers for masks.  NEON has no masked store, and AVX's is slow on some: in a
    convolution of 6 filters one thread of an AMD EPYC (Zen 3) spent a third of its time on them.
    """

    def store(v, p):
        builder.store(v, builder.bitcast(p, v.type.as_pointer()), align=alignment(v.type).constant)

    count = places[0][0].type.count
    with builder.if_else(builder.icmp_signed(">=", n, I64(count))) as (whole, part):
        with whole:
            for v, p in places:
                store(v, p)
        with part:
            n = builder.select(builder.icmp_signed("<", n, I64(0)), I64(0), n)
            vectors = [v for v, _ in places]
            while count > 1:
                stored, count = builder.and_(n, I64(-count)), count // 2
                halves, before = [emit_pieces(builder, v, 2) for v in vectors], builder.block
                with builder.if_then(builder.icmp_signed("!=", builder.and_(n, I64(count)), I64(0))):
                    for (low, _), (_, p) in zip(halves, places, strict=True):
                        store(low, builder.gep(p, [stored]))
                    behind = builder.block
                vectors = [builder.phi(low.type) for low, _ in halves]
                for v, (low, high) in zip(vectors, halves, strict=True):
                    v.add_incoming(high, behind)
                    v.add_incoming(low, before)


# --- lanes --------------------------------------------------------------------------------------------------


def emit_shuffle(builder: ir.IRBuilder, v, w, order: Sequence[int]):
    """The lanes of v and w, end to end, in another order: number order[l] of them in lane l."""
    return builder.shuffle_vector(v, w, ir.Constant(ir.VectorType(I32, len(order)), list(order)))


def emit_splat(builder: ir.IRBuilder, value, lanes: int):
    """A vector with `value` in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    return emit_shuffle(builder, builder.insert_element(undefined, value, I32(0)), undefined, [0] * lanes)


def emit_joined(builder: ir.IRBuilder, pieces: list):
    """Vectors of one length, end to end."""
    while len(pieces) > 1:
        both = range(2 * pieces[0].type.count)
        pieces = [emit_shuffle(builder, *pair, both) for pair in zip(pieces[::2], pieces[1::2], strict=True)]
    return pieces[0]


def emit_pieces(builder: ir.IRBuilder, v, count: int) -> list:
    """The vector taken apart into so many."""
    R = v.type.count // count
    return [emit_shuffle(builder, v, v, range(n * R, n * R + R)) for n in range(count)]


def emit_least(builder: ir.IRBuilder, n, m):
    return builder.select(builder.icmp_signed("<", n, m), n, m)


def emit_first_lanes(builder: ir.IRBuilder, n, lanes: int):
    """The mask of the lanes below n."""
    lane = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    n = builder.trunc(emit_least(builder, n, I64(lanes)), I32)
    return builder.icmp_signed("<", lane, emit_splat(builder, n, lanes))


# --- loops --------------------------------------------------------------------------------------------------


@contextmanager
def emit_while(builder: ir.IRBuilder, first, condition: Callable) -> Iterator[tuple]:
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


# --- vectors as Numba's compiler sees them ------------------------------------------------------------------


class Vector(types.Type):
    """The type of a vector; that of a mask has dtype boolean.  LLVM sees one of a single lane as a number."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"vector of {lanes} {dtype}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        number = ir.IntType(1) if kind.dtype == types.boolean else manager[kind.dtype].get_value_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.lanes) if kind.lanes > 1 else number)


@lower_cast(types.Number, Vector)
def _in_every_lane(context, builder, kind, vector, number):
    number = context.cast(builder, number, kind, vector.dtype)
    return emit_splat(builder, number, vector.lanes) if vector.lanes > 1 else number


def lanes_of(dtype) -> int:
    """How many numbers of this type, NumPy's or Numba's, one register holds."""
    return LANES[np.dtype(str(dtype))]


def primitive(typed, check=None):
    """A decorator: emit(builder, made, *arguments), which emits LLVM's instructions, as a function for kernels.

    typed(*kinds) is the type of what it makes of arguments of these types, or a whole signature, to whose arguments
    Numba converts what it is given.  emit sees an array as a pointer to its first number, an index as int64, and a
    tuple, also one of arrays, as a list, as which it may return one too; `made` is LLVM's type of what it returns.
    For `check` see compile.emitted.
    """

    def decorate(emit):
        def typed_and_emitted(typing_context, *kinds):
            def codegen(context, builder, signature, args):
                def plain(kind, value):
                    if isinstance(kind, types.UniTuple):
                        return [plain(kind.dtype, each) for each in cgutils.unpack_tuple(builder, value)]
                    if isinstance(kind, types.Array):
                        return context.make_array(kind)(context, builder, value).data
                    return value

                values = [plain(*each) for each in zip(signature.args, args, strict=True)]
                made = emit(builder, context.get_value_type(signature.return_type), *values)
                if isinstance(made, list):
                    return context.make_tuple(builder, signature.return_type, made)
                return context.get_dummy_value() if signature.return_type == types.void else made

            made = typed(*kinds)
            if not isinstance(made, Signature):
                made = made(*(types.int64 if isinstance(kind, types.Integer) else kind for kind in kinds))
            return made, codegen

        typed_and_emitted.__name__ = emit.__name__
        _, *parameters = inspect.signature(emit).parameters.values()
        typed_and_emitted.__signature__ = inspect.Signature(parameters)  # Numba asks how many there are
        return emitted(check)(typed_and_emitted)

    return decorate
