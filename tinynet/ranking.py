"""Ranking: how well scores order samples, the positives before the negatives, whatever the threshold.

Call positive all whose score is at least some threshold.  Of the P positives and the negatives, the threshold finds
TP positives rightly and FP negatives wrongly:

    true positive rate   TPR = TP / P, also called recall       precision = TP / (TP + FP)
    false positive rate  FPR = FP / (the number of negatives)

As the threshold falls from above all scores to below them, (FPR, TPR) goes from (0, 0) to (1, 1): the ROC curve.

    AUROC = the area below it = the probability that a positive has a higher score than a negative, ties counting half

Of chance it is 0.5, of a perfect order 1.  Where positives are rare, the ROC curve looks good even if most of what is
found is wrong, since there are so many negatives; precision shows it:

    AP = sum over thresholds of (recall - the recall before) precision        the average precision

Sources: Hanley and McNeil 1982 (AUROC as that probability); Davis and Goadrich 2006 (why not to interpolate linearly
between points of precision and recall); the interval, Efron 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import number_within, numbers, positive_int

__all__ = ["auroc", "average_precision", "bootstrap_interval", "precision_recall_curve", "roc_curve"]


def roc_curve(
    scores: ArrayLike, labels: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(FPR, TPR, thresholds), three arrays: the rates where all scores of at least the threshold count as positive.

    scores (N,) are real numbers, logits or probabilities; labels (N,) are 0 and 1, or booleans; in either, (N, 1) is as
    good.  The first threshold is
    infinity; then comes each score that occurs, from the highest to the lowest.  sample_weight (N,), at least 0, says
    how often a sample counts.  Raises ValueError where the positives or the negatives are missing.

    >>> fpr, tpr, thresholds = tn.metrics.roc_curve([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 0])
    >>> fpr, tpr, thresholds
    (array([0. , 0. , 0.5, 1. ]), array([0. , 0.5, 1. , 1. ]), array([inf, 0.9, 0.8, 0.1]))
    """
    found, wrong, thresholds = _counts(*checked(scores, labels, sample_weight, "roc_curve", 1))
    return (
        np.concatenate([[0.0], wrong / wrong[-1]]),
        np.concatenate([[0.0], found / found[-1]]),
        np.concatenate([[np.inf], thresholds]),
    )


def precision_recall_curve(
    scores: ArrayLike, labels: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(precision, recall, thresholds), three arrays, one entry for each score that occurs, from the highest on.

    The arguments are those of roc_curve.

    >>> precision, recall, thresholds = tn.metrics.precision_recall_curve([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])
    >>> precision.round(2), recall
    (array([1.  , 0.5 , 0.67, 0.5 ]), array([0.5, 0.5, 1. , 1. ]))
    """
    found, wrong, thresholds = _counts(*checked(scores, labels, sample_weight, "precision_recall_curve", 1))
    return found / (found + wrong), found / found[-1], thresholds


def auroc(
    scores: ArrayLike, labels: ArrayLike, *, average: str | None = "macro", sample_weight: ArrayLike | None = None
) -> Any:
    """The area under the ROC curve: a float in [0, 1], the higher the better, 0.5 for chance.

    scores (N,) with labels (N,), 0 and 1        one question
    scores (N, L) with labels (N, L), 0 and 1    L questions, each by itself
    scores (N, C) with labels (N,)               of C classes, each against all others: give probabilities, since the
                                                 logit of a class alone does not say how likely it is

    A last axis of one number may be missing in either.  Of several it is their mean, or with average=None an array of
    them.  Raises ValueError where one of them has no positives, or no negatives.

    >>> tn.metrics.auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    return _of_each(_area, "auroc", scores, labels, average, sample_weight)


def average_precision(
    scores: ArrayLike, labels: ArrayLike, *, average: str | None = "macro", sample_weight: ArrayLike | None = None
) -> Any:
    """The mean precision over the recall: a float in [0, 1], the higher the better; chance has the share of positives.

    The arguments are those of auroc.

    >>> round(tn.metrics.average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 3)
    0.833
    """
    return _of_each(_average_precision, "average_precision", scores, labels, average, sample_weight)


def bootstrap_interval(
    metric: Callable[..., float], *arrays: ArrayLike, repeats: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """(low, high): where metric(*arrays) lies in the middle `level` of samples drawn anew from these, with repetition.

    How far a figure of N samples can be trusted: had others been collected, it would be another.  A draw for which the
    metric raises ValueError or is NaN, since it has no positives, say, is drawn again.

    >>> low, high = tn.metrics.bootstrap_interval(tn.accuracy, np.arange(100) % 2, np.zeros(100, int))
    >>> 0.39 < low < 0.45 < 0.55 < high < 0.61
    True
    """
    name = "bootstrap_interval"
    found = [numbers(array, f"{name}: array {k}") for k, array in enumerate(arrays)]
    if not found or len({len(array) for array in found}) > 1 or len(found[0]) == 0:
        raise ValueError(f"{name}: expected arrays of one length above 0, got {[array.shape for array in found]}")
    repeats = positive_int(repeats, f"{name}: repeats")
    level, rng = number_within(level, f"{name}: level", 0, 1), np.random.default_rng(seed)
    values, failed = [], None
    for _ in range(10 * repeats):
        rows = rng.integers(0, len(found[0]), len(found[0]))
        try:
            value = float(metric(*(array[rows] for array in found)))
        except ValueError as error:
            failed = error
        else:
            if math.isnan(value):
                failed = "the metric is NaN"
            else:
                values.append(value)
        if len(values) == repeats:
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            return float(low), float(high)
    raise ValueError(f"{name}: of {10 * repeats} draws, only {len(values)} have a value: {failed}")


def _area(found, wrong, _):
    """The sum of trapezia below the points (wrong, found), from (0, 0) on, as a share of the whole."""
    width, height = np.diff(wrong, prepend=0), (found + np.concatenate([[0.0], found[:-1]])) / 2
    return float((width * height).sum() / (found[-1] * wrong[-1]))


def _average_precision(found, wrong, _):
    return float((np.diff(found, prepend=0) * found / (found + wrong)).sum() / found[-1])


def _counts(scores, labels, weight, name, what=""):
    """The weights of the positives and of the negatives with at least each score that occurs, and these scores."""
    order = np.argsort(scores, kind="stable")[::-1]
    order = order[weight[order] > 0]
    scores, labels, weight = scores[order], labels[order], weight[order]
    for some, kind in ((labels, "positives"), (~labels, "negatives")):
        if not some.any():
            raise ValueError(f"{name}: there are no {kind}{what}, so there is nothing to rank")
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of those of equal scores
    return np.cumsum(weight * labels)[last], np.cumsum(weight * ~labels)[last], scores[last]


def _of_each(measure, name, scores, labels, average, sample_weight):
    if average not in (None, "macro"):
        raise ValueError(f'{name}: average must be None or "macro", got {average!r}')
    of = "label" if np.ndim(labels) == 2 else "class"
    scores, labels, weight, _ = checked(scores, labels, sample_weight, name, 2)
    if scores.ndim == 1:
        return measure(*_counts(scores, labels, weight, name))
    results = [
        measure(*_counts(scores[:, c], labels[:, c], weight, name, f" of {of} {c}")) for c in range(scores.shape[1])
    ]
    return np.array(results) if average is None else float(np.mean(results))


def checked(scores, labels, sample_weight, name, most):
    """Scores and booleans of the same shape, (N,) or if `most` is 2 (N, L), the weights (N,), and the name."""
    z, t = numbers(scores, f"{name}: scores"), numbers(labels, f"{name}: labels")
    z = z[:, 0] if z.ndim == 2 and z.shape[1] == 1 and (most == 1 or t.ndim == 1) else z
    t = t[:, 0] if z.ndim == 1 and t.ndim == 2 and t.shape[1] == 1 else t
    if not 1 <= z.ndim <= most or z.size == 0:
        accepted = "(N,)" if most == 1 else "(N,), (N, L) or (N, C)"
        raise ValueError(f"{name}: scores must be {accepted}, with at least one, got {z.shape}")
    if np.isnan(z).any():
        raise ValueError(f"{name}: the score at {tuple(map(int, np.argwhere(np.isnan(z))[0]))} is NaN")
    if z.ndim == 2 and t.shape == z.shape[:1] and t.dtype.kind in "iub" and z.shape[1] > 1:
        if t.min() < 0 or t.max() >= z.shape[1]:
            raise ValueError(f"{name}: labels must be classes from 0 to {z.shape[1] - 1}, got {t.min()} to {t.max()}")
        t = t[:, None] == np.arange(z.shape[1])
    if t.shape != z.shape:
        raise ValueError(f"{name}: labels must have the shape of the scores, {z.shape}, got {t.shape}")
    if not ((t == 0) | (t == 1)).all():
        raise ValueError(f"{name}: labels must be 0 or 1, got {t[(t != 0) & (t != 1)][0]}")
    weight = np.ones(len(z))
    if sample_weight is not None:
        weight = numbers(sample_weight, f"{name}: sample_weight").astype(np.float64)
        if weight.shape != (len(z),) or not (np.isfinite(weight) & (weight >= 0)).all():
            raise ValueError(f"{name}: sample_weight must be ({len(z)},) finite numbers of at least 0")
    return z, t == 1, weight, name
