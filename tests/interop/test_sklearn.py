"""The estimators: held to all that scikit-learn checks of its own, and tried in what it has around them."""

import pickle
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, make_classification, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import tinynet as tn
from tinynet.interop.sklearn import Classifier, Regressor

pytestmark = pytest.mark.usefixtures("one_thread")

X, Y = make_classification(300, 8, n_informative=5, n_classes=3, class_sep=2.0, random_state=0)
WORDS = np.array(["few", "many", "none"])[Y]
XR, YR = make_regression(200, 4, noise=0.1, random_state=0)
YR = YR / YR.std()


def layers():
    """Hidden layers of one's own, which can be pickled by their name."""
    return [tn.Dense(32), tn.BatchNorm(), tn.ReLU(), tn.Dropout(0.1)]


@pytest.mark.parametrize("estimator", [Classifier(), Regressor()], ids=["Classifier", "Regressor"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_scikit_learn_finds_no_fault(estimator):
    results = check_estimator(estimator, on_skip=None)
    assert len(results) > 50
    assert {result["status"] for result in results if "array_api" not in result["check_name"]} == {"passed"}


# --- what is trained ------------------------------------------------------------------------------------------


def test_it_is_the_network_that_fit_trains():
    estimator = Classifier((16,), epochs=3, batch_size=50, lr=0.01, weight_decay=0.1, optimizer="adamw", random_state=5)
    estimator.fit(X, Y)
    seed = estimator.model_.seed
    model = tn.Sequential([tn.Dense(16, activation="relu"), tn.Dense(3)], 8, seed, "float64")
    history = tn.fit(
        model, X, Y, loss="softmax_cross_entropy", optimizer=tn.AdamW(model, 0.01, weight_decay=0.1), epochs=3,
        batch_size=50, seed=seed, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(estimator.model_.flat_values, model.flat_values)
    assert estimator.loss_curve_ == history["loss"]
    assert estimator.n_iter_ == 3
    np.testing.assert_array_equal(estimator.predict_proba(X), tn.softmax(model.predict(X)))


def test_labels_may_be_texts_and_tables_have_names():
    table = pd.DataFrame(X, columns=[f"column {i}" for i in range(8)])
    estimator = Classifier(epochs=40, random_state=0).fit(table, WORDS)
    assert estimator.classes_.tolist() == ["few", "many", "none"]
    assert estimator.feature_names_in_.tolist() == list(table.columns)
    found, probabilities = estimator.predict(table), estimator.predict_proba(table)
    assert set(found) == {"few", "many", "none"}
    np.testing.assert_array_equal(estimator.classes_[probabilities.argmax(axis=1)], found)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert estimator.score(table, WORDS) == (found == WORDS).mean() > 0.9


def test_hidden_layers_may_be_any_and_are_new_in_every_fit():
    estimator = Classifier(layers, epochs=20, lr=0.01, random_state=0)
    models = [estimator.fit(X, Y).model_ for _ in range(2)]
    assert [type(layer).__name__ for layer in models[0].layers] == ["Dense", "BatchNorm", "ReLU", "Dropout", "Dense"]
    np.testing.assert_array_equal(models[0].flat_values, models[1].flat_values)
    assert models[0] is not models[1]
    assert estimator.score(X, Y) > 0.9
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(X), estimator.predict_proba(X))


@pytest.mark.parametrize(
    ("given", "dtype", "model"),
    [
        ("float32", None, "float32"),
        ("float64", None, "float64"),
        ("int64", None, "float64"),
        ("float64", "float32", "float32"),
    ],
)
def test_the_network_is_of_the_tables_precision_or_of_the_one_asked_for(given, dtype, model):
    estimator = Regressor((4,), epochs=1, dtype=dtype).fit(XR.astype(given), YR)
    assert estimator.model_.dtype == model
    assert estimator.predict(XR.astype("float32")).dtype == model


def test_early_stopping_keeps_some_of_each_class_back_and_returns_the_best():
    rare = np.where(np.arange(300) % 30 == 0, "rare", "often")
    noise = np.random.default_rng(0).standard_normal((300, 20))
    estimator = Classifier((64,), epochs=200, lr=0.02, early_stopping=True, patience=4, random_state=0).fit(noise, rare)
    losses = estimator.validation_loss_curve_
    assert len(losses) == len(estimator.loss_curve_) == estimator.n_iter_ == np.argmin(losses) + 1 + 4
    again = clone(estimator).fit(noise, rare)
    assert again.validation_loss_curve_ == losses
    weighted = clone(estimator).fit(noise, rare, np.ones(300))
    np.testing.assert_allclose(weighted.validation_loss_curve_, losses)


def test_a_weight_of_two_is_a_sample_twice_and_weights_of_classes_multiply_it():
    weight = np.arange(300) % 3
    options = {"hidden": (6,), "epochs": 5, "batch_size": 1000, "random_state": 0}
    weighted = Classifier(**options).fit(X, Y, weight)
    twice = Classifier(**options).fit(X.repeat(weight, axis=0), Y.repeat(weight))
    np.testing.assert_allclose(weighted.model_.flat_values, twice.model_.flat_values, rtol=1e-7, atol=1e-10)
    by_class = Classifier(**options, class_weight={"few": 2, "many": 1, "none": 0.5}).fit(X, WORDS, weight)
    alike = Classifier(**options).fit(X, Y, weight * np.array([2, 1, 0.5])[Y])
    np.testing.assert_array_equal(by_class.model_.flat_values, alike.model_.flat_values)
    weights = tn.balanced_class_weights(Y)[Y]
    balanced, alike = (Classifier(**options, class_weight=c) for c in ("balanced", None))
    balanced.fit(X, Y)
    alike.fit(X, Y, weights)
    np.testing.assert_allclose(balanced.model_.flat_values, alike.model_.flat_values, rtol=1e-7, atol=1e-10)


def test_parts_and_warm_starts_go_on_from_where_it_was():
    parts = Classifier(random_state=0)
    with pytest.raises(ValueError, match="must be given all classes"):
        parts.partial_fit(X[:100], Y[:100])
    for _ in range(30):
        for some in np.array_split(np.argsort(Y, kind="stable"), 3):  # one class after another
            parts.partial_fit(X[some], WORDS[some], classes=["none", "many", "few"])
    assert parts.n_iter_ == len(parts.loss_curve_) == 90
    assert parts.classes_.tolist() == ["few", "many", "none"]
    with pytest.raises(ValueError, match=r"labels \['some'\] that were none of the classes"):
        parts.partial_fit(X[:2], ["some", "few"])
    with pytest.raises(ValueError, match="classes were"):
        parts.partial_fit(X[:2], ["few", "few"], classes=["few", "many"])

    warm = Classifier(warm_start=True, epochs=5, random_state=0)
    first = warm.fit(X, Y).model_
    before = warm.loss_curve_.copy()
    assert warm.fit(X, Y).model_ is first
    assert warm.loss_curve_[:5] == before
    assert warm.n_iter_ == 10
    assert warm.loss_curve_[-1] < before[-1]
    with pytest.raises(ValueError, match="none of the classes"):
        warm.fit(X, Y + 1)

    numbers = Regressor(random_state=0, lr=0.01)
    for _ in range(60):
        numbers.partial_fit(XR, YR)
    assert numbers.score(XR, YR) > 0.95
    with pytest.raises(ValueError, match="y had 1 outputs when training began, and has 2 here"):
        numbers.partial_fit(XR, np.stack([YR, YR], axis=1))


def test_where_training_breaks_it_is_what_it_was_before():
    broken = Regressor(optimizer="sgd", lr=1e30, epochs=3, random_state=0)
    with pytest.raises(tn.NonFiniteError):
        broken.fit(XR, YR)
    with pytest.raises(NotFittedError):
        broken.predict(XR)

    trained = Regressor(epochs=3, random_state=0).fit(XR, YR)
    before, model = trained.predict(XR), trained.model_
    trained.set_params(optimizer="sgd", lr=1e30)
    with pytest.raises(tn.NonFiniteError):
        trained.fit(XR, YR)
    assert trained.model_ is model
    with pytest.raises(tn.NonFiniteError):
        trained.partial_fit(XR, np.where(np.arange(200) == 199, 1e300, YR))
    np.testing.assert_array_equal(trained.predict(XR), before)
    trained.partial_fit(XR, YR)  # its optimizer is the old one, and steps the network that was restored
    assert not np.array_equal(trained.predict(XR), before)
    assert trained.n_iter_ == 4


def test_one_number_or_several_are_predicted_as_they_were_given():
    both = np.stack([YR, -YR], axis=1)
    one, two = (Regressor(epochs=60, lr=0.01, loss="huber", random_state=0).fit(XR, y) for y in (YR, both))
    assert one.predict(XR).shape == (200,)
    assert two.predict(XR).shape == (200, 2)
    assert min(one.score(XR, YR), two.score(XR, both)) > 0.95


def test_a_regression_begins_at_the_mean_of_the_targets():
    given, y = load_diabetes(return_X_y=True)
    X, y, weight = StandardScaler().fit_transform(given), np.stack([y, 1000 - y], axis=1), np.arange(len(y)) % 3
    for loss, begins in ((None, True), ("mae", True), ("huber", True), ("poisson_nll", False)):
        model = Regressor(hidden=(), lr=1e-9, epochs=1, loss=loss).fit(X, y, weight)
        expected = np.average(y, axis=0, weights=weight) if begins else [0, 0]
        np.testing.assert_allclose(model.model_.layers[-1].parameters[1].value, expected, rtol=1e-5, atol=1e-5)
    scores = cross_val_score(Regressor(hidden=(32,), random_state=0), X, y[:, 0], cv=3)
    assert min(scores) > 0.2  # from 0, not even the mean is reached: below -1


def test_optimizers_are_given_by_name_or_as_functions():
    for optimizer in ("adam", "adamw", "rmsprop", "sgd", tn.AdamW):
        estimator = Classifier((4,), epochs=2, optimizer=optimizer, lr=0.05, random_state=0).fit(X, Y)
        assert estimator.loss_curve_[1] < estimator.loss_curve_[0]


def test_scores_of_a_margin_are_no_probabilities():
    estimator = Classifier(loss="multiclass_hinge", epochs=30, random_state=0).fit(X, Y)
    assert estimator.score(X, Y) > 0.9
    assert not hasattr(estimator, "predict_proba")
    for loss in (tn.multiclass_hinge, partial(tn.multiclass_hinge, p=2), "multi_margin"):
        assert not hasattr(Classifier(loss=loss), "predict_proba")
    assert hasattr(Classifier(loss="softmax_focal"), "predict_proba")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden": 64}, TypeError, r"hidden must be a tuple of widths, \(64, 32\), or a function, got 64"),
        ({"hidden": (0,)}, ValueError, "Dense: units must be at least 1, got 0"),
        ({"optimizer": "lbfgs"}, ValueError, "optimizer must be one of 'adam', .*; got 'lbfgs'"),
        ({"loss": "squared_hinge"}, ValueError, "there is no loss 'squared_hinge'"),
        ({"activation": "logistic"}, ValueError, "unknown activation 'logistic'"),
        ({"dtype": "float16"}, TypeError, "float16"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"early_stopping": True, "validation_fraction": 2.0}, ValueError, "test_size"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_by_fit(options, error, message):
    estimator = Classifier(**options)
    with pytest.raises(error, match=message):
        estimator.fit(X, Y)


def test_before_it_is_trained_it_predicts_nothing():
    for estimator in (Classifier(), Regressor()):
        with pytest.raises(NotFittedError):
            estimator.predict(X)


# --- what scikit-learn has around estimators --------------------------------------------------------------------


def test_it_is_searched_over_in_a_pipeline_and_judged_by_cross_validation():
    model = make_pipeline(StandardScaler(), Classifier((8,), epochs=15, random_state=0))
    grid = {"classifier__lr": [1e-5, 1e-2], "classifier__hidden": [(8,), (16, 8)]}
    search = GridSearchCV(model, grid, cv=3).fit(X * 100 + 7, WORDS)
    assert search.best_params_["classifier__lr"] == 1e-2
    assert search.score(X * 100 + 7, WORDS) > 0.9
    assert cross_val_score(search.best_estimator_, X * 100 + 7, WORDS, cv=3, scoring="roc_auc_ovr").min() > 0.9


@pytest.mark.slow
def test_two_processes_search_and_find_the_same():
    model, grid = Classifier(layers, epochs=3, random_state=0), {"lr": [1e-3, 1e-2]}
    alone, both = (GridSearchCV(model, grid, cv=2, n_jobs=n).fit(X, Y) for n in (1, 2))
    np.testing.assert_array_equal(both.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


def test_it_is_found_in_interop_and_names_its_extra_where_scikit_learn_is_missing(monkeypatch):
    assert tn.interop.sklearn.Classifier is Classifier
    monkeypatch.delitem(sys.modules, "tinynet.interop.sklearn")
    monkeypatch.delattr(tn.interop, "sklearn")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn: pip install 'tinynet-numba\[sklearn\]'"):
        tn.interop.sklearn  # noqa: B018
