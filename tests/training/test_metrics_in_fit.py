"""Metrics and losses by the names that people type, which know what the outputs are; scikit-learn is the oracle."""

from functools import partial

import numpy as np
import pandas
import pytest
from sklearn import metrics as sk

import tinynet as tn
from tinynet.losses.by_name import loss_function
from tinynet.training.metrics import ELSEWHERE, NAMES, checked_metrics

rng = np.random.default_rng(0)
Y = rng.integers(0, 3, 90)
X = (rng.standard_normal((90, 4)) + np.eye(3, 4)[Y]).astype(np.float32)
YES = (Y == 1).astype(int)
S = rng.integers(0, 3, 90).astype(float)
QUESTIONS = np.stack([Y > 0, Y == 1], axis=1).astype(int)


def model_of(*layers):
    return tn.Sequential([tn.Dense(6, activation="tanh"), *layers], 4, seed=1)


def trained(model, y, loss, metrics, **options):
    options = {"epochs": 2, "batch_size": 16, "progress": False, "validation": (X, y), **options}
    return tn.fit(model, X, y, loss=loss, optimizer=tn.Adam(model, 0.01), metrics=metrics, **options)


CLASSES = ["accuracy", "top_2", "precision", "recall", "f1", "auc", "average_precision"]


@pytest.mark.parametrize("ending", [(), (tn.Softmax,)])
def test_classes_are_judged_by_the_highest_output_and_their_probabilities(ending):
    model = model_of(tn.Dense(3), *(layer() for layer in ending))
    found = trained(model, Y, "cross_entropy", CLASSES, validation=(X, Y, S))
    p = model.predict(X).astype(float)
    p = p if ending else tn.softmax(p)
    c = p.argmax(axis=1)
    expected = [
        sk.accuracy_score(Y, c, sample_weight=S),
        sk.top_k_accuracy_score(Y, p, k=2, sample_weight=S),
        *sk.precision_recall_fscore_support(Y, c, average="macro", sample_weight=S)[:3],
        np.mean([sk.roc_auc_score(k == Y, p[:, k], sample_weight=S) for k in range(3)]),
        sk.average_precision_score(np.eye(3)[Y], p, sample_weight=S),
    ]
    assert [found[f"val_{name}"][-1] for name in CLASSES] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_yes_or_no_of_one_output_or_of_two_classes_is_judged_by_yes(units, probabilities):
    ending = [tn.Sigmoid() if units == 1 else tn.Softmax()] if probabilities else []
    model, y = model_of(tn.Dense(units), *ending), YES[:, None] if units == 1 else YES
    names = ["accuracy", "precision", "recall", "f1", "auc", "average_precision"]
    found = trained(model, y, "bce" if units == 1 else "cross_entropy", names, epochs=6)
    z = model.predict(X).astype(float)
    z = z[:, 0] - (0.5 if probabilities else 0) if units == 1 else z[:, 1] - z[:, 0]
    expected = [
        sk.accuracy_score(YES, z > 0),
        *sk.precision_recall_fscore_support(YES, z > 0, average="binary")[:3],
        sk.roc_auc_score(YES, z),
        sk.average_precision_score(YES, z),
    ]
    assert [found[f"val_{name}"][-1] for name in names] == pytest.approx(expected, rel=1e-6)


def test_of_several_questions_each_is_judged_by_itself():
    model = model_of(tn.Dense(2))
    names = ["accuracy", "f1", "auc", "average_precision"]
    found = trained(model, QUESTIONS, "bce", names, epochs=6)
    z = model.predict(X)
    expected = [
        ((z > 0) == QUESTIONS).mean(),
        sk.f1_score(QUESTIONS, z > 0, average="macro"),
        sk.roc_auc_score(QUESTIONS, z),
        sk.average_precision_score(QUESTIONS, z),
    ]
    assert [found[f"val_{name}"][-1] for name in names] == pytest.approx(expected, rel=1e-6)


def test_what_the_loss_ignores_no_metric_counts():
    known = np.where(rng.random((90, 2)) < 0.7, QUESTIONS, -1)
    model = model_of(tn.Dense(2))
    loss = partial(tn.sigmoid_cross_entropy, ignore_index=-1)
    found = trained(model, known, loss, ["accuracy", "auc", "recall"])
    z, columns = model.predict(X), [known[:, k] >= 0 for k in (0, 1)]
    pairs = [(known[some, k], z[some, k]) for k, some in enumerate(columns)]
    assert found["val_accuracy"][-1] == pytest.approx(((z > 0) == known)[known >= 0].mean())
    assert found["val_auc"][-1] == pytest.approx(np.mean([sk.roc_auc_score(*pair) for pair in pairs]))
    assert found["val_recall"][-1] == pytest.approx(np.mean([sk.recall_score(t, s > 0) for t, s in pairs]))

    some = np.where(rng.random(90) < 0.7, Y, -100)
    model = model_of(tn.Dense(3))
    found = trained(model, some, "cross_entropy", ["f1", "auc"])
    kept, p = some >= 0, tn.softmax(model.predict(X).astype(float))
    assert found["val_f1"][-1] == pytest.approx(sk.f1_score(Y[kept], p[kept].argmax(axis=1), average="macro"))
    assert found["val_auc"][-1] == pytest.approx(sk.roc_auc_score(Y[kept], p[kept], multi_class="ovr"))


def test_regression_is_judged_in_its_own_terms():
    model, y = model_of(tn.Dense(2)), X[:, :2] * [1, 5]
    found = trained(model, y, "mse", ["r2", "rmse", "mae"], validation=(X, y, S))
    p = model.predict(X)
    assert found["val_r2"][-1] == pytest.approx(sk.r2_score(y, p, sample_weight=S), rel=1e-5)
    expected = sk.mean_squared_error(y, p, sample_weight=S) ** 0.5
    assert found["val_rmse"][-1] == pytest.approx(expected, rel=1e-5)
    assert found["val_mae"][-1] == pytest.approx(sk.mean_absolute_error(y, p, sample_weight=S), rel=1e-5)


def test_what_is_no_mean_is_computed_of_the_whole_epoch():
    model = model_of(tn.Dense(3))
    for layer in model.layers:
        layer.trainable = False
    names = ["f1", "accuracy", "auc", "loss of ones own", "r"]

    def own(prediction, target):
        return float(len(prediction))

    def whole(prediction, target):
        return float(len(prediction))

    whole.of_epoch, whole.better = True, "max"
    metrics = dict(zip(names, ["f1", "acc", "auc", own, whole], strict=True))
    found = trained(model, Y, "cross_entropy", metrics)
    assert list(found)[:6] == ["loss", *names]
    for name in ("f1", "accuracy", "auc"):
        assert found[name] == pytest.approx(found[f"val_{name}"], rel=1e-6)
    assert found["loss of ones own"][0] == pytest.approx((5 * 16 * 16 + 10 * 10) / 90)
    assert found["r"] == [90.0, 90.0]


def test_an_epoch_without_a_value_is_nan_and_says_so():
    """Of targets that augment makes, nothing is known before."""
    model = model_of(tn.Dense(3))
    with pytest.warns(UserWarning, match="fit: 'auc' of epoch 1 is NaN: auroc: there are no negatives of class 0"):
        found = trained(model, Y, "cross_entropy", "auc", augment=lambda x, y, rng: (x, 0 * y), epochs=1)
    assert np.isnan(found["auc"][0])
    assert found["val_auc"][0] > 0


def test_a_metric_that_has_no_value_is_refused_before_anything_is_trained():
    model = model_of(tn.Dense(3))
    before = model.flat_values.copy()
    with pytest.raises(ValueError, match="there is no 'auc' of the targets: auroc: there are no negatives of class 0"):
        trained(model, 0 * Y, "cross_entropy", "auc")
    with pytest.raises(ValueError, match=r"fit: there is no 'auc' of validation's targets: .* no negatives of class 0"):
        trained(model, Y, "cross_entropy", "auc", validation=(X[Y == 0], Y[Y == 0]))
    with pytest.raises(ValueError, match="fit: there is no 'r2' of the targets: r2: all targets are the same"):
        trained(model, np.zeros((90, 3)), "mse", "r2")
    with pytest.raises(
        ValueError, match="'f1' is of all logits of an epoch, and linear_cross_entropy never stores them"
    ):
        trained(model, Y, "linear_cross_entropy", "f1")
    np.testing.assert_array_equal(model.flat_values, before)


def test_callbacks_know_which_way_is_better():
    for name, way in {"f1": "max", "rmse": "min", "mae": "min", "auc": "max"}.items():
        model = model_of(tn.Dense(3))
        stopping = tn.EarlyStopping(f"val_{name}", patience=99)
        y = Y if name in ("f1", "auc") else np.eye(3)[Y]
        found = trained(model, y, "mse" if y is not Y else "cross_entropy", name, callbacks=stopping, epochs=3)
        assert stopping.best == (max if way == "max" else min)(found[f"val_{name}"])


def test_every_name_of_a_metric_and_of_elsewhere_is_known():
    model = model_of(tn.Dense(3))
    for name in [*NAMES, *ELSEWHERE, "top_3", "Top-2 accuracy", "MSE", "F1-score", "mae", "kl_div", "crossentropy"]:
        (metric,) = checked_metrics(name, tn.softmax_cross_entropy, model).values()
        assert metric.ours
        assert metric.better in ("min", "max")
    assert NAMES.keys().isdisjoint(ELSEWHERE)


@pytest.mark.parametrize(
    ("names", "logits", "probabilities"),
    [
        ("bce BCE binary_crossentropy BCELoss", tn.sigmoid_cross_entropy, tn.binary_cross_entropy),
        (
            "cross_entropy CE CrossEntropyLoss log_loss categorical_crossentropy sparse_categorical_crossentropy",
            tn.softmax_cross_entropy,
            tn.categorical_cross_entropy,
        ),
        ("mse MSELoss mean_squared_error l2", tn.mean_squared_error, tn.mean_squared_error),
        ("mae l1 L1Loss", tn.mean_absolute_error, tn.mean_absolute_error),
    ],
)
def test_a_loss_goes_by_the_names_that_others_have_and_the_last_layer_tells_which_it_is(names, logits, probabilities):
    for name in names.split():
        assert loss_function(name, "fit", model=model_of(tn.Dense(3))) is logits
        assert loss_function(name, "fit", model=model_of(tn.Dense(3), tn.Softmax())) is probabilities


# --- evaluate -----------------------------------------------------------------------------------------------


def test_evaluate_is_what_fit_says_of_its_validation_set():
    model = model_of(tn.Dense(3))
    names = ["accuracy", "f1", "auc"]
    found = trained(model, Y, "cross_entropy", names, validation=(X, Y, S), epochs=1)
    result = tn.evaluate(model, X, Y, loss="cross_entropy", metrics=names, sample_weight=S)
    assert result == {name: found[f"val_{name}"][-1] for name in ["loss", *names]}
    assert tn.evaluate(model, X, Y, metrics="f1", sample_weight=S) == {"f1": result["f1"]}
    assert tn.evaluate(model, X, Y, loss="linear_cross_entropy", sample_weight=S) == {"loss": result["loss"]}


def test_evaluate_takes_one_unit_for_a_yes_or_no_and_sequences_by_their_positions():
    model = model_of(tn.Dense(1))
    assert tn.evaluate(model, X, YES, metrics="acc") == {"acc": ((model.predict(X)[:, 0] > 0) == YES).mean()}
    x, lengths, tags = rng.standard_normal((5, 6, 4)), np.array([1, 6, 3, 0, 2]), rng.integers(0, 3, (5, 6))
    tagger = tn.Sequential([tn.Dense(3)], (6, 4))
    found = tn.evaluate(tagger, (x, lengths), tags, loss="cross_entropy", metrics=["accuracy", "f1"])
    counts = np.arange(6) < lengths[:, None]
    z, t = tagger.predict(x)[counts], tags[counts]
    expected = [tn.softmax_cross_entropy(z, t)[0], tn.accuracy(z, t), sk.f1_score(t, z.argmax(1), average="macro")]
    assert list(found.values()) == pytest.approx(expected)


@pytest.mark.parametrize(("units", "loss"), [(3, "cross_entropy"), (1, "bce"), (2, "bce"), (1, "mse")])
def test_of_sequences_and_images_each_position_is_a_row(units, loss):
    model = tn.Sequential([tn.Dense(units)], (5, 6, 4))
    x, s = rng.standard_normal((7, 5, 6, 4)), rng.integers(0, 3, 7)
    targets = rng.integers(0, 3, (7, 5, 6)) if loss == "cross_entropy" else rng.integers(0, 2, (7, 5, 6, units))
    names = ["r2", "rmse"] if loss == "mse" else ["precision", "f1", "auc", "average_precision"]
    z, t = model.predict(x).reshape(-1, units), targets.reshape(-1, *targets.shape[3:])
    z = tn.softmax(z) if units == 3 else z
    for weights in (None, s):
        found = tn.evaluate(model, x, targets, loss=loss, metrics=names, sample_weight=weights)
        w = None if weights is None else np.repeat(weights, 30)
        if loss == "mse":
            expected = [sk.r2_score(t, z, sample_weight=w), sk.root_mean_squared_error(t, z, sample_weight=w)]
        else:
            one_hot = np.eye(3)[t] if units == 3 else t
            said, average = (z.argmax(1) if units == 3 else z > 0), "binary" if units == 1 else "macro"
            expected = [
                sk.precision_score(t, said, average=average, sample_weight=w),
                sk.f1_score(t, said, average=average, sample_weight=w),
                sk.roc_auc_score(one_hot, z, sample_weight=w),
                sk.average_precision_score(one_hot, z, sample_weight=w),
            ]
        assert [found[name] for name in names] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, Y), {}, ValueError, "evaluate: give a loss, metrics, or both"),
        ((X, Y[:3]), {"metrics": "f1"}, ValueError, "evaluate: it has 90 samples and 3 targets"),
        ((X[:, :2], Y), {"metrics": "f1"}, ValueError, r"evaluate: the model takes samples \(4,\), these are \(2,\)"),
        (
            (X, 0 * Y),
            {"metrics": "auc"},
            ValueError,
            "evaluate: there is no 'auc' of these targets: auroc: there are no",
        ),
        ((X, Y), {"metrics": "kappa"}, ValueError, "evaluate: there is no metric 'kappa'"),
        ((X, Y), {"loss": "bce_loss_2"}, ValueError, "evaluate: there is no loss"),
        ((X, Y), {"loss": "binary_cross_entropy"}, ValueError, "evaluate: binary_cross_entropy expects probabilities"),
        ((X, Y), {"metrics": "f1", "sample_weight": -S - 1}, ValueError, "evaluate: sample_weight must be finite and"),
        (
            (X, Y),
            {"loss": lambda p, t: (0.0, p), "sample_weight": S},
            TypeError,
            "evaluate: with sample_weight the loss is called as",
        ),
        ((X, Y), {"metrics": "f1", "batch_size": 0}, ValueError, "evaluate: batch_size must be at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        tn.evaluate(model_of(tn.Dense(3)), *arguments, **options)
    with pytest.raises(TypeError, match=r"evaluate: model must be a tinynet.Sequential"):
        tn.evaluate(None, *arguments, **options)


@pytest.mark.parametrize("loss", ["bce", "sigmoid_focal", "hinge", "mse", "mae", "huber", "poisson_nll"])
def test_targets_of_one_output_may_lack_its_axis(loss):
    def run(y, y_validation):
        model, order = model_of(tn.Dense(1)), np.arange(90) % 4 == 0
        metrics = ["mae", "auc", tn.metrics.f1, "r2"][: 4 if loss in ("bce", "hinge") else 1]
        history = trained(model, y, loss, metrics, validation=(X[order], y_validation[order]))
        del history["seconds"]
        judged = tn.evaluate(model, X, y, loss=loss, metrics=metrics)
        slopes = tn.gradients(model, X[:9], y[:9], loss)
        first = tn.explain(model, X[:9], y[:9], loss).rows
        return dict(history), judged, slopes.value, slopes.dx.tolist(), [row.gradient_norm for row in first]

    expected = run(YES[:, None], YES[:, None])
    assert run(YES, pandas.Series(YES)) == expected
    assert run(YES.tolist(), YES) == expected


def test_targets_of_one_output_may_lack_its_axis_in_batches_made_elsewhere_and_at_each_position():
    def history(y):
        model = model_of(tn.Dense(1))
        return tn.fit(
            model, [(X, y), (X[:20], y[:20])], loss="bce", optimizer=tn.Adam(model, 0.01), epochs=2, progress=False,
            validation=[(X, y)], metrics="accuracy",
        )  # fmt: skip

    ours, with_axis = history(YES), history(YES[:, None])
    assert [ours[name] for name in ("val_loss", "accuracy")] == [with_axis[name] for name in ("val_loss", "accuracy")]
    model = tn.Sequential([tn.GRU(3), tn.Dense(1)], (5, 2), seed=0)
    x, y = rng.standard_normal((8, 5, 2)).astype(np.float32), rng.integers(0, 2, (8, 5))
    lengths = np.array([5, 3, 1, 2, 4, 5, 5, 2])
    found = [tn.evaluate(model, (x, lengths), t, loss="bce", metrics="f1") for t in (y, y[..., None])]
    assert found[0] == found[1]


def test_targets_that_lack_an_axis_of_several_outputs_are_refused():
    model = model_of(tn.Dense(2))
    with pytest.raises(ValueError, match=r"targets must have the prediction's shape \(16, 2\), got \(16,\)"):
        trained(model, YES, "mse", None)
