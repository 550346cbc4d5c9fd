"""Random calls of every loss: the values and gradients of the formulas, or a refusal that leaves everything as it was.

Inputs lie anywhere in memory, in any byte order and of any type that is accepted, hold NaN, infinities and huge
numbers, and come with any options; a quarter of the calls have something wrong with them.  TINYNET_FUZZ_CASES sets
how many calls there are; they are then others at each run.
"""

import math

import fuzzing
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
RANDOM = fuzzing.RANDOM
NAN, INF = float("nan"), float("inf")
ROWS = [(), (1,), (2,), (5,), (2, 3), (67,)]
CLASSES = [1, 2, 3, 4, 7, 16, 33, 65, 130]
LAYOUTS = ["plain", "reversed", "backwards", "strided", "shifted", "other byte order", "read-only", "subclass", "list"]
FAR = 600.0  # a logit beyond which sigmoids are 0 and 1, and losses straight lines


# --- what each loss should give: the reference, and what the docstrings say of NaN and infinities -----------------


def of_rows(formula, bad):
    """A loss of rows (..., C): the formula, for each but those of which bad(rows) says that they have no loss."""

    def expected(z, targets, reduction="mean", denominator=None, **options):
        C = z.shape[-1]
        labels = targets.dtype.kind in "iu"
        rows, t = z.reshape(-1, C), targets.reshape(-1) if labels else targets.reshape(-1, C)
        counts = t != options.get("ignore_index", -100) if labels else np.ones(len(rows), bool)
        lost = bad(rows) & counts
        good = counts & ~lost
        losses, gradient = np.where(lost, NAN, 0), np.where(lost[:, None], NAN, np.zeros(rows.shape))
        if good.any():
            losses[good], gradient[good] = formula(rows[good], t[good], reduction="none", **options)
        weights = np.ones(C) if options.get("weight") is None else np.asarray(options["weight"], float)
        count = weights[t[counts]].sum() if labels else len(rows)
        value, gradient = reference._reduced(losses, gradient, count, reduction, denominator)
        return value.reshape(z.shape[:-1]) if reduction == "none" else value, gradient.reshape(z.shape)

    return expected


def without_softmax(rows):
    return np.isnan(rows).any(1) | (rows == INF).any(1) | (rows == -INF).all(1)


def with_nan(rows):
    return np.isnan(rows).any(1)


def of_elements(formula):
    """The sigmoid's losses: straight lines where the logit is far from 0."""

    def expected(z, t, reduction="mean", denominator=None, **options):
        near = np.clip(z, -FAR, FAR)
        losses, gradient = formula(near, t, reduction="none", **options)
        stretch = np.maximum(np.abs(z) / FAR, 1)
        losses = np.where(losses < 1e-100, losses, losses * stretch)
        ignore = options.get("ignore_index")
        count = z.size if ignore is None else (t != ignore).sum()
        return reference._reduced(losses, gradient, count, reduction, denominator)

    return expected


def linear_cross_entropy(x, w, b, targets, **options):
    """A row of x that is ignored may hold anything."""
    D, C = w.shape
    rows = x.reshape(-1, D)
    if targets.dtype.kind in "iu":
        rows = np.where((targets.reshape(-1) == options.get("ignore_index", -100))[:, None], 0, rows)
    z = (rows @ w + (0 if b is None else b)).reshape(*x.shape[:-1], C)
    value, dz = of_rows(reference.softmax_cross_entropy, without_softmax)(z, targets, **options)
    dz = dz.reshape(-1, C)
    return value, (dz @ w.T).reshape(x.shape), rows.T @ dz, None if b is None else dz.sum(0)


def hinge(z, t, **options):
    value, gradient = reference.hinge(z, t, **options)
    return value, np.where(np.isnan(z), NAN, gradient)


def kl_divergence(z, q, per_class=False, **options):
    value, gradient = of_rows(reference.kl_divergence, without_softmax)(z, q, **options)
    if per_class:
        _, terms = of_rows(lambda z, q, **_: (0, reference.kl_divergence(z, q, per_class=True)[0]), without_softmax)(
            z, q
        )
        value = terms * len(terms.reshape(-1, z.shape[-1]))  # of_rows took them for a gradient of a mean
    return value, gradient


def nt_xent(x, **options):
    value, gradient = reference.nt_xent(np.where(np.isfinite(x), x, 1.0), **options)
    return (value, gradient) if np.isfinite(x).all() else (value * NAN, gradient * NAN)


def self_distillation(s, teacher, reduction="mean", denominator=None, **options):
    rows = s.reshape(-1, s.shape[-1])
    lost = without_softmax(rows)
    student = np.where(lost[:, None], 0.0, rows)
    losses, gradient = reference.self_distillation(student, teacher.reshape(rows.shape), reduction="none", **options)
    losses[lost], gradient[lost] = NAN, NAN
    value, gradient = reference._reduced(losses, gradient, len(losses), reduction, denominator)
    return value.reshape(s.shape[:-1]) if reduction == "none" else value, gradient.reshape(s.shape)


EXPECTED = {
    "softmax_cross_entropy": of_rows(reference.softmax_cross_entropy, without_softmax),
    "sigmoid_cross_entropy": of_elements(reference.sigmoid_cross_entropy),
    "linear_cross_entropy": linear_cross_entropy,
    "binary_cross_entropy": reference.binary_cross_entropy,
    "categorical_cross_entropy": of_rows(reference.categorical_cross_entropy, with_nan),
    "nll": of_rows(reference.nll, with_nan),
    "sigmoid_focal": of_elements(reference.sigmoid_focal),
    "softmax_focal": of_rows(reference.softmax_focal, without_softmax),
    "hinge": hinge,
    "multiclass_hinge": of_rows(reference.multiclass_hinge, with_nan),
    "mean_squared_error": reference.mean_squared_error,
    "mean_absolute_error": reference.mean_absolute_error,
    "huber": reference.huber,
    "poisson_nll": reference.poisson_nll,
    "kl_divergence": kl_divergence,
    "nt_xent": nt_xent,
    "self_distillation": self_distillation,
}


# --- drawing calls ------------------------------------------------------------------------------------------------


def draw_shape(pick):
    C = pick(*CLASSES)
    return (*pick(*(ROWS if C <= 16 else ROWS[:4])), C)


def draw_logits(pick, rng, shape, *kinds):
    """Logits, of which some rows may hold something special."""
    z = rng.standard_normal(shape) * pick(0.1, 1.0, 5.0)
    special(pick(None, None, *kinds), pick, rng, z)
    return z


def special(kind, pick, rng, z):
    rows = z.reshape(-1, z.shape[-1])
    some = np.flatnonzero(rng.random(len(rows)) < 0.4)
    columns = rng.integers(0, rows.shape[1], len(some))
    if kind == "nan":
        rows[some, columns] = NAN
    elif kind == "inf":
        rows[some, columns] = INF * pick(1, -1)
    elif kind == "masked":
        rows[some] = np.where(rng.random((len(some), rows.shape[1])) < 0.5, -INF, rows[some])
    elif kind == "huge":
        rows[some] *= pick(1e4, 1e30)


ROW_SPECIALS = "nan", "inf", "masked", "huge"


def draw_labels(pick, rng, shape, options, soft=True, smoothing=True):
    """Class indices, or probabilities where `soft`, and the options that go with them."""
    C = shape[-1]
    if pick(False, True):
        options["weight"] = rng.uniform(0, 3, C) * (rng.random(C) < 0.9)
    if soft:
        if smoothing:
            options["label_smoothing"] = pick(0.0, 0.0, 0.1, 1.0, 1)
        if pick(False, False, True):
            return rng.dirichlet(np.ones(C), shape[:-1])
    targets = rng.integers(0, C, shape[:-1])
    if pick(False, True):
        options["ignore_index"] = pick(-100, -1, 0, C - 1, C)
        targets = np.where(rng.random(shape[:-1]) < pick(0.3, 1.0), options["ignore_index"], targets)
    return targets


def draw_yes_or_no(pick, rng, shape, options):
    targets = rng.random(shape) if pick(False, False, True) else rng.integers(0, 2, shape)
    if pick(False, True):
        options["ignore_index"] = -1
        targets = np.where(rng.random(shape) < pick(0.3, 1.0), -1, targets)
    return targets


def draw_weight(pick, rng, shape, options, name="weight"):
    if pick(False, True):
        options[name] = pick(rng.uniform(0, 3, shape[-1]), rng.uniform(0, 3, shape), 2, 0.0)


def draw_factors(pick, rng, shape, options):
    for name in ("weight", "pos_weight"):
        draw_weight(pick, rng, shape, options, name)
    options["label_smoothing"] = pick(0.0, 0.0, 0.2, 1)


def draw_softmax(pick, rng, options, shape):
    return [draw_logits(pick, rng, shape, *ROW_SPECIALS), draw_labels(pick, rng, shape, options)]


def draw_sigmoid(pick, rng, options, shape):
    draw_factors(pick, rng, shape, options)
    return [draw_logits(pick, rng, shape, "nan", "inf", "huge"), draw_yes_or_no(pick, rng, shape, options)]


def draw_linear(pick, rng, options, shape):
    D = pick(1, 3, 17)
    w, b = rng.standard_normal((D, shape[-1])), pick(None, rng.standard_normal(shape[-1]))
    x = draw_logits(pick, rng, (*shape[:-1], D), "nan")
    return [x, w, b, draw_labels(pick, rng, shape, options)]


def draw_binary(pick, rng, options, shape):
    draw_factors(pick, rng, shape, options)
    p = rng.uniform(0.001, 0.999, shape)
    p = np.where(rng.random(shape) < pick(0, 0, 0.3), pick(0.0, 1.0, NAN, 1e-30), p)
    return [p, draw_yes_or_no(pick, rng, shape, options)]


def draw_categorical(pick, rng, options, shape):
    z = rng.standard_normal(shape)
    special(pick(None, None, "masked"), pick, rng, z)
    z[(z == -INF).all(-1)] = 0
    p = reference.softmax(z)
    special(pick(None, None, None, "nan"), pick, rng, p)
    return [p, draw_labels(pick, rng, shape, options)]


def draw_nll(pick, rng, options, shape):
    p, targets = draw_categorical(pick, rng, options, shape)
    with np.errstate(divide="ignore"):
        return [np.log(p), targets]


def draw_sigmoid_focal(pick, rng, options, shape):
    options["gamma"], options["alpha"] = pick(0, 0.5, 1, 2.0, 3.7), pick(None, 0, 0.25, 1.0)
    draw_weight(pick, rng, shape, options)
    return [draw_logits(pick, rng, shape, "nan", "inf", "huge"), draw_yes_or_no(pick, rng, shape, options)]


def draw_softmax_focal(pick, rng, options, shape):
    options["gamma"] = pick(0, 0.5, 1, 2.0, 3.7)
    return [draw_logits(pick, rng, shape, *ROW_SPECIALS), draw_labels(pick, rng, shape, options, smoothing=False)]


def on_a_grid(z):
    """Rounded, so that also in float32 the same numbers lie just on a loss's corners."""
    return np.where(np.abs(z) < 1e3, np.round(z * 8) / 8, z)


def draw_hinge(pick, rng, options, shape):
    z = on_a_grid(draw_logits(pick, rng, shape, "nan", "inf", "huge"))
    return [z, np.where(rng.random(shape) < 0.5, 1, pick(-1, 0))]


def draw_multiclass_hinge(pick, rng, options, shape):
    options["p"], options["margin"] = pick(1, 2, np.int64(2)), pick(1.0, 0, 0.5, 3, -0.25)
    z = on_a_grid(draw_logits(pick, rng, shape, "nan", *(("huge",) if options["p"] == 1 else ())))
    return [z, draw_labels(pick, rng, shape, options, soft=False)]


def draw_squares(pick, rng, options, shape):
    return [draw_logits(pick, rng, shape, "nan", "inf"), pick(rng.standard_normal(shape), rng.integers(-3, 4, shape))]


def draw_absolute(pick, rng, options, shape):
    z, t = draw_logits(pick, rng, shape, "nan", "inf", "huge"), rng.standard_normal(shape)
    return [on_a_grid(z), pick(on_a_grid(t), rng.integers(-3, 4, shape))]


def draw_huber(pick, rng, options, shape):
    options["delta"] = pick(1.0, 1, 0.125, 3)
    return draw_absolute(pick, rng, options, shape)


def draw_poisson(pick, rng, options, shape):
    options["log_input"], options["full"] = pick(True, False), pick(True, False)
    y = draw_logits(pick, rng, shape, "nan", "inf")
    y = y if options["log_input"] else np.abs(y) + 0.01
    return [
        y,
        pick(rng.poisson(3, shape), np.abs(y).clip(0, 9).round(2) if np.isfinite(y).all() else rng.random(shape)),
    ]


def draw_kl(pick, rng, options, shape):
    if options["reduction"] == "none":
        options["per_class"] = pick(True, False)
    q = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    if shape[-1] > 1 and pick(False, True):
        q[..., 0] = 0
        q /= q.sum(-1, keepdims=True)
    return [draw_logits(pick, rng, shape, *ROW_SPECIALS), q]


def draw_nt_xent(pick, rng, options, shape):
    options["temperature"] = pick(0.5, 0.05, 2)
    x = rng.standard_normal((2 * pick(1, 2, 5, 17), pick(2, 3, 17)))
    kind = pick(None, None, "nan", "inf", "size")
    special(kind, pick, rng, x)
    return [x * 10.0 ** rng.integers(-12, 12, (len(x), 1)) if kind == "size" else x]


def draw_self_distillation(pick, rng, options, shape):
    options["student_temperature"], options["teacher_temperature"] = pick(0.1, 1, 0.5), pick(0.04, 1, 0.3)
    if pick(False, True):
        options["center"] = rng.standard_normal(shape[-1])
    return [draw_logits(pick, rng, shape, "nan", "huge"), rng.standard_normal(shape)]


DRAWN = {
    "softmax_cross_entropy": draw_softmax,
    "sigmoid_cross_entropy": draw_sigmoid,
    "linear_cross_entropy": draw_linear,
    "binary_cross_entropy": draw_binary,
    "categorical_cross_entropy": draw_categorical,
    "nll": draw_nll,
    "sigmoid_focal": draw_sigmoid_focal,
    "softmax_focal": draw_softmax_focal,
    "hinge": draw_hinge,
    "multiclass_hinge": draw_multiclass_hinge,
    "mean_squared_error": draw_squares,
    "mean_absolute_error": draw_absolute,
    "huber": draw_huber,
    "poisson_nll": draw_poisson,
    "kl_divergence": draw_kl,
    "nt_xent": draw_nt_xent,
    "self_distillation": draw_self_distillation,
}


# --- types and places in memory -------------------------------------------------------------------------------------


class Subclass(np.ndarray):
    pass


def laid_out(x, layout):
    """The same numbers, elsewhere in memory."""
    if not isinstance(x, np.ndarray):
        return x
    if layout == "list" and x.dtype in (np.float64, np.int64, np.bool_):
        return x.tolist()
    if layout == "reversed" and x.ndim:
        return x.T.copy().T
    if layout == "backwards" and x.ndim:
        return x[::-1].copy()[::-1]
    if layout == "strided" and x.ndim:
        return np.repeat(x, 3, axis=-1)[..., 1::3]
    if layout == "shifted" and x.dtype != object:  # no number starts where the processor would like it
        place = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        place[...] = x
        return place
    if layout == "other byte order":
        return x.astype(x.dtype.newbyteorder())
    x = x.copy()
    x.flags.writeable = layout != "read-only"
    return x.view(Subclass) if layout == "subclass" else x


def of_another_type(t, pick):
    """Targets of a type that holds them exactly, or nearly where they are no whole numbers."""
    if t.dtype.kind == "f":
        return t.astype(pick(np.float64, np.float32, np.float16, np.longdouble))
    kinds = [np.int64, np.int32, np.int16]
    if t.max(initial=0) <= 127:
        kinds.append(np.int8)
    if t.min(initial=0) >= 0:
        kinds += [np.uint64, np.uint32, np.uint8]
    return t.astype(pick(*kinds))


def as_seen(t, dtype):
    """What a kernel of this dtype sees, in float64; labels as they are."""
    if not isinstance(t, np.ndarray) or t.dtype.kind in "iub":
        return t
    return t.astype(dtype).astype(np.float64)


# --- calls with something wrong --------------------------------------------------------------------------------------
# Each takes the arrays, the options, a random generator and `pick`, and puts something in that must be refused.


def anywhere(x, value, rng):
    """x with `value` at a random place."""
    x = x.astype(np.result_type(x, np.min_scalar_type(value)))
    x.reshape(-1)[rng.integers(x.size)] = value
    return x


def wrong_prediction(a, o, rng, pick):
    shape = a[0].shape
    kinds = int, np.float16, complex, bool, "U1", object
    a[0] = pick(*(np.zeros(shape, kind) for kind in kinds), np.zeros((*shape[:-1], 0)), None, [[1.0], [1.0, 2.0]])


def wrong_options(a, o, rng, pick):
    few = (
        {"reduction": pick("average", None, 1), "grad": True},
        {"reduction": "mean", "denominator": pick(0, -1, NAN, INF)},
    )
    more = (
        {"reduction": "mean", "denominator": pick("3", True, [1])},
        {"reduction": pick("sum", "none"), "denominator": 3},
    )
    o.update(pick(*few, *more, {"no_such_option": 1}))


def wrong_targets(a, o, rng, pick):
    t = a[-1]
    a[-1] = pick(t[..., None], t[None], t + 0j, t.astype("U3"), None, np.full(t.shape, None), "abc")


def wrong_labels(a, o, rng, pick):
    if a[-1].dtype.kind == "f":
        return wrong_distribution(a, o, rng, pick)
    C = a[-2].shape[-1] if len(a) == 2 else a[1].shape[1]
    bad = [value for value in (C, C + 3, -1, -7, 2**62) if value != o.get("ignore_index", -100)]
    a[-1] = pick(anywhere(a[-1], pick(*bad), rng), a[-1].astype(float), a[-1] > 0)


def wrong_distribution(a, o, rng, pick):
    rows = a[-1].copy().reshape(-1, a[-1].shape[-1])
    n, c = rng.integers(len(rows)), rng.integers(rows.shape[1])
    rows[n] = pick(rows[n] * 0.5, rows[n] + 1, rows[n] * NAN, np.where(np.arange(len(rows[n])) == c, -0.5, rows[n]))
    a[-1] = rows.reshape(a[-1].shape)


def wrong_unit(a, o, rng, pick):
    a[-1] = anywhere(a[-1], pick(1.5, -0.5, 2.0, NAN, INF), rng)


def wrong_probability(a, o, rng, pick):
    o["ignore_index"] = -100 if a[-1].shape != a[0].shape else -1
    a[-1] = np.zeros(a[-1].shape, a[-1].dtype)
    a[0] = anywhere(np.full(a[0].shape, 1 / a[0].shape[-1]), pick(1.5, -0.5, INF, -INF), rng)
    if a[-1].dtype.kind == "f" and a[-1].ndim == a[0].ndim:
        a[-1][...] = 1 / a[-1].shape[-1]
        del o["ignore_index"]


def wrong_logarithm(a, o, rng, pick):
    wrong_probability(a, o, rng, lambda *values: 0.5)
    shape = a[0].shape
    a[0] = anywhere(np.full(shape, -math.log(shape[-1])), pick(0.5, INF, 100.0), rng)


def wrong_weight(a, o, rng, pick, name="weight", number=False):
    C = a[1].shape[1] if len(a) == 4 else a[0].shape[-1]
    ones = np.ones(C)
    bad = [np.ones(C + 1), np.ones((1, 1, 1, C)), anywhere(ones, pick(-1.0, NAN, INF), rng), ["a"] * C, ones + 0j]
    o[name] = pick(*bad, *([-1, NAN, "a"] if number else [1.0]))


def wrong_option(name, *values):
    def wrong(a, o, rng, pick):
        o[name] = pick(*values)

    return wrong


def wrong_count(a, o, rng, pick):
    a[1] = anywhere(a[1], pick(-1, NAN, INF, -0.5), rng)


def wrong_rate(a, o, rng, pick):
    o["log_input"] = False
    a[0] = anywhere(np.ones(a[0].shape), pick(-1.0, -INF, -1e-30), rng)


def wrong_terms(a, o, rng, pick):
    o["reduction"], o["per_class"] = pick(("mean", True), ("sum", True), ("none", 1), ("none", None))


def wrong_sides(a, o, rng, pick):
    a[1] = anywhere(a[1], pick(2, NAN, 0.5, -3), rng)
    if a[1].size > 1 and pick(False, True):
        a[1] = rng.permutation(np.resize([-1, 0, 1], a[1].size)).reshape(a[1].shape)


def wrong_embeddings(a, o, rng, pick):
    x = a[0]
    none = x.copy()
    none[rng.integers(len(x))] = 0
    a[0] = pick(x[1:], x[0], x[None], np.nan_to_num(none, nan=1.0, posinf=1.0, neginf=1.0))


def wrong_teacher(a, o, rng, pick):
    rows = a[1].copy().reshape(-1, a[1].shape[-1])
    n = rng.integers(len(rows))
    rows[n] = pick(np.full(len(rows[n]), -INF), anywhere(rows[n], pick(NAN, INF), rng))
    a[1] = rows.reshape(a[1].shape)


def wrong_layer(a, o, rng, pick):
    x, w, b, _ = a
    which = pick("w", "b")
    if which == "w":
        a[1] = pick(w.T[..., None], w[0], np.concatenate([w, w]), w.astype(int), w.astype(np.float16), None)
    else:
        a[2] = pick(np.zeros(w.shape[1] + 1), np.zeros((1, w.shape[1])), np.array(["a"] * w.shape[1]))


TEMPERATURES = 0, -1, NAN, INF, "1", True, None
SMOOTHING = wrong_option("label_smoothing", 1.5, -0.1, NAN, "a", True, None)
IGNORE = wrong_option("ignore_index", 1.5, 2**70, "a", True)
GAMMA = wrong_option("gamma", -1, NAN, INF, "2", None, True)
WRONG = {
    "softmax_cross_entropy": [wrong_targets, wrong_labels, wrong_weight, SMOOTHING, IGNORE],
    "sigmoid_cross_entropy": [
        wrong_targets,
        wrong_unit,
        lambda *args: wrong_weight(*args, number=True),
        lambda *args: wrong_weight(*args, name="pos_weight", number=True),
        SMOOTHING,
        IGNORE,
    ],
    "linear_cross_entropy": [wrong_targets, wrong_labels, wrong_weight, SMOOTHING, IGNORE, wrong_layer],
    "binary_cross_entropy": [
        wrong_targets,
        wrong_unit,
        wrong_probability,
        lambda *args: wrong_weight(*args, number=True),
        SMOOTHING,
        IGNORE,
    ],
    "categorical_cross_entropy": [wrong_targets, wrong_labels, wrong_weight, wrong_probability, SMOOTHING, IGNORE],
    "nll": [wrong_targets, wrong_labels, wrong_weight, wrong_logarithm, SMOOTHING, IGNORE],
    "sigmoid_focal": [
        wrong_targets,
        wrong_unit,
        lambda *args: wrong_weight(*args, number=True),
        GAMMA,
        wrong_option("alpha", 1.5, -1, NAN, "a", True),
        IGNORE,
    ],
    "softmax_focal": [wrong_targets, wrong_labels, wrong_weight, GAMMA, IGNORE],
    "hinge": [wrong_targets, wrong_sides],
    "multiclass_hinge": [
        wrong_targets,
        wrong_labels,
        wrong_weight,
        wrong_option("p", 0, 3, 1.5, "1", True, None),
        wrong_option("margin", NAN, INF, -INF, "1", True, None),
        IGNORE,
    ],
    "mean_squared_error": [wrong_targets],
    "mean_absolute_error": [wrong_targets],
    "huber": [wrong_targets, wrong_option("delta", *TEMPERATURES)],
    "poisson_nll": [wrong_targets, wrong_count, wrong_rate, wrong_option("full", 1, None, "a")],
    "kl_divergence": [wrong_targets, wrong_distribution, wrong_terms],
    "nt_xent": [wrong_embeddings, wrong_option("temperature", *TEMPERATURES)],
    "self_distillation": [
        wrong_targets,
        wrong_teacher,
        wrong_option("student_temperature", *TEMPERATURES),
        wrong_option("teacher_temperature", *TEMPERATURES),
        wrong_option("center", [], 1.0, [[1.0]], ["a"]),
    ],
}


# --- the two properties --------------------------------------------------------------------------------


@st.composite
def drawn_calls(draw, wrong):
    """The name of a loss, its arrays in their dtypes and its options, not yet laid out, and `pick` for what is left."""

    def pick(*values):
        return values[draw(st.integers(0, len(values) - 1))]

    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    name, dtype = pick(*EXPECTED), pick(np.float64, np.float32)
    options = {"reduction": pick("mean", "sum", "none")}
    arrays = DRAWN[name](pick, rng, options, draw_shape(pick))
    if options["reduction"] == "mean" and pick(False, False, True):
        options["denominator"] = pick(3, 0.5, np.int64(7))
    trained = 3 if name == "linear_cross_entropy" else 1
    if wrong:
        pick(wrong_prediction, wrong_options, *WRONG[name], *WRONG[name])(arrays, options, rng, pick)
    else:
        arrays[trained:] = [of_another_type(t, pick) for t in arrays[trained:]]
    for k in range(trained):
        if isinstance(arrays[k], np.ndarray) and arrays[k].dtype == np.float64:
            arrays[k] = arrays[k].astype(dtype)
    layouts = [pick(*LAYOUTS) for _ in arrays]
    out = None if name == "linear_cross_entropy" else pick(None, None, "fresh", "strided", "turned", "given", "overlap")
    return name, dtype, arrays, options, layouts, out


def given_memory(arrays, layouts, out):
    """The arrays as they are passed, and an array for the gradient if it was asked for."""
    given = [laid_out(x, layout) for x, layout in zip(arrays, layouts, strict=True)]
    x = arrays[0]
    if out is None or not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return given, None
    if out == "given" and isinstance(given[0], np.ndarray) and given[0].flags.writeable:
        return given, given[0]
    if out == "strided":
        return given, np.full((*x.shape, 2), 7, x.dtype)[..., 0]
    if out == "turned":
        return given, np.full(x.shape, 7, x.dtype.newbyteorder())
    if out == "overlap":
        memory = np.full(x.size + 1, 7, x.dtype)
        given[0] = memory[:-1].reshape(x.shape)
        given[0][...] = x
        return given, memory[1:].reshape(x.shape)
    return given, np.full(x.shape, 7, x.dtype)


def contents(arrays):
    return [x.tobytes() if isinstance(x, np.ndarray) else repr(x) for x in arrays]


def agree(found, expected, tolerance):
    """NaN where NaN is expected (for a value: anything that is not finite), else equal within the tolerance."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape
    lost = np.isnan(expected)
    assert not np.isfinite(found[lost]).any()
    bound = max(1, np.abs(expected[np.isfinite(expected)]).max(initial=0)) if expected.ndim else 1
    np.testing.assert_allclose(found[~lost], expected[~lost], rtol=tolerance, atol=tolerance * bound)


@RANDOM
@given(drawn_calls(wrong=False))
def test_a_random_call_gives_what_the_formula_says(call):
    name, dtype, arrays, options, layouts, out = call
    tolerance = 1e-9 if dtype == np.float64 else 3e-5
    with np.errstate(all="ignore"):
        value, *gradients = EXPECTED[name](*(as_seen(x, dtype) for x in arrays), **options)
    given, room = given_memory(arrays, layouts, out)
    before = contents(given)
    found, *found_gradients = getattr(tn, name)(*given, **options, **({} if room is None else {"out": room}))
    if out not in ("given", "overlap"):
        assert contents(given) == before
    assert type(found) is float if options["reduction"] != "none" else found.dtype == dtype
    agree(found, value, tolerance)
    for mine, theirs in zip(found_gradients, gradients, strict=True):
        if theirs is None:
            assert mine is None
            continue
        assert mine.dtype.newbyteorder("=") == dtype
        if name == "nt_xent":  # its size goes with 1 / |x|
            norms = np.linalg.norm(as_seen(arrays[0], dtype), axis=1, keepdims=True)
            mine, theirs = mine * norms, theirs * norms
        agree(mine, theirs, tolerance)
        assert not np.isfinite(mine[np.isnan(theirs)]).any()
    assert room is None or found_gradients[0] is room
    given, _ = given_memory(arrays, layouts, None)
    other, *nothing = getattr(tn, name)(*given, **options, grad=False)
    np.testing.assert_array_equal(other, found)
    assert all(gradient is None for gradient in nothing)


@RANDOM
@given(drawn_calls(wrong=True))
def test_a_random_call_with_something_wrong_is_refused_and_changes_nothing(call):
    name, _, arrays, options, layouts, out = call
    given, room = given_memory(arrays, layouts, out)
    before = contents([*given, room])
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(tn, name)(*given, **options, **({} if room is None else {"out": room}))
    assert str(caught.value).startswith(name)
    assert contents([*given, room]) == before
