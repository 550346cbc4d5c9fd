"""Every loss takes a prediction for each position, (N, T, V), as it takes as many rows (N T, V)."""

import numpy as np
import pytest

import tinynet as tn

N, T, V = 3, 5, 4
rng = np.random.default_rng(0)
Z, LABELS = rng.standard_normal((N, T, V)), rng.integers(0, V, (N, T))
P, SOFT = (np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in (Z, rng.standard_normal((N, T, V))))
SOME = np.where(rng.random((N, T)) < 0.4, -100, LABELS)
BINARY = rng.integers(0, 2, (N, T, V)).astype(float)

CASES = {
    "softmax_cross_entropy": (tn.softmax_cross_entropy, Z, SOME),
    "softmax_cross_entropy, probabilities": (tn.softmax_cross_entropy, Z, SOFT),
    "softmax_focal": (tn.softmax_focal, Z, SOME),
    "softmax_focal, probabilities": (tn.softmax_focal, Z, SOFT),
    "nll": (tn.nll, np.log(P), LABELS),
    "categorical_cross_entropy": (tn.categorical_cross_entropy, P, LABELS),
    "multiclass_hinge": (tn.multiclass_hinge, Z, SOME),
    "kl_divergence": (tn.kl_divergence, Z, SOFT),
    "sigmoid_cross_entropy": (tn.sigmoid_cross_entropy, Z, BINARY),
    "sigmoid_focal": (tn.sigmoid_focal, Z, BINARY),
    "binary_cross_entropy": (tn.binary_cross_entropy, P, BINARY),
    "hinge": (tn.hinge, Z, 2 * BINARY - 1),
    "mean_squared_error": (tn.mean_squared_error, Z, SOFT),
    "mean_absolute_error": (tn.mean_absolute_error, Z, SOFT),
    "huber": (tn.huber, Z, SOFT),
    "poisson_nll": (tn.poisson_nll, Z, SOFT),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loss_over_tokens_is_that_of_as_many_rows(case, reduction, dtype):
    loss, prediction, targets = CASES[case]
    prediction, of_labels = prediction.astype(dtype), targets.ndim == 2
    targets = targets if of_labels else targets.astype(dtype)
    value, gradient = loss(prediction, targets, reduction=reduction)
    rows = targets.ravel() if of_labels else targets.reshape(-1, V)
    its, its_gradient = loss(prediction.reshape(-1, V), rows, reduction=reduction)
    assert gradient.shape == prediction.shape
    np.testing.assert_array_equal(gradient.reshape(-1, V), its_gradient)
    np.testing.assert_array_equal(np.ravel(value), np.ravel(its))
    if reduction == "none":
        assert value.shape in ((N, T), (N, T, V))


def test_linear_cross_entropy_takes_tokens_too():
    x, w, b = rng.standard_normal((N, T, 6)), rng.standard_normal((6, V)), rng.standard_normal(V)
    found = tn.linear_cross_entropy(x, w, b, SOME)
    expected = tn.linear_cross_entropy(x.reshape(-1, 6), w, b, SOME.ravel())
    assert found[1].shape == x.shape
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.ravel(a), np.ravel(e))


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][2].ndim == 2])
def test_labels_of_another_shape_are_refused(case):
    loss, prediction, targets = CASES[case]
    for labels in (targets[:, 0], targets[:, :4], targets.T):
        with pytest.raises(ValueError, match=rf"must have shape \({N}, {T}\), got"):
            loss(prediction, labels)
