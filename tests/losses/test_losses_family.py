"""The family of losses against PyTorch, the plain NumPy reference and central differences; their edges; by hand."""

import importlib
import math
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import reference

from tinynet import gradcheck
from tinynet.losses.binary_cross_entropy import binary_cross_entropy
from tinynet.losses.categorical_cross_entropy import categorical_cross_entropy
from tinynet.losses.hinge import hinge
from tinynet.losses.huber import huber
from tinynet.losses.kl_divergence import kl_divergence
from tinynet.losses.mean_absolute_error import mean_absolute_error
from tinynet.losses.multiclass_hinge import multiclass_hinge
from tinynet.losses.nll import nll
from tinynet.losses.nt_xent import nt_xent
from tinynet.losses.poisson_nll import poisson_nll
from tinynet.losses.self_distillation import self_distillation
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.sigmoid_focal import sigmoid_focal, sigmoid_focal_plain
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy, softmax_cross_entropy_plain
from tinynet.losses.softmax_focal import softmax_focal

NAN, INF = float("nan"), float("inf")
LEADING = [(), (1,), (5,), (67,), (2, 3), (4, 1, 9)]
CLASSES = [1, 2, 3, 7, 10, 16, 32, 33, 50, 257, 1030]
DTYPES = [np.float32, np.float64]


# --- random configurations: how each loss's prediction, targets and options are drawn -------------------------


def drawn_shape(rng):
    C = int(rng.choice(CLASSES))
    return (*(LEADING[rng.integers(len(LEADING))] if C < 300 else (3,)), C)


def drawn_reduction(rng, options):
    options["reduction"] = str(rng.choice(["mean", "sum", "none"]))
    if options["reduction"] == "mean" and rng.random() < 0.2:
        options["denominator"] = float(rng.uniform(0.5, 9))
    return options


def drawn_labels(rng, shape, options, soft=True, smoothing=True):
    """Labels for logits of `shape`, or probabilities, with options that fit."""
    C, leading = shape[-1], shape[:-1]
    if rng.random() < 0.5:
        options["weight"] = rng.uniform(0, 3, C)
    if soft and smoothing and rng.random() < 0.5:
        options["label_smoothing"] = float(rng.uniform(0, 1))
    if soft and rng.random() < 0.3:
        return rng.dirichlet(np.ones(C), leading)
    targets = rng.integers(0, C, leading)
    if rng.random() < 0.5:
        options["ignore_index"] = int(rng.choice([-100, -1, 0, C - 1]))
        targets = np.where(rng.random(leading) < 0.3, options["ignore_index"], targets)
    return targets


def drawn_logits(rng, shape):
    return rng.standard_normal(shape) * rng.choice([0.1, 1.0, 5.0])


def drawn_weight(rng, shape, options, name="weight"):
    """Sometimes a weight for each index of the last axis, or for each element."""
    if rng.random() < 0.4:
        options[name] = rng.uniform(0, 3, shape[-1] if rng.random() < 0.5 else shape)


def drawn_yes_or_no(rng, shape, options):
    targets = rng.random(shape) if rng.random() < 0.3 else rng.integers(0, 2, shape).astype(float)
    if rng.random() < 0.4:
        options["ignore_index"] = -1
        targets = np.where(rng.random(shape) < 0.3, -1.0, targets)
    return targets


def draw_binary(rng, options):
    shape = drawn_shape(rng)
    for name in ("weight", "pos_weight"):
        drawn_weight(rng, shape, options, name)
    if rng.random() < 0.4:
        options["label_smoothing"] = float(rng.uniform(0, 1))
    return rng.uniform(0.001, 0.999, shape), drawn_yes_or_no(rng, shape, options)


def draw_categorical(rng, options):
    shape = drawn_shape(rng)
    return reference.softmax(drawn_logits(rng, shape)), drawn_labels(rng, shape, options)


def draw_nll(rng, options):
    p, targets = draw_categorical(rng, options)
    return np.log(p), targets


def draw_sigmoid_focal(rng, options):
    shape = drawn_shape(rng)
    options["gamma"] = float(rng.choice([0, 0.5, 1, 2, 3.7]))
    options["alpha"] = None if rng.random() < 0.3 else float(rng.uniform(0, 1))
    drawn_weight(rng, shape, options)
    return drawn_logits(rng, shape), drawn_yes_or_no(rng, shape, options)


def draw_softmax_focal(rng, options):
    shape = drawn_shape(rng)
    options["gamma"] = float(rng.choice([0, 0.5, 1, 2, 3.7]))
    return drawn_logits(rng, shape), drawn_labels(rng, shape, options, smoothing=False)


def draw_hinge(rng, options):
    shape = drawn_shape(rng)
    return drawn_logits(rng, shape), rng.choice([rng.choice([-1, 0]), 1], shape)


def draw_multiclass_hinge(rng, options):
    shape = drawn_shape(rng)
    options["p"], options["margin"] = int(rng.integers(1, 3)), float(rng.choice([-0.7, 0, 0.5, 1, 3.3]))
    return drawn_logits(rng, shape), drawn_labels(rng, shape, options, soft=False)


def draw_regression(rng, options):
    shape = drawn_shape(rng)
    return drawn_logits(rng, shape), rng.standard_normal(shape)


def draw_huber(rng, options):
    options["delta"] = float(rng.uniform(0.1, 3))
    return draw_regression(rng, options)


def draw_poisson(rng, options):
    shape = drawn_shape(rng)
    options["full"], options["log_input"] = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    y = rng.uniform(-4, 4, shape)
    return y if options["log_input"] else np.exp(y), rng.poisson(rng.uniform(0, 9), shape).astype(float)


def draw_kl(rng, options):
    shape = drawn_shape(rng)
    q = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    if options["reduction"] == "none" and rng.random() < 0.5:
        options["per_class"] = True
    if shape[-1] > 1 and rng.random() < 0.3:
        q[..., 0] = 0
        q /= q.sum(-1, keepdims=True)
    return drawn_logits(rng, shape), q


def draw_nt_xent(rng, options):
    options["temperature"] = float(rng.uniform(0.05, 2))
    N, D = int(rng.choice([1, 2, 5, 33])), int(rng.choice([2, 3, 17, 64]))
    return rng.standard_normal((2 * N, D)), None


def draw_self_distillation(rng, options):
    shape = drawn_shape(rng)
    options["student_temperature"], options["teacher_temperature"] = rng.uniform(0.1, 1, 2).tolist()
    if rng.random() < 0.5:
        options["center"] = rng.standard_normal(shape[-1])
    return rng.standard_normal(shape), rng.standard_normal(shape)


# --- the same losses in PyTorch: one loss a row or an element, and what "mean" divides by ----------------------


def torch_binary(p, t, weight=1.0, pos_weight=1.0, ignore_index=None, label_smoothing=0.0):
    from torch.nn.functional import binary_cross_entropy as bce

    counts = t == t if ignore_index is None else t != ignore_index
    q = ((1 - label_smoothing) * t + label_smoothing / 2).clamp(0, 1)
    zero, one = p * 0, p * 0 + 1
    losses = q * pos_weight * bce(p, one.detach(), reduction="none") + (1 - q) * bce(p, zero.detach(), reduction="none")
    return losses * weight * counts, counts.sum()


def torch_nll(l, targets, weight=None, ignore_index=-100, label_smoothing=0.0):
    import torch

    C = l.shape[-1]
    w = torch.ones(C, dtype=l.dtype) if weight is None else weight
    if targets.is_floating_point():
        q, counts = targets, torch.ones(targets.shape[:-1], dtype=l.dtype)
        count = counts.sum()
    else:
        counts = (targets != ignore_index).to(l.dtype)
        labels = torch.where(targets != ignore_index, targets, 0)
        q = torch.nn.functional.one_hot(labels, C).to(l.dtype)
        count = (w[labels] * counts).sum()
    a = w * ((1 - label_smoothing) * q + label_smoothing / C)
    return -(a * l).sum(-1) * counts, count


def torch_categorical(p, targets, **options):
    return torch_nll(p.log(), targets, **options)


def torch_sigmoid_focal(z, t, gamma, alpha, weight=1.0, ignore_index=None):
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    counts = t == t if ignore_index is None else t != ignore_index
    t = t.clamp(0, 1)
    p = z.sigmoid()  # from here on, the formula of torchvision
    losses = bce(z, t, reduction="none") * (1 - (p * t + (1 - p) * (1 - t))) ** gamma
    if alpha is not None:
        losses = (alpha * t + (1 - alpha) * (1 - t)) * losses
    return losses * weight * counts, counts.sum()


def torch_softmax_focal(z, targets, gamma, weight=None, ignore_index=-100):
    import torch

    log_p, counts = z.log_softmax(-1), (targets != ignore_index).to(z.dtype)
    if targets.is_floating_point():
        q = -torch.expm1(log_p) if z.shape[-1] > 1 else torch.ones_like(log_p)
        losses = -((1 if weight is None else weight) * targets * q**gamma * log_p).sum(-1)
        return losses, losses.numel()
    labels = torch.where(targets != ignore_index, targets, 0)
    l = -log_p.gather(-1, labels[..., None])[..., 0]
    a = counts * (1 if weight is None else weight[labels])
    q = -torch.expm1(-l) if z.shape[-1] > 1 else torch.ones_like(l)  # l is 0 then, and 0 ** gamma has no slope
    return a * q**gamma * l, a.sum()


def torch_hinge(z, t):
    y = (t > 0) * 2.0 - 1
    return (1 - y * z).clamp(min=0), z.numel()


def torch_multiclass_hinge(z, targets, ignore_index=-100, weight=None, **options):
    import torch

    counts = (targets != ignore_index).reshape(-1)
    labels = torch.where(counts, targets.reshape(-1), 0)
    shares = counts if weight is None else counts * weight[labels]
    options.update(weight=weight, reduction="none")
    losses = torch.nn.functional.multi_margin_loss(z.reshape(-1, z.shape[-1]), labels, **options)
    return (losses * counts).reshape(targets.shape), shares.sum()


def torch_absolute(y, t):
    from torch.nn.functional import l1_loss

    return l1_loss(y, t, reduction="none"), y.numel()


def torch_huber(y, t, delta):
    from torch.nn.functional import huber_loss

    return huber_loss(y, t, delta=delta, reduction="none"), y.numel()


def torch_poisson(y, t, **options):
    from torch.nn.functional import poisson_nll_loss

    return poisson_nll_loss(y, t, eps=0.0, reduction="none", **options), y.numel()


def torch_kl(z, q, per_class=False):
    from torch.nn.functional import kl_div

    terms = kl_div(z.log_softmax(-1), q, reduction="none")
    losses = terms.sum(-1)
    return terms if per_class else losses, losses.numel()


def torch_nt_xent(x, _, temperature):
    import torch

    u, M = torch.nn.functional.normalize(x), len(x)
    S = (u @ u.T / temperature).masked_fill(torch.eye(M, dtype=torch.bool), -INF)
    partner = (torch.arange(M) + M // 2) % M
    return torch.nn.functional.cross_entropy(S, partner, reduction="none"), M


def torch_self_distillation(s, teacher, student_temperature, teacher_temperature, center=0.0):
    P = ((teacher - center) / teacher_temperature).softmax(-1)
    losses = -(P * (s / student_temperature).log_softmax(-1)).sum(-1)
    return losses, losses.numel()


FAMILY = {
    "binary_cross_entropy": (binary_cross_entropy, draw_binary, torch_binary),
    "categorical_cross_entropy": (categorical_cross_entropy, draw_categorical, torch_categorical),
    "nll": (nll, draw_nll, torch_nll),
    "sigmoid_focal": (sigmoid_focal, draw_sigmoid_focal, torch_sigmoid_focal),
    "softmax_focal": (softmax_focal, draw_softmax_focal, torch_softmax_focal),
    "hinge": (hinge, draw_hinge, torch_hinge),
    "multiclass_hinge": (multiclass_hinge, draw_multiclass_hinge, torch_multiclass_hinge),
    "mean_absolute_error": (mean_absolute_error, draw_regression, torch_absolute),
    "huber": (huber, draw_huber, torch_huber),
    "poisson_nll": (poisson_nll, draw_poisson, torch_poisson),
    "kl_divergence": (kl_divergence, draw_kl, torch_kl),
    "nt_xent": (nt_xent, draw_nt_xent, torch_nt_xent),
    "self_distillation": (self_distillation, draw_self_distillation, torch_self_distillation),
}
EVERY = pytest.mark.parametrize("name", FAMILY)


def configuration(name, seed, rows=False):
    """Prediction, (targets,) and options, with () where there are no targets; rows (N, C) are for the reference."""
    rng = np.random.default_rng(seed)
    options = drawn_reduction(rng, {})
    prediction, targets = FAMILY[name][1](rng, options)
    if rows and targets is not None:
        C = prediction.shape[-1]
        targets = targets.reshape((-1, C) if targets.shape == prediction.shape else -1)
        prediction = prediction.reshape(-1, C)
        options = {name: v.reshape(-1, C) if np.ndim(v) > 1 else v for name, v in options.items()}
    return prediction, () if targets is None else (targets,), options


def by_torch(formula, prediction, targets, options):
    torch = pytest.importorskip("torch")
    options = dict(options)
    reduction, denominator = options.pop("reduction"), options.pop("denominator", None)
    x = torch.tensor(prediction, requires_grad=True)
    kwargs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    losses, count = formula(x, *(torch.tensor(t) for t in targets or (0,)), **kwargs)
    if reduction != "none":
        losses = losses.sum()
    if reduction == "mean":
        count = float(count) if denominator is None else denominator
        losses = losses / count if count else losses * 0
    losses.sum().backward()
    return losses.detach().numpy(), x.grad.numpy()


@pytest.mark.slow
@EVERY
def test_every_loss_agrees_with_torch_in_float64_over_240_configurations(name):
    loss, _, formula = FAMILY[name]
    for seed in range(240):
        prediction, targets, options = configuration(name, seed)
        value, gradient = loss(prediction, *targets, **options)
        expected, expected_gradient = by_torch(formula, prediction, targets, options)
        assert gradient.dtype == np.float64
        assert gradient.shape == prediction.shape
        assert np.shape(value) == expected.shape
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}")
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}")


@pytest.mark.slow
@EVERY
def test_every_loss_agrees_with_the_reference_also_in_float32(name):
    loss = FAMILY[name][0]
    for seed in range(1000, 1220):
        prediction, targets, options = configuration(name, seed, rows=True)
        prediction = prediction.astype(np.float32)
        targets = [t.astype(np.float32) if t.dtype.kind == "f" else t for t in targets]
        expected, expected_gradient = getattr(reference, name)(prediction, *targets, **options)
        bound = max(1, np.abs(expected_gradient).max())
        for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 2e-5)):
            value, gradient = loss(prediction.astype(dtype), *targets, **options)
            assert gradient.dtype == dtype
            np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance, err_msg=f"seed {seed}")
            np.testing.assert_allclose(gradient, expected_gradient, atol=tolerance * bound, rtol=0)


def test_the_gradients_are_the_slopes():
    rng = np.random.default_rng(7)
    z, t, q = rng.standard_normal((6, 5)), rng.integers(0, 5, 6), rng.dirichlet(np.ones(5), 6)
    p, sides = reference.softmax(z), rng.choice([-1, 1], z.shape)
    checked = [
        (binary_cross_entropy, (p, q), {"label_smoothing": 0.2, "pos_weight": [1, 2, 3, 4, 5], "weight": 3 * q}),
        (sigmoid_cross_entropy, (z, q), {"weight": 3 * p, "pos_weight": 2 * q}),
        (categorical_cross_entropy, (p, t), {"label_smoothing": 0.2}),
        (categorical_cross_entropy, (p, q), {"weight": [1, 2, 3, 4, 5]}),
        (nll, (np.log(p), t), {"label_smoothing": 0.2}),
        (sigmoid_focal, (z, q), {"gamma": 0.5, "weight": 3 * p}),
        (softmax_focal, (z, t), {"gamma": 0.5}),
        (softmax_focal, (z, q), {"gamma": 0.5, "weight": [1, 2, 3, 4, 5]}),
        (hinge, (z, sides), {}),
        (multiclass_hinge, (z, t), {}),
        (multiclass_hinge, (z, t), {"p": 2, "margin": 0.7, "weight": [1, 2, 3, 4, 5]}),
        (poisson_nll, (z, 5 * q), {"full": True}),
        (poisson_nll, (5 * p, 5 * q), {"log_input": False}),
        (mean_absolute_error, (z, q), {}),
        (huber, (z, q), {"delta": 0.3}),
        (kl_divergence, (z, q), {}),
        (self_distillation, (z, q), {"center": q[0]}),
        (lambda x, _, **options: nt_xent(x, **options), (z, z), {"temperature": 0.2}),
    ]
    for loss, inputs, options in checked:
        # Probabilities near 0 bend too much for the default tolerance at the check's step.
        near_0 = inputs[0] is p or options.get("log_input") is False
        result = gradcheck.check(loss, *inputs, tolerance=1e-6 if near_0 else 1e-7, **options)
        assert result.passed, result


# --- by hand ----------------------------------------------------------------------------------------------------


def test_values_that_can_be_checked_on_paper():
    for value, gradient in (binary_cross_entropy([0.8], [1]), categorical_cross_entropy([[0.8, 0.2]], [0])):
        assert value == pytest.approx(0.2231, abs=5e-5)  # -ln 0.8
        assert gradient.flat[0] == pytest.approx(-1.25)  # -1 / 0.8
    for value, gradient in (binary_cross_entropy([0.8], [0]), categorical_cross_entropy([[0.8, 0.2]], [1])):
        assert value == pytest.approx(1.6094, abs=5e-5)  # -ln 0.2
        assert gradient.flat[-1] == pytest.approx(5 if gradient.size == 1 else -5)  # 1 / (1 - 0.8), and -1 / 0.2
    assert nll(np.log([[0.8, 0.2]]), [0])[0] == pytest.approx(0.2231, abs=5e-5)
    P = np.array([[0.7, 0.2, 0.1]])
    assert categorical_cross_entropy(P, P)[0] == pytest.approx(0.8018, abs=5e-5)  # H(P), in nats
    assert kl_divergence(np.log(P), P)[0] == pytest.approx(0, abs=1e-15)
    assert kl_divergence(np.zeros((1, 3)), P)[0] == pytest.approx(math.log(3) - 0.8018, abs=5e-5)
    # p = 0.9 for the right one: a loss of 0.1054, times (1 - 0.9)^2
    z = math.log(9)
    assert sigmoid_focal([z], [1], alpha=None)[0] == pytest.approx(0.001054, abs=5e-7)
    assert sigmoid_focal([z], [1], alpha=0.25)[0] == pytest.approx(0.001054 / 4, abs=5e-7)
    assert softmax_focal([[z, 0.0]], [0])[0] == pytest.approx(0.001054, abs=5e-7)
    value, gradient = hinge([0.3, -2.0, 4.0, 1.0], [1, 1, 1, 1], reduction="none")
    np.testing.assert_allclose(value, [0.7, 3, 0, 0])
    np.testing.assert_array_equal(gradient, [-1, -1, 0, 0])
    value, gradient = multiclass_hinge([[1.0, 2.0, 0.5, -3.0]], [0])
    assert value == (2.0 + 0.5) / 4
    np.testing.assert_array_equal(gradient, [[-0.5, 0.25, 0.25, 0]])
    value, gradient = multiclass_hinge([[1.0, 2.0, 0.5, -3.0]], [0], p=2, weight=[3, 1, 1, 1], reduction="sum")
    assert value == 3 * (2.0**2 + 0.5**2) / 4
    np.testing.assert_array_equal(gradient, [[-3.75, 3, 0.75, 0]])
    assert multiclass_hinge([[1.0, 2.0, 0.5, -3.0]], [0], margin=0.25)[0] == 1.25 / 4
    # exp(-2) 2^3 / 3! is the chance of three where two are expected; Stirling's 3! is 5.836
    for y, log_input in ((math.log(2), True), (2.0, False)):
        value, gradient = poisson_nll([y], [3], log_input)
        assert value == pytest.approx(2 - 3 * math.log(2))
        assert gradient == pytest.approx(-1 if log_input else -0.5)
        assert poisson_nll([y], [3], log_input, full=True)[0] == pytest.approx(value + math.log(5.836), abs=5e-5)
        assert poisson_nll([y], [1], log_input, full=True)[0] == poisson_nll([y], [1], log_input)[0]
    terms, _ = kl_divergence([[0.0, 0.0]], [[0.25, 0.75]], reduction="none", per_class=True)
    np.testing.assert_allclose(terms, [[0.25 * math.log(0.5), 0.75 * math.log(1.5)]])
    # half of each of two labels' losses, of which the second, p = 0.1, has (1 - 0.1)^2 of its 2.3026
    assert softmax_focal([[z, 0.0]], [[0.5, 0.5]])[0] == pytest.approx((0.001054 + 0.81 * 2.302585) / 2, abs=5e-7)
    value, gradient = mean_absolute_error([1.0, 5.0], [3.0, 5.0])
    assert value == 1.0
    np.testing.assert_array_equal(gradient, [-0.5, 0])
    value, gradient = huber([0.5, -3.0], [0.0, 0.0], reduction="none")
    np.testing.assert_array_equal(value, [0.125, 2.5])
    np.testing.assert_array_equal(gradient, [0.5, -1])
    # two pairs at right angles, tau = 1: each row chooses between 1 (its partner), 0 and 0
    x = np.array([[2.0, 0], [0, 3.0], [5.0, 0], [0, 1.0]])
    assert nt_xent(x, 1.0)[0] == pytest.approx(math.log(1 + 2 / math.e))
    assert self_distillation(np.zeros((1, 4)), np.zeros((1, 4)))[0] == pytest.approx(math.log(4))


@pytest.mark.parametrize("z", [[INF, 0], [INF, INF], [INF, -INF], [0, INF], [NAN, 0], [0, NAN]])
@pytest.mark.parametrize("q", [[1, 0], [0, 1], [0.3, 0.7]])
@pytest.mark.parametrize("eps", [0, 0.1])
def test_the_plain_cross_entropy_makes_nan_of_an_infinite_logit_as_the_kernel_does(z, q, eps):
    z, q = np.array([z], float), np.array([q], float)
    with np.errstate(all="ignore"):
        found = softmax_cross_entropy_plain(z, q, np.ones(2), eps)
    for plain, compiled in zip(found, softmax_cross_entropy(z, q, label_smoothing=eps, reduction="none"), strict=True):
        assert np.isnan(plain).all()
        assert np.isnan(compiled).all()


@pytest.mark.parametrize("alpha", [None, 0, 0.3, 1])
@pytest.mark.parametrize("gamma", [0, 0.5, 2, 3.5])
def test_the_plain_focal_loss_has_the_kernels_limits(gamma, alpha):
    z = np.array([np.inf, -np.inf, 1e30, -1e30, 800, -800, 0, 3, -3, np.nan])
    yes, no = (1, 1) if alpha is None else (alpha, 1 - alpha)
    for t in (0, 0.3, 1):
        expected = sigmoid_focal(z, np.full_like(z, t), gamma=gamma, alpha=alpha, reduction="none")
        with np.errstate(all="ignore"):
            found = sigmoid_focal_plain(z, np.full_like(z, t), 1, None, gamma, yes, no)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-30)


# --- what is equal to what ----------------------------------------------------------------------------------------


def test_probability_forms_equal_their_logit_forms():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        shape, options = drawn_shape(rng), {"reduction": "none"}
        z, targets = drawn_logits(rng, shape), drawn_labels(rng, shape, options)
        expected, dz = softmax_cross_entropy(z, targets, **options)
        p = reference.softmax(z)
        value, dp = categorical_cross_entropy(p, targets, **options)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(p * (dp - (p * dp).sum(-1, keepdims=True)), dz, atol=1e-12)  # through the softmax
        value, dl = nll(np.log(p), targets, **options)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(dl - p * dl.sum(-1, keepdims=True), dz, atol=1e-12)
        options = {"weight": rng.uniform(0, 2, shape[-1]), "label_smoothing": 0.1, "reduction": "none"}
        t = drawn_yes_or_no(rng, shape, options)
        expected, dz = sigmoid_cross_entropy(z, t, **options)
        p = 1 / (1 + np.exp(-z))
        value, dp = binary_cross_entropy(p, t, **options)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(dp * p * (1 - p), dz, atol=1e-12)  # through the sigmoid


@pytest.mark.parametrize("dtype", DTYPES)
def test_focal_losses_with_gamma_0_are_the_cross_entropies(dtype):
    rng = np.random.default_rng(3)
    for C in (1, 2, 10, 40, 3000):
        z = (5 * rng.standard_normal((20, C))).astype(dtype)
        t, w, q = rng.integers(0, C, 20), rng.uniform(0, 2, C), rng.random((20, C)).astype(dtype)
        tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-13, "atol": 1e-14}
        for reduction in ("mean", "none"):
            options = {"weight": w, "ignore_index": 0, "reduction": reduction}
            for mine, other in zip(
                softmax_focal(z, t, gamma=0, **options), softmax_cross_entropy(z, t, **options), strict=True
            ):
                np.testing.assert_allclose(mine, other, **tolerance)
            for mine, other in zip(
                sigmoid_focal(z, q, gamma=0, alpha=None, reduction=reduction),
                sigmoid_cross_entropy(z, q, reduction=reduction),
                strict=True,
            ):
                np.testing.assert_allclose(mine, other, **tolerance)
            half, _ = sigmoid_focal(z, q, gamma=0, alpha=0.5, reduction=reduction)
            whole, _ = sigmoid_cross_entropy(z, q, reduction=reduction)
            np.testing.assert_allclose(2 * half, whole, **tolerance)


def test_divergence_and_entropy_make_the_cross_entropy_and_divergence_is_never_negative():
    rng = np.random.default_rng(4)
    for dtype in DTYPES:
        z = rng.standard_normal((300, 9)).astype(dtype)
        q = rng.dirichlet(np.ones(9), 300)
        entropy = -(q * np.log(q)).sum(1)
        value, gradient = kl_divergence(z, q, reduction="none")
        cross, other = softmax_cross_entropy(z, q, reduction="none")
        np.testing.assert_allclose(value + entropy, cross, rtol=2e-6 if dtype == np.float32 else 1e-13)
        np.testing.assert_array_equal(gradient, other)
        value, gradient = kl_divergence(z, reference.softmax(z), reduction="none")
        assert (value >= 0).all()
        assert value.max() < (1e-6 if dtype == np.float32 else 1e-14)
    assert kl_divergence([[1.0, 2.0]], [[0.0, 1.0]])[0] == softmax_cross_entropy([[1.0, 2.0]], [1])[0]


def test_nt_xent_and_self_distillation_are_softmax_cross_entropies():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((8, 3))
    u = x / np.sqrt((x**2).sum(1, keepdims=True))
    S = u @ u.T / 0.5
    np.fill_diagonal(S, -INF)
    assert nt_xent(x)[0] == pytest.approx(softmax_cross_entropy(S, [4, 5, 6, 7, 0, 1, 2, 3])[0], rel=1e-13)
    assert nt_xent(x * rng.uniform(0.1, 9, (8, 1)))[0] == pytest.approx(nt_xent(x)[0], rel=1e-13)  # directions only
    assert abs((nt_xent(x)[1] * x).sum(1)).max() < 1e-15  # so nothing points along x
    s, teacher, center = rng.standard_normal((7, 11)), rng.standard_normal((7, 11)), rng.standard_normal(11)
    P = reference.softmax((teacher - center) / 0.04)
    expected, dz = softmax_cross_entropy(s / 0.1, P)
    value, ds = self_distillation(s, teacher, center=center)
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(ds, dz / 0.1, atol=1e-14)


# --- extremes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_of_0_and_1_and_tiny_ones(dtype):
    p = np.array([0, 0, 1, 1, NAN, NAN, 0.5], dtype)
    t = np.array([1, 0, 1, 0, 1, 0, 1])
    losses, gradient = binary_cross_entropy(p, t, reduction="none")
    np.testing.assert_allclose(losses, [INF, 0, 0, INF, NAN, NAN, math.log(2)], rtol=1e-6)
    np.testing.assert_array_equal(gradient, [-INF, 1, -1, INF, NAN, NAN, -2])
    assert binary_cross_entropy(p[:1], [1])[0] == INF
    smallest = np.finfo(dtype).smallest_subnormal
    for tiny in (1e-5, 1e-30, np.finfo(dtype).tiny, smallest, 1000 * smallest):
        tiny = dtype(tiny)
        expected = -math.log(tiny)
        assert binary_cross_entropy(np.array([tiny]), [1])[0] == pytest.approx(expected, rel=4e-7)
        assert categorical_cross_entropy(np.array([[1, tiny]], dtype), [1])[0] == pytest.approx(expected, rel=4e-7)
        value, gradient = binary_cross_entropy(np.array([tiny]), [0])
        assert value == pytest.approx(tiny, rel=2e-5)  # and not 0, though 1 - p is 1
        assert gradient == pytest.approx(1, rel=2e-5)
    losses, gradient = categorical_cross_entropy(
        np.array([[0, 1], [0, 1], [0.5, 0.5]], dtype), [0, 1, 1], reduction="none"
    )
    np.testing.assert_allclose(losses, [INF, 0, math.log(2)], rtol=1e-6)
    np.testing.assert_array_equal(gradient, [[-INF, 0], [0, -1], [0, -2]])
    losses, gradient = nll(np.array([[-INF, 0], [-INF, 0], [-1e4, 0]], dtype), [0, 1, 0], reduction="none")
    np.testing.assert_array_equal(losses, [INF, 0, 1e4])
    np.testing.assert_array_equal(gradient, [[-1, 0], [0, -1], [-1, 0]])
    # a class of probability 0 has no share of the smoothing, as one masked by -inf has none in the logit form
    z, smoothed = np.array([[0, 1, -INF]], dtype), {"label_smoothing": 0.3}
    expected, _ = softmax_cross_entropy(z, [0], **smoothed)
    p = reference.softmax(z).astype(dtype)
    assert categorical_cross_entropy(p, [0], **smoothed)[0] == pytest.approx(expected, rel=1e-6)
    with np.errstate(divide="ignore"):
        assert nll(np.log(p), [0], **smoothed)[0] == pytest.approx(expected, rel=1e-6)
    assert categorical_cross_entropy(p, p)[0] == pytest.approx(softmax_cross_entropy(z, p)[0], rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
def test_focal_losses_of_extreme_logits(gamma, dtype):
    for size in (1e4, 1e30, INF):
        z = np.array([size, -size, size, -size, 0], dtype)
        losses, gradient = sigmoid_focal(z, [1, 0, 0, 1, 1], gamma, None, reduction="none")
        np.testing.assert_allclose(losses[:4], [0, 0, size, size], rtol=1e-6)
        np.testing.assert_array_equal(gradient[:4], [0, 0, 1, -1])
        assert losses[4] == pytest.approx(math.log(2) / 2**gamma, rel=1e-6)
        losses, gradient = sigmoid_focal(z[:2], [0.25, 0.25], gamma, None, reduction="none")
        np.testing.assert_allclose(losses, [0.75**gamma * 0.75 * size, 0.25**gamma * 0.25 * size], rtol=1e-6)
        for alpha, wrong in ((0.0, -size), (1.0, size)):  # a target that weighs nothing
            assert sigmoid_focal(np.array([wrong], dtype), [1 - alpha], gamma, alpha) == (0, [0])
        if size < INF:
            rows = np.array([[size, 0, -size], [size, 0, -size], [1, 1, 1]], dtype)
            losses, gradient = softmax_focal(rows, [0, 2, 1], gamma, reduction="none")
            np.testing.assert_allclose(losses[:2], [0, 2 * size], rtol=1e-6)
            np.testing.assert_array_equal(gradient[:2], [[0, 0, 0], [1, 0, -1]])
    barely = np.array([1e-30], dtype)  # where its square is 0
    assert sigmoid_focal(np.array([-INF], dtype), barely, gamma)[0] == INF
    losses, gradient = softmax_focal(np.array([[-INF, 0, 0], [0, -INF, -INF]], dtype), [0, 0], gamma, reduction="none")
    np.testing.assert_array_equal(losses, [INF, 0])
    np.testing.assert_allclose(gradient, [[-1, 0.5, 0.5], [0, 0, 0]])
    # a confident row keeps its digits: q = 2 exp(-20) for three classes
    q = 2 * math.exp(-20) / (1 + 2 * math.exp(-20))
    value, gradient = softmax_focal(np.array([[0, -20, -20]], dtype), [0], gamma)
    assert value == pytest.approx(-(q**gamma) * math.log1p(-q), rel=1e-5)
    assert gradient[0, 0] == pytest.approx(-(q**gamma) * (1 + gamma) * q, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_margins_and_regressions_of_extreme_numbers(dtype):
    for size in (1e4, 1e30, INF):
        z = np.array([size, -size, size, -size, NAN, 0], dtype)
        losses, gradient = hinge(z, [1, -1, -1, 1, 1, 1], reduction="none")
        np.testing.assert_allclose(losses, [0, 0, size, size, NAN, 1], rtol=2e-4)
        np.testing.assert_array_equal(gradient, [0, 0, 1, -1, NAN, -1])
        for loss, expected in ((mean_absolute_error, [size] * 4 + [NAN, 0]), (huber, [size] * 4 + [NAN, 0])):
            losses, gradient = loss(z, np.zeros(6), reduction="none")
            np.testing.assert_allclose(losses, expected, rtol=1e-4)
            np.testing.assert_array_equal(gradient, [1, -1, 1, -1, NAN, 0])
    for size in (1e4, 1e30):
        rows = np.array([[size, 0, -size], [size, 0, -size], [size, NAN, 0], [-INF, 0, 2]], dtype)
        losses, gradient = multiclass_hinge(rows, [0, 2, 0, 1], reduction="none")
        np.testing.assert_allclose(losses, [0, size, NAN, 1], rtol=1e-4)
        np.testing.assert_allclose(gradient, [[0, 0, 0], [1 / 3, 1 / 3, -2 / 3], [NAN] * 3, [0, -1 / 3, 1 / 3]], 1e-6)
        losses, gradient = multiclass_hinge(rows, [0, 2, 0, 1], 2, 0.5, [1, 1, 0.0], reduction="sum")
        assert np.isnan(losses)
        np.testing.assert_allclose(gradient, [[0, 0, 0], [0, 0, 0], [NAN] * 3, [0, -5 / 3, 5 / 3]], 1e-6)
        # a class without weight costs nothing however wrong; another one more than float32 holds, where that is so
        value, gradient = multiclass_hinge(rows[1:2], [2], 2, weight=[1, 1, 3])
        np.testing.assert_allclose(gradient, [[4 * size / 3, 2 * size / 3, -2 * size]], 1e-3)
        assert value == pytest.approx(5 * float(size) ** 2 / 3, rel=1e-3)
    for p in (1, 2):
        losses, gradient = multiclass_hinge(
            np.array([[0, -INF], [0, INF], [-INF, -INF]], dtype), [1, 0, 0], p, reduction="none"
        )
        np.testing.assert_array_equal(losses, [INF, INF, NAN])
        slope = 0.5 if p == 1 else INF
        np.testing.assert_array_equal(gradient, [[slope, -slope], [-slope, slope], [NAN, NAN]])
        zero = multiclass_hinge(np.array([[0, -INF]], dtype), [1], p, weight=[1, 0])
        assert zero[0] == 0
        np.testing.assert_array_equal(zero[1], [[0, 0]])
    single = multiclass_hinge(np.array([[2], [NAN]], dtype), [0, 0], reduction="none")
    np.testing.assert_array_equal(single[0], [0, NAN])
    np.testing.assert_array_equal(single[1], [[0], [NAN]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_of_extreme_numbers(dtype):
    y = np.array([-INF, -INF, INF, INF, NAN, 0, 1e30, -1e30, -1e30], dtype)
    losses, gradient = poisson_nll(y, [0, 2, 0, 2, 0, 0, 5, 0, 2], reduction="none")
    np.testing.assert_allclose(losses, [0, INF, INF, INF, NAN, 1, INF, 0, 2e30], rtol=1e-6)
    np.testing.assert_array_equal(gradient, [0, -2, INF, INF, NAN, 1, INF, 0, -2])
    y = np.array([0, 0, INF, INF, NAN, 1e30, 1e-30, 3e38], dtype)
    losses, gradient = poisson_nll(y, [0, 2, 0, 2, 0, 1, 1, 2], log_input=False, reduction="none")
    np.testing.assert_allclose(losses, [0, INF, INF, INF, NAN, 1e30, 30 * math.log(10), 3e38], rtol=1e-6)
    np.testing.assert_allclose(gradient, [1, -INF, 1, 1, NAN, 1, -1e30, 1], rtol=1e-6)
    largest, eps = math.log(np.finfo(dtype).max), float(np.finfo(dtype).eps)
    for y in np.linspace(largest - 3, largest - 1e-4, 50).astype(dtype):  # where exp(-y) is below the normal numbers
        assert poisson_nll(y, 0)[0] == pytest.approx(math.exp(y), rel=4 * eps)
    # no number inside of the logarithm is lost: near a rate of 1, a log is what the rate has beyond 1
    near = dtype(1 + eps)
    assert poisson_nll(near, 1, log_input=False)[0] == pytest.approx(1, rel=eps)
    for factor, t in ((1e-30, 1e20), (1e20, 3), (0.999, 1e5), (1.5, 1e5)):
        expected = dtype(factor) - t * math.log(dtype(factor))
        assert poisson_nll(dtype(factor), t, log_input=False)[0] == pytest.approx(expected, rel=1e-6)


def test_stirlings_formula_is_near_the_factorial():
    t = np.arange(2, 300)
    with_it, _ = poisson_nll(np.zeros(t.size), t, full=True, reduction="none")
    less = [math.lgamma(n + 1) for n in t] - (with_it - 1)
    assert (less > 0).all()
    assert (less < 1 / (12 * t)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_terms_of_a_divergence_are_those_of_its_classes(dtype):
    z = np.array([[0, 0, -INF], [0, 0, -INF], [NAN, 0, 0], [INF, 0, 0], [-INF] * 3, [0, 1e4, 0]], dtype)
    q = np.array([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0, 1], [1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]], dtype)
    rows, gradient = kl_divergence(z, q, reduction="none")
    for s in (None, [1, 2, 1, 1, 1, 1]):
        terms, same = kl_divergence(z, q, per_class=True, reduction="none", sample_weight=s)
        factor = 1 if s is None else 2
        np.testing.assert_allclose(terms[:2], [[0, 0, 0], [0, 0, INF]], atol=1e-6)
        assert np.isnan(terms[2:5]).all()
        np.testing.assert_allclose(terms[5], [0, math.log(0.5) / 2, (1e4 + math.log(0.5)) / 2], rtol=1e-6)
        np.testing.assert_allclose(terms.sum(1), rows, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(same[1], factor * gradient[1], rtol=1e-6)
    out = z.copy()
    terms, returned = kl_divergence(out, q, per_class=True, reduction="none", out=out, sample_weight=[1, 1, 0, 0, 0, 1])
    assert returned is out
    assert not terms[2:5].any()
    assert not out[2:5].any()
    np.testing.assert_array_equal(out[[0, 1, 5]], gradient[[0, 1, 5]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_focal_loss_of_one_hot_rows_is_that_of_the_labels(dtype):
    rng = np.random.default_rng(6)
    for C in (1, 2, 7, 40, 1500):
        z = (6 * rng.standard_normal((30, C))).astype(dtype)
        z[3, 0], z[4], z[5], z[6, :2], z[7] = -INF, -INF, 0, NAN, 1e30 * np.arange(C)
        t, w = rng.integers(0, C, 30), rng.uniform(0, 2, C)
        t[:9], w[C - 1] = 0, 0
        # two float32 that are log p, of -64 to 0 here, may lie 4e-6 apart, and p as much of itself
        tolerance = {"rtol": 5e-6, "atol": 1e-30} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-200}
        for gamma in (0, 0.5, 2, 3.7):
            for weight in (None, w):
                by_label = softmax_focal(z, t, gamma, weight, reduction="none")
                by_row = softmax_focal(z, np.eye(C)[t], gamma, weight, reduction="none")
                for mine, other in zip(by_row, by_label, strict=True):
                    np.testing.assert_allclose(mine, other, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_divergence_and_self_supervised_losses_of_extreme_numbers(dtype):
    for size in (1e4, 1e30):
        z = np.array([[size, -size, -size]] * 2, dtype)
        q = np.array([[1, 0, 0], [0, 0.5, 0.5]], dtype)
        losses, gradient = kl_divergence(z, q, reduction="none")
        np.testing.assert_allclose(losses, [0, 2 * size], rtol=1e-3)
        np.testing.assert_allclose(gradient, [[0, 0, 0], [1, -0.5, -0.5]])
        losses, gradient = self_distillation(z, -z, reduction="none")
        np.testing.assert_allclose(losses, [20 * size] * 2, rtol=1e-6)
        np.testing.assert_allclose(gradient, [[10, -5, -5]] * 2, rtol=1e-6)
        x = np.random.default_rng(0).standard_normal((6, 3)).astype(dtype)
        tiny = dtype(1 / size if dtype == np.float64 else 1 / min(size, 1e30))
        for scale in (dtype(size), tiny):
            assert nt_xent(x * scale)[0] == pytest.approx(nt_xent(x)[0], rel=1e-6)
            np.testing.assert_allclose(nt_xent(x * scale)[1] * scale, nt_xent(x)[1], atol=1e-6)
    losses, gradient = kl_divergence(
        np.array([[0, 0, -INF], [0, 0, -INF]], dtype), [[0.5, 0.5, 0], [0.5, 0, 0.5]], reduction="none"
    )
    np.testing.assert_array_equal(losses, [0, INF])
    np.testing.assert_array_equal(gradient, [[0, 0, 0], [0, 0.5, -0.5]])
    masked = np.array([[0, 0, -INF]], dtype)
    assert self_distillation(masked, masked)[0] == pytest.approx(math.log(2))
    x = np.ones((4, 2), dtype)
    x[1, 0] = NAN
    assert np.isnan(nt_xent(x, reduction="none")[0]).all()


def rows_and_targets(name, N, C, dtype, seed=0):
    """N rows for a loss that takes rows one by one, with targets for each."""
    rng = np.random.default_rng(seed)
    z, t, q = rng.standard_normal((N, C)), rng.integers(0, C, N), rng.dirichlet(np.ones(C), N)
    prediction = {
        "binary_cross_entropy": 1 / (1 + np.exp(-z)),
        "categorical_cross_entropy": reference.softmax(z),
        "nll": np.log(reference.softmax(z)),
    }.get(name, z)
    labels = name in ("categorical_cross_entropy", "nll", "softmax_focal", "multiclass_hinge")
    if name == "poisson_nll":
        q = rng.poisson(3, (N, C))
    return prediction.astype(dtype), t if labels else (z > 0) if name == "hinge" else q.astype(dtype)


ROW_BY_ROW = pytest.mark.parametrize("name", [name for name in FAMILY if name != "nt_xent"])


@ROW_BY_ROW
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_stays_in_its_row(name, dtype):
    for C in (3, 40):
        x, targets = rows_and_targets(name, 70, C, dtype)
        losses, gradient = FAMILY[name][0](x, targets, reduction="none")
        x[33, 1] = NAN
        with_nan, gradient_with_nan = FAMILY[name][0](x, targets, reduction="none")
        one_by_one = losses.ndim == 2
        here = (33, 1) if one_by_one else 33
        assert np.isnan(with_nan[here])
        assert np.isnan(gradient_with_nan[here]).all()
        rest = np.ones(losses.shape, bool)
        rest[here] = False
        np.testing.assert_array_equal(with_nan[rest], losses[rest])
        np.testing.assert_array_equal(gradient_with_nan[rest], gradient[rest])
        assert np.isnan(FAMILY[name][0](x, targets)[0])


def test_what_is_ignored_may_hold_anything():
    for dtype in DTYPES:
        for loss in (softmax_focal, multiclass_hinge, categorical_cross_entropy, nll):
            x = np.full((3, 4), NAN, dtype)
            x[1] = 0.25 if loss is categorical_cross_entropy else math.log(0.25)
            alone, gradient_alone = loss(x[1:2], [2])
            value, gradient = loss(x, [-100, 2, -100])
            assert value == alone
            np.testing.assert_array_equal(gradient, [np.zeros(4), gradient_alone[0], np.zeros(4)])
            value, gradient = loss(x, [-100, -100, -100])
            assert value == 0
            assert not gradient.any()
        for loss in (binary_cross_entropy, sigmoid_focal):
            value, gradient = loss(np.array([NAN, 0.5, 9.0], dtype), [-1, 1, -1], ignore_index=-1)
            assert value == loss(np.array([0.5], dtype), [1])[0]
            np.testing.assert_array_equal(gradient, [0, loss(np.array([0.5], dtype), [1])[1][0], 0])
            assert loss(np.array([0.5], dtype), [-1], ignore_index=-1)[0] == 0


# --- the same bits, wherever and on however many threads ------------------------------------------------------------


@ROW_BY_ROW
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_in_any_batch(name, dtype):
    loss = FAMILY[name][0]
    for N, C in ((150, 3), (150, 10), (70, 33), (9, 2500)):
        x, targets = rows_and_targets(name, N, C, dtype)
        losses, gradient = loss(x, targets, reduction="none")
        for size in {1, 2, 7, 63, 64, 65, N - 1} & set(range(N)):
            for first in (0, N - size):
                some = slice(first, first + size)
                part, part_gradient = loss(x[some], targets[some], reduction="none")
                np.testing.assert_array_equal(part, losses[some])
                np.testing.assert_array_equal(part_gradient, gradient[some])


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(name, dtype, monkeypatch):
    loss, module = FAMILY[name][0], importlib.import_module(FAMILY[name][0].__module__)
    inputs = [
        rows_and_targets(name, N, C, dtype) if name != "nt_xent" else (rows_and_targets(name, 400, 64, dtype)[0],)
        for N, C in ((30_000, 3), (2100, 50), (40, 3000))
    ]
    threads, results = numba.get_num_threads(), []
    try:
        for n in {1, threads}:
            numba.set_num_threads(n)
            results.append([loss(*arrays) for arrays in inputs])
    finally:
        numba.set_num_threads(threads)
    if name != "nt_xent":
        monkeypatch.setitem(module.loss.kernels, True, module.loss.kernels[False])
        results.append([loss(*arrays) for arrays in inputs])
    for other in results[1:]:
        for (value, gradient), (other_value, other_gradient) in zip(results[0], other, strict=True):
            assert value == other_value
            np.testing.assert_array_equal(gradient, other_gradient)


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_receives_the_gradient_and_may_be_the_prediction(name, dtype):
    loss = FAMILY[name][0]
    for N, C in ((6, 3), (130, 10), (4, 2500)):
        x, targets = rows_and_targets(name, N, C, dtype)
        targets = () if name == "nt_xent" else (targets,)
        untouched = x.copy()
        value, gradient = loss(x, *targets)
        np.testing.assert_array_equal(x, untouched)
        assert not np.may_share_memory(gradient, x)
        assert isinstance(value, float)
        only_value, nothing = loss(x, *targets, grad=False)
        assert only_value == value
        assert nothing is None
        double = np.zeros((N, 2 * C), dtype)
        for out in (np.full(x.shape, NAN, dtype), double[:, ::2], np.full(x.shape, NAN, x.dtype.newbyteorder())):
            other, returned = loss(x, *targets, out=out)
            assert returned is out
            assert other == value
            np.testing.assert_array_equal(out, gradient)
        assert not double[:, 1::2].any()
        other, returned = loss(x, *targets, out=x)
        assert returned is x
        assert other == value
        np.testing.assert_array_equal(x, gradient)


@EVERY
def test_memory_of_any_layout_gives_the_same(name):
    loss = FAMILY[name][0]
    x, targets = rows_and_targets(name, 12, 7, np.float64)
    expected, expected_gradient = loss(x, *(() if name == "nt_xent" else (targets,)), reduction="none")
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.zeros((24, 14))
    wide[::2, ::2] = x
    for layout in (np.asfortranarray, lambda a: a.astype(a.dtype.newbyteorder()), np.ndarray.tolist, None):
        given = wide[::2, ::2] if layout is None else layout(x)
        if isinstance(given, list) and np.asarray(given).dtype != np.float64:
            continue
        for prediction in (given, frozen):
            arrays = (prediction,) if name == "nt_xent" else (prediction, layout(targets) if layout else targets)
            value, gradient = loss(*arrays, reduction="none")
            np.testing.assert_array_equal(value, expected)
            np.testing.assert_array_equal(gradient, expected_gradient)


IN_PYTHON = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from test_losses_family import small_results
np.save(sys.argv[1], small_results())
"""


def small_results():
    """Values and gradients of all losses for a few rows, in float64, one after the other."""
    results = []
    for name, (loss, _, _) in FAMILY.items():
        for C in (3, 40):
            x, targets = rows_and_targets(name, 4, C, np.float64)
            results += [np.ravel(part) for part in loss(x, *(() if name == "nt_xent" else (targets,)))]
    x, targets = rows_and_targets("nll", 4, 5, np.float64)
    results += [np.ravel(part) for part in nll(x, targets, label_smoothing=0.1, reduction="none")]
    results += [np.ravel(part) for part in categorical_cross_entropy(np.exp(x), targets, label_smoothing=0.1)]
    return np.concatenate(results)


def test_plain_python_gives_the_same_numbers(tmp_path):
    path, here = tmp_path / "results.npy", os.path.dirname(__file__)
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", IN_PYTHON, path, here], env=environment, check=True)
    np.testing.assert_allclose(np.load(path), small_results(), rtol=1e-9, atol=1e-12)


# --- what is refused -------------------------------------------------------------------------------------------------

Z, P, L = np.zeros((3, 4)), np.full((3, 4), 0.25), np.full((3, 4), math.log(0.25))
T = np.array([0, 1, 2])
BAD_P, BAD_SUM, BAD_L = P.copy(), P.copy(), L.copy()
BAD_P[1, 2], BAD_SUM[2, 3], BAD_L[1, 3] = 1.5, 0.5, 0.7
REFUSED = [
    (
        binary_cross_entropy,
        (BAD_P, P),
        {},
        ValueError,
        r"probabilities must be in \[0, 1\], got 1.5 at position \(1, 2\)",
    ),
    (binary_cross_entropy, (P, BAD_P), {}, ValueError, r"targets must be in \[0, 1\], got 1.5 at position \(1, 2\)"),
    (binary_cross_entropy, (P, -P), {}, ValueError, r"targets must be in \[0, 1\], got -0.25 at position \(0, 0\)"),
    (binary_cross_entropy, (P, P * NAN), {}, ValueError, r"targets must be in \[0, 1\], got nan"),
    (binary_cross_entropy, (P, P), {"weight": [1, 2]}, ValueError, r"weight must have shape \(4,\)"),
    (binary_cross_entropy, (P, P), {"pos_weight": -1}, ValueError, "pos_weight must be finite and at least 0"),
    (categorical_cross_entropy, (BAD_P, T), {}, ValueError, r"got 1.5 at position \(1, 2\). Are they logits"),
    (categorical_cross_entropy, (BAD_SUM, T), {}, ValueError, r"those at position \(2,\) sum to 1.25"),
    (categorical_cross_entropy, (BAD_SUM, T), {"out": P.copy()}, ValueError, r"those at position \(2,\) sum to 1.25"),
    (
        categorical_cross_entropy,
        (P, BAD_SUM),
        {},
        ValueError,
        r"target probabilities must sum to 1.* \(2,\) sum to 1.25",
    ),
    (categorical_cross_entropy, (P, [0, 1, 4]), {}, ValueError, r"target at position \(2,\) is 4"),
    (categorical_cross_entropy, (P, [0.0, 1.0, 2.0]), {}, TypeError, "class indices must be integers"),
    (categorical_cross_entropy, (P, T), {"label_smoothing": 2}, ValueError, r"label_smoothing must be in \[0, 1\]"),
    (nll, (BAD_L, T), {}, ValueError, r"must be at most 0, got 0.7 at position \(1, 3\)"),
    (nll, (Z, T), {}, ValueError, r"the numbers at position \(0,\) sum to 4"),
    (nll, (L, [0, -1, 2]), {}, ValueError, r"position \(1,\) is -1.*pass ignore_index=-1"),
    (sigmoid_focal, (Z, BAD_P), {}, ValueError, r"targets must be in \[0, 1\], got 1.5 at position \(1, 2\)"),
    (sigmoid_focal, (Z, P), {"gamma": -1}, ValueError, "gamma must be finite and at least 0, got -1"),
    (sigmoid_focal, (Z, P), {"gamma": "2"}, TypeError, "gamma must be a number, got '2'"),
    (sigmoid_focal, (Z, P), {"alpha": 1.5}, ValueError, r"alpha must be in \[0, 1\], got 1.5"),
    (softmax_focal, (Z, [0, 1, 9]), {}, ValueError, r"target at position \(2,\) is 9"),
    (softmax_focal, (Z, BAD_SUM), {"out": P.copy()}, ValueError, r"those at position \(2,\) sum to 1.25"),
    (softmax_focal, (Z, P), {"ignore_index": -1}, ValueError, "ignore_index belongs to integer targets"),
    (softmax_focal, (Z, T), {"gamma": NAN}, ValueError, "gamma must be finite"),
    (softmax_focal, (Z, T), {"weight": [1, 1, 1, -1]}, ValueError, "got -1.0 for class 3"),
    (hinge, (Z, np.full((3, 4), 2)), {}, ValueError, r"got 2.0 at position \(0, 0\)"),
    (hinge, (np.zeros(3), [1, -1, 0]), {}, ValueError, r"got 0.0 at position \(2,\) where others are -1"),
    (hinge, (np.zeros(3), [[1, -1, 1]]), {}, ValueError, r"must have the prediction's shape \(3,\)"),
    (multiclass_hinge, (Z, [0, 4, 1]), {}, ValueError, r"position \(1,\) is 4"),
    (multiclass_hinge, (Z, P), {}, TypeError, "targets must be integer labels"),
    (multiclass_hinge, (Z, T), {"p": 3}, ValueError, "p must be 1 or 2, got 3"),
    (multiclass_hinge, (Z, T), {"p": True}, ValueError, "p must be 1 or 2, got True"),
    (multiclass_hinge, (Z, T), {"margin": NAN}, ValueError, "margin must be finite, got nan"),
    (multiclass_hinge, (Z, T), {"weight": [1, 1, 1]}, ValueError, r"weight must have shape \(4,\)"),
    (poisson_nll, (Z, -P), {}, ValueError, r"targets must be finite and at least 0, got -0.25 at position \(0, 0\)"),
    (poisson_nll, (Z, Z + INF), {}, ValueError, "targets must be finite and at least 0, got inf"),
    (poisson_nll, (Z - 1, P), {"log_input": False}, ValueError, r"rates must be at least 0, got -1.0.*logarithms"),
    (poisson_nll, (Z, P), {"log_input": 1}, TypeError, "log_input must be True or False, got 1"),
    (poisson_nll, (Z, P), {"full": None}, TypeError, "full must be True or False"),
    (poisson_nll, (Z, P[:, :1]), {}, ValueError, "must have the prediction's shape"),
    (kl_divergence, (Z, P), {"per_class": True}, ValueError, 'per_class .* belongs to reduction="none"'),
    (
        kl_divergence,
        (Z, BAD_SUM),
        {"per_class": True, "reduction": "none", "out": P.copy()},
        ValueError,
        "must sum to 1",
    ),
    (
        sigmoid_focal,
        (Z, P),
        {"weight": P[:, :2]},
        ValueError,
        r"\(4,\), one number a class, or .* \(3, 4\), one an",
    ),
    (sigmoid_focal, (Z, P), {"weight": P - 1}, ValueError, r"at least 0, got -0.75 at position \(0, 0\)"),
    (sigmoid_focal, (Z, P), {"weight": [1, 2, 3]}, ValueError, "for one number a row, use sample_weight"),
    (mean_absolute_error, (Z, P[:, :1]), {}, ValueError, r"must have the prediction's shape \(3, 4\), got \(3, 1\)"),
    (huber, (Z, P), {"delta": 0}, ValueError, "delta must be finite and above 0, got 0"),
    (huber, (Z, P), {"delta": True}, TypeError, "delta must be a number"),
    (kl_divergence, (Z, BAD_SUM), {}, ValueError, r"must sum to 1, but those at position \(2,\) sum to 1.25"),
    (kl_divergence, (Z, BAD_SUM), {"out": P.copy()}, ValueError, r"must sum to 1, but those at position \(2,\)"),
    (kl_divergence, (Z, BAD_P), {}, ValueError, r"must be in \[0, 1\], got 1.5 at position \(1, 2\)"),
    (kl_divergence, (Z, T), {}, ValueError, r"target probabilities must have the prediction's shape"),
    (nt_xent, (Z,), {}, ValueError, r"must have shape \(2N, D\).*got \(3, 4\)"),
    (nt_xent, (np.ones(4),), {}, ValueError, r"must have shape \(2N, D\).*got \(4,\)"),
    (nt_xent, (np.eye(4)[[0, 1, 2, 3]] * [[1], [1], [0], [1]],), {}, ValueError, "row 2 is all zeros"),
    (nt_xent, (np.ones((2, 2)),), {"temperature": 0}, ValueError, "temperature must be finite and above 0"),
    (self_distillation, (Z, P[:2]), {}, ValueError, "teacher_logits must have the prediction's shape"),
    (self_distillation, (Z, np.where(P == BAD_P, Z, NAN)), {}, ValueError, r"position \(1,\), where they hold NaN"),
    (self_distillation, (Z, np.where(P == BAD_P, Z, INF)), {}, ValueError, r"position \(1,\), where they hold inf"),
    (self_distillation, (Z, Z - INF), {"out": P.copy()}, ValueError, r"position \(0,\), where they hold nothing but"),
    (
        self_distillation,
        (Z, P),
        {"student_temperature": -1},
        ValueError,
        "student_temperature must be finite and above 0",
    ),
    (
        self_distillation,
        (Z, P),
        {"teacher_temperature": 0},
        ValueError,
        "teacher_temperature must be finite and above 0",
    ),
    (self_distillation, (Z, P), {"center": [0, 1]}, ValueError, r"center must have shape \(4,\)"),
    (self_distillation, (Z, P), {"center": [0, 1, NAN, 0]}, ValueError, "center must be finite, got nan at position 2"),
]


@pytest.mark.parametrize(("loss", "inputs", "options", "error", "message"), REFUSED)
def test_what_a_loss_refuses_and_says(loss, inputs, options, error, message):
    with pytest.raises(error, match=message) as caught:
        loss(*inputs, **options)
    assert str(caught.value).startswith(loss.__name__)
    if "out" in options:
        assert (options["out"] == 0.25).all()


@EVERY
def test_what_every_loss_refuses(name):
    loss = FAMILY[name][0]
    x, targets = rows_and_targets(name, 6, 3, np.float64)
    arrays = () if name == "nt_xent" else (targets,)
    frozen = x.copy()
    frozen.flags.writeable = False
    for prediction in (x.astype(int), x.astype(np.float16), x > 0, x.astype(complex), [["a"]]):
        with pytest.raises(TypeError, match=f"^{name}: .* must be float32 or float64"):
            loss(prediction, *arrays)
    with pytest.raises(ValueError, match="must not be empty"):
        loss(x[:0], *(t[:0] for t in arrays))
    with pytest.raises(ValueError, match="is not an array"):
        loss([[1.0], [1.0, 2.0]], *arrays)
    for options, error, message in (
        ({"reduction": "avg"}, ValueError, "reduction must be"),
        ({"denominator": 0}, ValueError, "denominator must be positive"),
        ({"denominator": 2, "reduction": "sum"}, ValueError, "denominator belongs to"),
        ({"out": x.copy(), "grad": False}, ValueError, "grad=False"),
        ({"out": x.tolist()}, TypeError, "must be a NumPy array"),
        ({"out": x[:2].copy()}, ValueError, "out must have the prediction's shape"),
        ({"out": x.astype(np.float32)}, TypeError, "out must have the prediction's dtype"),
        ({"out": frozen}, ValueError, "out is read-only"),
    ):
        with pytest.raises(error, match=f"^{name}: .*{message}"):
            loss(x, *arrays, **options)


def test_a_single_number_has_no_rows():
    for loss in (categorical_cross_entropy, nll, softmax_focal, multiclass_hinge, kl_divergence, self_distillation):
        with pytest.raises(ValueError, match=r"must have shape \(\.\.\., "):
            loss(np.float64(1.0), 0)
