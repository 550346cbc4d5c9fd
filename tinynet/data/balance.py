"""Class weights for labels of which some are rare: each class weighs as much as any other in the sum of the losses.

    w[c] = N / (K n[c])        n[c] samples of class c, N = sum_c n[c] of the K classes that occur

Then w[c] n[c] is the same N / K for each of them, and the mean weight of a sample is 1, so that the scale of the loss
and with it the learning rate stay as they were.  (King and Zeng 2001; scikit-learn's class_weight="balanced".)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import numbers, positive_int, whole_number


def balanced_class_weights(labels: ArrayLike, classes: int | None = None, ignore_index: int = -100) -> np.ndarray:
    """What to give a loss as `weight`, so that rare classes count as much as frequent ones: float64 (C,).

    labels (...) are integers from 0 to C-1, or booleans; those equal to `ignore_index` are left out, as the losses
    do.  C is `classes`, or else one above the highest label.  A class without a sample gets the weight 0: there is
    nothing to learn it from, and a validation set that has it should not be judged by it.

    Raises ValueError for a label outside, and where no label is left.

    >>> tn.balanced_class_weights([0, 0, 0, 1]).round(3)
    array([0.667, 2.   ])
    """
    name = "balanced_class_weights"
    labels = numbers(labels, f"{name}: labels", "must be whole numbers")
    if labels.size == 0:
        raise ValueError(f"{name}: there are no labels")
    if labels.dtype.kind not in "iub":
        hint = "; for one-hot rows, give labels.argmax(-1)" if labels.ndim == 2 else ""
        raise TypeError(f"{name}: labels must be whole numbers, got an array of dtype {labels.dtype}{hint}")
    counted = labels != whole_number(ignore_index, name)
    if not counted.any():
        raise ValueError(f"{name}: every label is {ignore_index} (ignore_index)")
    kept = labels[counted]
    C = int(kept.max()) + 1 if classes is None else positive_int(classes, f"{name}: classes")
    outside = counted & ((labels < 0) | (labels >= C))
    if outside.any():
        where = tuple(int(axis) for axis in np.argwhere(outside)[0])
        raise ValueError(
            f"{name}: labels must be from 0 to {C - 1} or {ignore_index} (ignore_index), "
            f"got {labels[where]} at position {where}"
        )
    count = np.bincount(kept.astype(np.int64), minlength=C)
    occurs = count > 0
    return np.where(occurs, len(kept) / (occurs.sum() * np.maximum(count, 1)), 0.0)
