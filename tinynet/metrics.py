"""Metrics: how good predictions are, in numbers that people read.  Nothing here is trained on, so no gradients."""

import numpy as np


def accuracy(predictions, labels):
    """The fraction of predictions that are right: a float in [0, 1].

    predictions (..., C) of floats are scores, logits or probabilities, one for each class: the highest is what is
    predicted, and the first of equals; a row with a NaN predicts nothing and is wrong.  Integers or booleans (...) are
    the predicted classes themselves.  labels (...) are integers or booleans; floats (..., C), one-hot rows or
    probabilities, stand for their highest class.

    For one logit a sample, compare it first: accuracy(logits > 0, labels).
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    for name, array in (("predictions", predictions), ("labels", labels)):
        if array.dtype.kind not in "fiub":
            raise TypeError(f"accuracy: {name} must be numbers, got an array of dtype {array.dtype}")
    scores = predictions
    if predictions.dtype.kind == "f":
        if predictions.ndim < 2 or predictions.shape[-1] < 2:
            raise ValueError(
                f"accuracy: scores must be (..., C) with at least 2 classes, got {predictions.shape}; "
                "for one logit a sample, compare it first: accuracy(logits > 0, labels)"
            )
        predictions = scores.argmax(axis=-1)
    if labels.dtype.kind == "f":
        if labels.shape != scores.shape or scores.dtype.kind != "f":
            raise TypeError(
                f"accuracy: labels must be whole numbers, or floats of the scores' shape {scores.shape}; "
                f"got an array of dtype {labels.dtype} and shape {labels.shape}"
            )
        labels = labels.argmax(axis=-1)
    if labels.shape != predictions.shape:
        raise ValueError(f"accuracy: labels of shape {predictions.shape} expected, got {labels.shape}")
    if labels.size == 0:
        raise ValueError("accuracy: there are no predictions")
    right = predictions == labels
    if scores.dtype.kind == "f":
        right &= ~np.isnan(scores).any(axis=-1)
    return float(right.mean())
