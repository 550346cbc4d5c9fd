"""Metrics in fit and evaluate: by which names they go, and what a metric of this package must know of the model.

What the model's outputs are, its loss and its last layer tell.  So they tell a metric what is predicted:

    logits of classes           the highest                  their softmax, where probabilities are asked for
    probabilities of classes    the highest
    logits of a yes or no       yes above 0                  their sigmoid
    probabilities of one        yes above 0.5

Targets that the loss ignores, they ignore too.  Some are means over samples, so that the mean over the batches of an
epoch is that of the epoch; the others are given all of its predictions at once.
"""

import re
import warnings
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from tinynet.checks import other_names
from tinynet.layers.in_a_row import ending_in_a_row
from tinynet.losses.binary_cross_entropy import binary_cross_entropy
from tinynet.losses.by_name import LOSSES, OTHER_NAMES, apart, as_column, named_loss, without_options
from tinynet.losses.hinge import hinge
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.sigmoid_focal import sigmoid_focal
from tinynet.metrics import (
    BETTER,
    MEANS,
    accuracy,
    auroc,
    average_precision,
    expected_calibration_error,
    f1,
    precision,
    r2,
    recall,
    root_mean_squared_error,
    top_k_accuracy,
)
from tinynet.probabilities import sigmoid, softmax
from tinynet.training.counting import as_option, row_weights, takes_weights

NAMES = {
    "accuracy": accuracy,
    "top_k_accuracy": top_k_accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "auc": auroc,
    "auroc": auroc,
    "average_precision": average_precision,
    "expected_calibration_error": expected_calibration_error,
    "r2": r2,
    "rmse": root_mean_squared_error,
}
ELSEWHERE = {  # names in other libraries, without _ and -
    other: metric
    for names, metric in (
        ("acc categoricalaccuracy sparsecategoricalaccuracy binaryaccuracy accuracyscore", accuracy),
        ("topk topkcategoricalaccuracy sparsetopkcategoricalaccuracy topkaccuracyscore", top_k_accuracy),
        ("rocauc rocaucscore aucroc", auroc),
        ("ap aucpr prauc auprc averageprecisionscore", average_precision),
        ("f1score", f1),
        ("precisionscore", precision),
        ("recallscore sensitivity", recall),
        ("ece", expected_calibration_error),
        ("r2score rsquared", r2),
        ("rootmeansquarederror", root_mean_squared_error),
    )
    for other in names.split()
}
MOST = 2**24  # numbers of predictions that are made up to find out whether a metric has a value
YES_OR_NO = (sigmoid_cross_entropy, sigmoid_focal, binary_cross_entropy, hinge)


class Meaning(NamedTuple):
    """What the model's outputs are.

    kind       "logits", "probabilities", "log-probabilities", "scores" or None, where nobody knows
    threshold  where yes begins, if each output answers a yes or no; else None
    ignored    the target that does not count, or None
    """

    kind: str | None
    threshold: float | None
    ignored: int | None


def meaning(model, loss):
    """The Meaning of a model's outputs, with its loss or None."""
    kind = (ending_in_a_row(model.layers) or (None,))[0]
    function, options = without_options(apart(loss)) if loss is not None else (None, {})
    expects = function.declaration.expects if hasattr(function, "declaration") else None
    if expects is not None and (expects, kind) != ("scores", "probabilities"):
        kind = expects
    alone = model.output_shape[-1:] == (1,) and (kind == "probabilities" or loss is None)
    threshold = (0.5 if kind == "probabilities" else 0.0) if alone or function in YES_OR_NO else None
    ignored = None
    if expects is not None and "ignore_index" in signature(function).parameters:
        ignored = options.get("ignore_index", signature(function).parameters["ignore_index"].default)
    return Meaning(kind, threshold, ignored)


class Metric:
    """A metric as it is used: metric(prediction, target, weights of rows or None) is a float.

    given     the function, perhaps with options, that it calls in the end
    better    "max" or "min", or None where only the user knows
    of_epoch  whether it must be given all predictions of an epoch at once
    ours      whether it is one of this package
    """

    def __init__(self, name, given, who, meant):
        function, options = without_options(given)
        known = next((each for each in BETTER if each is function), None)
        self.name, self.who, self.loss = name, who, hasattr(function, "declaration")
        self.ours = self.loss or known is not None
        self.better = "min" if self.loss else BETTER.get(known, getattr(given, "better", None))
        self.of_epoch = known not in MEANS if known is not None else bool(getattr(given, "of_epoch", False))
        if self.ours:
            told = {"ignore_index": meant.ignored, "threshold": meant.threshold}
            told = {name: value for name, value in told.items() if value is not None and name not in options}
            told = {name: value for name, value in told.items() if name in signature(function).parameters}
            given = partial(given, **told) if told else given
        self.given, self._weighted = given, takes_weights(given)
        self._call = partial(_of_whole, given, known, meant) if known is not None and self.of_epoch else given

    def __call__(self, prediction, target, weights=None):
        target = as_column(target, prediction, self.given) if self.loss else target
        result = self._call(prediction, target, **as_option(weights if self._weighted else None))
        result = result[0] if self.loss else result
        if np.ndim(result) != 0 or not hasattr(result, "__float__"):
            got = f"an array of shape {np.shape(result)}" if np.ndim(result) else repr(result)
            raise TypeError(f"{self.who}: the metric {self.name!r} must return a number, got {got}")
        return float(result)

    def of_all(self, prediction, target, weights, where):
        """The same of all predictions `where` says; NaN, with a warning, where there is no such number."""
        try:
            return self(prediction, target, weights)
        except ValueError as error:
            if not (self.ours and self.of_epoch):
                raise
            warnings.warn(f"{self.who}: {self.name!r} of {where} is NaN: {error}", stacklevel=2)
            return float("nan")


def checked_metrics(metrics, loss, model, who="fit"):
    """The metrics, in whichever form they were given, as a dict from name to Metric."""
    if metrics is None:
        return {}
    if not isinstance(metrics, dict):
        metrics = list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
        names = [m if isinstance(m, str) else getattr(m, "__name__", type(m).__name__) for m in metrics]
        if len(set(names)) < len(names):
            raise ValueError(
                f"{who}: two metrics have one name, give them as a dict name -> function: {', '.join(names)}"
            )
        metrics = dict(zip(names, metrics, strict=True))
    functions = {}
    for name, metric in metrics.items():
        if name in ("loss", "lr", "seconds") or str(name).startswith("val_"):
            raise ValueError(f"{who}: a metric can't be called {name!r}, which the history uses itself")
        if not isinstance(metric, str) and not callable(metric):
            raise TypeError(
                f"{who}: a metric must be a function (prediction, target) -> number or a name, got {metric!r}"
            )
        functions[name] = _named(metric, model, who) if isinstance(metric, str) else metric
    meant = meaning(model, loss)
    return {name: Metric(name, function, who, meant) for name, function in functions.items()}


def check_whole(metrics, model, y, weights=None, *, where, who="fit"):
    """A ValueError where a metric of all targets has no value whatever is predicted: with one class alone, say."""
    if not hasattr(y, "__array__"):
        return
    for name, metric in metrics.items():
        if metric.ours and metric.of_epoch:
            shape = len(y), *model.output_shape
            if np.prod(shape) > MOST:
                continue
            try:
                made_up = np.full(shape, 1 / shape[-1])
                metric(made_up, np.asarray(y), row_weights(weights, made_up, None))
            except ValueError as error:
                raise ValueError(f"{who}: there is no {name!r} of {where}: {error}") from None


def _named(name, model, who):
    short = other_names.run_together(name)
    found = NAMES.get(name) or {other_names.run_together(n): f for n, f in NAMES.items()}.get(short)
    found = found or ELSEWHERE.get(short)
    top = re.fullmatch(r"top([1-9]\d*)(accuracy)?", short)
    found = found or (partial(top_k_accuracy, k=int(top[1])) if top else named_loss(name, who, model))
    if found is None:
        hint = other_names.advice(name, [*NAMES, *LOSSES], OTHER_NAMES | other_names.METRICS)
        raise ValueError(
            f"{who}: there is no metric {name!r}; there are {', '.join(NAMES)}, top_5 and the like, and the losses; "
            f"any other is a function (prediction, target) -> number.{hint}"
        )
    return found


def _of_whole(given, function, meant, prediction, target, sample_weight: Any = None):
    """given(prediction, target) in the form that the function takes, without the targets that do not count."""
    p, t = np.asarray(prediction), np.asarray(target)
    weight = None if sample_weight is None else sample_weight.reshape(-1)
    if p.ndim > 2:  # each position is a row
        t = t.reshape(-1, p.shape[-1]) if t.shape == p.shape else t.reshape(-1) if t.shape == p.shape[:-1] else t
        p = p.reshape(-1, p.shape[-1])
    if function in (r2, root_mean_squared_error):
        return given(p, t, **as_option(weight))
    if p.shape[-1] == 1:
        p, t = p[..., 0], t.reshape(p.shape[:-1])
    elif p.shape != t.shape or meant.threshold is None:  # classes
        t = t.argmax(axis=-1) if t.shape == p.shape else t
        p = softmax(p.astype(np.float64)) if meant.kind == "logits" else p
        p = np.exp(p) if meant.kind == "log-probabilities" else p
        t = t.reshape(-1)
        if p.shape[1] == 2 and function in (auroc, average_precision):
            p = p[:, 1]
        return _of_counted(given, p, t, weight, t != meant.ignored)
    if function is expected_calibration_error:
        p = sigmoid(p) if meant.kind == "logits" else p
        return _of_counted(given, np.stack([1 - p, p], axis=-1), t.astype(int), weight, t != meant.ignored)
    counts = t != meant.ignored  # all differ from None
    if counts.all():
        return given(p, t, **as_option(weight))
    if p.ndim == 1:
        return _of_counted(given, p, t, weight, counts)
    columns = range(p.shape[1])  # of several questions, each by itself, has answers of its own that do not count
    return float(np.mean([_of_counted(given, p[:, k], t[:, k], weight, counts[:, k]) for k in columns]))


def _of_counted(given, p, t, weight, counts):
    return given(p[counts], t[counts], **as_option(None if weight is None else weight[counts]))
