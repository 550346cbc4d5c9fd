"""fit(class_weight=): what each class counts for, as the option `weight` of the loss."""

from functools import partial
from inspect import signature

import numpy as np

from tinynet.checks import numbers
from tinynet.data.balance import balanced_class_weights
from tinynet.losses.by_name import apart, without_options
from tinynet.losses.sigmoid_focal import sigmoid_focal


def with_class_weight(loss, class_weight, y, model):
    """The loss with these weights, "balanced" being by the labels y; the same loss for None.

    Of a yes or no (losses with pos_weight), there are two classes, 0 and 1.
    """
    if class_weight is None:
        return loss
    function, options = without_options(loss)
    ours, _ = without_options(apart(loss))
    name, accepted = getattr(function, "__name__", type(function).__name__), signature(function).parameters
    if "weight" not in accepted or not hasattr(ours, "declaration") or function is sigmoid_focal:
        hint = "; it has alpha" if function is sigmoid_focal else ""
        raise TypeError(f"fit: class_weight is the `weight` of a loss, one number a class, which {name} has not{hint}")
    if options.get("weight") is not None or options.get("pos_weight") is not None:
        raise ValueError(f"fit: {name} has weights of classes already; give them there or as class_weight")
    one = "pos_weight" in accepted
    if one and model.output_shape[-1] != 1:
        raise ValueError(
            f"fit: with {name}, class_weight is of one question, and the model answers {model.output_shape[-1]}; give "
            "its pos_weight, one number for each"
        )
    C = 2 if one else model.output_shape[-1]
    weight = _weights(
        class_weight, y, C, options.get("ignore_index", getattr(accepted.get("ignore_index"), "default", None))
    )
    if not one:
        return partial(loss, weight=weight)
    if weight[0] == 0:
        raise ValueError("fit: class_weight of class 0 must be above 0")
    return partial(loss, weight=weight[0], pos_weight=weight[1] / weight[0])


def _weights(given, y, C, ignored):
    """The weights as an array (C,)."""
    if isinstance(given, str):
        if given != "balanced":
            raise ValueError(f'fit: class_weight must be "balanced", a dict, an array ({C},) or None, got {given!r}')
        if not hasattr(y, "__array__") and not isinstance(y, (list, tuple)):
            raise TypeError(f'fit: class_weight="balanced" needs the labels y as an array, got {type(y).__name__}')
        labels = numbers(y, "fit: y")
        if labels.dtype.kind == "f" and (labels == np.round(labels)).all():
            labels = labels.astype(np.int64)
        return balanced_class_weights(labels, C, -100 if ignored is None else ignored)
    if isinstance(given, dict):
        outside = [c for c in given if isinstance(c, bool) or not isinstance(c, (int, np.integer)) or not 0 <= c < C]
        if outside:
            raise ValueError(f"fit: class_weight has {outside[0]!r}, and the classes are whole numbers below {C}")
        given = [given.get(c, 1.0) for c in range(C)]
    weight = numbers(given, "fit: class_weight")
    if weight.shape != (C,) or not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError(f"fit: class_weight must be {C} finite numbers of at least 0, one a class, got {given!r}")
    return weight.astype(np.float64)
