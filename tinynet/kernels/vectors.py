"""Vectors: a SIMD register's worth of numbers as one value, for loops that LLVM does not vectorise well by itself.

    W = width(a)                 how many numbers of a's dtype a vector holds: 16 of float32 with AVX-512
    v = load(a, i)               W numbers of the C-contiguous array a from flat index i on
    v = load_some(a, i, n, x)    only the first n of them, if n < W; the other lanes are x
    v = splat(a, x)              x, as a's dtype, in every lane
    store(v, a, i)               and back;  store_some(v, a, i, n) only the first n

    will_read(a, i)              fetch the cache line of a.flat[i], which may lie outside of a; will_write: to write it

    +, -, *, /, <, >, >=, ==     lane by lane, between vectors or with a number
    maximum(v, w)                the greater; w where one of them is NaN
    select(mask, v, w)           v where a comparison was true, else w
    floats.exp(v), floats.log1p(v)   the exponential, log(1 + v)
    sum_of(v), greatest(v)        of the lanes: halves are added, or compared, until one number is left

load2, load2_some and splat2 are of two registers as one vector of 2 W numbers, load4 and splat4 of four, where a long
chain of operations would wait for itself: several of them fill each other's waits.

Left to LLVM, a loop takes what does not fill a round of four vectors one by one, and all of it where the array that is
read may be the array that is written.  Under NUMBA_DISABLE_JIT=1 a vector is a small NumPy array.
"""

import operator
from contextlib import contextmanager

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, overload, register_model

from tinynet.kernels import compile, floats, memory
from tinynet.kernels.compile import helper, implementation

# --- the machine's registers, and what all that emits LLVM's instructions shares ------------------------------


def _host_features():
    """The names of the SIMD features that Numba will compile for."""
    text = numba.config.CPU_FEATURES
    if text is None:
        return {name for name, present in binding.get_host_cpu_features().items() if present}
    return {name[1:] for name in text.split(",") if name.startswith("+")}


FEATURES = _host_features()
_BYTES = 64 if "avx512f" in FEATURES else 32 if "avx2" in FEATURES else 16
LANES = {np.dtype(np.float32): _BYTES // 4, np.dtype(np.float64): _BYTES // 8}  # numbers in a register

I64 = ir.IntType(64)


def alignment(vector):
    return ir.IntType(32)(4 if vector.element == ir.FloatType() else 8)


def emit_splat(builder, value, lanes):
    """A vector with `value` in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def llvm_function(module, what, vector):
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


def llvm_type(real):
    return ir.FloatType() if real == types.float32 else ir.DoubleType()


@contextmanager
def emit_while(builder, first, condition):
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
    """The type of a vector; that of a mask has dtype boolean."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"vector of {lanes} {dtype}")


def _llvm_vector(kind):
    return ir.VectorType(ir.IntType(1) if kind.dtype == types.boolean else llvm_type(kind.dtype), kind.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _llvm_vector(kind))


def lanes_of(dtype):
    """How many numbers of this type, NumPy's or Numba's, one register holds."""
    return LANES[np.dtype(str(dtype))]


def _vector_of(a, registers=1):
    return Vector(a.dtype, registers * lanes_of(a.dtype))


def _as_vector(context, builder, value, kind, vector):
    """A vector as it is, a number in every lane."""
    if isinstance(kind, Vector):
        return value
    return emit_splat(builder, context.cast(builder, value, kind, vector.dtype), vector.lanes)


def _define_operator(function, emit, compares=False):
    class Template(AbstractTemplate):
        def generic(self, arguments, keywords):
            vectors = [kind for kind in arguments if isinstance(kind, Vector)]
            if len(arguments) == 2 and vectors:
                result = Vector(types.boolean, vectors[0].lanes) if compares else vectors[0]
                return signature(result, *arguments)

    infer_global(function)(Template)

    def lower(context, builder, signature, args):
        [vector, *_] = [kind for kind in signature.args if isinstance(kind, Vector)]
        pairs = zip(args, signature.args, strict=True)
        pair = [_as_vector(context, builder, value, kind, vector) for value, kind in pairs]
        return emit(builder, *pair)

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, *kinds)(lower)


_define_operator(operator.add, lambda builder, v, w: builder.fadd(v, w))
_define_operator(operator.sub, lambda builder, v, w: builder.fsub(v, w))
_define_operator(operator.mul, lambda builder, v, w: builder.fmul(v, w))
_define_operator(operator.truediv, lambda builder, v, w: builder.fdiv(v, w))
_define_operator(operator.lt, lambda builder, v, w: builder.fcmp_ordered("<", v, w), compares=True)
_define_operator(operator.gt, lambda builder, v, w: builder.fcmp_ordered(">", v, w), compares=True)
_define_operator(operator.ge, lambda builder, v, w: builder.fcmp_ordered(">=", v, w), compares=True)
_define_operator(operator.eq, lambda builder, v, w: builder.fcmp_ordered("==", v, w), compares=True)


# --- memory ---------------------------------------------------------------------------------------------------


def _pointer(context, builder, kind, array, i, vector):
    first = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(first, [i]), _llvm_vector(vector).as_pointer())


def _first_lanes(builder, n, vector):
    """The mask of the lanes below n."""
    lane = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), list(range(vector.lanes)))
    most = ir.IntType(64)(vector.lanes)
    n = builder.trunc(builder.select(builder.icmp_signed("<", n, most), n, most), ir.IntType(32))
    return builder.icmp_signed("<", lane, emit_splat(builder, n, vector.lanes))


def _loads(registers):
    """load, load_some and splat for vectors of so many registers."""

    @intrinsic
    def load(typing_context, a, i):
        vector = _vector_of(a, registers)

        def codegen(context, builder, signature, args):
            pointer = _pointer(context, builder, signature.args[0], *args, vector)
            return builder.load(pointer, align=alignment(_llvm_vector(vector)).constant)

        return vector(a, types.int64), codegen

    @intrinsic
    def load_some(typing_context, a, i, n, x):
        vector = _vector_of(a, registers)

        def codegen(context, builder, signature, args):
            array, i, n, x = args
            pointer, kind = _pointer(context, builder, signature.args[0], array, i, vector), _llvm_vector(vector)
            others = _as_vector(context, builder, x, signature.args[3], vector)
            masked = llvm_function(builder.module, "masked.load", kind)
            return builder.call(masked, [pointer, alignment(kind), _first_lanes(builder, n, vector), others])

        return vector(a, types.int64, types.int64, x), codegen

    @intrinsic
    def splat(typing_context, a, x):
        vector = _vector_of(a, registers)

        def codegen(context, builder, signature, args):
            return _as_vector(context, builder, args[1], signature.args[1], vector)

        return vector(a, x), codegen

    return load, load_some, splat


def _of_one_dtype(v, a):
    if v.dtype != a.dtype:
        raise numba.TypingError(f"a vector of {v.dtype} does not go into an array of {a.dtype}")


@intrinsic
def _store(typing_context, v, a, i):
    _of_one_dtype(v, a)

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[1], *args[1:], v)
        builder.store(args[0], pointer, align=alignment(_llvm_vector(v)).constant)
        return context.get_dummy_value()

    return types.void(v, a, types.int64), codegen


@intrinsic
def _store_some(typing_context, v, a, i, n):
    _of_one_dtype(v, a)

    def codegen(context, builder, signature, args):
        pointer, kind = _pointer(context, builder, signature.args[1], *args[1:3], v), _llvm_vector(v)
        masked = llvm_function(builder.module, "masked.store", kind)
        builder.call(masked, [args[0], pointer, alignment(kind), _first_lanes(builder, args[3], v)])
        return context.get_dummy_value()

    return types.void(v, a, types.int64, types.int64), codegen


def _prefetch(writes):
    @intrinsic
    def prefetch(typing_context, a, i):
        def codegen(context, builder, signature, args):
            byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
            first = context.make_array(signature.args[0])(context, builder, args[0]).data
            kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
            function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
                builder.module, kind, "llvm.prefetch.p0"
            )
            place = builder.bitcast(builder.gep(first, [args[1]]), byte)
            builder.call(function, [place, i32(int(writes)), i32(3), i32(1)])
            return context.get_dummy_value()

        return types.void(a, types.int64), codegen

    return prefetch


# --- arithmetic ---------------------------------------------------------------------------------------------


@intrinsic
def _select(typing_context, mask, v, w):
    def codegen(context, builder, signature, args):
        vector = signature.return_type
        both = (_as_vector(context, builder, *pair, vector) for pair in zip(args[1:], (v, w), strict=True))
        return builder.select(args[0], *both)

    return (v if isinstance(v, Vector) else w)(mask, v, w), codegen


@intrinsic
def _maximum(typing_context, v, w):
    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)  # one instruction of x86's

    return v(v, w), codegen


@intrinsic
def _fma(typing_context, v, w, u):
    vector = next(kind for kind in (v, w, u) if isinstance(kind, Vector))

    def codegen(context, builder, signature, args):
        triple = [_as_vector(context, builder, *pair, vector) for pair in zip(args, signature.args, strict=True)]
        return builder.call(llvm_function(builder.module, "fma", _llvm_vector(vector)), triple)

    return vector(v, w, u), codegen


def _from_bits(emit):
    """A function of vectors from one of floats.py that works on the bits of floats."""

    @intrinsic
    def function(typing_context, v):
        def codegen(context, builder, signature, args):
            kind = ir.VectorType(ir.IntType(v.dtype.bitwidth), v.lanes)

            def like(number):
                return ir.Constant(kind, [number] * v.lanes)

            found = emit(builder, args[0], np.dtype(v.dtype.name).type, like)
            return found if found.type == args[0].type else builder.sitofp(found, args[0].type)

        return v(v), codegen

    return function


_power_of_two = _from_bits(floats.emit_power_of_two)
_exponent, _two_to_minus = _from_bits(floats.emit_exponent), _from_bits(floats.emit_two_to_minus)


@implementation(floats.exp)
def _exp(x):
    if isinstance(x, Vector):
        return floats.exp_body(np.dtype(x.dtype.name).type, _fma, _power_of_two, _select)


@implementation(floats.log1p)
def _log1p(u):
    if isinstance(u, Vector):
        return floats.log1p_body(np.dtype(u.dtype.name).type, _fma, _exponent, _two_to_minus)


def _reduction(combine):
    @intrinsic
    def reduce(typing_context, v):
        def codegen(context, builder, signature, args):
            [vector], lanes = args, v.lanes
            while lanes > 1:
                lanes //= 2
                halves = [
                    builder.shuffle_vector(
                        vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(at, at + lanes)))
                    )
                    for at in (0, lanes)
                ]
                vector = combine(builder, *halves)
            return builder.extract_element(vector, ir.IntType(32)(0))

        return v.dtype(v), codegen

    return reduce


_sum_of = _reduction(lambda builder, v, w: builder.fadd(v, w))
_greatest = _reduction(lambda builder, v, w: builder.select(builder.fcmp_ordered(">", v, w), v, w))


# --- what kernels call ----------------------------------------------------------------------------------------


def width(a):
    return lanes_of(a.dtype)


@overload(width, inline="always")
def _width(a):
    lanes = lanes_of(a.dtype)
    return lambda a: lanes


def _loads_in_python(registers):
    def load(a, i):
        return a.reshape(-1)[i : i + registers * width(a)].copy()

    def load_some(a, i, n, x):
        n = max(0, min(n, registers * width(a)))
        return np.append(a.reshape(-1)[i : i + n], np.full(registers * width(a) - n, x, a.dtype))

    def splat(a, x):
        return np.full(registers * width(a), x, a.dtype)

    return load, load_some, splat


def _store_in_python(v, a, i, n=None):
    n = v.size if n is None else max(0, min(n, v.size))
    a.reshape(-1)[i : i + n] = v[:n]


def _maximum_in_python(v, w):
    return np.where(v > w, v, w)


def _reduction_in_python(combine):
    def reduce(v):
        while v.size > 1:
            v = combine(v[: v.size // 2], v[v.size // 2 :])
        return v[0]

    return reduce


@intrinsic
def _lanes(typing_context, v):
    def codegen(context, builder, signature, args):
        return context.get_constant(types.int64, v.lanes)

    return types.int64(v), codegen


def _checked_loads(registers, load, load_some):
    def load_within(a, i):
        memory.within(a, i, registers * width(a) - 1, 0, 0)
        return load(a, i)

    def load_some_within(a, i, n, x):
        if n > 0:
            memory.within(a, i, min(n, registers * width(a)) - 1, 0, 0)
        return load_some(a, i, n, x)

    return helper(load_within), helper(load_some_within)


def _store_within(v, a, i):
    memory.within(a, i, _lanes(v) - 1, 0, 0)
    _store(v, a, i)


def _store_some_within(v, a, i, n):
    if n > 0:
        memory.within(a, i, min(n, _lanes(v)) - 1, 0, 0)
    _store_some(v, a, i, n)


if numba.config.DISABLE_JIT:
    load, load_some, splat = _loads_in_python(1)
    load2, load2_some, splat2 = _loads_in_python(2)
    load4, _, splat4 = _loads_in_python(4)
    store = store_some = _store_in_python
    will_read = will_write = lambda a, i: None
    select, maximum = np.where, _maximum_in_python
    sum_of, greatest = _reduction_in_python(np.add), _reduction_in_python(_maximum_in_python)
else:
    load, load_some, splat = _loads(1)
    load2, load2_some, splat2 = _loads(2)
    load4, load4_some, splat4 = _loads(4)
    store, store_some = _store, _store_some
    will_read, will_write = _prefetch(False), _prefetch(True)
    select, maximum, sum_of, greatest = _select, _maximum, _sum_of, _greatest
if compile.CHECKED:
    load, load_some = _checked_loads(1, load, load_some)
    load2, load2_some = _checked_loads(2, load2, load2_some)
    load4, _ = _checked_loads(4, load4, load4_some)
    store, store_some = helper(_store_within), helper(_store_some_within)
