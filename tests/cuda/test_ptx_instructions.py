"""Each instruction of the PTX machine against NumPy, Python's integers, and fractions rounded once."""

import math
import operator
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

from ptx_instructions import DTYPES, table

TABLE = table()
rng = np.random.default_rng(0)


def samples(kind, n=400):
    """Numbers of a type, its special ones among them."""
    dtype = DTYPES[kind]
    if dtype.kind == "b":
        return rng.integers(0, 2, n).astype(bool)
    bits = rng.integers(0, 256, n * dtype.itemsize, dtype="u1").view(dtype)
    if dtype.kind == "f":
        some = rng.standard_normal(n // 2) * 10.0 ** rng.integers(-3, 3, n // 2)
        special = [0.0, -0.0, 1, -1, 2, 0.5, np.inf, -np.inf, np.nan, np.finfo(dtype).smallest_subnormal]
        with np.errstate(all="ignore"):
            return np.concatenate([bits, some.astype(dtype), np.array(special, dtype)])
    limits = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max, 0, 1], dtype)
    return np.concatenate([bits, limits, rng.integers(0, 9, 40).astype(dtype)])


def operands(opcode):
    _, kinds, _ = TABLE[opcode]
    arrays = [samples(kind) for kind in kinds]
    n = max(map(len, arrays))
    arrays = [np.resize(rng.permutation(x), n) for x in arrays]
    if opcode.startswith(("div.s", "div.u", "rem.")):
        arrays[1][arrays[1] == 0] = 1
    return arrays


def result(opcode, *arrays):
    with np.errstate(all="ignore"):
        got = TABLE[opcode][2](*arrays)
    assert got.dtype == DTYPES[TABLE[opcode][0]]
    return got


def exact(opcode, *x):
    """An integer instruction's result, from Python's integers."""
    name, *modifiers, kind = opcode.split(".")
    bits = int(kind[1:])
    if name in ("shl", "shr"):
        by = min(x[1], bits)
        return x[0] << by if name == "shl" else x[0] >> by
    if name == "bfi":
        position, length = x[2] & 255, x[3] & 255
        mask = ((1 << length) - 1) << position
        return (x[1] & ~mask) | ((x[0] << position) & mask)
    if name in ("div", "rem"):
        q = abs(x[0]) // abs(x[1]) * (1 if (x[0] < 0) == (x[1] < 0) else -1)
        return q if name == "div" else x[0] - q * x[1]
    value = {
        "add": operator.add, "sub": operator.sub, "mul": operator.mul, "mad": lambda a, b, c: a * b + c,
        "min": min, "max": max, "neg": operator.neg, "abs": abs, "not": operator.invert, "popc": int.bit_count,
        "and": operator.and_, "or": operator.or_, "xor": operator.xor, "mov": int, "cvt": int,
        "selp": lambda a, b, p: a if p else b,
    }[name](*x)  # fmt: skip
    return value >> bits if modifiers == ["hi"] else value


INTEGERS = [
    opcode
    for opcode, (to, kinds, _) in TABLE.items()
    if all(DTYPES[kind].kind in "iu" for kind in (to, *kinds[:1])) and not opcode.startswith("setp")
]


@pytest.mark.parametrize("opcode", INTEGERS)
def test_integer_instructions_against_python(opcode):
    arrays, to = operands(opcode), DTYPES[TABLE[opcode][0]]
    expected = [exact(opcode, *map(int, x)) for x in zip(*arrays, strict=True)]
    wrapped = [x % (1 << 8 * to.itemsize) for x in expected]
    np.testing.assert_array_equal(result(opcode, *arrays).view(f"u{to.itemsize}"), np.array(wrapped, f"u{to.itemsize}"))


PREDICATES = [opcode for opcode in TABLE if opcode.startswith("setp")]


def compares(name, a, b):
    if name in ("num", "nan"):
        return (math.isnan(a) or math.isnan(b)) == (name == "nan")
    if math.isnan(a) or math.isnan(b):
        return name.endswith("u")
    name = name[:2]
    return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[name]


@pytest.mark.parametrize("opcode", PREDICATES)
def test_comparisons_against_python(opcode):
    _, name, *ftz, kind = opcode.split(".")
    a, b = operands(opcode)
    a[::3] = b[::3]
    x, y = (np.where(np.abs(v) < np.finfo("f4").tiny, 0, v) if ftz == ["ftz"] else v for v in (a, b))
    expected = [compares(name, p, q) for p, q in zip(x.tolist(), y.tolist(), strict=True)]
    np.testing.assert_array_equal(result(opcode, a, b), expected)


def test_logic_of_predicates():
    a, b = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    assert result("and.pred", a, b).tolist() == [False, False, False, True]
    assert result("or.pred", a, b).tolist() == [False, True, True, True]
    assert result("xor.pred", a, b).tolist() == [False, True, True, False]
    assert result("not.pred", a).tolist() == [True, True, False, False]


def rounded(value, mode, dtype="f4"):
    """A fraction as a float of 24 or 53 bits, rounded up (p), down (m), to zero (z) or to the nearest (n)."""
    if value == 0:
        return 0.0
    bits, least = {"f4": (24, -149), "f8": (53, -1074)}[dtype]
    size = abs(value)
    exponent = math.floor(math.log2(size.numerator) - math.log2(size.denominator))
    exponent += (size >= Fraction(2) ** (exponent + 1)) - (size < Fraction(2) ** exponent)
    unit = Fraction(2) ** max(exponent - bits + 1, least)
    whole = value / unit
    nearest = round(whole)  # ties to even
    count = {"p": math.ceil(whole), "m": math.floor(whole), "z": int(whole), "n": nearest}[mode]
    most = Fraction(float(np.finfo(dtype).max))
    if abs(count * unit) > most:
        up = mode == "n" or mode == ("p" if value > 0 else "m")
        return (math.inf if up else float(most)) * (1 if value > 0 else -1)
    return float(count * unit)


ARITHMETIC = [
    opcode
    for opcode in TABLE
    if opcode.split(".")[0] in ("add", "sub", "mul", "fma", "div", "rcp") and opcode.split(".")[-1] in ("f32", "f64")
    and not {"approx", "full", "ftz", "sat"} & set(opcode.split("."))
]  # fmt: skip


@pytest.mark.parametrize("opcode", ARITHMETIC)
def test_float_arithmetic_is_rounded_once_as_the_opcode_says(opcode):
    name, *modifiers, kind = opcode.split(".")
    dtype = {"f32": "f4", "f64": "f8"}[kind]
    mode = modifiers[0][1] if modifiers else "n"
    arrays = operands(opcode)
    for x in arrays:  # some whose sum cancels, or is far below the other term
        x[::5] = (rng.integers(-9, 9, len(x[::5])) * 2.0 ** rng.integers(-40, 40, len(x[::5]))).astype(dtype)
    arrays[0][1] = np.nan  # whatever was drawn in the places of those that were there
    got = result(opcode, *arrays)
    for value, *x in zip(got, *arrays, strict=True):
        if not np.isfinite(x).all() or (name in ("div", "rcp") and x[-1] == 0):
            continue
        x = [Fraction(float(v)) for v in x]
        true = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "rcp": lambda a: 1 / a,
                "fma": lambda a, b, c: a * b + c, "div": lambda a, b: a / b}[name](*x)  # fmt: skip
        assert float(value) == rounded(true, mode, dtype)
    if kind == "f32":
        bad = np.isnan(got)
        assert bad.any()
        assert (got[bad].view("u4") == 0x7FFFFFFF).all()


def test_modifiers_of_float_arithmetic():
    small = np.float32([1e-40, -1e-40, 1e-30, 1])
    np.testing.assert_array_equal(result("add.ftz.f32", small, 0 * small), np.float32([0, -0.0, 1e-30, 1]))
    np.testing.assert_array_equal(result("mul.ftz.f32", np.float32([1e-30]), np.float32([1e-10])), [0])
    np.testing.assert_array_equal(
        result("add.sat.f32", np.float32([0.25, 2, -1, np.nan]), np.float32([0.25, 2, -1, 0])),
        np.float32([0.5, 1, 0, 0]),
    )
    np.testing.assert_array_equal(
        result("cvt.sat.f32.f32", np.float32([0.3, -0.0, np.nan, np.inf])), np.float32([0.3, 0, 0, 1])
    )
    assert np.signbit(result("add.rm.f32", np.float32([1]), np.float32([-1])))[0]
    assert not np.signbit(result("add.rn.f32", np.float32([1]), np.float32([-1])))[0]


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_extremes_and_signs(kind):
    dtype = DTYPES[kind]
    a, b = np.array([1, np.nan, -0.0, 0.0, np.nan, -2], dtype), np.array([2, 3, 0.0, -0.0, np.nan, np.inf], dtype)
    for name, expected in (("max", [2, 3, 0.0, 0.0, np.nan, np.inf]), ("min", [1, 3, -0.0, -0.0, np.nan, -2])):
        got = result(f"{name}.{kind}", a, b)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(np.signbit(got[:4]), np.signbit(expected[:4]))
    np.testing.assert_array_equal(result(f"neg.{kind}", b), -b)
    np.testing.assert_array_equal(result(f"abs.{kind}", a), np.abs(a))
    np.testing.assert_array_equal(result(f"sqrt.rn.{kind}", np.abs(b)), np.sqrt(np.abs(b)))


APPROXIMATE = {  # the largest error, in float32's units in the last place or as a share of the result
    "ex2.approx.f32": (np.exp2, 2), "ex2.approx.ftz.f32": (np.exp2, 2), "rcp.approx.f32": (np.reciprocal, 1),
    "rcp.approx.ftz.f32": (np.reciprocal, 1), "sqrt.approx.f32": (np.sqrt, 1),
    "rsqrt.approx.f32": (lambda x: 1 / np.sqrt(x), 1),
    "div.approx.f32": (np.divide, 2), "div.full.f32": (np.divide, 2), "lg2.approx.f32": (np.log2, None),
}  # fmt: skip


@pytest.mark.parametrize("opcode", APPROXIMATE)
def test_approximations_are_as_wrong_as_they_may_be_and_no_worse(opcode):
    function, ulps = APPROXIMATE[opcode]
    arrays = [rng.uniform(0.01, 60, 20_000).astype("f4") for _ in TABLE[opcode][1]]
    got, true = result(opcode, *arrays), function(*[x.astype("f8") for x in arrays])
    if ulps is None:
        x = arrays[0]
        error = np.abs(got - true) / np.where((x > 0.5) & (x < 2), 1, np.abs(true)) / 2**-22
        assert 0.5 < error.max() <= 1
        return
    unit = np.spacing(np.minimum(true.astype("f4"), got).astype("f4")).astype("f8")
    error = np.abs(got - true) / unit
    assert ulps / 2 < error.max() <= ulps
    np.testing.assert_array_equal(got, result(opcode, *arrays))
    other = table(seed=1)[opcode][2](*arrays)
    assert 0.1 < (got != other).mean() < 0.9


def test_special_values_of_approximations():
    inf, nan = np.inf, np.nan
    for opcode, x, expected in (
        ("ex2.approx.ftz.f32", [0, -0.0, 1e-40, -1e-40, inf, -inf, -200], [1, 1, 1, 1, inf, 0, 0]),
        ("lg2.approx.f32", [0, 1, inf, -1], [-inf, None, inf, nan]),
        ("rcp.approx.ftz.f32", [0, -0.0, inf, -inf, 1e-40], [inf, -inf, 0, -0.0, inf]),
        ("rcp.approx.ftz.f64", [0, -0.0, inf, -inf], [inf, -inf, 0, -0.0]),
    ):
        got = result(opcode, np.array(x, DTYPES[TABLE[opcode][0]]))
        for value, true in zip(got, expected, strict=True):
            if true is not None:
                np.testing.assert_array_equal(value, true)
    b = np.float32([2.0**127, inf, 0, 1e38])
    np.testing.assert_array_equal(result("div.approx.f32", np.float32([5, 5, 5, inf]), b), [0, 0, inf, nan])
    x = rng.uniform(-3, 3, 1000)
    got = result("rcp.approx.ftz.f64", x)
    assert not (got.view("u8") & np.uint64(0xFFFFFFFF)).any()
    assert 2**-22 < np.abs(got * x - 1).max() < 2**-19


@pytest.mark.parametrize(("to", "source"), list(permutations(("f16", "f32", "f64"), 2)))
def test_conversions_of_floats(to, source):
    narrower = DTYPES[to].itemsize < DTYPES[source].itemsize
    x = samples(source)
    got = result(f"cvt{'.rn' * narrower}.{to}.{source}", x)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got, x.astype(DTYPES[to]))


@pytest.mark.parametrize(
    "opcode", [opcode for opcode in TABLE if opcode.startswith("cvt.rn.f") and opcode.split(".")[-1][0] in "su"]
)
def test_conversions_of_integers_to_floats(opcode):
    (x,) = operands(opcode)
    dtype = {"f32": "f4", "f64": "f8"}[opcode.split(".")[2]]
    expected = [rounded(Fraction(int(v)), "n", dtype) for v in x]
    np.testing.assert_array_equal(result(opcode, x), np.array(expected, dtype))
