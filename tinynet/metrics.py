"""Metrics: how good predictions are, in numbers that people read.  Nothing here is trained on, so no gradients.

Of the predicted classes, a table of what was taken for what, and for each class

    precision = right / predicted       of what was said to be the class, how much is
    recall    = right / labelled        of what is the class, how much was found
    F1        = 2 precision recall / (precision + recall)        their harmonic mean: low if either is

Of a yes or no, one score each, these are of the class yes, which is predicted where the score is above a threshold: 0
for logits, and 0.5 for probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from tinynet.calibration import CalibrationBins, calibration_bins, expected_calibration_error, temperature_scaling
from tinynet.checks import positive_int
from tinynet.checks.losses import sample_weight as checked_sample_weight
from tinynet.checks.metrics import from_0_to, no_nan, predicted, scores_and_labels, yes_or_no
from tinynet.notebook import Text
from tinynet.ranking import auroc, average_precision, bootstrap_interval, precision_recall_curve, roc_curve
from tinynet.regression import r2, root_mean_squared_error

__all__ = [
    "CalibrationBins",
    "accuracy",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "calibration_bins",
    "confusion_matrix",
    "expected_calibration_error",
    "f1",
    "precision",
    "precision_recall_curve",
    "precision_recall_f1",
    "r2",
    "recall",
    "report",
    "roc_curve",
    "root_mean_squared_error",
    "temperature_scaling",
    "top_k_accuracy",
]


def accuracy(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    threshold: float | None = None,
    ignore_index: int | None = -100,
    sample_weight: ArrayLike | None = None,
) -> float:
    """The fraction of predictions that are right: a float in [0, 1].

    predictions (..., C) of floats are scores, logits or probabilities, one for each class: the highest is what is
    predicted, and the first of equals; a row with a NaN predicts nothing and is wrong.  Integers or booleans (...) are
    the predicted classes themselves.  labels (...) are integers or booleans; floats (..., C), one-hot rows or
    probabilities, stand for their highest class.

    With a threshold, predictions are scores of a yes or no, each by itself, and labels 0 or 1 (or -1 and 1) of the same
    shape: threshold=0 for logits, 0.5 for probabilities.

    Labels of `ignore_index` do not count, as in softmax_cross_entropy; with nothing but those it is 0.  sample_weight,
    one number of at least 0 for each row, says how often it counts.

    >>> tn.accuracy(np.array([[2.0, 1.0], [0.5, 3.0]]), [0, 0])
    0.5
    >>> tn.accuracy([1.5, -0.5, 0.5, 2.0], [1, 1, 0, 1], threshold=0)
    0.5
    """
    if threshold is not None:
        scores, is_yes, counts = yes_or_no(predictions, labels, threshold, "accuracy", ignore_index)
        right = ((scores > threshold) == is_yes) & ~np.isnan(scores)
        return _mean(right, counts, sample_weight, "accuracy", right.shape[:-1] or right.shape)
    predictions, labels, scores = predicted(predictions, labels, "accuracy")
    right = predictions == labels
    if scores is not None:
        right &= ~np.isnan(scores).any(axis=-1)
    return _mean(right, labels != ignore_index, sample_weight, "accuracy", labels.shape)  # all differ from None


def top_k_accuracy(
    scores: ArrayLike,
    labels: ArrayLike,
    k: int = 5,
    *,
    ignore_index: int | None = -100,
    sample_weight: ArrayLike | None = None,
) -> float:
    """The fraction of samples whose label is among the k highest scores: a float in [0, 1].

    scores (..., C) are floats, logits or probabilities; of equal ones the first counts as higher, so k = 1 is accuracy;
    a row with a NaN is wrong.  labels (...) are integers from 0 to C-1; those of `ignore_index` do not count, and
    sample_weight says how often others do, as in accuracy.  Raises ValueError unless 1 <= k <= C.

    >>> tn.metrics.top_k_accuracy(np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), [1, 2], k=2)
    0.5
    """
    name = "top_k_accuracy"
    z, t = scores_and_labels(scores, labels, name, "scores", ignore_index)
    C = z.shape[1]
    if positive_int(k, f"{name}: k") > C:
        raise ValueError(f"{name}: k must be at most {C}, the number of classes, got {k}")
    own = np.take_along_axis(z, t[:, None], axis=1)
    above = (z > own) | ((z == own) & (np.arange(C) < t[:, None]))
    labels = np.asarray(labels)
    counts = labels != ignore_index  # all differ from None
    right = np.zeros(labels.shape, bool)
    right[counts] = (above.sum(axis=1) < k) & ~np.isnan(z).any(axis=1)
    return _mean(right, counts, sample_weight, name, labels.shape)


def confusion_matrix(
    predictions: ArrayLike, labels: ArrayLike, *, classes: int | None = None, ignore_index: int | None = -100
) -> np.ndarray:
    """How many samples of class i (row) were taken for class j (column): an array (C, C) of int64.

    predictions and labels are as in accuracy, and labels of `ignore_index` do not count, whatever was predicted there.
    C is `classes`, or else the number of scores, or one above the highest class that occurs.  Raises ValueError for a
    class outside of them and for scores with a NaN.

    >>> tn.metrics.confusion_matrix([0, 1, 1, 1], [0, 0, 1, 1])
    array([[1, 1],
           [0, 2]])
    """
    return _confusion_matrix(predictions, labels, classes, ignore_index, "confusion_matrix")


def _confusion_matrix(predictions, labels, classes, ignore_index, name):
    hint = "give the classes: scores[..., 0] > 0 of logits, > 0.5 of probabilities"
    predictions, labels, scores = predicted(predictions, labels, name, hint)
    counts = labels != ignore_index  # all differ from None
    no_nan(scores, name, counts)
    if classes is not None:
        C = positive_int(classes, f"{name}: classes")
    elif scores is not None:
        C = scores.shape[-1]
    elif counts.any():
        C = int(max(predictions[counts].max(), labels[counts].max())) + 1
    else:
        raise ValueError(f"{name}: all labels are ignored, so that no class is known; give the number of classes")
    for what, values in (("predictions", predictions), ("labels", labels)):
        from_0_to(C, values, name, what, counts)
    pairs = labels[counts].astype(np.int64) * C + predictions[counts].astype(np.int64)
    return np.bincount(pairs, minlength=C * C).reshape(C, C).astype(np.int64)


def precision(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Of what was said to be the class, how much is: a float in [0, 1], and 0 where nothing was said to be.

    Of two classes it is class 1's; of more, the mean over those that occur among the predictions or the labels.  The
    arguments are those of accuracy.  With a threshold, each column of scores (N, L) is a question by itself, and the
    result is the mean over those.

    >>> tn.metrics.precision([0, 1, 1, 1], [0, 0, 1, 1], sample_weight=[1, 2, 1, 1])
    0.5
    """
    right, said, labelled = _found(predictions, labels, threshold, sample_weight, "precision")
    return _mean_where(said + labelled > 0, right, said)


def recall(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Of what is the class, how much was found: a float in [0, 1].  The rest is as in precision.

    >>> tn.metrics.recall([0, 1, 0, 1], [0, 0, 1, 1])
    0.5
    """
    right, said, labelled = _found(predictions, labels, threshold, sample_weight, "recall")
    return _mean_where(said + labelled > 0, right, labelled)


def f1(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    threshold: float | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """The harmonic mean of precision and recall of a class: a float in [0, 1].  The rest is as in precision.

    >>> tn.metrics.f1([0.2, 0.9, 0.7, 0.8], [0, 0, 1, 1], threshold=0.5)
    0.8
    """
    right, said, labelled = _found(predictions, labels, threshold, sample_weight, "f1")
    return _mean_where(said + labelled > 0, 2 * right, said + labelled)


@overload
def precision_recall_f1(
    predictions: ArrayLike, labels: ArrayLike, *, average: None = None, classes: int | None = None,
    ignore_index: int | None = -100,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...  # fmt: skip
@overload
def precision_recall_f1(
    predictions: ArrayLike, labels: ArrayLike, *, average: Literal["macro"], classes: int | None = None,
    ignore_index: int | None = -100,
) -> tuple[float, float, float]: ...  # fmt: skip
def precision_recall_f1(predictions, labels, *, average=None, classes=None, ignore_index=-100):
    """The precision, recall and F1 of each class: three arrays (C,) of float64; 0 where nothing is divided by nothing.

    With average="macro", three floats: the means over the classes that occur among the predictions or the labels, each
    counting the same, however rare.  The other arguments are those of confusion_matrix.

    >>> precision, recall, f1 = tn.metrics.precision_recall_f1([0, 1, 1, 1], [0, 0, 1, 1])
    >>> precision.round(3), recall, f1.round(3)
    (array([1.   , 0.667]), array([0.5, 1. ]), array([0.667, 0.8  ]))
    """
    name = "precision_recall_f1"
    if average not in (None, "macro"):
        raise ValueError(f'{name}: average must be None or "macro", got {average!r}')
    table = _confusion_matrix(predictions, labels, classes, ignore_index, name)
    results, means = _precision_recall_f1(table)
    return results if average is None else means


def _precision_recall_f1(table):
    """Of a confusion matrix, three arrays, and their means over the classes that occur."""
    right, predicted, labelled = table.diagonal(), table.sum(axis=0), table.sum(axis=1)
    results = (
        right / np.maximum(predicted, 1),
        right / np.maximum(labelled, 1),
        2 * right / np.maximum(predicted + labelled, 1),  # the harmonic mean of the two
    )
    occurs = predicted + labelled > 0
    return results, tuple(float(result[occurs].mean()) if occurs.any() else 0.0 for result in results)


def report(
    predictions: ArrayLike, labels: ArrayLike, *, names: Sequence[str] | None = None, classes: int | None = None,
    ignore_index: int | None = -100,
) -> str:  # fmt: skip
    """A table in text: precision, recall, F1 and the number of samples of each class, and the means over the classes.

    `names` gives each class a word instead of its number; the other arguments are those of confusion_matrix.

    >>> print(tn.metrics.report([0, 1, 1, 1], [0, 0, 1, 1], names=["cat", "dog"]))
           precision  recall     F1  samples
    cat        1.000   0.500  0.667        2
    dog        0.667   1.000  0.800        2
    mean       0.833   0.750  0.733        4
    """
    table, words = named_confusion_matrix(predictions, labels, names, classes, ignore_index, "report")
    results, means = _precision_recall_f1(table)
    rows = [*zip(words, *results, strict=True), ("mean", *means)]
    counts = [*table.sum(axis=1).tolist(), int(table.sum())]
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':{width}}   precision  recall     F1  samples"]
    for (word, precision, recall, f1), count in zip(rows, counts, strict=True):
        lines.append(f"{word:{width}}   {precision:9.3f}  {recall:6.3f}  {f1:5.3f}  {count:7,}")
    return Text("\n".join(lines))


def named_confusion_matrix(predictions, labels, names, classes, ignore_index, who):
    """confusion_matrix, and a word for each class; where there are more names than classes occur, all of them."""
    table = _confusion_matrix(predictions, labels, classes, ignore_index, who)
    if names is None:
        return table, [str(c) for c in range(len(table))]
    words, C = list(map(str, names)), len(table)
    if len(words) < C:
        raise ValueError(f"{who}: names must have a word for each of the {C} classes, got {len(words)}")
    if classes is None:
        table = np.pad(table, (0, len(words) - C))
    return table, words[: len(table)]


# Which way is better, for each function here that returns one number to judge a model by.
BETTER = {
    accuracy: "max",
    auroc: "max",
    average_precision: "max",
    expected_calibration_error: "min",
    f1: "max",
    precision: "max",
    r2: "max",
    recall: "max",
    root_mean_squared_error: "min",
    top_k_accuracy: "max",
}
# Those that are means over samples, so that the mean over batches is that of all.  The others take all at once: the F1
# of an epoch is no mean of those of its batches, and a batch without positives has no AUROC.
MEANS = (accuracy, top_k_accuracy)


def _mean(right, counts, sample_weight, name, rows):
    """The share of those that count that are right; 0 where none counts.  `rows` is the shape that weights have."""
    if sample_weight is None:
        return float(right[counts].mean()) if counts.any() else 0.0
    weight = checked_sample_weight(sample_weight, rows, name)
    weight = counts * weight.reshape(weight.shape + (1,) * (right.ndim - weight.ndim))
    return float((weight * right).sum() / (weight.sum() or 1.0))


def _mean_where(occurs, part, whole):
    """The mean of part / whole over those that occur, 0 / 0 being 0."""
    return float((part[occurs] / np.where(whole > 0, whole, 1)[occurs]).mean()) if occurs.any() else 0.0


def _found(predictions, labels, threshold, sample_weight, name):
    """How many were found rightly, how many said to be, and how many are, of each class or question: three (K,)."""
    if threshold is not None:
        scores, is_yes, _ = yes_or_no(predictions, labels, threshold, name)
        no_nan(scores[..., None], name)
        rows, K = scores.shape[:-1] or scores.shape, scores.shape[-1] if scores.ndim > 1 else 1
        weight = np.ones(rows) if sample_weight is None else checked_sample_weight(sample_weight, rows, name)
        said, is_yes, weight = (scores > threshold).reshape(-1, K), is_yes.reshape(-1, K), weight.reshape(-1, 1)
        return (weight * (said & is_yes)).sum(axis=0), (weight * said).sum(axis=0), (weight * is_yes).sum(axis=0)
    predictions, labels, scores = predicted(predictions, labels, name)
    no_nan(scores, name)
    C = 1 + int(max(predictions.max(), labels.max(), 1)) if scores is None else scores.shape[-1]
    for what, values in (("predictions", predictions), ("labels", labels)):
        from_0_to(C, values, name, what)
    weight = np.ones(labels.shape)
    if sample_weight is not None:
        weight = checked_sample_weight(sample_weight, labels.shape, name)
    said, is_in, right = predictions.ravel(), labels.ravel(), (predictions == labels).ravel()
    weight = weight.ravel()
    counts = (np.bincount(a, w, C) for a, w in ((is_in, weight * right), (said, weight), (is_in, weight)))
    return tuple(count[1:] if C == 2 else count for count in counts)
