"""What PTX's instructions compute: those that read registers and write a register, one NumPy function for each.

table(seed)[opcode] is (type of the result, types of the operands, function of arrays).  An opcode is its whole name,
with every modifier, so that what isn't known here is an error and never half obeyed.

Results are those of the PTX ISA to the bit, with two liberties: a NaN of float32 arithmetic is the one that it names,
while float64's may have other bits; and the approximations (ex2, lg2, rcp, rsqrt, sqrt and div .approx) are as wrong as
they may be, by an amount drawn from the operand's bits and the seed, so that code which relies on more fails.
"""

from functools import cache, partial
from itertools import product

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

DTYPES = {"pred": np.dtype(bool), "f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8")}
DTYPES |= {f"{kind}{bits}": np.dtype(f"i{bits // 8}") for kind in "s" for bits in (8, 16, 32, 64)}
DTYPES |= {f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "ub" for bits in (8, 16, 32, 64)}
NAN32 = np.uint32(0x7FFFFFFF).view("f4")
TINY = np.finfo("f4").smallest_normal


# --- float arithmetic -------------------------------------------------------------------------------------------


@intrinsic
def fused(typing_context, a, b, c):
    """a * b + c, rounded once: the processor's own instruction, or the C library's function."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        name = f"llvm.fma.{'f64' if isinstance(kind, ir.DoubleType) else 'f32'}"
        function = builder.module.declare_intrinsic(name, (), ir.FunctionType(kind, [kind] * 3))
        return builder.call(function, args)

    return a(a, b, c), codegen


@numba.vectorize([types.float32(*[types.float32] * 3), types.float64(*[types.float64] * 3)])
def fma(a, b, c):
    return fused(a, b, c)


def directed(a, b, c, mode):
    """a * b + c of float32, rounded up (p), down (m) or to zero (z).

    In float64 the product is exact and the sum is off by `error`, which Knuth's TwoSum gives exactly.  So the true
    value lies on that side of the sum; then the neighbour in float32 is chosen with that in mind.
    """
    p, c = a.astype("f8") * b, np.asarray(c, "f8")
    total = p + c
    part = total - p
    error = (p - (total - part)) + (c - part)
    nearest = total.astype("f4")
    above = (nearest > total) | ((nearest == total) & (error < 0))  # nearest > true value
    below = (nearest < total) | ((nearest == total) & (error > 0))
    down = above & ((mode == "m") | ((mode == "z") & (total > 0)))
    up = below & ((mode == "p") | ((mode == "z") & (total < 0)))
    moved = np.nextafter(nearest, np.where(down, np.float32(-np.inf), np.float32(np.inf)))
    result = np.where(np.isfinite(total) & (down | up), moved, nearest)
    if mode == "m":  # rounding down, a sum of 0 from terms of both signs is -0
        result = np.where((total == 0) & (np.signbit(p) != np.signbit(c)), np.float32(-0.0), result)
    return result


def one_nan(x):
    """float32's arithmetic knows one NaN alone."""
    bad = x != x
    return np.where(bad, NAN32, x) if bad.any() else x


def flushed(x):
    """Subnormal numbers as zeros of their sign."""
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


def saturated(x):
    return np.where(x > 0, np.minimum(x, np.float32(1)), np.float32(0))  # NaN becomes 0


def finished(function, ftz=False, sat=False):
    """A function of float32 numbers with the modifiers .ftz and .sat."""

    def whole(*args):
        result = function(*[flushed(x) for x in args] if ftz else args)
        result = one_nan(result)
        result = flushed(result) if ftz else result
        return saturated(result) if sat else result

    return whole


def extreme(a, b, larger):
    """max or min: a number wins over NaN, and -0 is smaller than +0."""
    result = (np.fmax if larger else np.fmin)(a, b)
    zeros = (a == 0) & (b == 0)
    if zeros.any():
        negative = np.signbit(a) & np.signbit(b) if larger else np.signbit(a) | np.signbit(b)
        result = np.where(zeros, np.where(negative, result.dtype.type(-0.0), result.dtype.type(0)), result)
    return result


# --- approximations: as wrong as they may be ----------------------------------------------------------------------


def drawn(x, seed):
    """A whole number for each number, from its bits: the same for the same bits."""
    bits = x.view(f"u{x.dtype.itemsize}").astype("u8") + np.uint64(seed + 1)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits ^= bits >> np.uint64(29)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    return bits >> np.uint64(33)


def within(exact, ulps, draw):
    """float32 numbers at most `ulps` units in the last place from those of float64."""
    size = np.abs(exact)
    below = size.astype("f4")
    below = np.where(below > size, np.nextafter(below, np.float32(0)), below)
    step = (draw % np.uint64(2 * ulps)).astype("i4") - (ulps - 1)
    special = ~np.isfinite(exact) | (exact == 0)
    bits = np.clip(below.view("i4") + step, 0, 0x7F800000)
    return np.where(special, exact, np.copysign(bits.view("f4"), exact)).astype("f4")


def ex2(x, seed):
    return np.where(x == 0, np.float32(1), within(np.exp2(x.astype("f8")), 2, drawn(x, seed)))


def lg2(x, seed):
    """Off by 2^-22.6 from 0.5 to 2, and by as much of the result elsewhere."""
    exact = np.log2(x.astype("f8"))
    share = (drawn(x, seed) % np.uint64(1024)).astype("f8") / 512 - 1
    scale = np.where((x > 0.5) & (x < 2), 1.0, np.abs(exact))
    return np.where(np.isfinite(exact), exact + share * scale * (2**-22.6 - 2**-24), exact).astype("f4")


def quotient(a, b, seed, full):
    """Off by 2 units; unless `full`, 0 where |b| > 2^126, or NaN if a is infinite there."""
    exact = a.astype("f8") / b
    if not full:
        exact = np.where((np.abs(b) > 2.0**126) & np.isfinite(b), a.astype("f8") * 0, exact)
    return within(exact, 2, drawn(a, seed) ^ drawn(b, seed))


def rcp64(x, seed):
    """The upper 32 bits of 1 / (the upper 32 bits of x), off by one; subnormal numbers are zeros."""

    def upper(bits):
        bits = bits & np.uint64(0xFFFFFFFF00000000)
        small = (bits & np.uint64(0x7FF0000000000000)) == 0
        return np.where(small, bits & np.uint64(1 << 63), bits)

    exact = 1 / upper(x.view("u8")).view("f8")
    off = (drawn(x, seed) % np.uint64(2)) << np.uint64(32)
    usual = np.isfinite(exact) & (exact != 0)
    return upper(exact.view("u8") + np.where(usual, off, np.uint64(0))).view("f8")


# --- integers -----------------------------------------------------------------------------------------------------


def divided(a, b, remainder):
    """Towards zero."""
    if (b == 0).any():
        raise ZeroDivisionError("an integer divided by 0")
    if a.dtype.kind == "u":
        return a % b if remainder else a // b
    q = np.floor_divide(a, b)
    q += (a - q * b != 0) & ((a < 0) != (b < 0))
    return a - q * b if remainder else q


def shifted(x, by, left):
    """Shifts by the width or more leave zeros, or for signed numbers their sign."""
    bits = x.dtype.itemsize * 8
    by = np.minimum(by, bits).astype(x.dtype)
    last = x.dtype.type(bits - 1)
    if left:
        return np.where(by == bits, x.dtype.type(0), np.left_shift(x, np.minimum(by, last)))
    if x.dtype.kind == "i":
        return np.right_shift(x, np.minimum(by, last))
    return np.where(by == bits, x.dtype.type(0), np.right_shift(x, np.minimum(by, last)))


def high_product(a, b):
    """The upper half of a product of 32 bits."""
    return ((a.astype(f"{a.dtype.kind}8") * b) >> 32).astype(a.dtype)


def inserted(a, b, position, length):
    """bfi: the lowest `length` bits of a in place of those of b from `position` on."""
    bits = b.dtype.itemsize * 8
    position, length = position & np.uint32(0xFF), length & np.uint32(0xFF)
    one = b.dtype.type(1)
    mask = shifted(np.broadcast_to(one, b.shape).copy(), length, True) - one
    mask = np.where(length >= bits, ~b.dtype.type(0), mask)
    mask = shifted(mask, position, True)
    return (b & ~mask) | (shifted(a, position, True) & mask)


# --- conversions ----------------------------------------------------------------------------------------------------


def to_f16(x):
    return np.where(np.isnan(x), np.uint16(0x7FFF).view("f2"), x.astype("f2"))


COMPARISONS = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater}
COMPARISONS |= {"ge": np.greater_equal}


def compared(name, floats):
    """The function of a setp: for floats, `neu`, say, also holds where one of both is NaN, and `ne` doesn't."""
    if floats and name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if floats and name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if floats and name.endswith("u"):
        return lambda a, b: COMPARISONS[name[:-1]](a, b) | np.isnan(a) | np.isnan(b)
    if floats and name == "ne":
        return lambda a, b: np.not_equal(a, b) & ~(np.isnan(a) | np.isnan(b))
    return COMPARISONS[name]


# --- the table ------------------------------------------------------------------------------------------------------


def integers():
    for t in ("s16", "u16", "s32", "u32", "s64", "u64"):
        wide = f"{t[0]}{2 * int(t[1:])}"
        yield f"add.{t}", t, (t, t), np.add
        yield f"sub.{t}", t, (t, t), np.subtract
        yield f"mul.lo.{t}", t, (t, t), np.multiply
        yield f"mad.lo.{t}", t, (t, t, t), lambda a, b, c: a * b + c
        yield f"div.{t}", t, (t, t), partial(divided, remainder=False)
        yield f"rem.{t}", t, (t, t), partial(divided, remainder=True)
        yield f"min.{t}", t, (t, t), np.minimum
        yield f"max.{t}", t, (t, t), np.maximum
        yield f"shr.{t}", t, (t, "u32"), partial(shifted, left=False)
        if t[0] == "s":
            yield f"neg.{t}", t, (t,), np.negative
            yield f"abs.{t}", t, (t,), np.abs
        if wide in DTYPES:
            yield f"mul.wide.{t}", wide, (t, t), lambda a, b, to=DTYPES[wide]: a.astype(to) * b.astype(to)
            yield f"mad.wide.{t}", wide, (t, t, wide), lambda a, b, c, to=DTYPES[wide]: a.astype(to) * b.astype(to) + c
        if t[1:] == "32":
            yield f"mul.hi.{t}", t, (t, t), high_product
        for name, test in COMPARISONS.items():
            yield f"setp.{name}.{t}", "pred", (t, t), test
    for t in ("b16", "b32", "b64", "pred"):
        for name, function in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)):
            yield f"{name}.{t}", t, (t, t), function
        yield f"not.{t}", t, (t,), np.bitwise_not
        if t != "pred":
            yield f"shl.{t}", t, (t, "u32"), partial(shifted, left=True)
            yield f"shr.{t}", t, (t, "u32"), partial(shifted, left=False)
            yield f"setp.eq.{t}", "pred", (t, t), np.equal
            yield f"setp.ne.{t}", "pred", (t, t), np.not_equal
    for t in ("b32", "b64"):
        yield f"bfi.{t}", t, (t, t, "u32", "u32"), inserted
        yield f"popc.{t}", "u32", (t,), lambda x: sum(((x >> x.dtype.type(k)) & x.dtype.type(1)).astype("u4") for k in
                                                      range(8 * x.dtype.itemsize))  # fmt: skip


def floats():
    rounded = {"": None, ".rn": None, ".rz": "z", ".rm": "m", ".rp": "p"}
    for (rounding, mode), ftz, sat in product(rounded.items(), (False, True), (False, True)):
        suffix = rounding + ".ftz" * ftz + ".sat" * sat + ".f32"
        done = partial(finished, ftz=ftz, sat=sat)
        if mode is None:
            add, sub, mul, mad = np.add, np.subtract, np.multiply, fma
        else:
            add = lambda a, b, mode=mode: directed(a, np.float32(1), b, mode)  # noqa: E731
            sub = lambda a, b, mode=mode: directed(a, np.float32(1), -b, mode)  # noqa: E731
            mul = lambda a, b, mode=mode: directed(a, b, np.float32(-0.0), mode)  # noqa: E731
            mad = partial(directed, mode=mode)
        yield f"add{suffix}", "f32", ("f32",) * 2, done(add)
        yield f"sub{suffix}", "f32", ("f32",) * 2, done(sub)
        yield f"mul{suffix}", "f32", ("f32",) * 2, done(mul)
        if rounding:
            yield f"fma{suffix}", "f32", ("f32",) * 3, done(mad)
    for ftz in (False, True):
        done = partial(finished, ftz=ftz)
        suffix = ".ftz" * ftz + ".f32"
        yield f"div.rn{suffix}", "f32", ("f32",) * 2, done(np.divide)
        yield f"rcp.rn{suffix}", "f32", ("f32",), done(lambda x: 1 / x)
        yield f"sqrt.rn{suffix}", "f32", ("f32",), done(np.sqrt)
        yield f"min{suffix}", "f32", ("f32",) * 2, done(partial(extreme, larger=False))
        yield f"max{suffix}", "f32", ("f32",) * 2, done(partial(extreme, larger=True))
        yield f"neg{suffix}", "f32", ("f32",), (lambda x: -flushed(x)) if ftz else np.negative
        yield f"abs{suffix}", "f32", ("f32",), (lambda x: np.abs(flushed(x))) if ftz else np.abs
        yield f"cvt{'.ftz' * ftz}.sat.f32.f32", "f32", ("f32",), finished(lambda x: x, ftz=ftz, sat=True)
    for rounding in ("", ".rn"):
        yield f"add{rounding}.f64", "f64", ("f64",) * 2, np.add
        yield f"sub{rounding}.f64", "f64", ("f64",) * 2, np.subtract
        yield f"mul{rounding}.f64", "f64", ("f64",) * 2, np.multiply
    yield "fma.rn.f64", "f64", ("f64",) * 3, fma
    yield "div.rn.f64", "f64", ("f64",) * 2, np.divide
    yield "rcp.rn.f64", "f64", ("f64",), lambda x: 1 / x
    yield "sqrt.rn.f64", "f64", ("f64",), np.sqrt
    yield "min.f64", "f64", ("f64",) * 2, partial(extreme, larger=False)
    yield "max.f64", "f64", ("f64",) * 2, partial(extreme, larger=True)
    yield "neg.f64", "f64", ("f64",), np.negative
    yield "abs.f64", "f64", ("f64",), np.abs
    names = [*COMPARISONS, "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]
    for name, t in product(names, ("f16", "f32", "f64")):
        yield f"setp.{name}.{t}", "pred", (t, t), compared(name, True)
    for name in names:
        test = compared(name, True)
        yield f"setp.{name}.ftz.f32", "pred", ("f32",) * 2, lambda a, b, test=test: test(flushed(a), flushed(b))


def approximate(seed):
    for name, function in (
        ("ex2", ex2),
        ("lg2", lg2),
        ("rcp", lambda x, seed: within(1 / x.astype("f8"), 1, drawn(x, seed))),
        ("sqrt", lambda x, seed: within(np.sqrt(x.astype("f8")), 1, drawn(x, seed))),
        ("rsqrt", lambda x, seed: within(1 / np.sqrt(x.astype("f8")), 1, drawn(x, seed))),
    ):
        for ftz in (False, True):
            yield f"{name}.approx{'.ftz' * ftz}.f32", "f32", ("f32",), finished(partial(function, seed=seed), ftz=ftz)
    for name, ftz in product(("approx", "full"), (False, True)):
        function = partial(quotient, seed=seed, full=name == "full")
        yield f"div.{name}{'.ftz' * ftz}.f32", "f32", ("f32",) * 2, finished(function, ftz=ftz)
    yield "rcp.approx.ftz.f64", "f64", ("f64",), partial(rcp64, seed=seed)


def moves():
    for t in DTYPES:
        if t[1:] != "8":
            yield f"mov.{t}", t, (t,), lambda x: x
        if t[1:] != "8" and t != "pred":
            yield f"selp.{t}", t, (t, t, "pred"), lambda a, b, p: np.where(p, a, b)
    whole = [f"{kind}{bits}" for kind in "su" for bits in (8, 16, 32, 64)]
    for to, source in product(whole, whole):
        yield f"cvt.{to}.{source}", to, (source,), lambda x, to=DTYPES[to]: x.astype(to)
    for to, source in product(("f32", "f64"), whole):
        yield f"cvt.rn.{to}.{source}", to, (source,), lambda x, to=DTYPES[to]: x.astype(to)
    yield "cvt.f32.f16", "f32", ("f16",), lambda x: one_nan(x.astype("f4"))
    yield "cvt.f64.f16", "f64", ("f16",), lambda x: x.astype("f8")
    yield "cvt.f64.f32", "f64", ("f32",), lambda x: x.astype("f8")
    yield "cvt.rn.f32.f64", "f32", ("f64",), lambda x: one_nan(x.astype("f4"))
    yield "cvt.rn.f16.f32", "f16", ("f32",), to_f16
    yield "cvt.rn.f16.f64", "f16", ("f64",), to_f16


@cache
def table(seed=0):
    """{opcode: (type of the result, types of the operands, function)}"""
    rows = [*integers(), *floats(), *approximate(seed), *moves()]
    return {opcode: (result, operands, function) for opcode, result, operands, function in rows}
