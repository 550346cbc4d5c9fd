"""fit(loss="linear_cross_entropy"): the last layer and the loss in one, so that the logits are never stored.

    apart      x -> layers -> h -> last layer -> z -> softmax cross-entropy -> L
    in one     x -> layers -> h -> linear_cross_entropy, with the last layer's w and b -> L

    backward   the loss gives dh, dw and db at once: dw and db are the last layer's gradients, and from dh on the other
               layers go back as always

So the loop of fit runs a `body`, the model without its last layer, whose prediction is h.  The numbers are those of
softmax_cross_entropy after the last layer, to rounding.  The last layer is a Dense without activation, a TiedDense, or
one of your own that declares the same (`linear` in layers/declared.py).
"""

import numpy as np

from tinynet.checks.assignments import Fixed
from tinynet.layers.base import Layer
from tinynet.losses import linear_cross_entropy as losses
from tinynet.losses.by_name import apart, without_options
from tinynet.metrics import accuracy, top_k_accuracy
from tinynet.training.counting import counting

LOGITS = 2**20  # so many at a time, where a metric needs them


def with_last_layer(model, loss, metrics):
    """(body, loss, metrics): what to run, and judge by, where the loss takes the last layer with it; else all as given.

    Raises ValueError where that layer is not linear.
    """
    if apart(loss) is loss:
        return model, loss, metrics
    last = model.layers[-1]
    if last.linear() is None:
        advice = ", or give softmax_cross_entropy" if last.ending(None) == ("logits", last.label) else ""
        raise ValueError(
            "fit: linear_cross_entropy makes the logits itself, with the weights of the last layer, which must be a"
            f" Dense without activation or a TiedDense; the model ends in {last.label}{advice}"
        )
    for name, metric in metrics.items():
        if metric.of_epoch:
            raise ValueError(
                f"fit: the metric {name!r} is of all logits of an epoch, and linear_cross_entropy never stores them; "
                "give softmax_cross_entropy"
            )
    body = object.__new__(type(model))
    vars(body).update(vars(model), layers=Fixed(model.layers[:-1] or [_Input(last)]), output_shape=last.input_shape)
    vars(body).pop("_at_once", None)
    return body, LastLayerAndLoss(last, loss), {name: _of_hidden(last, metric) for name, metric in metrics.items()}


class LastLayerAndLoss:
    """linear_cross_entropy as a loss of h, the last layer's input: (h, targets) -> (value, dh).

    It fills the gradients of the last layer's parameters, too.  `apart` is the loss of the logits.
    """

    def __init__(self, layer, loss):
        self.layer, self.apart = layer, apart(loss)
        _, self.options = without_options(loss)
        self.parameters = [*layer.parameters, *(layer.tied.parameters if layer.tied is not None else ())]

    def __call__(self, h, targets, **weights):
        dw, db = self.layer.linear_gradients()
        value, dh, _, _ = losses.into(h, *self.layer.linear(), targets, dw, db, **weights, **self.options)
        for parameter in self.parameters:
            if not parameter.trainable:
                parameter.grad[...] = 0
        return value, dh

    def without_gradient(self, h, targets, **weights):
        return losses.into(h, *self.layer.linear(), targets, grad=False, **weights, **self.options)[:2]

    def scale(self, factor):
        """Multiply the gradients of the last layer by a factor, as others' are that follow from dh; 0: none is left."""
        for gradient in self.layer.linear_gradients():
            if gradient is not None:
                gradient[...] = gradient * gradient.dtype.type(factor) if factor else 0


class _Input(Layer):
    """What is before the last layer, where that is the only one: x as it is."""

    def __init__(self, last):
        super().__init__()
        self._label, self._of_time = last.label, last.of_time
        self.build(last.input_shape, last.dtype, None)

    @property
    def label(self):
        return self._label

    @property
    def of_time(self):
        return self._of_time

    def forward(self, x, training=False):
        return self.checked(x)

    def backward(self, dy, input_grad=True):
        return dy


def _of_hidden(layer, metric):
    """A metric of h: it is given the logits that the layer makes of it.

    Some of them at a time, where it is known for a mean over positions: of any other, all.
    """
    function, options = without_options(metric.given)
    is_mean = function in (accuracy, top_k_accuracy) or hasattr(function, "declaration")

    def logits(h):
        """Of h (N, T, D), or of some positions (M, D) by themselves, which are sequences of one."""
        return layer.forward(h) if h.ndim > len(layer.input_shape) else layer.forward(h[:, None])[:, 0]

    def at_once(h, targets, weights=None):
        return metric(logits(h), targets, weights)

    at_once.given, at_once.of_epoch = metric.given, False
    if not is_mean or options.get("reduction") == "sum":
        return at_once
    count = counting(metric.given)

    def in_pieces(h, targets, weights=None):
        total = counted = 0.0
        for some in _pieces(h, layer):
            of_some = None if weights is None else weights[some]
            weight = count(targets[some], targets[some].size, of_some)
            if weight:
                total += weight * at_once(h[some], targets[some], of_some)
                counted += weight
        return total / counted if counted else at_once(h[:1], targets[:1])

    in_pieces.given, in_pieces.of_epoch = metric.given, False
    return in_pieces


def _pieces(h, layer):
    """Indices of h's samples, as many as make LOGITS logits; where one makes more, of some of its positions."""
    a_sample = int(np.prod(layer.output_shape[len(layer.input_shape) + 1 - h.ndim :]))
    samples = max(1, LOGITS // a_sample)
    if samples > 1 or h.ndim < 3 or layer.of_time is None:
        for n in range(0, len(h), samples):
            yield slice(n, n + samples)
        return
    positions = max(1, LOGITS * layer.output_shape[0] // a_sample)
    for n in range(len(h)):
        for t in range(0, h.shape[1], positions):
            yield slice(n, n + 1), slice(t, t + positions)
