"""AUROC, average precision and their curves against scikit-learn and by hand; intervals by bootstrap; the report."""

import numpy as np
import pytest
from sklearn import metrics as theirs

import tinynet as tn


def cases():
    rng = np.random.default_rng(0)
    for N in (2, 3, 10, 500):
        for ties in (False, True):
            z = rng.normal(size=N)
            t = (z + rng.normal(size=N) > 0.3).astype(int)
            t[:2] = 0, 1
            yield np.round(z, 1) if ties else z, t, rng.integers(0, 4, N) + (np.arange(N) < 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_areas_and_curves_are_those_of_scikit_learn(weighted):
    for z, t, w in cases():
        w = w.astype(float) if weighted else None
        assert tn.metrics.auroc(z, t, sample_weight=w) == pytest.approx(theirs.roc_auc_score(t, z, sample_weight=w))
        expected = theirs.average_precision_score(t, z, sample_weight=w)
        assert tn.metrics.average_precision(z, t, sample_weight=w) == pytest.approx(expected)
        fpr, tpr, thresholds = theirs.roc_curve(t, z, sample_weight=w, drop_intermediate=False)
        for mine, other in zip(tn.metrics.roc_curve(z, t, sample_weight=w), (fpr, tpr, thresholds), strict=True):
            if not weighted:  # of samples without weight, theirs has thresholds of their own
                np.testing.assert_allclose(mine, other)
        precision, recall, thresholds = theirs.precision_recall_curve(t, z, sample_weight=w)
        mine = tn.metrics.precision_recall_curve(z, t, sample_weight=w)
        if not weighted:  # theirs goes from the lowest threshold on, and ends in a point (1, 0)
            for found, other in zip(mine, (precision[:-1], recall[:-1], thresholds), strict=True):
                np.testing.assert_allclose(found, other[::-1])


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    for z, t, _ in cases():
        pairs = z[t == 1][:, None] - z[t == 0]
        assert tn.metrics.auroc(z, t) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_several_labels_and_several_classes():
    rng = np.random.default_rng(1)
    z, t = rng.normal(size=(60, 4)), rng.integers(0, 2, (60, 4))
    np.testing.assert_allclose(tn.metrics.auroc(z, t, average=None), theirs.roc_auc_score(t, z, average=None))
    assert tn.metrics.average_precision(z, t) == pytest.approx(theirs.average_precision_score(t, z))
    p, c = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), rng.integers(0, 4, 60)
    assert tn.metrics.auroc(p, c) == pytest.approx(theirs.roc_auc_score(c, p, multi_class="ovr"))


def test_an_axis_of_one_may_be_missing_and_scores_may_be_whole_numbers_or_bools():
    for z, t, w in cases():
        expected = tn.metrics.auroc(z, t, sample_weight=w)
        for scores, labels in ((z[:, None], t), (z, t[:, None]), (z[:, None], t[:, None])):
            assert tn.metrics.auroc(scores, labels, sample_weight=w) == expected
            for mine, other in zip(tn.metrics.roc_curve(scores, labels), tn.metrics.roc_curve(z, t), strict=True):
                np.testing.assert_array_equal(mine, other)
        grades = np.abs(np.round(2 * z)).astype(np.uint8)  # from 0 on: -0 is not below -1 in bytes
        for scores in (grades, grades.astype(np.int8), grades > 1):
            assert tn.metrics.auroc(scores, t) == pytest.approx(theirs.roc_auc_score(t, scores.astype(float)))


def test_a_weight_of_0_is_as_if_the_sample_were_not_there():
    rng = np.random.default_rng(2)
    z, t, w = rng.normal(size=50), rng.integers(0, 2, 50), rng.integers(0, 2, 50)
    for metric in (tn.metrics.auroc, tn.metrics.average_precision):
        assert metric(z, t, sample_weight=w) == pytest.approx(metric(z[w == 1], t[w == 1]))
    for mine, few in zip(
        tn.metrics.roc_curve(z, t, sample_weight=w), tn.metrics.roc_curve(z[w == 1], t[w == 1]), strict=True
    ):
        np.testing.assert_allclose(mine, few)


@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        ([0.1, 0.2], [1, 1], ValueError, "auroc: there are no negatives"),
        ([0.1, 0.2], [0, 0], ValueError, "auroc: there are no positives"),
        ([[0.1, 0.2], [0.3, 0.1]], [[1, 0], [0, 0]], ValueError, "auroc: there are no positives of label 1"),
        ([0.1, np.nan], [0, 1], ValueError, r"the score at \(1,\) is NaN"),
        ([0.1, 0.2], [0, 2], ValueError, "labels must be 0 or 1, got 2"),
        ([0.1, 0.2], [0, 1, 1], ValueError, r"labels must have the shape of the scores, \(2,\), got \(3,\)"),
        ([], [], ValueError, "with at least one"),
        ([[0.1, 0.2]], [[0], [1]], ValueError, r"labels must have the shape of the scores, \(1, 2\), got \(2, 1\)"),
        (["a"], [1], TypeError, "scores must hold real numbers"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, labels, error, message):
    with pytest.raises(error, match=message):
        tn.metrics.auroc(scores, labels)


def test_a_bootstrap_interval_holds_what_it_says():
    """The mean of 200 draws of a coin has the deviation 0.5 / sqrt(200), and 95 % lie within 1.96 of them."""
    heads = np.arange(200) % 2
    low, high = tn.metrics.bootstrap_interval(np.mean, heads, repeats=4000)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.5 / 200**0.5, 0.5 + 1.96 * 0.5 / 200**0.5), abs=0.01)
    assert tn.metrics.bootstrap_interval(np.mean, heads, seed=3) == tn.metrics.bootstrap_interval(
        np.mean, heads, seed=3
    )


def test_a_draw_without_positives_is_drawn_again():
    z, t = np.arange(5.0), np.array([0, 0, 0, 0, 1])
    low, high = tn.metrics.bootstrap_interval(tn.metrics.auroc, z, t, repeats=50)
    assert low == high == 1
    with pytest.raises(ValueError, match=r"of 500 draws, only 0 have a value: auroc: there are no positives"):
        tn.metrics.bootstrap_interval(tn.metrics.auroc, z, 0 * t, repeats=50)
    with pytest.raises(ValueError, match="arrays of one length"):
        tn.metrics.bootstrap_interval(np.mean, [])


def test_a_draw_whose_metric_is_nan_is_drawn_again():
    """The mean of the positives is NaN where none was drawn."""
    x = np.array([0.0, 0, 0, 3])
    with np.errstate(invalid="ignore"):
        assert tn.metrics.bootstrap_interval(lambda x: x[x > 0].sum() / (x > 0).sum(), x, repeats=50) == (3, 3)
    with pytest.raises(ValueError, match=r"of 500 draws, only 0 have a value: the metric is NaN"):
        tn.metrics.bootstrap_interval(lambda x: np.nan, x, repeats=50)


def test_the_report_has_a_line_for_each_class():
    predictions, labels = [0, 2, 1, 1, 2, 0], [0, 1, 1, 1, 2, 2]
    text = tn.metrics.report(predictions, labels, names=["red", "green", "blue"])
    precision, recall, f1, count = theirs.precision_recall_fscore_support(labels, predictions)
    for c, name in enumerate(["red", "green", "blue"]):
        assert text.splitlines()[c + 1].split() == [
            name, f"{precision[c]:.3f}", f"{recall[c]:.3f}", f"{f1[c]:.3f}", str(count[c]),
        ]  # fmt: skip
    assert repr(text) == str(text)
    with pytest.raises(ValueError, match="names must have a word for each"):
        tn.metrics.report([0, 1], [0, 1], names=["one"], classes=2)
