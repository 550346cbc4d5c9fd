"""What counts in a batch: which of its positions, and how many of its targets.

    a mean over two parts of a batch   (c1 mean1 + c2 mean2) / (c1 + c2), where c is what the mean of a part divides by

So are the means of an epoch made of those of its batches, and those of a batch of the shares of several processes.
With weights of samples, c is the sum of the weights of those that count.
"""

import inspect

import numpy as np

from tinynet.layers.along_time import within
from tinynet.losses.by_name import without_options


def positions(prediction, targets, ends):
    """The positions of sequences that count, (M, ...): those before their `ends` (N,); all as it is where that is None.

    prediction (N, T, ...) and targets (N, T) or (N, T, ...); what the targets hold behind the ends does not matter.
    """
    if ends is None:
        return prediction, targets
    targets = np.asarray(targets)
    check_targets(targets.shape, prediction.shape)
    return within(prediction, ends), within(targets, ends)


def check_targets(shape, outputs):
    """A ValueError for targets of this shape that do not go by the positions of the outputs, (N, T, ...)."""
    N, T = outputs[:2]
    if shape[:2] != (N, T):
        hint = ""
        if shape[:1] == (N,):
            hint = "; for one target a sequence, end the axis of time by return_sequences=False, or a pooling over time"
        raise ValueError(
            f"fit: the model gives each position an output, {outputs}, so of sequences with lengths the targets must be"
            f" ({N}, {T}) or ({N}, {T}, ...), got {shape}{hint}"
        )


def row_weights(weights, prediction, ends):
    """Weights of samples (N,) as those of the rows that a loss is given: one number for each position that counts.

    Of a prediction (N, C) these are the samples; of (N, T, C) each position has the weight of its sample.
    """
    if weights is None:
        return None
    rows = prediction.shape[:-1] or prediction.shape
    weights = np.broadcast_to(weights.reshape(-1, *[1] * (len(rows) - 1)), rows)
    return weights if ends is None else within(weights, ends)


def as_option(weights):
    """The weights as losses and metrics take them; one of your own needs to know of them only where there are some."""
    return {} if weights is None else {"sample_weight": weights}


def takes_weights(function):
    """Whether a loss or a metric has an argument sample_weight that is still free."""
    try:
        parameter = inspect.signature(function).parameters.get("sample_weight")
    except (TypeError, ValueError):  # a function in C that says nothing about itself
        return False
    return parameter is not None and without_options(function)[1].get("sample_weight") is None


def counting(loss):
    """A function (targets, rows, weights) -> what the loss's mean divides by, up to a factor; or None: it is a sum.

    A loss of this package tells by its arguments whether some targets don't count, and what the others weigh.  Any
    other function is taken for a mean over rows.  `weights` are those of the rows, or None.
    """
    weighted = takes_weights(loss)
    loss, options = without_options(loss)
    if options.get("reduction") == "sum" or options.get("denominator") is not None:
        return None
    ours = (getattr(loss, "__module__", None) or "").startswith("tinynet.")  # None where it was made by exec
    names = inspect.signature(loss).parameters if ours else {}
    if "ignore_index" not in names:
        return lambda targets, rows, weights=None: rows if weights is None or not weighted else float(weights.sum())
    usual = names["ignore_index"].default  # None where the mean is one over numbers, whatever their weight
    ignored, weight = options.get("ignore_index", usual), None if usual is None else options.get("weight")

    def count(targets, rows, weights=None):
        targets = np.asarray(targets)
        counts = targets != ignored  # all, where it is None
        if weight is None or targets.dtype.kind == "f":
            if weights is None:
                return int(np.count_nonzero(counts))
            return float((weights.reshape(weights.shape + (1,) * (counts.ndim - weights.ndim)) * counts).sum())
        shares = np.asarray(weight, float)[targets[counts]]
        return float((shares if weights is None else shares * weights[counts]).sum())

    return count
