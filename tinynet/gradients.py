"""gradients: how what a model predicts depends on its input, and on what each layer makes of it.

    forward    x -> layer 0 -> y[0] -> layer 1 -> y[1] -> ... -> prediction -> L
    backward   dL/dx <- dL/dy[0] <- dL/dy[1] <- ... <- dL/dprediction

Training asks how a loss L changes with the weights.  Here the weights stay, and the question is which numbers of x, or
of a layer's output, L depends on.  L may be a loss, or the score of one class.  The model is taken as it predicts:
Dropout drops nothing, and BatchNorm uses its running statistics.  What is built on it:

    saliency               |dL/dx|                             which pixels matter           (Simonyan et al. 2014)
    Grad-CAM               sum_k A[k] mean of dL/dA[k]         where a layer has seen it     (Selvaraju et al. 2017)
    integrated gradients   (x - b) mean over s of dL/dx at b + s (x - b), s from 0 to 1      (Sundararajan et al. 2017)
    adversarial examples   x + eps sign(dL/dx)                 the smallest lie that works   (Goodfellow et al. 2015)
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinynet.checks import numbers
from tinynet.data.sequences import as_inputs, count, parts, split
from tinynet.layers.along_time import check_along_time, checked_lengths, in_place, padded
from tinynet.layers.in_a_row import forward_in_a_row
from tinynet.layers.inputs import Inputs, checked_inputs
from tinynet.losses.by_name import as_column, checked_result, loss_function
from tinynet.training.counting import positions


class Gradients(NamedTuple):
    """What gradients found.

    value        L, a float
    prediction   the model's output
    dx           dL/dx, of x's shape; None where x is whole numbers, such as words; of several inputs a tuple of these
    activations  what each layer of model.layers gives, a list of arrays
    gradients    dL/dy of each of these, a list of arrays
    """

    value: float
    prediction: np.ndarray
    dx: Any
    activations: list[np.ndarray]
    gradients: list[np.ndarray]


def gradients(model: Any, x: Any, y: Any, loss: Callable[..., Any] | str | None = None) -> Gradients:
    """How L depends on x and on every layer's output, for the model as it predicts; it stays as it was.

    x      a batch (N, ...), or sequences of unequal length, the pair (x, lengths), or a tuple of several inputs
    y      with a loss, its targets; without, which of the outputs (N, C) is L: a whole number, or one for each sample,
           (N,), and L is their sum.  So the gradient of each sample is that of its own score
    loss   a function (prediction, target) -> (value, gradient), or the name of one.  Most are means over the batch, so
           a sample's gradient is divided by N; partial(loss, reduction="sum") leaves that out

    Returns Gradients.  Raises ValueError and TypeError for what does not fit.

    >>> model = tn.Sequential([tn.Dense(2, bias=False)], 3)
    >>> model.flat_values = [1, 2, 3, 4, 5, 6]
    >>> found = tn.gradients(model, [[1.0, 0.0, 1.0]], 1)
    >>> found.value, found.dx
    (8.0, array([[2., 4., 6.]], dtype=float32))
    """
    if not hasattr(model, "flat_values"):
        raise TypeError(f"gradients: model must be a tinynet.Sequential, got {type(model).__name__}")
    function = None if loss is None else loss_function(loss, "gradients", model=model)
    x, lengths = checked_batch(x, model, "gradients")
    if lengths is not None:
        check_along_time(model.layers, x.shape[1])
        x = padded(x, lengths, x.shape[1])
    layers = as_it_predicts(model).layers
    (_, *found), (*_, ends) = through(layers, x, lengths, True)
    found = [array.copy() for array in found]  # what a layer gave it may have kept
    prediction = found[-1]
    if function is None:
        value, dy = _score(prediction, y)
    else:
        counted, targets = positions(prediction.copy(), y, ends)
        targets = as_column(targets, counted, function)
        value, dy = checked_result(function(counted, targets), counted, "gradients")
        dy = dy if ends is None else in_place(dy, ends, prediction.shape)
    flowing = []
    for k in range(len(layers) - 1, -1, -1):
        flowing.insert(0, dy.copy())
        dy = layers[k].backward(dy, k > 0 or not layers[0].takes_integers)
    return Gradients(value, prediction, dy, found, flowing)


def checked_batch(x, model, who):
    """x as an array and its lengths or None, if it's at least one sample; of several inputs both in one, as Inputs."""
    x = as_inputs(x, model, f"{who}: x")
    if type(x) is Inputs:
        x, lengths = checked_inputs(x, model.layers[0].entries, model.dtype, f"{who}: x"), None
    else:
        x, lengths = split(x)
        x = numbers(x, f"{who}: x")
        lengths = None if lengths is None else checked_lengths(lengths, x, who)
        if x.ndim == 0:
            raise ValueError(f"{who}: x must be a batch of at least one sample, got shape {x.shape}")
    if count(x) == 0:
        shape = " and ".join(str(split(part)[0].shape) for part in parts(x))
        raise ValueError(f"{who}: x must be a batch of at least one sample, got shape {shape}")
    return x, lengths


def as_it_predicts(model):
    """A copy whose forward(x, training=True) gives what the model predicts, so that backward is of just that."""
    twin = copy.deepcopy(model)
    for layer in twin.walk():
        layer.as_it_predicts()
    return twin


def through(layers, x, lengths, training):
    """x and each layer's output, and the lengths of each, None where there are none."""
    found, ends = [x], [lengths]
    for each in layers:
        found.append(forward_in_a_row([each], found[-1], training, ends[-1]))
        ends.append(None if ends[-1] is None else each.output_lengths(ends[-1]))
    return found, ends


def _score(prediction, index):
    """The sum of each sample's output of that index, and its gradient."""
    if prediction.ndim != 2:
        raise ValueError(f"gradients: without a loss, the model must end in scores (N, C), it gives {prediction.shape}")
    N, C = prediction.shape
    chosen = numbers(index, "gradients: y", "must be a whole number, or one for each sample, where there is no loss")
    if chosen.dtype.kind not in "iu" or chosen.shape not in ((), (N,)):
        raise ValueError(f"gradients: without a loss, y must be a whole number or ({N},) of them, got {index!r}")
    if not 0 <= chosen.min() <= chosen.max() < C:
        raise ValueError(f"gradients: without a loss, y must be from 0 to {C - 1}, got {index!r}")
    dy = np.zeros_like(prediction)
    dy[np.arange(N), chosen] = 1
    return float(prediction[np.arange(N), chosen].sum()), dy
