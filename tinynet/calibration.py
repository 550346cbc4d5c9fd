"""Calibration: whether probabilities mean what they say.

A model is calibrated if it is right in 80 % of the cases where it says 80 %.  Put the predictions into bins b by their
confidence, the highest probability of each, and compare (Guo et al. 2017, "On Calibration of Modern Neural Networks"):

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

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.checks.losses import sample_weight as checked_weight
from tinynet.checks.metrics import scores_and_labels
from tinynet.information import distributions
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy


class CalibrationBins(NamedTuple):
    """Predictions by their confidence, in B bins: bin b holds those in (edges[b], edges[b+1]].

    edges (B+1,) go from 0 to 1; count (B,) of int64; confidence (B,) and accuracy (B,) are the means there, NaN where
    a bin is empty.

    >>> found = tn.metrics.calibration_bins([[0.9, 0.1], [0.2, 0.8]], [0, 0], bins=2)
    >>> found.count.tolist(), found.accuracy.tolist()
    ([0, 2], [nan, 0.5])
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # hides the count() that tuples have


def calibration_bins(probabilities: "ArrayLike", labels: "ArrayLike", *, bins: int = 15) -> CalibrationBins:
    """What a reliability diagram shows: how often predictions are right, by how confident they are.

    probabilities (..., C) with C >= 2, rows in [0, 1] that sum to 1 (within 1e-3); labels (...) integers from 0 to C-1.
    For a yes-or-no question with the probability p of yes, give np.stack([1 - p, p], axis=-1).  The confidence of a row
    is its highest probability; `bins` is how many bins of equal width there are.

    Returns CalibrationBins.

    >>> found = tn.metrics.calibration_bins(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), [0, 1, 0], bins=2)
    >>> found.count, found.confidence, found.accuracy.round(3)
    (array([0, 3]), array([nan, 0.8]), array([  nan, 0.667]))
    """
    edges, bin_of, confidence, right, _ = _in_bins(probabilities, labels, bins, None, "calibration_bins")
    count = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        return CalibrationBins(
            edges,
            np.bincount(bin_of, confidence, bins) / count,
            np.bincount(bin_of, right, bins) / count,
            count.astype(np.int64),
        )


def expected_calibration_error(
    probabilities: "ArrayLike", labels: "ArrayLike", *, bins: int = 15, sample_weight: "ArrayLike | None" = None
) -> float:
    """How far confidence and accuracy are apart, on average over predictions: a float in [0, 1], 0 being the best.

    The arguments are those of calibration_bins (Guo et al. 2017, with 15 bins).  sample_weight, of the labels' shape,
    says how often each counts; with nothing but zeros it is 0.

    >>> round(tn.metrics.expected_calibration_error(np.array([[0.9, 0.1], [0.2, 0.8]]), [0, 1]), 3)
    0.15
    """
    _, bin_of, confidence, right, weight = _in_bins(
        probabilities, labels, bins, sample_weight, "expected_calibration_error"
    )
    gaps = np.bincount(bin_of, weight * (right - confidence), bins)  # n[b] (accuracy[b] - confidence[b])
    return float(np.abs(gaps).sum() / (weight.sum() or 1.0))


def temperature_scaling(logits: "ArrayLike", labels: "ArrayLike") -> float:
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
    z, labels = scores_and_labels(logits, labels, name, "logits")
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


def _in_bins(probabilities, labels, bins, sample_weight, name):
    """The bins' edges, and of each prediction its bin, its confidence, whether it is right, and its weight."""
    bins = positive_int(bins, f"{name}: bins")
    p = distributions(probabilities, name, "probabilities")
    weight = np.ones(p.shape[:-1]) if sample_weight is None else checked_weight(sample_weight, p.shape[:-1], name)
    p, labels = scores_and_labels(p, labels, name, "probabilities")
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence)  # a confidence on an edge belongs to the bin below
    return edges, bin_of, confidence, right, weight.ravel()
