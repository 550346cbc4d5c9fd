"""evaluate: the loss and the metrics of a data set, as fit finds them of its validation set."""

from collections.abc import Callable
from typing import Any

from tinynet.checks import positive_int
from tinynet.data.sequences import split
from tinynet.losses.by_name import loss_function
from tinynet.training import arguments
from tinynet.training.counting import as_option, positions, row_weights
from tinynet.training.metrics import check_whole, checked_metrics


def evaluate(
    model: Any,
    x: Any,
    y: Any,
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
    x, y, *weights = arguments.checked_data(x, y, sample_weight, model=model, who="evaluate")
    weights, lengths = weights[0] if weights else None, split(x)[1]
    if lengths is None:
        check_whole(metrics, model, y, weights, where="these targets", who="evaluate")
    prediction = model.predict(x, batch_size)
    return judged(prediction, y, weights, model.output_lengths(lengths), loss, metrics, "these samples")


def judged(prediction, y, weights, ends, loss, metrics, where):
    """The loss, if there is one, and the metrics, of predictions that end at `ends`, if not None: a dict of floats."""
    weights = row_weights(weights, prediction, ends)
    prediction, y = positions(prediction, y, ends)
    names = [*(["loss"] if loss is not None else []), *metrics]
    if len(prediction) == 0:  # sequences without any position
        return dict.fromkeys(names, 0.0)
    results = [float(loss(prediction, y, **as_option(weights))[0])] if loss is not None else []
    for metric in metrics.values():
        found = metric.of_all(prediction, y, weights, where) if metric.of_epoch else metric(prediction, y, weights)
        results.append(found)
    return dict(zip(names, results, strict=True))
