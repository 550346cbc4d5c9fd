"""fit(sample_weight=): twice the weight is the same as twice the sample: in loss, metrics and validation."""

from functools import partial

import numpy as np
import pytest

import tinynet as tn

rng = np.random.default_rng(0)
Y = rng.integers(0, 3, 60)
X = rng.standard_normal((60, 4)) + np.eye(3, 4)[Y] * 2
S = rng.integers(0, 4, 60)
OFTEN = np.repeat(np.arange(60), S)
NUMBERS = rng.random((60, 3))


def trained(x=X, y=Y, **options):
    layers = options.pop("layers", None) or [tn.Dense(5, activation="tanh"), tn.Dense(3)]
    model = tn.Sequential(layers, np.shape(x[0] if type(x) is tuple else x)[1:], dtype="float64")
    options = {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 1000, "progress": False, **options}
    history = tn.fit(model, x, y, optimizer=tn.SGD(model, 0.3), **options)
    return model.flat_values, {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize(
    ("loss", "y", "metrics"),
    [
        ("softmax_cross_entropy", Y, ["accuracy", partial(tn.metrics.top_k_accuracy, k=2)]),
        (partial(tn.softmax_cross_entropy, weight=[1, 2, 3], ignore_index=1, label_smoothing=0.1), Y, "accuracy"),
        ("softmax_focal", Y, tn.softmax_cross_entropy),
        ("linear_cross_entropy", Y, "accuracy"),
        ("poisson_nll", np.column_stack([Y, Y, Y]), None),
        (partial(tn.sigmoid_cross_entropy, ignore_index=0), np.eye(3)[Y], tn.mean_squared_error),
        ("huber", NUMBERS, "mean_absolute_error"),
        ("kl_divergence", NUMBERS / NUMBERS.sum(axis=1, keepdims=True), None),
    ],
)
def test_twice_the_weight_is_twice_the_sample(loss, y, metrics):
    if metrics == "mean_absolute_error":
        metrics = tn.mean_absolute_error
    found = trained(y=y, loss=loss, metrics=metrics, sample_weight=S, validation=(X, y, S[::-1]))
    val = np.repeat(np.arange(60), S[::-1])
    expected = trained(X[OFTEN], y[OFTEN], loss=loss, metrics=metrics, validation=(X[val], y[val]))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-12)
    for name, values in expected[1].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-9, err_msg=name)


def test_it_is_the_five_line_loop_with_batches_of_three():
    model = tn.Sequential([tn.Dense(5, activation="tanh"), tn.Dense(3)], 4, dtype="float64")
    optimizer = tn.SGD(model, 0.3)
    for epoch in (1, 2, 3):
        for x, y, s in tn.batches(X, Y, 16, seed=(7, epoch), sample_weight=S):
            _, gradient = tn.softmax_cross_entropy(model.forward(x, training=True), y, sample_weight=s)
            model.backward(gradient)
            optimizer.step()
    np.testing.assert_array_equal(trained(batch_size=16, seed=7, sample_weight=S)[0], model.flat_values)


def test_weights_come_with_their_samples_in_every_kind_of_batch():
    x, lengths = np.arange(60.0)[:, None] + np.zeros(5), np.arange(60) % 5 + 1
    for options in ({}, {"shuffle": False}, {"similar_length": True}, {"shard": (1, 3)}):
        for (b, _), y, s in tn.batches((x, lengths), np.arange(60), 16, sample_weight=np.arange(60), **options):
            np.testing.assert_array_equal(b[:, 0], s)
            np.testing.assert_array_equal(y, s)


def test_the_mean_of_an_epoch_weighs_each_batch_by_its_weights():
    frozen = [tn.Dense(3)]
    frozen[0].trainable = False
    _, history = trained(layers=frozen, epochs=1, batch_size=7, sample_weight=S, metrics="accuracy")
    frozen = [tn.Dense(3)]
    frozen[0].trainable = False
    _, whole = trained(X[OFTEN], Y[OFTEN], layers=frozen, epochs=1, metrics="accuracy")
    assert history["loss"] == pytest.approx(whole["loss"], rel=1e-12)
    assert history["accuracy"] == pytest.approx(whole["accuracy"], rel=1e-12)


def test_the_positions_of_a_sequence_have_its_weight():
    x, lengths = rng.standard_normal((60, 5, 4)), rng.integers(0, 6, 60)
    tags = rng.integers(0, 3, (60, 5))
    layers = [tn.LSTM(4), tn.Dense(3)]
    data = (x, lengths), tags
    found = trained(*data, layers=layers, metrics="accuracy", sample_weight=S, validation=(*data, S))
    often = (x[OFTEN], lengths[OFTEN]), tags[OFTEN]
    expected = trained(*often, layers=[tn.LSTM(4), tn.Dense(3)], metrics="accuracy", validation=often)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-12)
    for name, values in expected[1].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-9, err_msg=name)


def test_a_loss_and_a_metric_of_ones_own_are_given_the_weights_of_the_rows_if_they_take_them():
    seen = []

    def loss(prediction, target, sample_weight=None):
        seen.append(sample_weight)
        return tn.softmax_cross_entropy(prediction, target, sample_weight=sample_weight)

    def weighted(prediction, target, sample_weight):
        return float(sample_weight.sum())

    def unweighted(prediction, target):
        return float(len(prediction))

    found = trained(loss=loss, sample_weight=S, metrics=[weighted, unweighted])
    np.testing.assert_array_equal(found[0], trained(sample_weight=S)[0])
    assert [len(s) for s in seen] == [60] * 3
    assert found[1]["weighted"][0] == S.sum()
    assert found[1]["unweighted"][0] == 60


def test_augment_leaves_a_sample_its_weight():
    def augment(x, rng):
        return x + 1

    np.testing.assert_allclose(
        trained(augment=augment, sample_weight=S)[0], trained(X + 1, sample_weight=S)[0], rtol=1e-9
    )


def test_a_row_of_weight_0_is_not_named_where_a_loss_breaks():
    x = np.array([[1e200], [-1e200], [1e200]])
    model = tn.Sequential([tn.Dense(1, bias=False)], 1, dtype="float64")
    model.flat_values[...] = 1
    with pytest.raises(tn.NonFiniteError, match=r"\(sample 2 of x\)") as caught, np.errstate(all="ignore"):
        tn.fit(
            model, x, np.zeros((3, 1)), loss="mean_squared_error", optimizer=tn.SGD(model, 0.1), epochs=1,
            batch_size=3, sample_weight=[0, 0, 1], progress=False,
        )  # fmt: skip
    assert len(caught.value.rows) == 1
    assert caught.value.samples == (2,)


REFUSED = [
    ({"sample_weight": -S}, ValueError, "fit: sample_weight must be finite and at least 0, got -"),
    ({"sample_weight": np.where(S > 1, np.nan, 1)}, ValueError, "finite and at least 0, got nan at position"),
    ({"sample_weight": S[:3]}, ValueError, r"must have shape \(60,\), one number a row, got \(3,\)"),
    ({"sample_weight": S[:, None]}, ValueError, r"got \(60, 1\); drop the last axis"),
    ({"sample_weight": S > 1}, TypeError, "must hold real numbers, got an array of dtype bool"),
    ({"sample_weight": 0 * S}, ValueError, "sample_weight is 0 for every sample, so none of them counts"),
    ({"sample_weight": "balanced"}, TypeError, "sample_weight must hold real numbers"),
    ({"validation": (X, Y, S[:3])}, ValueError, r"fit: validation: sample_weight must have shape \(60,\)"),
    (
        {"validation": (X, Y, S, S)},
        ValueError,
        r"a pair \(x, y\), \(x, y, sample_weight\), or .* got a tuple of 4",
    ),
    (
        {"sample_weight": S, "loss": lambda p, t: tn.softmax_cross_entropy(p, t)},
        TypeError,
        r"is called as loss\(prediction, target, sample_weight=...\), one number a row, and <lambda> has no such",
    ),
    (
        {"sample_weight": S, "loss": partial(tn.softmax_cross_entropy, sample_weight=S)},
        TypeError,
        "softmax_cross_entropy has a sample_weight already",
    ),
    (
        {"sample_weight": S, "augment": lambda x, rng: np.concatenate([x, x])},
        ValueError,
        "augment made 120 samples of 60; with sample_weight it must leave their number",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_what_can_be_no_weight_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        trained(**options)
