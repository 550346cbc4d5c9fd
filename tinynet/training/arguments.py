"""What fit is given: every argument is checked here, before anything is trained.

Most mistakes would show by themselves, some only after an epoch, in which hours may have gone; and a loss that takes
the model's outputs for something else would never show, but train badly.
"""

import inspect
import math
import os
import warnings

import numpy as np

from tinynet.checks import batch_hint, numbers, refuse
from tinynet.data.batches import batches, checked_weights
from tinynet.data.sequences import as_inputs, count, parts, split
from tinynet.data.writing import absolute
from tinynet.layers.along_time import check_along_time, checked_lengths
from tinynet.layers.in_a_row import ending_in_a_row
from tinynet.layers.inputs import Inputs
from tinynet.losses.binary_cross_entropy import binary_cross_entropy
from tinynet.losses.by_name import apart, without_options
from tinynet.training.counting import check_targets, takes_weights
from tinynet.training.samples import Stream, is_stream


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
    functions = augment if isinstance(augment, (list, tuple)) else [augment]
    for name, function in (*(("augment", each) for each in functions), ("schedule", schedule)):
        if function is not None and not callable(function):
            raise TypeError(f"fit: {name} must be a function, got {function!r}")
    if schedule is not None:
        _check_takes(schedule, "schedule must be a function of the step's number", 0)
    for callback in callbacks:
        if isinstance(callback, type):
            name = callback.__name__
            raise TypeError(
                f"fit: a callback must be a function of a Training, got the class {name}; write {name}(...)"
            )
        if not callable(callback):
            raise TypeError(f"fit: a callback must be a function of a Training, got {callback!r}")
        _check_takes(callback, "a callback must be a function of a Training", None)
        if schedule is not None and getattr(callback, "sets_lr", False):
            raise ValueError(f"fit: {type(callback).__name__} would do nothing, since schedule sets the learning rate")


def _check_takes(function, what, argument):
    """A TypeError for one that can't be called with this argument alone: now, and not after an epoch."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function in C that says nothing about itself
        return
    try:
        signature.bind(argument)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"fit: {what}, and {name}{signature} is called with one argument: {error}") from None


def check_stream(x, epochs, who, **others):
    """An error for what can't be iterated over `epochs` times, and for arguments that need the samples themselves."""
    if not (callable(x) or hasattr(x, "__iter__")) or isinstance(x, (tuple, str, bytes, dict)) or hasattr(x, "shape"):
        raise TypeError(
            f"{who}: y is missing; without it, x must be batches (x, y): a DataLoader, a list of them, or a function "
            f"that returns an iterator, got {type(x).__name__}"
        )
    if hasattr(x, "__next__") and epochs > 1:
        raise TypeError(
            f"{who}: the {type(x).__name__} is used up after one epoch; give a function that makes a new one for each"
        )
    for name, given in others.items():
        if given is not None and given is not False:
            raise TypeError(f"{who}: {name} needs the samples themselves, x and y; x makes the batches here")


def check_batches(x, y, batch_size, similar_length, drop_last):
    """What batches can't make batches of is refused by its message."""
    batches(x, y, batch_size, shuffle=False, similar_length=similar_length, drop_last=drop_last)


def checked_validation(validation, model):
    """validation, with its weights of samples as an array, if it has some."""
    if validation is None:
        return None
    if is_stream(validation):
        check_stream(validation, 2, "fit: validation")
        return (Stream(model, validation, who="fit: validation"),)
    if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
        got = f" of {len(validation)}" if isinstance(validation, (tuple, list)) else ""
        raise ValueError(
            "fit: validation must be a pair (x, y), (x, y, sample_weight), or a share of the samples, such as 0.2, "
            f"got a {type(validation).__name__}{got}"
        )
    return checked_data(*validation, model=model, who="fit", of=" of validation")


def checked_data(x, y, sample_weight=None, *, model, who, of=""):
    """Data to judge the model by: (x, y), or (x, y, weights) where there are some; `who` and `of` are for messages."""
    x = as_inputs(x, model, f"{who}: x{of}")
    for part, what in ((x if type(x) is Inputs else split(x)[0], f"{who}: x{of}"), (y, f"{who}: y{of}")):
        refuse(part, what)
        if not hasattr(part, "__len__"):
            raise TypeError(f"{what} must be an array or have a length and items, got {type(part).__name__}")
    for part, _, name in inputs_of(x, model):
        if hasattr(part, "iloc"):
            numbers(part, f"{who}: {name or 'x'}{of}")
    if count(x) != len(y) or count(x) == 0:
        raise ValueError(f"{who}: {of[4:] or 'it'} has {count(x)} samples and {len(y)} targets")
    for part, entry, name in inputs_of(x, model):
        inside, lengths = split(part)
        shape = tuple(getattr(inside, "shape", (len(inside), *entry.input_shape)))
        if not entry.fits(shape):
            hint, those = batch_hint(shape, entry.input_shape), f"those{of}" if of else "these"
            as_ = f" as {name}" if name else ""
            raise ValueError(f"{who}: the model takes samples {entry.input_shape}{as_}, {those} are {shape[1:]}{hint}")
        if lengths is not None:
            _check_sequences(part, y, model, entry, of, who)
    if sample_weight is None:
        return x, y
    return x, y, checked_weights(sample_weight, count(x), f"{who}:{of[3:]}" if of else who)


def inputs_of(x, model):
    """(input, where it enters, "input 1" or "" of one alone) for each input."""
    for number, (part, entry) in enumerate(zip(parts(x), model.layers[0].entries, strict=True)):
        yield part, entry, f"input {number}" if type(x) is Inputs else ""


def check_takes_weights(loss, who):
    """An error for a loss without an argument sample_weight that is still free."""
    if takes_weights(loss):
        return
    function, options = without_options(loss)
    name = getattr(function, "__name__", type(function).__name__)
    if "sample_weight" in options:
        raise TypeError(f"{who}: {name} has a sample_weight already, which no batch has; give it to {who} alone")
    hint = "" if apart(loss) is loss else "; softmax_cross_entropy has"
    raise TypeError(
        f"{who}: with sample_weight the loss is called as loss(prediction, target, sample_weight=...), one number a "
        f"row, and {name} has no such argument{hint}"
    )


def check_samples(x, y, model, augment):
    """What the first batch would show, or an epoch later: x as a whole, and by its columns if it is a table."""
    for pair, entry, name in inputs_of(x, model) if augment is None else ():
        x, lengths = split(pair)
        _warn_of_bytes(x, entry.layers if name else model.layers, name or "x")
        if hasattr(x, "iloc"):
            numbers(x, f"fit: {name or 'x'}")
        shape = getattr(x, "shape", None) if hasattr(x, "__array__") else None
        if shape is not None and not entry.fits(tuple(shape)):
            raise entry.input_error(tuple(shape))
        if lengths is not None:
            _check_sequences(pair, y, model, entry)


def _warn_of_bytes(x, layers, name):
    """Bytes where the first layer takes them for what they are: pixels from 0 to 255, of which nothing learns well."""
    for layer in layers:
        if layer.any_scale or layer.takes_integers:
            return
        if not layer.same_numbers:
            break
    if getattr(x, "dtype", None) == np.uint8 and np.max(x[:64], initial=0) > 1:
        warnings.warn(
            f"fit: {name} is bytes, from 0 to 255, on which networks learn badly; give x / 255 in float32, or begin "
            f"the {'model' if name == 'x' else 'branch'} with Normalize().fit(x)",
            stacklevel=5,
        )


def _check_sequences(pair, y, model, entry, where="", who="fit"):
    """Of sequences with lengths: whether these are right, the model minds them, and targets go by positions."""
    x, lengths = pair
    checked_lengths(lengths, x, f"{who}: x{where}")
    if entry is not model.layers[0]:  # one of several inputs
        return entry.check_along_time(np.shape(x[:1])[1])
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


def check_last_words(callbacks):
    """Only one callback may set the model's weights at the end: of two, the second would undo what the first did."""
    setting = [callback for callback in callbacks if getattr(callback, "sets_weights", False)]
    if len(setting) > 1:
        names = " and ".join(type(callback).__name__ for callback in setting)
        raise ValueError(
            f"fit: {names} would each set the model's weights at the end, and only one can; leave the others out, or"
            " give EarlyStopping restore_best=False"
        )


def check_files(checkpoint, callbacks):
    """A ValueError where two would write one file, each in place of what the other wrote."""
    writers = {}
    for name, path in (
        ("checkpoint", checkpoint),
        *((type(c).__name__, c.path) for c in callbacks if getattr(c, "writes_path", False)),
    ):
        if path is None or (os.path.exists(path) and not os.path.isfile(path)):  # a terminal may show several
            continue
        path = os.path.realpath(path)
        if path in writers:
            raise ValueError(f"fit: {writers[path]} and {name} would both write {path}; give each a file of its own")
        writers[path] = name


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


def check_ending(model, loss, who="fit"):
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
    raise ValueError(f"{who}: {name} expects {expects}, but the model ends in {ending}, from {where}: {advice}")
