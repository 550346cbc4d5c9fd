"""Metrics: how good predictions are, in numbers that people read.  Nothing here is trained on, so no gradients.

Of the predicted classes, a table of what was taken for what, and for each class

    precision = right / predicted       of what was said to be the class, how much is
    recall    = right / labelled        of what is the class, how much was found
    F1        = 2 precision recall / (precision + recall)        their harmonic mean: low if either is

Of the probabilities, whether they mean what they say.  A model is calibrated if it is right in 80 % of the cases
where it says 80 %.  Put the predictions into bins b by their confidence, the highest probability of each, and compare
(Guo et al. 2017, "On Calibration of Modern Neural Networks"):

    ECE = sum_b n[b] / N |accuracy[b] - confidence[b]|        the expected calibration error

Their cure, temperature scaling, divides all logits by one number T.  That changes no prediction, and T > 1 lowers every
confidence.  T is where the cross-entropy L of held-out labels is lowest.  Write b = 1 / T, and d[n,c] for the logit
less that of the label, which is the same to a softmax.  b touched every b d[n,c], times d[n,c], so from the gradient
g[n,c] = (p[n,c] - [c = t[n]]) / N of the loss of logits b d:

    L'(b)  = sum_n sum_c g[n,c] d[n,c]  =  1/N sum_n (the mean of d[n] under p[n])
    L''(b) =                               1/N sum_n (the variance of d[n] under p[n])  >=  0

L' rises with b, so it has one root, and halving an interval finds it.  Newton's method takes fewer steps, but far from
the root the variance is nothing but rounding error, and makes it stop there.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import labels_hint, numbers, positive_int
from tinynet.information import distributions
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy
from tinynet.model import Text
from tinynet.ranking import auroc, average_precision, bootstrap_interval, precision_recall_curve, roc_curve

__all__ = [
    "CalibrationBins",
    "accuracy",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "calibration_bins",
    "confusion_matrix",
    "expected_calibration_error",
    "precision_recall_curve",
    "precision_recall_f1",
    "report",
    "roc_curve",
    "temperature_scaling",
    "top_k_accuracy",
]


def accuracy(predictions: ArrayLike, labels: ArrayLike, *, ignore_index: int | None = -100) -> float:
    """The fraction of predictions that are right: a float in [0, 1].

    predictions (..., C) of floats are scores, logits or probabilities, one for each class: the highest is what is
    predicted, and the first of equals; a row with a NaN predicts nothing and is wrong.  Integers or booleans (...) are
    the predicted classes themselves.  labels (...) are integers or booleans; floats (..., C), one-hot rows or
    probabilities, stand for their highest class.

    Labels of `ignore_index` do not count, as in softmax_cross_entropy; with nothing but those it is 0.  For one logit a
    sample, compare it first: accuracy(logits > 0, labels).

    >>> tn.accuracy(np.array([[2.0, 1.0], [0.5, 3.0]]), [0, 0])
    0.5
    """
    predictions, labels, scores = _predicted(predictions, labels, "accuracy")
    right = predictions == labels
    if scores is not None:
        right &= ~np.isnan(scores).any(axis=-1)
    counts = labels != ignore_index  # all, where it is None
    return float(right[counts].mean()) if counts.any() else 0.0


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, k: int = 5, *, ignore_index: int | None = -100) -> float:
    """The fraction of samples whose label is among the k highest scores: a float in [0, 1].

    scores (..., C) are floats, logits or probabilities; of equal ones the first counts as higher, so k = 1 is accuracy;
    a row with a NaN is wrong.  labels (...) are integers from 0 to C-1; those of `ignore_index` do not count, as in
    accuracy.  Raises ValueError unless 1 <= k <= C.

    >>> tn.metrics.top_k_accuracy(np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), [1, 2], k=2)
    0.5
    """
    name = "top_k_accuracy"
    z, t = _scores_and_labels(scores, labels, name, "scores", ignore_index)
    C = z.shape[1]
    if positive_int(k, f"{name}: k") > C:
        raise ValueError(f"{name}: k must be at most {C}, the number of classes, got {k}")
    if len(t) == 0:
        return 0.0
    own = np.take_along_axis(z, t[:, None], axis=1)
    above = (z > own) | ((z == own) & (np.arange(C) < t[:, None]))
    right = (above.sum(axis=1) < k) & ~np.isnan(z).any(axis=1)
    return float(right.mean())


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
    name = "confusion_matrix"
    predictions, labels, scores = _predicted(predictions, labels, name)
    counts = labels != ignore_index  # all, where it is None
    if scores is not None and np.isnan(scores[counts]).any():
        row = tuple(int(axis) for axis in np.argwhere(np.isnan(scores).any(axis=-1) & counts)[0])
        raise ValueError(f"{name}: the scores of row {', '.join(map(str, row))} have a NaN, so they predict no class")
    if classes is not None:
        C = positive_int(classes, f"{name}: classes")
    elif scores is not None:
        C = scores.shape[-1]
    elif counts.any():
        C = int(max(predictions[counts].max(), labels[counts].max())) + 1
    else:
        raise ValueError(f"{name}: all labels are ignored, so that no class is known; give the number of classes")
    for what, values in (("predictions", predictions), ("labels", labels)):
        _from_0_to(C, values, name, what, counts)
    pairs = labels[counts].astype(np.int64) * C + predictions[counts].astype(np.int64)
    return np.bincount(pairs, minlength=C * C).reshape(C, C).astype(np.int64)


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
    table = confusion_matrix(predictions, labels, classes=classes, ignore_index=ignore_index)
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
    table = confusion_matrix(predictions, labels, classes=classes, ignore_index=ignore_index)
    if names is None:
        return table, [str(c) for c in range(len(table))]
    words, C = list(map(str, names)), len(table)
    if len(words) < C:
        raise ValueError(f"{who}: names must have a word for each of the {C} classes, got {len(words)}")
    if classes is None:
        table = np.pad(table, (0, len(words) - C))
    return table, words[: len(table)]


class CalibrationBins(NamedTuple):
    """Predictions by their confidence, in B bins: bin b holds those in (edges[b], edges[b+1]].

    edges (B+1,) go from 0 to 1; count (B,) of int64; confidence (B,) and accuracy (B,) are the means there, NaN where
    a bin is empty.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # hides the count() that tuples have


def calibration_bins(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> CalibrationBins:
    """What a reliability diagram shows: how often predictions are right, by how confident they are.

    probabilities (..., C) with C >= 2, rows in [0, 1] that sum to 1 (within 1e-3); labels (...) integers from 0 to C-1.
    For a yes-or-no question with the probability p of yes, give np.stack([1 - p, p], axis=-1).  The confidence of a row
    is its highest probability; `bins` is how many bins of equal width there are.

    Returns CalibrationBins.

    >>> found = tn.metrics.calibration_bins(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), [0, 1, 0], bins=2)
    >>> found.count, found.confidence, found.accuracy.round(3)
    (array([0, 3]), array([nan, 0.8]), array([  nan, 0.667]))
    """
    return _calibration_bins(probabilities, labels, bins, "calibration_bins")


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> float:
    """How far confidence and accuracy are apart, on average over predictions: a float in [0, 1], 0 being the best.

    The arguments are those of calibration_bins (Guo et al. 2017, with 15 bins).

    >>> round(tn.metrics.expected_calibration_error(np.array([[0.9, 0.1], [0.2, 0.8]]), [0, 1]), 3)
    0.15
    """
    _, confidence, right, count = _calibration_bins(probabilities, labels, bins, "expected_calibration_error")
    full = count > 0
    gaps = np.abs(right[full] - confidence[full])
    return float((count[full] * gaps).sum() / count.sum())


def temperature_scaling(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T that makes softmax(logits / T) as honest about its confidence as one number can make it.

    logits (..., C), all finite, and labels (...), integers from 0 to C-1, of samples that the model was not trained on.
    T is above 1 where the model is too confident, below 1 where it is not confident enough.

    Returns the float T > 0 with the lowest cross-entropy.  Raises ValueError where there is none: if all labels have
    the highest logit of their row, the cross-entropy falls as long as T falls; if the labels' logits are no higher than
    the others on average, it falls as long as T rises.  (Guo et al. 2017, section 4.2.)

    >>> logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])  # sure to 90 %, right in 2 cases of 3
    >>> T = tn.metrics.temperature_scaling(logits, [0, 0, 1])
    >>> p = np.exp(logits[0] / T)
    >>> (p / p.sum()).round(3)
    array([0.667, 0.333])
    """
    name = "temperature_scaling"
    z, labels = _scores_and_labels(logits, labels, name, "logits")
    z = z.astype(np.float64)
    if not np.isfinite(z).all():
        where = tuple(int(axis) for axis in np.argwhere(~np.isfinite(z))[0])
        raise ValueError(f"{name}: logits must be finite, got {z[where]} at row {where[0]}, class {where[1]}")
    size = max(float(np.abs(z).max()), np.finfo(float).tiny)
    z /= size  # makes 1 a good first b, whatever the scale; T is multiplied by it in the end
    d = z - np.take_along_axis(z, labels[:, None], axis=1)
    if d.mean(axis=1).sum() >= 0:  # L'(0): at b = 0 all classes are equally likely
        raise ValueError(
            f"{name}: the logits of the labels are no higher than the others, on average, so no temperature helps;"
            " do labels and logits belong together?"
        )
    if d.max() <= 0:  # L'(infinity)
        raise ValueError(
            f"{name}: every label has the highest logit of its row, so the lower the temperature, the better;"
            " it takes samples of which the model gets some wrong"
        )

    work = np.empty_like(d)  # fresh arrays for every b took twice as long

    def slope(b):
        _, g = softmax_cross_entropy(np.multiply(d, b, out=work), labels, out=work)
        return np.multiply(g, d, out=work).sum()

    low, high = 0.0, 1.0
    while slope(high) < 0:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return size / high


# Which way is better, for each function here that returns one number to judge a model by.
BETTER = {
    accuracy: "max",
    auroc: "max",
    average_precision: "max",
    expected_calibration_error: "min",
    top_k_accuracy: "max",
}


# --- checks -------------------------------------------------------------------------------------------------


def _predicted(predictions, labels, name):
    """Predicted classes and labels, two arrays of one shape, and the scores they came from, or None."""
    predictions, labels = (
        numbers(given, f"{name}: {what}", "must be numbers")
        for given, what in ((predictions, "predictions"), (labels, "labels"))
    )
    scores = None
    if predictions.dtype.kind == "f":
        scores = predictions
        if scores.ndim < 2 or scores.shape[-1] < 2:
            raise ValueError(
                f"{name}: scores must be (..., C) with at least 2 classes, got {scores.shape}; "
                f"for one logit a sample, compare it first: {name}(logits > 0, labels)"
            )
        predictions = scores.argmax(axis=-1)
    if labels.dtype.kind == "f":
        if scores is None or labels.shape != scores.shape:
            accepted = "" if scores is None else f", or floats of the scores' shape {scores.shape}"
            raise TypeError(
                f"{name}: labels must be whole numbers{accepted}; "
                f"got an array of dtype {labels.dtype} and shape {labels.shape}"
            )
        labels = labels.argmax(axis=-1)
    if labels.shape != predictions.shape:
        hint = "" if scores is None else labels_hint(labels.shape, scores.shape, "labels", "scores")
        raise ValueError(f"{name}: labels of shape {predictions.shape} expected, got {labels.shape}{hint}")
    if labels.size == 0:
        raise ValueError(f"{name}: there are no predictions")
    return predictions, labels, scores


def _scores_and_labels(scores, labels, name, what, ignore_index=None):
    """Scores (N, C) of floats and labels (N,) of int64, of what came as (..., C) and (...), without those ignored."""
    scores, labels = numbers(scores, f"{name}: {what}"), numbers(labels, f"{name}: labels")
    if scores.dtype.kind != "f":
        raise TypeError(f"{name}: {what} must be floats, got an array of dtype {scores.dtype}")
    if scores.ndim < 2 or scores.shape[-1] < 2 or scores.size == 0:
        raise ValueError(f"{name}: {what} must be (..., C) with at least 2 classes, got {scores.shape}")
    if labels.dtype.kind not in "iub":
        raise TypeError(f"{name}: labels must be whole numbers, got an array of dtype {labels.dtype}")
    if labels.shape != scores.shape[:-1]:
        hint = labels_hint(labels.shape, scores.shape, "labels", "scores")
        raise ValueError(f"{name}: labels of shape {scores.shape[:-1]} expected, got {labels.shape}{hint}")
    if ignore_index is not None:
        counts = labels != ignore_index
        if not counts.all():
            scores, labels = scores[counts], labels[counts]
    _from_0_to(scores.shape[-1], labels, name, "labels")
    return scores.reshape(-1, scores.shape[-1]), labels.reshape(-1).astype(np.int64)


def _from_0_to(C, values, name, what, counts=True):
    outside = ((values < 0) | (values >= C)) & counts
    if outside.any():
        where = tuple(int(axis) for axis in np.argwhere(outside)[0])
        raise ValueError(f"{name}: {what} must be from 0 to {C - 1}, got {values[where]} at position {where}")


def _calibration_bins(probabilities, labels, bins, name):
    bins = positive_int(bins, f"{name}: bins")
    p = distributions(probabilities, name, "probabilities")
    p, labels = _scores_and_labels(p, labels, name, "probabilities")
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence)  # a confidence on an edge belongs to the bin below
    count = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        return CalibrationBins(
            edges,
            np.bincount(bin_of, confidence, bins) / count,
            np.bincount(bin_of, right, bins) / count,
            count.astype(np.int64),
        )
