"""The checks of predictions and labels that metrics share.  `name` is the metric's own, which messages begin with."""

import numpy as np

from tinynet.checks import labels_hint, number, numbers


def predicted(
    predictions, labels, name, hint="say where yes begins: threshold=0 for logits, threshold=0.5 for probabilities"
):
    """Predicted classes and labels, two arrays of one shape, and the scores they came from, or None.

    hint   what to do with one score a sample
    """
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
                f"for one score a sample, {hint}"
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


def scores_and_labels(scores, labels, name, what, ignore_index=None):
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
    from_0_to(scores.shape[-1], labels, name, "labels")
    return scores.reshape(-1, scores.shape[-1]), labels.reshape(-1).astype(np.int64)


def from_0_to(C, values, name, what, counts=True):
    outside = ((values < 0) | (values >= C)) & counts
    if outside.any():
        where = tuple(int(axis) for axis in np.argwhere(outside)[0])
        raise ValueError(f"{name}: {what} must be from 0 to {C - 1}, got {values[where]} at position {where}")


def no_nan(scores, name, counts=True):
    """A ValueError for scores (..., C) with a NaN in a row that counts; None is fine."""
    rows = scores is not None and np.isnan(scores).any(axis=-1) & counts
    if np.any(rows):
        row = tuple(int(axis) for axis in np.argwhere(rows)[0])
        raise ValueError(f"{name}: the scores of row {', '.join(map(str, row))} have a NaN, so they predict no class")


def yes_or_no(scores, labels, threshold, name, ignore_index=None):
    """Scores, whether the label is yes, and whether it counts: three arrays of one shape.

    A last axis of one number may be missing in either.
    """
    number(threshold, f"{name}: threshold")
    z, t = numbers(scores, f"{name}: scores"), numbers(labels, f"{name}: labels")
    if z.size == 0:
        raise ValueError(f"{name}: there are no predictions")
    if z.shape == (*t.shape, 1):
        z = z[..., 0]
    elif t.shape == (*z.shape, 1):
        t = t[..., 0]
    if z.shape != t.shape:
        raise ValueError(
            f"{name}: with a threshold, labels must have the shape of the scores, {z.shape}, got {t.shape}"
        )
    counts = t != ignore_index  # all differ from None
    bad = counts & ~((t >= 0) & (t <= 1) | (t == -1))
    if bad.any():
        where = tuple(int(axis) for axis in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}: labels of a yes or no must be 0 or 1, or -1 or 1, got {t[where]} at position {where}"
        )
    return z, t > 0.5, counts
