"""Vectors: a SIMD register's worth of numbers as one value, for loops that LLVM does not vectorise well by itself.

    LANES = width(a)             how many numbers of a's dtype a register holds: 16 of float32 with AVX-512
    v = load(a, i)               LANES numbers of the C-contiguous array a from flat index i on
    v = load_some(a, i, n, x)    only the first n of them, if n < LANES; the other lanes are x
    v = splat(a, x)              x, as a's dtype, in every lane
    store(v, a, i)               and back;  store_some(v, a, i, n) only the first n

    will_read(a, i)              fetch the cache line of a.flat[i], which may lie outside of a; will_write: to write it

    +, -, *, /                   lane by lane, between vectors or with a number
    <, >, >=, ==, !=, |          a mask: where that is true
    select(mask, v, w)           v where the mask is true, else w
    maximum(v, w)                the greater; w where one of them is NaN
    fma(v, w, u)                 v * w + u, rounded once
    sum_of(v), greatest(v)       of the lanes: halves are added, or compared, until one number is left
    bits(v)                      the bits of floats as whole numbers, with +, -, << and >>;  from_bits(i) and back
    as_floats(i)                 whole numbers as floats

load2, load2_some and splat2 are of two registers as one vector of 2 LANES numbers, load4 and splat4 of four: the
latency of a long chain of operations is hidden by independent chains.  load_several and splat_several are of SEVERAL.

Rows are a tuple of vectors; in memory they begin at i, i + step, i + 2 step, ...

    rows = load_rows(a, i, step, n)              LANES rows; those from n on are the last of the n once more
    rows = load_rows_some(a, i, step, n, m)      the first m numbers of the first n rows, and zeros
    rows = load_rows_at(a, i, at, j, n, m)       so too, from i + at[j], i + at[j + 1], ...
    store_rows(rows, a, i, step, n)              the first n;  store_rows_some(rows, a, i, step, n, m) their first m
    transposed(rows)                             R rows are squares of R x R numbers side by side: each is transposed
    times(rows, v)                               each row times the vector v

A line is short: `part` lines of R = LANES / part numbers each lie end to end in one vector, where `part` is 1, 2 or 4.

    load_joined, load_lines, store_lines, load_short_rows = lines(part)

    v = load_joined(a, i, step, like)            `part` lines as one vector; LANES is that of the array `like`
    rows = load_lines(a, i, step)                LANES lines as R rows: row v has lines v, v + R, v + 2 R, ...
    store_lines(rows, a, i, step)                so and so many rows back, in the order of their lines
    rows = load_short_rows(a, i, step, n)        as load_rows, but R rows

Left to LLVM, a loop takes what does not fill a round of four vectors one by one, and all of it where the array that is
read may be the array that is written.  Nothing here can be called under NUMBA_DISABLE_JIT=1 but width and lanes_of.
"""

import operator

import numba
from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from tinynet.kernels.compile import emitted, helper
from tinynet.kernels.llvm import (  # noqa: F401
    FEATURES,
    I32,
    I64,
    LANES,
    MASKS,
    Vector,
    alignment,
    emit_fetch,
    emit_first_lanes,
    emit_joined,
    emit_least,
    emit_load,
    emit_pieces,
    emit_shuffle,
    emit_splat,
    emit_store,
    emit_store_first,
    emit_while,
    lanes_of,
    llvm_function,
    llvm_type,
    primitive,
)  # fmt: skip
from tinynet.kernels.memory import within

int64 = types.int64


@emitted()
def width(typing_context, a):
    lanes = a.lanes if isinstance(a, Vector) else lanes_of(a.dtype)
    return types.int64(a), lambda context, builder, signature, args: context.get_constant(types.int64, lanes)


# --- arithmetic ---------------------------------------------------------------------------------------------


def _vector_among(*kinds):
    return next((kind for kind in kinds if isinstance(kind, Vector)), None)


def _operator(function, of_floats, of_integers, makes=None):
    class Template(AbstractTemplate):
        def generic(self, arguments, keywords):
            vector = _vector_among(*arguments)
            if vector and len(arguments) == 2:
                return signature(Vector(makes or vector.dtype, vector.lanes), vector, vector)

    infer_global(function)(Template)

    @lower_builtin(function, Vector, Vector)
    def lower(context, builder, signature, args):
        of_its_kind = of_floats if isinstance(signature.args[0].dtype, types.Float) else of_integers
        return of_its_kind(builder, *args)


def _comparison(function, sign, ordered=ir.IRBuilder.fcmp_ordered):
    whole = ir.IRBuilder.icmp_signed
    _operator(function, lambda b, v, w: ordered(b, sign, v, w), lambda b, v, w: whole(b, sign, v, w), types.boolean)


_operator(operator.add, ir.IRBuilder.fadd, ir.IRBuilder.add)
_operator(operator.sub, ir.IRBuilder.fsub, ir.IRBuilder.sub)
_operator(operator.mul, ir.IRBuilder.fmul, None)
_operator(operator.truediv, ir.IRBuilder.fdiv, None)
_operator(operator.lshift, None, ir.IRBuilder.shl)
_operator(operator.rshift, None, ir.IRBuilder.ashr)
_operator(operator.or_, None, ir.IRBuilder.or_)
_comparison(operator.lt, "<")
_comparison(operator.gt, ">")
_comparison(operator.ge, ">=")
_comparison(operator.eq, "==")
_comparison(operator.ne, "!=", ir.IRBuilder.fcmp_unordered)


def _of_one_kind(*kinds):
    return _vector_among(*kinds) or kinds[0]


def _selected(mask, v, w):
    made = _vector_among(v, w) or (Vector(types.uint8, mask.lanes) if isinstance(mask, Vector) else v)
    return made(mask, made, made)


@primitive(_selected)
def select(builder, made, mask, v, w):
    return builder.select(mask, v, w)


@primitive(lambda v, w: v)
def maximum(builder, made, v, w):
    return builder.select(builder.fcmp_ordered(">", v, w), v, w)  # one instruction of x86's


@primitive(lambda v, w, u: _of_one_kind(v, w, u)(*[_of_one_kind(v, w, u)] * 3))
def fma(builder, made, v, w, u):
    if isinstance(made, ir.VectorType):
        return builder.call(llvm_function(builder.module, "fma", made), [v, w, u])
    return builder.fma(v, w, u)


WHOLE = {types.float32: types.int32, types.float64: types.int64}
REAL = {whole: real for real, whole in WHOLE.items()}


def _reals(i):
    return Vector(REAL[i.dtype], i.lanes) if i.lanes > 1 else REAL[i.dtype]


@primitive(lambda v: Vector(WHOLE[v.dtype], v.lanes) if isinstance(v, Vector) else Vector(WHOLE[v], 1))
def bits(builder, made, v):
    return builder.bitcast(v, made)


@primitive(_reals)
def from_bits(builder, made, i):
    return builder.bitcast(i, made)


@primitive(_reals)
def as_floats(builder, made, i):
    return builder.sitofp(i, made)


def _reduction(combine):
    @primitive(lambda v: v.dtype)
    def reduce(builder, made, v):
        while v.type.count > 1:
            v = combine(builder, *emit_pieces(builder, v, 2))
        return builder.extract_element(v, I32(0))

    return reduce


sum_of = _reduction(ir.IRBuilder.fadd)
greatest = _reduction(lambda builder, v, w: builder.select(builder.fcmp_ordered(">", v, w), v, w))


# --- memory ---------------------------------------------------------------------------------------------------


# With AVX2 the squares of a large matrix took 0.9 ns an element to transpose under masks, and without 0.1: there only
# what lies at an edge has them.  And NEON cannot load a vector under a mask, but takes each number by itself, behind a
# branch of its own.
MASKED_LOADS = "avx" in FEATURES


def _one_or_other(builder, condition, one, other):
    """The list of values one() where the condition is true, else other()."""
    with builder.if_else(condition) as (true, false):
        with true:
            values, block = one(), builder.block
        with false:
            others, other_block = other(), builder.block
    joined = [builder.phi(value.type) for value in values]
    for register, value, other_value in zip(joined, values, others, strict=True):
        register.add_incoming(value, block)
        register.add_incoming(other_value, other_block)
    return joined


@helper
def _within(a, i, step, n, m):
    """The bounds check of n rows of m numbers."""
    if n > 0 and m > 0:
        within(a, i, (n - 1) * step, m - 1, 0)


def _registers(count):
    """load, load_some and splat for vectors of so many registers."""

    def vector(a):
        return Vector(a.dtype, count * lanes_of(a.dtype))

    @primitive(lambda a, i: vector(a), lambda a, i: _within(a, i, 0, 1, count * width(a)))
    def load(builder, made, a, i):
        return emit_load(builder, a, i, made)

    @primitive(
        lambda a, i, n, x: vector(a)(a, int64, int64, vector(a)),
        lambda a, i, n, x: _within(a, i, 0, 1, min(n, count * width(a))),
    )
    def load_some(builder, made, a, i, n, x):
        def some():
            return [emit_load(builder, a, i, made, emit_first_lanes(builder, n, made.count), x)]

        if MASKED_LOADS:
            return some()[0]
        whole = builder.icmp_signed(">=", n, I64(made.count))
        return _one_or_other(builder, whole, lambda: [emit_load(builder, a, i, made)], some)[0]

    @primitive(lambda a, x: vector(a)(a, vector(a)))
    def splat(builder, made, a, x):
        return x

    return load, load_some, splat


load, load_some, splat = _registers(1)
load2, load2_some, splat2 = _registers(2)
load4, load4_some, splat4 = _registers(4)
# Vectors at a time of a loop that keeps several sums: of 16 registers, 4 for each of 3 sums leave none for the rest.
SEVERAL = 4 if "avx512f" in FEATURES or "neon" in FEATURES else 2
load_several, _, splat_several = _registers(SEVERAL)


def _void(v, a):
    dtype = v.dtype.dtype if isinstance(v, types.UniTuple) else v.dtype
    if dtype != a.dtype:
        raise numba.TypingError(f"a vector of {dtype} does not go into an array of {a.dtype}")
    return types.void


@primitive(lambda v, a, i: _void(v, a), lambda v, a, i: _within(a, i, 0, 1, width(v)))
def store(builder, made, v, a, i):
    emit_store(builder, v, a, i)


@primitive(lambda v, a, i, n: _void(v, a), lambda v, a, i, n: _within(a, i, 0, 1, min(n, width(v))))
def store_some(builder, made, v, a, i, n):
    if MASKS:
        emit_store(builder, v, a, i, emit_first_lanes(builder, n, v.type.count))
    else:
        emit_store_first(builder, [(v, builder.gep(a, [i]))], n)


def _prefetch(writes):
    @primitive(lambda a, i: types.void)
    def prefetch(builder, made, a, i):
        emit_fetch(builder, a, i, writes)

    return prefetch


will_read, will_write = _prefetch(0), _prefetch(1)


# --- rows, and lines ------------------------------------------------------------------------------------------


def _places(builder, i, step, count, last=None):
    """i, i + step, i + 2 step, ...: so many of them, none behind number `last`."""
    for n in range(count):
        yield builder.add(i, builder.mul(I64(n) if last is None else emit_least(builder, I64(n), last), step))


def lines(part):
    """load_joined, load_lines, store_lines and load_short_rows where `part` lines fill a register: see above."""

    def R(a):
        return max(1, lanes_of(a.dtype) // part)

    def row(a, like):
        return Vector(a.dtype, lanes_of(like.dtype))

    @primitive(
        lambda a, i, step, like: row(a, like),
        lambda a, i, step, like: _within(a, i, step, min(part, width(like)), max(1, width(like) // part)),
    )
    def load_joined(builder, made, a, i, step, like):
        count = min(part, made.count)
        line = ir.VectorType(made.element, made.count // count)
        return emit_joined(builder, [emit_load(builder, a, place, line) for place in _places(builder, i, step, count)])

    @primitive(
        lambda a, i, step: types.UniTuple(row(a, a), R(a)),
        lambda a, i, step: _within(a, i, step, width(a), max(1, width(a) // part)),
    )
    def load_lines(builder, made, a, i, step):
        R, lanes, line = made.count, made.element.count, ir.VectorType(made.element.element, made.count)
        read = [emit_load(builder, a, place, line) for place in _places(builder, i, step, lanes)]
        return [emit_joined(builder, read[v::R]) for v in range(R)]

    @primitive(
        lambda rows, a, i, step: _void(rows, a),
        lambda rows, a, i, step: _within(
            a, i, step, len(rows) * min(part, width(rows[0])), max(1, width(rows[0]) // part)
        ),
    )
    def store_lines(builder, made, rows, a, i, step):
        count = min(part, rows[0].type.count)
        pieces = [piece for row in rows for piece in emit_pieces(builder, row, count)]
        for n, place in enumerate(_places(builder, i, step, len(pieces))):
            emit_store(builder, pieces[n % len(rows) * count + n // len(rows)], a, place)

    @primitive(
        lambda a, i, step, n: types.UniTuple(row(a, a), R(a)),
        lambda a, i, step, n: within(a, i, (min(n, max(1, width(a) // part)) - 1) * step, width(a) - 1, 0),
    )
    def load_rows(builder, made, a, i, step, n):
        places = _places(builder, i, step, made.count, builder.sub(n, I64(1)))
        return [emit_load(builder, a, place, made.element) for place in places]

    return load_joined, load_lines, store_lines, load_rows


_, _, _, load_rows = lines(1)


@primitive(
    lambda rows, a, i, step, n: _void(rows, a),
    lambda rows, a, i, step, n: _within(a, i, step, min(n, len(rows)), width(a)),
)
def store_rows(builder, made, rows, a, i, step, n):
    for row, place in enumerate(_places(builder, i, step, len(rows))):
        with builder.if_then(builder.icmp_signed("<", I64(row), n)):
            emit_store(builder, rows[row], a, place)


def _masks(builder, n, m, lanes):
    """For each of so many rows the mask of its first m numbers; of none from row n on."""
    if not MASKS:
        mask = emit_first_lanes(builder, m, lanes)
        for row in range(lanes):
            yield builder.and_(mask, emit_splat(builder, builder.icmp_signed("<", I64(row), n), lanes))
        return
    bits, m = ir.IntType(lanes), emit_least(builder, m, I64(lanes))
    mask = builder.trunc(builder.lshr(I64(2**lanes - 1), builder.sub(I64(lanes), m)), bits)
    for row in range(lanes):
        inside = builder.select(builder.icmp_signed("<", I64(row), n), mask, bits(0))
        yield builder.bitcast(inside, ir.VectorType(ir.IntType(1), lanes))


def _load_square(builder, made, a, places, n, m):
    """Rows from these places on: the first m numbers of the first n, and zeros."""
    count, vector = made.count, made.element
    zeros = ir.Constant(vector, [0.0] * vector.count)

    def some():
        masks = _masks(builder, n, m, count)
        return [emit_load(builder, a, place, vector, mask, zeros) for place, mask in zip(places, masks, strict=True)]

    if MASKS:
        return some()
    whole = builder.and_(*(builder.icmp_signed(">=", size, I64(count)) for size in (n, m)))
    return _one_or_other(builder, whole, lambda: [emit_load(builder, a, place, vector) for place in places], some)


@primitive(
    lambda a, i, step, n, m: types.UniTuple(Vector(a.dtype, lanes_of(a.dtype)), lanes_of(a.dtype)),
    lambda a, i, step, n, m: _within(a, i, step, min(n, width(a)), min(m, width(a))),
)
def load_rows_some(builder, made, a, i, step, n, m):
    return _load_square(builder, made, a, list(_places(builder, i, step, made.count)), n, m)


def _within_at(a, i, at, j, n, m):
    for row in range(min(n, width(a))):
        _within(a, i + at[j + row], 0, 1, min(m, width(a)))


@primitive(
    lambda a, i, at, j, n, m: types.UniTuple(Vector(a.dtype, lanes_of(a.dtype)), lanes_of(a.dtype))(
        a, int64, at, int64, int64, int64
    ),
    _within_at,
)
def load_rows_at(builder, made, a, i, at, j, n, m):
    rows = [builder.add(j, emit_least(builder, I64(row), builder.sub(n, I64(1)))) for row in range(made.count)]
    places = [builder.add(i, builder.load(builder.gep(at, [row]))) for row in rows]
    return _load_square(builder, made, a, places, n, m)


@primitive(
    lambda rows, a, i, step, n, m: _void(rows, a),
    lambda rows, a, i, step, n, m: _within(a, i, step, min(n, width(a)), min(m, width(a))),
)
def store_rows_some(builder, made, rows, a, i, step, n, m):
    count, places = len(rows), list(_places(builder, i, step, len(rows)))
    if MASKS:
        for row, place, mask in zip(rows, places, _masks(builder, n, m, count), strict=True):
            emit_store(builder, row, a, place, mask)
        return

    for row, (v, place) in enumerate(zip(rows, places, strict=True)):
        with builder.if_then(builder.icmp_signed("<", I64(row), n)):
            emit_store_first(builder, [(v, builder.gep(a, [place]))], m)


@primitive(lambda rows, v: rows)
def times(builder, made, rows, v):
    return [builder.fmul(row, v) for row in rows]


@primitive(lambda rows: rows)
def transposed(builder, made, rows):
    """Swap the quarters of each square, then the quarters of each quarter, and so on (see transpose.py).

    Squares of U x U numbers, a row of which has 16 bytes, are transposed otherwise: lg U times the upper half of their
    rows is interleaved with the lower.  x86 has an instruction for that, and to swap single numbers of float32 it takes
    two: (4096, 10) in softmax_few_classes.py went from 57.9 us to 56.3 (one thread of an AMD EPYC, Zen 4, with AVX2).
    """
    lanes, half, U = made.element.count, made.count // 2, 16 // alignment(made.element).constant
    while half:
        if half < U <= made.count:
            first = [lanes * (j % 2) + j // U * U + j % U // 2 for j in range(lanes)]
            second = [j + U // 2 for j in first]
        else:
            first = [j if j & half == 0 else lanes + j - half for j in range(lanes)]
            second = [j + half for j in first]
        for i in range(made.count):
            if i & half == 0:
                pair = rows[i], rows[i + half]
                rows[i], rows[i + half] = (emit_shuffle(builder, *pair, order) for order in (first, second))
        half //= 2
    return rows
