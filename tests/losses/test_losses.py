"""The losses against PyTorch and the plain NumPy reference, over many random configurations; and by hand."""

import math

import numpy as np
import pytest
import reference

from tinynet.losses import softmax_cross_entropy as module
from tinynet.losses.mean_squared_error import mean_squared_error
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy

LEADING = [(), (1,), (5,), (67,), (2, 3), (4, 1, 9)]
CLASSES = [1, 2, 3, 7, 10, 16, 31, 32, 33, 50, 100, 128, 129, 257, 1024, 1025, 2050]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


def softmax_configuration(seed):
    """Logits in float64, targets and options, drawn at random."""
    rng = np.random.default_rng(seed)
    C = int(rng.choice(CLASSES))
    leading = LEADING[rng.integers(len(LEADING))] if C < 300 else (3,)
    z = rng.standard_normal((*leading, C)) * rng.choice([0.1, 3.0, 30.0])
    options = {"reduction": str(rng.choice(["mean", "sum", "none"]))}
    if rng.random() < 0.5:
        options["weight"] = rng.uniform(0, 3, C)
    if rng.random() < 0.5:
        options["label_smoothing"] = float(rng.uniform(0, 1))
    if rng.random() < 0.3:
        targets = rng.dirichlet(np.ones(C), leading)
    else:
        targets = rng.integers(0, C, leading)
        if rng.random() < 0.5:
            options["ignore_index"] = int(rng.choice([-100, -1, 0, C - 1]))
            targets = np.where(rng.random(leading) < 0.3, options["ignore_index"], targets)
            if targets.ndim and not (targets != options["ignore_index"]).any():
                options["reduction"] = "sum"  # PyTorch's mean over nothing is NaN
    return z, targets, options


def with_torch(function, z, targets, options):
    """Value and gradient of PyTorch's loss; the classes' axis is its second one where there are several."""
    torch = pytest.importorskip("torch")
    z = torch.tensor(z, requires_grad=True)
    kwargs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    value = function(z, torch.tensor(targets), **kwargs)
    value.sum().backward()
    return value.detach().numpy(), z.grad.numpy()


def torch_cross_entropy(z, targets, **options):
    functional = pytest.importorskip("torch").nn.functional
    soft, leading = targets.is_floating_point(), z.shape[:-1]
    rows = targets.reshape(-1, z.shape[-1]) if soft else targets.reshape(-1)
    if soft:
        options.pop("ignore_index", None)
    value = functional.cross_entropy(z.reshape(-1, z.shape[-1]), rows, **options)
    return value.reshape(leading) if options.get("reduction") == "none" else value


@pytest.mark.parametrize("block", range(12))
def test_softmax_agrees_with_torch_in_float64_over_600_configurations(block):
    for seed in range(50 * block, 50 * block + 50):
        z, targets, options = softmax_configuration(seed)
        if options["reduction"] == "mean" and targets.dtype.kind == "i" and targets.ndim == 0:
            options["reduction"] = "sum"  # a single label may be the ignored one
        value, gradient = softmax_cross_entropy(z, targets, **options)
        expected, expected_gradient = with_torch(torch_cross_entropy, z, targets, options)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}")
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}")


def test_softmax_agrees_with_the_reference_and_in_float32():
    for seed in range(1000, 1150):
        z, targets, options = softmax_configuration(seed)
        rows = targets.reshape((-1, z.shape[-1]) if targets.dtype.kind == "f" else -1)
        z = z.astype(np.float32)
        expected, expected_gradient = reference.softmax_cross_entropy(z.reshape(-1, z.shape[-1]), rows, **options)
        for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 2e-5)):
            value, gradient = softmax_cross_entropy(z.astype(dtype), targets, **options)
            assert gradient.dtype == dtype
            assert gradient.shape == z.shape
            np.testing.assert_allclose(np.ravel(value), np.ravel(expected), rtol=tolerance, atol=tolerance)
            bound = tolerance * max(1, np.abs(expected_gradient).max())
            np.testing.assert_allclose(gradient.reshape(expected_gradient.shape), expected_gradient, atol=bound, rtol=0)


@pytest.mark.parametrize("C", [2, 10, 33, 1000, 50257, 200_000])
def test_softmax_in_float32_is_within_2e_6_of_float64(C):
    rng = np.random.default_rng(C)
    for scale in (0.01, 1.0, 10.0):
        z = (rng.standard_normal((4, C)) * scale).astype(np.float32)
        targets = np.array([0, C - 1, C // 2, int(z[3].argmax())])
        losses, gradient = softmax_cross_entropy(z, targets, reduction="none")
        exact, exact_gradient = softmax_cross_entropy(z.astype(np.float64), targets, reduction="none")
        np.testing.assert_allclose(losses, exact, rtol=2e-6)
        largest = np.abs(exact_gradient).max(axis=-1, keepdims=True)
        assert (np.abs(gradient - exact_gradient) <= 2e-6 * largest).all()
        q = np.full((4, C), 1 / C, np.float32)
        for options in ({"label_smoothing": 0.1, "targets": targets}, {"targets": q}):
            value, _ = softmax_cross_entropy(z, **options)
            exact_value, _ = softmax_cross_entropy(z.astype(np.float64), **options)
            assert value == pytest.approx(exact_value, rel=2e-6)


def test_the_losses_of_confident_rows_keep_their_digits():
    for C in (2, 40, 3000):
        z = np.full((1, C), -20, np.float32)
        z[0, 1] = 0
        value, gradient = softmax_cross_entropy(z, [1])
        others = (C - 1) * math.exp(-20)
        assert value == pytest.approx(math.log1p(others), rel=1e-6)  # about 2e-9 for two classes
        assert gradient[0, 1] == pytest.approx(-others / (1 + others), rel=1e-6)


def test_values_that_can_be_checked_on_paper():
    value, gradient = softmax_cross_entropy(np.log([[0.8, 0.2]]), [0])
    assert value == pytest.approx(0.2231, abs=5e-5)  # -ln 0.8
    np.testing.assert_allclose(gradient, [[-0.2, 0.2]])
    assert softmax_cross_entropy(np.log([[0.8, 0.2]]), [1])[0] == pytest.approx(1.6094, abs=5e-5)  # -ln 0.2
    P = [[0.7, 0.2, 0.1]]
    assert softmax_cross_entropy(np.log(P), P)[0] == pytest.approx(0.8018, abs=5e-5)  # H(P), in nats
    assert softmax_cross_entropy(np.zeros((1, 10)), [3])[0] == pytest.approx(math.log(10))
    value, gradient = sigmoid_cross_entropy([0.0], [1])
    assert value == pytest.approx(math.log(2))
    np.testing.assert_allclose(gradient, [-0.5])
    value, gradient = mean_squared_error([1.0, 2.0], [3.0, 2.0])
    assert value == 2.0
    np.testing.assert_array_equal(gradient, [-2.0, 0.0])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_any_integer_type(dtype):
    z = np.random.default_rng(0).standard_normal((9, 7))
    targets = np.arange(9) % 7
    expected, _ = softmax_cross_entropy(z, targets, ignore_index=3)
    value, _ = softmax_cross_entropy(z, targets.astype(dtype), ignore_index=3)
    assert value == expected
    ignored = np.where(targets == 3, np.iinfo(dtype).max, targets.astype(dtype)).astype(dtype)
    if dtype != np.uint64:
        assert softmax_cross_entropy(z, ignored, ignore_index=int(np.iinfo(dtype).max))[0] == expected


def test_the_gradient_is_that_of_the_value():
    rng = np.random.default_rng(0)
    w = rng.uniform(0.5, 2, 6)
    t = rng.integers(0, 6, 4)
    t[1] = -100
    q = rng.dirichlet(np.ones(6), 4)
    yes_or_no = rng.integers(0, 2, (4, 6))
    for loss in (
        lambda z: softmax_cross_entropy(z, t, weight=w, label_smoothing=0.2),
        lambda z: softmax_cross_entropy(z, q, weight=w, label_smoothing=0.2, reduction="sum"),
        lambda z: sigmoid_cross_entropy(z, yes_or_no, weight=w, pos_weight=w[::-1], label_smoothing=0.2),
        lambda z: mean_squared_error(z, q),
    ):
        z, h = rng.standard_normal((4, 6)), 1e-5
        _, gradient = loss(z)
        for i in np.ndindex(z.shape):
            up, down = z.copy(), z.copy()
            up[i] += h
            down[i] -= h
            assert gradient[i] == pytest.approx((loss(up)[0] - loss(down)[0]) / (2 * h), abs=1e-8)


def torch_sigmoid(z, targets, ignore_index=None, label_smoothing=0.0, reduction="mean", **options):
    functional = pytest.importorskip("torch").nn.functional
    q = (1 - label_smoothing) * targets + label_smoothing / 2
    losses = functional.binary_cross_entropy_with_logits(z, q, reduction="none", **options)
    if ignore_index is not None:
        losses = losses * (targets != ignore_index)
    if reduction == "none":
        return losses
    count = losses.numel() if ignore_index is None else int((targets != ignore_index).sum())
    return losses.sum() / (max(count, 1) if reduction == "mean" else 1)


@pytest.mark.parametrize("block", range(5))
def test_sigmoid_agrees_with_torch_and_the_reference_over_250_configurations(block):
    for seed in range(50 * block, 50 * block + 50):
        rng = np.random.default_rng(seed)
        C = int(rng.choice([1, 2, 5, 10, 100, 300, 1023, 1500]))
        shape = (*LEADING[rng.integers(len(LEADING))], C)
        z = rng.standard_normal(shape) * rng.choice([0.1, 3.0, 30.0])
        t = rng.integers(0, 2, shape).astype(float) if rng.random() < 0.5 else rng.random(shape)
        options = {"reduction": str(rng.choice(["mean", "sum", "none"]))}
        if rng.random() < 0.5:
            options["weight"] = rng.uniform(0, 3, C)
        if rng.random() < 0.5:
            options["pos_weight"] = rng.uniform(0, 3, C)
        if rng.random() < 0.5:
            options["label_smoothing"] = float(rng.uniform(0, 1))
        if rng.random() < 0.5:
            options["ignore_index"] = -1
            t = np.where(rng.random(shape) < 0.3, -1, t)
        value, gradient = sigmoid_cross_entropy(z, t, **options)
        for expected, expected_gradient in (
            with_torch(torch_sigmoid, z, t, options),
            reference.sigmoid_cross_entropy(z, t, **options),
        ):
            np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}")
            np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}")
        value, gradient = sigmoid_cross_entropy(z.astype(np.float32), t, **options)
        np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=2e-5, atol=2e-5)


def test_sigmoid_weights_may_be_one_number():
    z, t = np.array([[0.3, -2.0], [1.5, 0.2]]), np.array([[1, 0], [0, 1]])
    assert sigmoid_cross_entropy(z, t, weight=2, pos_weight=3.0)[0] == pytest.approx(
        sigmoid_cross_entropy(z, t, weight=[2, 2], pos_weight=[3, 3])[0]
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mean_squared_error_agrees_with_torch(reduction):
    functional = pytest.importorskip("torch").nn.functional
    rng = np.random.default_rng(0)
    for shape in [(), (1,), (7, 3), (1024,), (5, 1025), (300, 301)]:
        y, t = rng.standard_normal(shape), rng.standard_normal(shape)
        value, gradient = mean_squared_error(y, t, reduction=reduction)
        expected, expected_gradient = with_torch(functional.mse_loss, y, t, {"reduction": reduction})
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-12)
        np.testing.assert_allclose(value, reference.mean_squared_error(y, t, reduction=reduction)[0], rtol=1e-12)


def test_the_separate_way_through_softmax_its_jacobian_and_the_logarithm_is_the_fused_one():
    rng = np.random.default_rng(0)
    z, q, ones = rng.standard_normal((20, 7)), rng.dirichlet(np.ones(7), 20), np.ones(7)
    for targets, rows in ((rng.integers(0, 7, 20), None), (q, q)):
        rows = np.eye(7)[targets] if rows is None else rows
        apart = module.softmax_then_cross_entropy_plain(z, rows)
        for losses, dz in (
            module.softmax_cross_entropy_plain(z, rows, ones, 0.0),
            softmax_cross_entropy(z, targets, reduction="none"),
        ):
            np.testing.assert_allclose(losses, apart[0], rtol=1e-12)
            np.testing.assert_allclose(dz, apart[1], atol=1e-14)
