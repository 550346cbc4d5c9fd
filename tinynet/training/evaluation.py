"""evaluate: the loss and the metrics of a data set, as fit finds them of its validation set."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tinynet.checks import positive_int
from tinynet.data.sequences import split
from tinynet.losses.by_name import as_column, loss_function
from tinynet.training import arguments
from tinynet.training.counting import as_option, positions, row_weights
from tinynet.training.metrics import check_whole, checked_metrics
from tinynet.training.samples import Stream


def evaluate(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    loss: Callable[..., Any] | str | None = None,
    metrics: Any = None,
    sample_weight: Any = None,
    batch_size: int = 256,
) -> dict[str, float]:
    """The loss and the metrics of the model's predictions of x, whose targets are y: {"loss": 0.31, "accuracy": 0.9}.

    All arguments are as in fit.  The loss may be left out; without it, what a metric takes the model's outputs for is
    what its last layer says: a Sigmoid gives probabilities, one unit of a Dense the logit of a yes or no.  Predictions
    are made batch_size samples at a time, and judged together.

    >>> model = tn.Sequential([tn.Dense(2)], 2)
    >>> model.flat_values = [1, 0, 0, 1, 0, 0]
    >>> tn.evaluate(model, [[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], [0, 1, 1], metrics=["accuracy", "recall"])
    {'accuracy': 0.6666666666666666, 'recall': 0.5}
    """
    if not hasattr(model, "flat_values"):
        raise TypeError(f"evaluate: model must be a tinynet.Sequential, got {type(model).__name__}")
    batch_size = positive_int(batch_size, "evaluate: batch_size")
    if loss is None and metrics is None:
        raise ValueError("evaluate: give a loss, metrics, or both")
    if loss is not None:
        loss = loss_function(loss, "evaluate", model=model)
        arguments.check_ending(model, loss, "evaluate")
        if sample_weight is not None:
            arguments.check_takes_weights(loss, "evaluate")
    metrics = checked_metrics(metrics, loss, model, "evaluate")

    def predict(model, x):
        return model.predict(x, batch_size)

    if y is None:
        arguments.check_stream(x, 1, "evaluate", sample_weight=sample_weight)
        return judged(predicted(model, (Stream(model, x, who="evaluate: x"),), predict), loss, metrics, "these samples")
    x, y, *weights = arguments.checked_data(x, y, sample_weight, model=model, who="evaluate")
    weights, lengths = weights[0] if weights else None, split(x)[1]
    if lengths is None:
        check_whole(metrics, model, y, weights, where="these targets", who="evaluate")
    return judged(predicted(model, (x, y, weights), predict), loss, metrics, "these samples")


def predicted(body, data, predict):
    """Predictions, targets and weights of the rows of data: (x, y) or (x, y, weights), or batches of that.

    predict(body, x) is what the model predicts, or None in a process that only computes its share of it.
    """
    if not isinstance(data[0], Stream):
        x, y, *weights = data
        prediction, ends = predict(body, x), body.output_lengths(split(x)[1])
        if prediction is None:
            return None
        return *positions(prediction, y, ends), row_weights(weights[0] if weights else None, prediction, ends)
    parts = [predicted(body, batch if batch[2] is not None else batch[:2], predict) for batch in data[0]]
    if not parts:
        raise ValueError(f"{data[0].who} has no batches")
    predictions, y, weights = zip(*parts, strict=True)
    return np.concatenate(predictions), np.concatenate(y), None if weights[0] is None else np.concatenate(weights)


def judged(rows, loss, metrics, where):
    """The loss, if there is one, and the metrics, of the rows that `predicted` found: a dict of floats."""
    prediction, y, weights = rows
    names = [*(["loss"] if loss is not None else []), *metrics]
    if len(prediction) == 0:  # sequences without any position
        return dict.fromkeys(names, 0.0)
    results = []
    if loss is not None:
        results.append(float(loss(prediction, as_column(y, prediction, loss), **as_option(weights))[0]))
    for metric in metrics.values():
        found = metric.of_all(prediction, y, weights, where) if metric.of_epoch else metric(prediction, y, weights)
        results.append(found)
    return dict(zip(names, results, strict=True))
