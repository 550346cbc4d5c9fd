"""Metrics: values that fit on paper, scikit-learn and SciPy as oracles, and what is refused."""

import math
import re

import numpy as np
import pytest

import tinynet as tn
from tinynet.metrics import (
    accuracy,
    calibration_bins,
    confusion_matrix,
    expected_calibration_error,
    precision_recall_f1,
    report,
    temperature_scaling,
    top_k_accuracy,
)

# Class 0 three times, class 1 twice, class 2 once; two mistakes.
LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# --- the predicted classes ----------------------------------------------------------------------------------


def test_a_confusion_matrix_counts_what_was_taken_for_what():
    table = confusion_matrix(PREDICTED, LABELS)
    assert table.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert table.dtype == np.int64
    assert confusion_matrix(np.eye(3)[PREDICTED], np.eye(3)[LABELS]).tolist() == table.tolist()
    assert confusion_matrix(PREDICTED.astype(np.uint8), LABELS, classes=5).sum(axis=1).tolist() == [3, 2, 1, 0, 0]
    assert confusion_matrix(np.zeros((1, 4)), [1]).shape == (4, 4)
    assert confusion_matrix([True, False], [True, True]).tolist() == [[0, 0], [1, 1]]


def test_precision_recall_and_f1_computed_by_hand():
    precision, recall, f1 = precision_recall_f1(PREDICTED, LABELS)
    np.testing.assert_allclose(precision, [1, 1 / 2, 1 / 2])
    np.testing.assert_allclose(recall, [2 / 3, 1 / 2, 1])
    np.testing.assert_allclose(f1, [4 / 5, 1 / 2, 2 / 3])
    macro = precision_recall_f1(PREDICTED, LABELS, average="macro")
    assert macro == pytest.approx((2 / 3, 13 / 18, 59 / 90))


def test_a_class_that_does_not_occur_has_0_and_no_part_in_the_mean():
    precision, recall, f1 = precision_recall_f1(PREDICTED, LABELS, classes=4)
    assert precision[3] == recall[3] == f1[3] == 0
    assert precision_recall_f1(PREDICTED, LABELS, classes=4, average="macro") == precision_recall_f1(
        PREDICTED, LABELS, average="macro"
    )
    precision, recall, f1 = precision_recall_f1([0, 0], [0, 1])  # class 1 is never predicted
    assert (precision[1], recall[1], f1[1]) == (0, 0, 0)


@pytest.mark.parametrize("ignore_index", [-100, 1, 7])
def test_ignored_labels_are_as_if_their_samples_were_not_there(ignore_index):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    scores, labels = rng.standard_normal((4, 50, 3)), rng.integers(0, 3, (4, 50))
    labels[rng.random((4, 50)) < 0.3] = ignore_index
    scores[labels == ignore_index] = np.nan  # what was predicted there tells nothing
    options, counts = {"ignore_index": ignore_index}, labels != ignore_index
    predicted, known = scores[counts].argmax(axis=1), labels[counts]
    expected = sklearn.confusion_matrix(known, predicted, labels=range(3))
    np.testing.assert_array_equal(confusion_matrix(scores, labels, **options), expected)
    *expected, _ = sklearn.precision_recall_fscore_support(known, predicted, labels=range(3), zero_division=0)
    np.testing.assert_allclose(precision_recall_f1(scores, labels, **options), expected)
    assert report(scores, labels, **options) == report(predicted, known, classes=3)
    classes = np.where(counts, scores.argmax(axis=-1), 99)  # nor does a class that there is not
    assert confusion_matrix(classes, labels, **options).sum() == counts.sum()


def test_where_all_labels_are_ignored_the_table_is_empty_and_the_means_are_0():
    assert confusion_matrix([0, 1], [-100, -100], classes=2).tolist() == [[0, 0], [0, 0]]
    assert precision_recall_f1(np.eye(3), [-100] * 3, average="macro") == (0, 0, 0)


def test_names_of_classes_that_do_not_occur_have_a_line_too():
    lines = report([0, 1], [0, 0], names=["cat", "dog", "horse"]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["cat", "dog", "horse", "mean"]
    assert lines[3].split() == ["horse", "0.000", "0.000", "0.000", "0"]
    assert lines[4].split() == ["mean", "0.500", "0.250", "0.333", "2"]  # of the two that occur
    lines = report([0, 1], [0, 0], names=["cat", "dog", "horse"], classes=2).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["cat", "dog", "mean"]


def test_a_label_counts_if_it_is_among_the_k_highest():
    scores = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5]])
    assert [top_k_accuracy(scores, [2, 1, 2], k) for k in (1, 2, 3)] == [1 / 3, 2 / 3, 1]
    assert top_k_accuracy(np.zeros((4, 3)), [0, 1, 1, 2], 2) == 0.75  # of equals, the first
    assert top_k_accuracy(np.array([[np.nan, 1.0], [0.0, 1.0]]), [1, 1], 2) == 0.5


def test_top_1_is_accuracy_whatever_the_shape():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 3, (4, 5, 6)).astype(np.float32), rng.integers(0, 6, (4, 5))
    assert top_k_accuracy(scores, labels, 1) == accuracy(scores, labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scikit_learn_counts_the_same_on_200_random_predictions(dtype):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    for _ in range(200):
        N, C = int(rng.integers(1, 60)), int(rng.integers(3, 9))
        scores, labels = rng.standard_normal((N, C)).astype(dtype), rng.integers(0, C, N)
        predicted, every = scores.argmax(axis=1), np.arange(C)
        np.testing.assert_array_equal(
            confusion_matrix(scores, labels), sklearn.confusion_matrix(labels, predicted, labels=every)
        )
        expected = sklearn.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
        np.testing.assert_allclose(precision_recall_f1(scores, labels), expected[:3], rtol=1e-12)
        expected = sklearn.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
        assert precision_recall_f1(scores, labels, average="macro") == pytest.approx(expected[:3], rel=1e-12)
        assert accuracy(scores, labels) == pytest.approx(sklearn.accuracy_score(labels, predicted))
        s = rng.integers(0, 3, N) * 0.5
        s[0] = 1
        expected = sklearn.accuracy_score(labels, predicted, sample_weight=s)
        assert accuracy(scores, labels, sample_weight=s) == pytest.approx(expected)
        for k in (1, 2, C - 1):
            expected = sklearn.top_k_accuracy_score(labels, scores, k=k, labels=every, sample_weight=s)
            assert top_k_accuracy(scores, labels, k, sample_weight=s) == pytest.approx(expected)
            expected = sklearn.top_k_accuracy_score(labels, scores, k=k, labels=every)
            assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


# --- the probabilities --------------------------------------------------------------------------------------


def test_calibration_computed_by_hand():
    # Bins of 0.25.  Twice 0.7 sure and once right: 0.2 apart.  0.9, 0.8 and 0.75 sure, the last in the bin below.
    confidence = np.array([0.7, 0.7, 0.9, 0.8, 0.75])
    labels = np.array([0, 1, 0, 0, 0])
    p = np.stack([confidence, 1 - confidence], axis=1)
    edges, mean, right, count = calibration_bins(p, labels, bins=4)
    np.testing.assert_allclose(edges, [0, 0.25, 0.5, 0.75, 1])
    assert count.tolist() == [0, 0, 3, 2]
    np.testing.assert_allclose(mean, [np.nan, np.nan, 2.15 / 3, 0.85])
    np.testing.assert_allclose(right, [np.nan, np.nan, 2 / 3, 1])
    assert expected_calibration_error(p, labels, bins=4) == pytest.approx((3 * 0.05 + 2 * 0.15) / 5)


def test_sure_and_always_right_is_perfectly_calibrated_and_sure_and_wrong_is_not_at_all():
    p = np.eye(3)[[0, 1, 2, 2]]
    assert expected_calibration_error(p, [0, 1, 2, 2]) == 0
    assert expected_calibration_error(p, [1, 2, 0, 0]) == 1


def test_a_weight_of_the_calibration_error_is_how_often_a_prediction_stands_there():
    rng = np.random.default_rng(0)
    p = softmax(rng.standard_normal((50, 3)))
    labels, weight = rng.integers(0, 3, 50), rng.integers(0, 4, 50)
    repeated = expected_calibration_error(np.repeat(p, weight, axis=0), np.repeat(labels, weight))
    assert expected_calibration_error(p, labels, sample_weight=weight) == pytest.approx(repeated, rel=1e-12)
    assert expected_calibration_error(p, labels, sample_weight=0 * weight) == 0
    with pytest.raises(ValueError, match=r"expected_calibration_error: sample_weight must have shape \(50,\)"):
        expected_calibration_error(p, labels, sample_weight=[1.0])


def test_scikit_learn_draws_the_same_calibration_curve():
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(2)
    for _ in range(50):
        p = rng.dirichlet(np.ones(4), 200)
        labels, bins = rng.integers(0, 4, 200), int(rng.integers(1, 20))
        found = calibration_bins(p, labels, bins=bins)
        right, confidence = calibration.calibration_curve(p.argmax(axis=1) == labels, p.max(axis=1), n_bins=bins)
        full = found.count > 0
        np.testing.assert_allclose(found.accuracy[full], right)
        np.testing.assert_allclose(found.confidence[full], confidence)
        error = (found.count[full] * abs(right - confidence)).sum() / 200
        assert expected_calibration_error(p, labels, bins=bins) == pytest.approx(error)


def mean_loss(logits, labels, T):
    return tn.softmax_cross_entropy(logits.astype(float) / T, labels, grad=False)[0]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_other_temperature_has_a_lower_cross_entropy(dtype, scale):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(3)
    for _ in range(5):
        C = int(rng.integers(2, 12))
        labels = rng.integers(0, C, 300)
        spread = rng.choice([0.5, 3, 20])
        logits = (spread * (rng.standard_normal((300, C)) + np.eye(C)[labels]) * scale).astype(dtype)
        T = temperature_scaling(logits, labels)
        assert type(T) is float
        best = optimize.minimize_scalar(
            lambda u, T=T, z=logits, t=labels: mean_loss(z, t, T * math.exp(u)), bounds=(-2, 2), options={"xatol": 1e-9}
        )
        assert best.x == pytest.approx(0, abs=1e-5)
        assert mean_loss(logits, labels, T) <= best.fun * (1 + 1e-14)


def test_labels_drawn_from_softmax_of_z_over_3_have_the_temperature_3():
    rng = np.random.default_rng(4)
    logits = 6 * rng.standard_normal((200_000, 4))
    labels = (softmax(logits / 3).cumsum(axis=1) < rng.random((200_000, 1))).sum(axis=1)
    T = temperature_scaling(logits, labels)
    assert 2.97 < T < 3.03
    assert temperature_scaling(logits + 100 * rng.standard_normal((200_000, 1)), labels) == pytest.approx(T, rel=1e-9)
    before = expected_calibration_error(softmax(logits), labels)
    after = expected_calibration_error(softmax(logits / T), labels)
    assert before > 0.1
    assert after < 0.005


def test_a_temperature_that_fits_on_paper():
    # Logits (1, 0), right three times of four: p = 3/4 at the minimum, so exp(1/T) = 3.
    assert temperature_scaling(np.tile([1.0, 0.0], (4, 1)), [0, 0, 0, 1]) == pytest.approx(1 / math.log(3), rel=1e-11)


@pytest.mark.parametrize("power", [-12, -6, 6, 12])
def test_a_minimum_far_from_where_the_search_starts_is_found(power):
    logits = np.tile([10.0**power, 0.0], (4, 1))
    logits[:3] *= [[1e-3], [1], [1e3]]
    labels = np.array([0, 0, 0, 1])
    T = temperature_scaling(logits, labels)
    assert mean_loss(logits, labels, T) < min(mean_loss(logits, labels, T * f) for f in (0.999, 1.001))


# --- what is refused ----------------------------------------------------------------------------------------

S, T = np.zeros((4, 3)), np.zeros(4, int)
HALF = np.full((2, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: top_k_accuracy(S, T, 4),
            ValueError,
            "top_k_accuracy: k must be at most 3, the number of classes, got 4",
        ),
        (lambda: top_k_accuracy(S, T, 0), ValueError, "k must be at least 1"),
        (lambda: top_k_accuracy(S, T, 1.5), TypeError, "k must be a whole number"),
        (
            lambda: top_k_accuracy(S, [0, 1, 3, 0], 1),
            ValueError,
            r"labels must be from 0 to 2, got 3 at position \(2,\)",
        ),
        (lambda: top_k_accuracy(S, T[:3]), ValueError, r"labels of shape \(4,\) expected, got \(3,\)"),
        (lambda: top_k_accuracy(S, np.zeros(4)), TypeError, "labels must be whole numbers"),
        (lambda: top_k_accuracy(T, T), TypeError, "scores must be floats"),
        (lambda: top_k_accuracy(S[:, :1], T), ValueError, "at least 2 classes, got (4, 1)"),
        (lambda: top_k_accuracy(S[:0], T[:0]), ValueError, "got (0, 3)"),
        (lambda: top_k_accuracy([[1.0], [1.0, 2.0]], [0, 0]), ValueError, "top_k_accuracy: scores is not an array"),
        (lambda: confusion_matrix([0, 3], [0, 1], classes=3), ValueError, "predictions must be from 0 to 2, got 3"),
        (
            lambda: confusion_matrix([0, 1], [0, -1]),
            ValueError,
            r"labels must be from 0 to 1, got -1 at position \(1,\)",
        ),
        (lambda: confusion_matrix([0, 1], [-100, -100]), ValueError, "all labels are ignored.*give the number of"),
        (lambda: confusion_matrix([0, 1], [0, -100], ignore_index=None), ValueError, "got -100 at position"),
        (lambda: report([0, 2], [0, 1], names="ab"), ValueError, "report: names must have a word for each of the 3"),
        (lambda: confusion_matrix([0, 1], [0, 1], classes=0), ValueError, "classes must be at least 1"),
        (lambda: confusion_matrix(S * np.nan, T), ValueError, "scores of row 0 have a NaN"),
        (
            lambda: confusion_matrix([0, 1], [0.0, 1.0]),
            TypeError,
            "labels must be whole numbers; got an array of dtype",
        ),
        (lambda: confusion_matrix([], []), ValueError, r"scores must be \(\.\.\., C\)"),
        (
            lambda: precision_recall_f1(T, T, average="micro"),
            ValueError,
            "average must be None or \"macro\", got 'micro'",
        ),
        (lambda: calibration_bins(S + 2, T), ValueError, r"probabilities must be in \[0, 1\], got 2\.0 at position"),
        (lambda: expected_calibration_error(S, T), ValueError, "expected_calibration_error: .* row 0 sum to 0"),
        (lambda: calibration_bins(HALF, [0, 1], bins=0), ValueError, "calibration_bins: bins must be at least 1"),
        (lambda: calibration_bins([0.5, 0.5], 0), ValueError, "at least 2 classes"),
        (lambda: calibration_bins(HALF, [0, 2]), ValueError, "labels must be from 0 to 1"),
        (
            lambda: temperature_scaling([[1.0, np.inf]], [0]),
            ValueError,
            "logits must be finite, got inf at row 0, class 1",
        ),
        (lambda: temperature_scaling([[2.0, 1.0]] * 3, [0] * 3), ValueError, "every label has the highest logit"),
        (lambda: temperature_scaling([[2.0, 1.0]] * 3, [0, 1, 1]), ValueError, "no higher than the others"),
        (lambda: temperature_scaling(S, T), ValueError, "no higher than the others"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, error, message):
    with pytest.raises(error, match=message if "\\" in message or ".*" in message else re.escape(message)):
        call()


def test_targets_that_are_all_alike_have_no_variance_to_explain():
    for targets, options in (
        (np.full(1000, 0.1), {}),  # of which the mean is not quite 0.1
        (np.column_stack([np.arange(1000.0), np.full(1000, 0.1)]), {}),
        (np.append(np.full(999, 0.1), 5), {"sample_weight": np.append(np.ones(999), 0)}),
    ):
        with pytest.raises(ValueError, match="r2: all targets are the same"):
            tn.metrics.r2(targets + 1, targets, **options)
