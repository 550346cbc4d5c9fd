"""What counts in a batch: which of its positions, and how many of its targets.

    a mean over two parts of a batch   (c1 mean1 + c2 mean2) / (c1 + c2), where c is what the mean of a part divides by

So are the means of an epoch made of those of its batches, and those of a batch of the shares of several processes.
"""

import inspect
from functools import partial

import numpy as np

from tinynet.layers.along_time import within


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


def counting(loss):
    """A function (targets, rows) -> what the loss's mean over them divides by, up to a factor; or None: it is a sum.

    A loss of this package tells by its arguments whether some targets don't count, and what the others weigh.  Any
    other function is taken for a mean over rows.
    """
    options = {}
    while isinstance(loss, partial):
        options, loss = {**loss.keywords, **options}, loss.func
    if options.get("reduction") == "sum" or options.get("denominator") is not None:
        return None
    ours = getattr(loss, "__module__", "").startswith("tinynet.")
    names = inspect.signature(loss).parameters if ours else {}
    if "ignore_index" not in names:
        return lambda targets, rows: rows
    ignored = options.get("ignore_index", names["ignore_index"].default)
    weight = options.get("weight") if "pos_weight" not in names else None  # else the mean is one over numbers

    def count(targets, rows):
        targets = np.asarray(targets)
        counts = targets != ignored  # all, where it is None
        if weight is None or targets.dtype.kind == "f":
            return int(np.count_nonzero(counts))
        return float(np.asarray(weight, float)[targets[counts]].sum())

    return count
