"""sample_weight: a weighted mean of the rows' losses, the same as each row so many times."""

import numpy as np
import pytest
from test_losses import softmax_configuration
from test_losses_family import FAMILY, configuration

import tinynet as tn
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy

WEIGHTED = [*sorted(set(FAMILY) - {"nt_xent"}), "softmax", "sigmoid", "mean_squared_error"]
EVERY = pytest.mark.parametrize("name", WEIGHTED)
ELEMENTS = "binary_cross_entropy hinge huber mean_absolute_error mean_squared_error poisson_nll sigmoid sigmoid_focal"


def drawn(name, seed):
    """A loss with a prediction (N, C), targets for it, and options."""
    if name == "softmax":
        z, targets, options = softmax_configuration(seed)
        return softmax_cross_entropy, z, targets, options
    if name == "sigmoid":
        p, (targets,), options = configuration("binary_cross_entropy", seed)
        return sigmoid_cross_entropy, np.log(p / (1 - p)), targets, options
    loss = tn.mean_squared_error if name == "mean_squared_error" else FAMILY[name][0]
    z, (targets,), options = configuration("mean_absolute_error" if name == "mean_squared_error" else name, seed)
    return loss, z, targets, options


def as_rows(prediction, targets):
    C = prediction.shape[-1] if prediction.ndim > 1 else 1
    shape = (-1, C)
    return prediction.reshape(shape), targets.reshape(shape if targets.shape == prediction.shape else -1)


def at_rows(options, C, rows=slice(None)):
    """The options for those rows: of a weight for each element, their part."""
    return {name: v.reshape(-1, C)[rows] if np.ndim(v) > 1 else v for name, v in options.items()}


@EVERY
def test_whole_weights_are_rows_that_occur_so_often(name):
    for seed in range(60):
        loss, x, targets, options = drawn(name, seed)
        if x.ndim < 2:
            continue
        x, targets = as_rows(x, targets)
        N = len(x)
        s = np.random.default_rng(seed).integers(0, 4, N)
        if seed % 5 == 0:
            s[:] = 0
        where, given, options = np.repeat(np.arange(N), s), options, at_rows(options, x.shape[1])
        if len(where):
            expected, rows = loss(x[where], targets[where], **at_rows(given, x.shape[1], where))
            gradient = np.zeros_like(x)
            np.add.at(gradient, where, rows)
        else:
            expected, gradient = 0.0, np.zeros_like(x)
        if options["reduction"] == "none":
            single, _ = loss(x, targets, **options)
            expected = single * s.reshape((N,) + (1,) * (single.ndim - 1))
        value, dx = loss(x, targets, sample_weight=s, **options)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12, err_msg=f"seed {seed}")
        np.testing.assert_allclose(dx, gradient, rtol=1e-9, atol=1e-12, err_msg=f"seed {seed}")
        assert dx.dtype == x.dtype
        assert loss(x, targets, sample_weight=s, grad=False, **options)[1] is None

        # What stands in a row of weight 0 changes nothing, nor does the gradient's going where the prediction was.
        x, targets = x.copy(), targets.copy()
        x[s == 0], targets[s == 0] = np.nan, 7_000
        again, out = loss(x, targets, sample_weight=s, out=x, **options)
        assert out is x
        assert np.array_equal(again, value)
        assert np.array_equal(out, dx)


@EVERY
def test_weights_multiply_each_row(name):
    for seed in range(100, 130):
        loss, x, targets, options = drawn(name, seed)
        options = {**options, "reduction": "none"}
        options.pop("denominator", None)
        shape = x.shape[:-1] if x.ndim > 1 or name not in ELEMENTS.split() else x.shape
        s = np.random.default_rng(seed).uniform(0, 3, shape)
        losses, gradient = loss(x, targets, **options)
        wide = s if s.ndim == x.ndim else s[..., None]
        expected = losses * (s if losses.shape == s.shape else wide)
        for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-4)):
            value, dx = loss(x.astype(dtype), targets, sample_weight=s.tolist(), **options)
            assert value.dtype == dx.dtype == dtype
            np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(dx, gradient * wide, rtol=tolerance, atol=tolerance)
        if options.pop("per_class", False):
            losses, _ = loss(x, targets, **options)
            expected = losses * s
        options["reduction"] = "sum"
        value, dx = loss(x, targets, sample_weight=s, **options)
        assert value == pytest.approx(expected.sum(), rel=1e-12)
        np.testing.assert_allclose(dx, gradient * wide, rtol=1e-12)
        value, dx = loss(x, targets, sample_weight=s, **{**options, "reduction": "mean"}, denominator=2.5)
        assert value == pytest.approx(expected.sum() / 2.5, rel=1e-12)
        np.testing.assert_allclose(dx, gradient * wide / 2.5, rtol=1e-12)


def test_the_mean_is_scikit_learns_log_loss():
    log_loss = pytest.importorskip("sklearn.metrics").log_loss
    rng = np.random.default_rng(0)
    z, t, s = rng.standard_normal((50, 4)), rng.integers(0, 4, 50), rng.uniform(0, 3, 50)
    s[::7] = 0
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = log_loss(t, p, sample_weight=s, labels=range(4))
    for value, _ in (
        tn.softmax_cross_entropy(z, t, sample_weight=s),
        tn.softmax_cross_entropy(z, np.eye(4)[t], sample_weight=s),
        tn.categorical_cross_entropy(p, t, sample_weight=s),
        tn.nll(np.log(p), t, sample_weight=s),
        tn.kl_divergence(z, np.eye(4)[t], sample_weight=s),
    ):
        assert value == pytest.approx(expected, rel=1e-9)
    z, t = z[:, 0], t > 1
    p = 1 / (1 + np.exp(-z))
    expected = log_loss(t, p, sample_weight=s)
    for value, _ in (
        tn.sigmoid_cross_entropy(z, t, sample_weight=s),
        tn.sigmoid_cross_entropy(z[:, None], t[:, None], sample_weight=s),
        tn.binary_cross_entropy(p, t, sample_weight=s),
    ):
        assert value == pytest.approx(expected, rel=1e-9)


def test_the_mean_of_weighted_classes_divides_by_both_weights():
    rng = np.random.default_rng(1)
    z, t, s, weight = rng.standard_normal((9, 3)), rng.integers(0, 3, 9), rng.uniform(0, 2, 9), np.array([1.0, 0, 3])
    t[4] = -100
    losses, gradients = tn.softmax_cross_entropy(z, t, weight=weight, reduction="none")
    total = sum(s[n] * weight[t[n]] for n in range(9) if n != 4)
    value, gradient = tn.softmax_cross_entropy(z, t, weight=weight, sample_weight=s)
    assert value == pytest.approx(sum(s[n] * losses[n] for n in range(9)) / total, rel=1e-12)
    np.testing.assert_allclose(gradient, s[:, None] * gradients / total, rtol=1e-12)


@EVERY
def test_weights_that_cannot_be_used_are_refused_before_anything_is_written(name):
    loss, x, targets, options = drawn(name, 3)
    x, targets = (array[:1].repeat(3, axis=0) for array in as_rows(x, targets))
    for name in ("weight", "pos_weight"):
        options.pop(name, None)
    for weights, error, words in (
        ([1, 2], ValueError, ["(3,)", "(2,)"]),
        ([[1], [1], [1]], ValueError, ["(3,)", "(3, 1)", "[..., 0]"]),
        (1.0, ValueError, ["(3,)", "()"]),
        ([1, -1, 1], ValueError, ["at least 0", "-1.0", "(1,)"]),
        ([1, 1, np.nan], ValueError, ["finite", "nan", "(2,)"]),
        ([np.inf, 1, 1], ValueError, ["finite", "inf", "(0,)"]),
        ([True, False, True], TypeError, ["real numbers", "bool"]),
        (["a", "b", "c"], TypeError, ["real numbers"]),
    ):
        out = np.full_like(x, 5)
        with pytest.raises(error) as refusal:
            loss(x, targets, sample_weight=weights, out=out, **options)
        for word in ("sample_weight", *words):
            assert word in str(refusal.value)
        assert (out == 5).all()
    with pytest.raises(ValueError, match="out must have"):
        loss(x, targets, sample_weight=[1, 1, 1], out=x[:2], **options)


def test_a_bad_target_is_named_by_its_place_among_all_rows():
    z, out = np.zeros((2, 3, 4)), np.full((2, 3, 4), 5.0)
    targets = np.array([[9, 0, 0], [0, 4, 0]])  # the 9 has weight 0
    s = [[0, 1, 1], [1, 1, 1]]
    for given, words in ((targets, r"\(1, 1\) is 4"), (np.eye(5)[targets % 5][..., :4], r"\(1, 1\) sum to 0")):
        with pytest.raises(ValueError, match=words):
            tn.softmax_cross_entropy(z, given, sample_weight=s, out=out)
    with pytest.raises(ValueError, match=r"got 4.0 at position \(1, 1, 2\)"):
        tn.sigmoid_cross_entropy(z, targets[..., None] * [0, 0, 1, 0], sample_weight=s, out=out)
    assert (out == 5).all()


@pytest.mark.parametrize("C", [3, 300])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_last_layer_and_its_loss_weigh_rows_as_the_loss_does(C, soft, dtype):
    rng = np.random.default_rng(2)
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((200, 9), (9, C), C))
    s = rng.uniform(0, 2, 200) * (rng.random(200) < 0.8)
    targets = rng.dirichlet(np.ones(C), 200) if soft else np.where(rng.random(200) < 0.2, -100, rng.integers(0, C, 200))
    for options in (
        {"weight": rng.uniform(0, 2, C), "label_smoothing": 0.1},
        {"reduction": "sum"},
        {"reduction": "none"},
        {"denominator": 7.0},
    ):
        expected, dz = tn.softmax_cross_entropy(x @ w + b, targets, sample_weight=s, **options)
        spoilt, bad = x.copy(), targets.copy()
        spoilt[s == 0], bad[s == 0] = np.nan, 7_000
        value, *gradients = tn.linear_cross_entropy(spoilt, w, b, bad, sample_weight=s, **options)
        tolerance = {"rtol": 1e-9, "atol": 1e-12} if dtype == np.float64 else {"rtol": 1e-4, "atol": 1e-4}
        np.testing.assert_allclose(value, expected, **tolerance)
        for mine, other in zip(gradients, (dz @ w.T, x.T @ dz, dz.sum(0)), strict=True):
            np.testing.assert_allclose(mine, other, **tolerance)
        only, *nothing = tn.linear_cross_entropy(spoilt, w, b, bad, sample_weight=s, grad=False, **options)
        np.testing.assert_array_equal(only, value)
        assert nothing == [None, None, None]
    for wrong in (s[1:], -s - 1):
        with pytest.raises(ValueError, match=r"^linear_cross_entropy: sample_weight"):
            tn.linear_cross_entropy(x, w, b, targets, sample_weight=wrong)


def test_an_embedding_without_weight_is_still_among_those_that_others_are_told_from():
    rng = np.random.default_rng(3)
    x, s = rng.standard_normal((8, 5)), np.array([1.0, 0, 2, 1, 0, 3, 1, 0.5])
    losses, _ = tn.nt_xent(x, reduction="none")
    for options, expected in (
        ({"reduction": "none"}, s * losses),
        ({"reduction": "sum"}, s @ losses),
        ({}, s @ losses / s.sum()),
        ({"denominator": 4}, s @ losses / 4),
    ):
        np.testing.assert_allclose(tn.nt_xent(x, sample_weight=s, **options)[0], expected, rtol=1e-12)
        result = tn.gradcheck.check(lambda x, _, o=options: tn.nt_xent(x, sample_weight=s, **o), x, x)
        assert result.passed, result
    with pytest.raises(ValueError, match=r"^nt_xent: sample_weight must have shape \(8,\)"):
        tn.nt_xent(x, sample_weight=s[:4])


def test_device_arrays_take_no_weights_of_samples():
    class OnDevice:
        __cuda_array_interface__ = {}  # noqa: RUF012

    for loss in (tn.softmax_cross_entropy, tn.sigmoid_cross_entropy):
        with pytest.raises(TypeError, match="sample_weight belongs to arrays on the host"):
            loss(OnDevice(), OnDevice(), sample_weight=[1])
