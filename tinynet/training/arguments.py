"""What fit is given: every argument is checked here, before anything is trained.

Most mistakes would show by themselves, some only after an epoch, in which hours may have gone; and a loss that takes
the model's outputs for something else would never show, but train badly.
"""

import inspect
import math
from functools import partial

import numpy as np

from tinynet.checks import batch_hint, numbers, other_names, refuse
from tinynet.data.batches import checked_weights as checked_sample_weight
from tinynet.data.sequences import count, is_pair, split
from tinynet.data.writing import absolute
from tinynet.layers.along_time import check_along_time, checked_lengths
from tinynet.layers.in_a_row import ending_in_a_row
from tinynet.losses.binary_cross_entropy import binary_cross_entropy
from tinynet.losses.by_name import apart, without_options
from tinynet.metrics import BETTER, accuracy, top_k_accuracy
from tinynet.training.counting import check_targets, takes_weights

METRICS = {f.__name__: f for f in (accuracy, top_k_accuracy)}


def metric_functions(metrics, loss):
    """The metrics, in whichever form they were given, as a dict from name to function.

    One that is given by name ignores the targets that the loss ignores.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, dict):
        metrics = list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
        names = [m if isinstance(m, str) else getattr(m, "__name__", type(m).__name__) for m in metrics]
        if len(set(names)) < len(names):
            raise ValueError(
                f"fit: two metrics have one name, give them as a dict name -> function: {', '.join(names)}"
            )
        metrics = dict(zip(names, metrics, strict=True))
    for name, metric in metrics.items():
        if name in ("loss", "lr", "seconds") or str(name).startswith("val_"):
            raise ValueError(f"fit: a metric can't be called {name!r}, which the history uses itself")
        if isinstance(metric, str) and metric not in METRICS:
            hint = other_names.advice(metric, METRICS, other_names.METRICS)
            raise ValueError(f"fit: there is no metric {metric!r}; there are {', '.join(METRICS)}.{hint}")
        if not isinstance(metric, str) and not callable(metric):
            raise TypeError(
                f"fit: a metric must be a function (prediction, target) -> number or a name, got {metric!r}"
            )
    function, options = without_options(apart(loss))
    ours = "ignore_index" in options and hasattr(function, "declaration")
    named = {n: partial(f, ignore_index=options["ignore_index"]) if ours else f for n, f in METRICS.items()}
    functions = {name: named[metric] if isinstance(metric, str) else metric for name, metric in metrics.items()}
    return {name: _numeric(name, metric) for name, metric in functions.items()}


def _numeric(name, metric):
    """The metric, with a look at what it returns, and as `better` which way is better, if that is known."""
    function, _ = without_options(metric)
    loss = hasattr(function, "declaration")

    weighted = takes_weights(metric)

    def measured(prediction, target, weights=None):
        options = {"sample_weight": weights} if weighted and weights is not None else {}
        result = metric(prediction, target, **options)
        result = result[0] if loss else result
        if np.ndim(result) != 0 or not hasattr(result, "__float__"):
            got = f"an array of shape {np.shape(result)}" if np.ndim(result) else repr(result)
            raise TypeError(f"fit: the metric {name!r} must return a number, got {got}")
        return float(result)

    measured.given = metric
    measured.better = "min" if loss else next((way for known, way in BETTER.items() if function is known), None)
    return measured


def check_model(model, optimizer):
    if not hasattr(model, "flat_values"):
        raise TypeError(f"fit: model must be a tinynet.Sequential, got {type(model).__name__}")
    if not hasattr(optimizer, "step") or isinstance(optimizer, type):
        raise TypeError(f"fit: optimizer must be an optimizer, such as Adam(model, lr=1e-3), got {optimizer!r}")
    if type(optimizer).__module__.startswith("torch."):  # it has a step, too, which would change nothing here
        raise TypeError("fit: optimizer must be one made for the model, such as Adam(model, lr=1e-3), got PyTorch's")
    if getattr(optimizer, "model", model) is not model:
        raise ValueError("fit: the optimizer was made for another model")


def check_functions(augment, schedule, callbacks):
    for name, function in (("augment", augment), ("schedule", schedule)):
        if function is not None and not callable(function):
            raise TypeError(f"fit: {name} must be a function, got {function!r}")
    for callback in callbacks:
        if isinstance(callback, type):
            name = callback.__name__
            raise TypeError(
                f"fit: a callback must be a function of a Training, got the class {name}; write {name}(...)"
            )
        if not callable(callback):
            raise TypeError(f"fit: a callback must be a function of a Training, got {callback!r}")
        if schedule is not None and getattr(callback, "sets_lr", False):
            raise ValueError(f"fit: {type(callback).__name__} would do nothing, since schedule sets the learning rate")


def checked_validation(validation, model):
    """validation, with its weights of samples as an array, if it has some."""
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        got = f" of {len(validation)}" if isinstance(validation, (tuple, list)) else ""
        raise ValueError(
            f"fit: validation must be a pair (x, y), or (x, y, sample_weight), got a {type(validation).__name__}{got}"
        )
    x, y, *weights = validation
    pair, (x, lengths) = x, split(x)
    for part, what in ((x, "fit: x of validation"), (y, "fit: y of validation")):
        refuse(part, what)
        if not hasattr(part, "__len__"):
            raise TypeError(f"{what} must be an array or have a length and items, got {type(part).__name__}")
    if hasattr(x, "iloc"):
        numbers(x, "fit: x of validation")
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"fit: validation has {len(x)} samples and {len(y)} targets")
    shape = tuple(getattr(x, "shape", (len(x), *model.input_shape)))
    if not model.layers[0].fits(shape):
        hint = batch_hint(shape, model.input_shape)
        raise ValueError(f"fit: the model takes samples {model.input_shape}, those of validation are {shape[1:]}{hint}")
    if lengths is not None:
        _check_sequences(pair, y, model, " of validation")
    return pair, y, *(checked_sample_weight(w, len(x), "fit: validation") for w in weights if w is not None)


def checked_weights(sample_weight, validation, loss, samples):
    """The weights of samples as an array, or None; an error where the loss can't do with those that there are."""
    weighted = sample_weight is not None or len(validation or ()) > 2
    if weighted and not takes_weights(loss):
        function, options = without_options(loss)
        name = getattr(function, "__name__", type(function).__name__)
        if "sample_weight" in options:
            raise TypeError(f"fit: {name} has a sample_weight already, which no batch has; give it to fit alone")
        raise TypeError(
            f"fit: with sample_weight the loss is called as loss(prediction, target, sample_weight=...), one number a "
            f"row, and {name} has no such argument{'' if apart(loss) is loss else '; softmax_cross_entropy has'}"
        )
    return None if sample_weight is None else checked_sample_weight(sample_weight, samples, "fit")


def check_samples(x, y, model, augment):
    """What the first batch would show, or an epoch later: x as a whole, and by its columns if it is a table."""
    if augment is None:
        pair, (x, lengths) = x, split(x)
        if hasattr(x, "iloc"):
            numbers(x, "fit: x")
        shape = getattr(x, "shape", None) if hasattr(x, "__array__") else None
        if shape is not None and not model.layers[0].fits(tuple(shape)):
            raise model.layers[0].input_error(tuple(shape))
        if lengths is not None:
            _check_sequences(pair, y, model)


def _check_sequences(pair, y, model, where=""):
    """Of sequences with lengths: whether these are right, the model minds them, and targets go by positions."""
    x, lengths = pair
    checked_lengths(lengths, x, f"fit: x{where}")
    T = check_along_time(model.layers, np.shape(x[:1])[1])
    if T is not None and hasattr(y, "shape"):
        check_targets(tuple(y.shape), (len(x), T, *model.output_shape[1:]))


def check_monitors(callbacks, metrics, validation):
    """Callbacks may watch only what the history will have, and learn which way is better there."""
    better = {"loss": "min", **{name: metric.better for name, metric in metrics.items()}}
    if validation is not None:
        better |= {f"val_{name}": way for name, way in better.items()}
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str):
            continue
        if monitor not in (*better, "lr", "seconds"):
            advice = "; give validation=(x, y)" if validation is None and monitor.startswith("val_") else ""
            raise ValueError(
                f"fit: {type(callback).__name__} watches {monitor!r}, and this run has {', '.join(better)}{advice}"
            )
        if hasattr(callback, "watch"):
            callback.watch(better)


def checkpoint_path(checkpoint, resume, optimizer):
    """The checkpoint's path, whatever the working directory will be, or None."""
    if not isinstance(resume, (bool, np.bool_)):
        raise TypeError(f"fit: resume must be True or False, and checkpoint the file, got resume={resume!r}")
    if checkpoint is None:
        if resume:
            raise ValueError("fit: resume=True needs checkpoint=, the file to go on from")
        return None
    path = absolute(checkpoint, "fit", "checkpoint")
    if not hasattr(optimizer, "state_dict") or not hasattr(optimizer, "load_state_dict"):
        name = type(optimizer).__name__
        raise TypeError(
            f"fit: a checkpoint needs an optimizer with state_dict and load_state_dict, {name} has not both"
        )
    return path


def check_last_batch(model, samples, batch_size, augment):
    """Found now, and not at the end of an epoch: a batch of one, which has no variance."""
    if samples % batch_size == 1 % batch_size and augment is None:
        for layer in model.walk():
            if layer.of_batch and math.prod(layer.input_shape[:-1]) == 1:
                raise ValueError(
                    f"fit: of {samples} samples, batches of {batch_size} leave a last one of 1, in which {layer.label} "
                    "finds no variance; choose another batch_size"
                )


def augmentation(augment):
    """augment as a function (x, y, rng) -> (x, y), whichever of the two forms it has."""
    with_targets = False
    try:
        signature = inspect.signature(augment)
    except (TypeError, ValueError):  # a function in C that says nothing about itself
        signature = None
    if signature is not None:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        places = [p for p in signature.parameters.values() if p.kind in kinds]
        names = [p.name for p in places]
        needed = sum(p.default is p.empty for p in places)
        with_targets = names.index("rng") == 2 if "rng" in names else needed == 3
        try:
            signature.bind(*"xyr" if with_targets else "xr")
        except TypeError as error:
            raise TypeError(f"fit: augment must be a function of (x, rng) or of (x, y, rng): {error}") from None
    if not with_targets:

        def augmented(x, y, rng):
            given, x = x, augment(x, rng)
            if x is None:
                raise TypeError("fit: augment returned None; it must return the batch")
            if is_pair(given) and not is_pair(x):
                raise TypeError("fit: augment must return the pair (x, lengths) for the pair that it is given")
            return x, y

        return augmented

    def augmented(x, y, rng):
        pair = augment(x, y, rng)
        if not isinstance(pair, tuple) or len(pair) != 2 or count(pair[0]) != len(pair[1]):
            raise TypeError("fit: augment(x, y, rng) must return the pair (x, y), both of one length")
        return pair

    return augmented


def check_ending(model, loss):
    """Refuse a loss that takes the model's outputs for something else: it would train all the same, and badly.

    After a second softmax, say, the loss of ten classes can't fall below log(1 + 9 / e) = 1.46, and its gradient fades
    where the model is sure and wrong.
    """
    loss, _ = without_options(loss)
    name = getattr(loss, "__name__", None)
    ending, where = ending_in_a_row(model.layers) or (None, None)
    expects = loss.declaration.expects if hasattr(loss, "declaration") else "scores"
    if ending is None or expects in ("scores", ending):
        return
    if expects == "logits":
        advice = "leave that out, for the loss turns logits into probabilities itself"
    else:
        advice = f"train with {'sigmoid' if loss is binary_cross_entropy else 'softmax'}_cross_entropy, on logits"
    raise ValueError(f"fit: {name} expects {expects}, but the model ends in {ending}, from {where}: {advice}")
