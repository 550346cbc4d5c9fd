"""Training: the five-line loop, with what one wishes for around it.

    for x, y in batches(x_train, y_train, batch_size):
        prediction = model.forward(x, training=True)
        value, gradient = loss(prediction, y)
        model.backward(gradient)
        optimizer.step()

fit is that loop over many epochs, with a progress bar, validation, metrics, a schedule of the learning rate, a
history and checkpoints, and it stops where the loss is no longer a number.  Write the loop yourself when you need
anything else.
"""

import inspect
import math
import os
import time
import zlib
from functools import partial
from itertools import islice

import numpy as np

from tinynet.callbacks import Checkpoint, CSVLog, EarlyStopping
from tinynet.checkpoint import described, load_run, save_run
from tinynet.data.batches import batches
from tinynet.distributed import Ranks
from tinynet.layers.activations import Sigmoid
from tinynet.layers.base import positive_int
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.blocks import Parallel, Residual
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.layernorm import LayerNorm
from tinynet.layers.pooling import AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, MaxPool2D
from tinynet.layers.shape import Reshape
from tinynet.layers.softmax import Softmax
from tinynet.losses.binary_cross_entropy import binary_cross_entropy
from tinynet.losses.categorical_cross_entropy import categorical_cross_entropy
from tinynet.losses.hinge import hinge
from tinynet.losses.huber import huber
from tinynet.losses.kl_divergence import kl_divergence
from tinynet.losses.mean_absolute_error import mean_absolute_error
from tinynet.losses.mean_squared_error import mean_squared_error
from tinynet.losses.multiclass_hinge import multiclass_hinge
from tinynet.losses.nll import nll
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.sigmoid_focal import sigmoid_focal
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy
from tinynet.losses.softmax_focal import softmax_focal
from tinynet.metrics import accuracy, top_k_accuracy
from tinynet.progress import Interrupt, Progress

__all__ = ["CSVLog", "Checkpoint", "EarlyStopping", "History", "NonFiniteError", "Training", "fit"]

EXPECTED = {  # what a loss takes its predictions for; those that aren't here take any scores
    softmax_cross_entropy: "logits",
    sigmoid_cross_entropy: "logits",
    softmax_focal: "logits",
    sigmoid_focal: "logits",
    kl_divergence: "logits",
    categorical_cross_entropy: "probabilities",
    binary_cross_entropy: "probabilities",
    nll: "log-probabilities",
}
ANY = (hinge, multiclass_hinge, mean_squared_error, mean_absolute_error, huber)
LOSSES = {f.__name__: f for f in (*EXPECTED, *ANY)}
METRICS = {f.__name__: f for f in (accuracy, top_k_accuracy)}
OF_RANK_0 = ("the model's seed", "the list of callbacks with a state")  # other ranks' may be others
SAVE_SECONDS = 60  # a checkpoint older than this is written anew in the middle of an epoch


class NonFiniteError(ArithmeticError):
    """The loss or a parameter became NaN or infinite.

    `epoch` and `step` count from 1 and over the whole training; `layer` is the label of the one where it began,
    such as "Dense (layer 3)", or None.  `rows` are those of the batch whose input, output or loss is not finite, where
    that can be told, and `samples` the same ones as they are numbered in x.
    """

    def __init__(self, message, *, epoch=None, step=None, layer=None, rows=(), samples=()):
        super().__init__(message)
        self.epoch, self.step, self.layer = epoch, step, layer
        self.rows, self.samples = rows, samples


class History(dict):
    """What fit recorded: a name -> a list with one number an epoch.

    "loss" and each metric are means over the epoch's batches, as they were while the model was changing; "val_loss"
    and "val_" + metric are of the whole validation set after the epoch; "lr" is the learning rate of the last
    step; "seconds" is how long the epoch took.  `interrupted` is whether Ctrl-C ended the training.
    """

    interrupted = False

    def __missing__(self, name):
        raise KeyError(f"the history has no {name!r}; it has {', '.join(self)}")

    def plot(self, path=None):
        """Draw the curves; returns the matplotlib Figure, and saves it if there is a path."""
        from tinynet.plots import training_curves

        return training_curves(self, path)


class Training:
    """What a callback is given after each epoch.  Set `stop` to True, and the training ends there.

    model, optimizer, history    as given to fit, and as it will return
    epoch, step                  how many of each are done
    """

    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.history = model, optimizer, History()
        self.epoch = self.step = 0
        self.stop = False


class _Epoch:
    """An epoch under way: with the model and the optimizer, all that a run needs to go on in the middle of it."""

    def __init__(self, number, seed, names):
        self.number = number
        self.batches = self.samples = 0
        self.totals = dict.fromkeys(names, 0.0)
        self.seconds = 0.0
        self.rng = np.random.default_rng((seed, number, 1))

    def state_dict(self):
        return {**vars(self), "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.rng.bit_generator.state = state["rng"]
        for name in ("number", "batches", "samples", "totals", "seconds"):
            setattr(self, name, state[name])


def fit(
    model,
    x,
    y,
    *,
    loss,
    optimizer,
    epochs,
    batch_size=64,
    validation=None,
    metrics=None,
    augment=None,
    schedule=None,
    callbacks=(),
    checkpoint=None,
    resume=False,
    seed=0,
    progress=True,
    communicator=None,
):
    """Train the model on samples x with targets y; returns a History.

    loss        a function (prediction, target) -> (value, gradient), such as softmax_cross_entropy, or the name of one
    optimizer   made for this very model: Adam(model, lr=1e-3)
    validation  a pair (x, y), judged after every epoch
    metrics     a function (prediction, target) -> number, or the name "accuracy" or "top_k_accuracy", or a list or dict
                of those
    augment     a function (x, rng) -> x or (x, y, rng) -> (x, y), called on every training batch, which it may
                overwrite.  Where its parameter `rng` stands tells which; without one of that name, how many it needs
    schedule    a function step -> learning rate, with steps counted from 0 over the whole training
    callbacks   functions that are given a Training after every epoch, such as EarlyStopping
    checkpoint  a file for the whole state of the run, written at the start, after every epoch, about every minute
                within one, and on Ctrl-C
    resume      go on from that file, if it is there; a run that is finished returns its history at once, and more
                `epochs` than it had continue it
    seed        of the order of the samples, and of augment's rng: the same seed gives the same result, to the bit
    progress    a line an epoch, and on a terminal a bar until it is there; False for silence
    communicator  one of mpi4py, such as MPI.COMM_WORLD, whose ranks all call fit with the same arguments: each takes
                its share of every batch, and the result is that of one process, but for rounding (tinynet.distributed
                tells how).  Rank 0 alone prints, writes files and calls the callbacks, and what these do to the model,
                the optimizer and `stop` reaches every rank; all return the same History

    A run that was stopped, even killed, and resumed with the same arguments gives the same bits as one that never was,
    but for the seconds in its history.  A function of yours that remembers things from call to call is not part of the
    file, unless it is a callback with state_dict and load_state_dict.

    Ctrl-C ends the training after the current step; fit then returns the history so far, whose `interrupted` is True.
    A second Ctrl-C raises KeyboardInterrupt at once.

    Raises NonFiniteError at the first loss that is not finite, naming the layer where that began and the rows; a
    gradient that is not finite shows in the next loss, or at the latest in the parameters, after the epoch and before
    every checkpoint.  Raises ValueError or TypeError, before anything is trained, for arguments that do not fit
    together, such as a model that ends in probabilities with a loss that expects logits, and for a checkpoint of
    another run, saying what differs.
    """
    ranks = Ranks(communicator)
    with ranks.agreeing():
        loss, metrics = _loss(loss), _metrics(metrics)
        epochs, seed = positive_int(epochs, "fit: epochs"), positive_int(seed, "fit: seed", 0)
        callbacks = [callbacks] if callable(callbacks) else list(callbacks)
        _check(model, optimizer, validation, augment, schedule, callbacks)
        _check_monitors(callbacks, metrics, validation)
        _check_ending(model, loss)
        _check_checkpoint(checkpoint, resume, optimizer)
        batches(x, y, batch_size, shuffle=False)  # complains about x, y and batch_size now
        _check_last_batch(model, len(x), batch_size, augment)
        augmented = None if augment is None else _augmentation(augment)
        run = None
        if checkpoint is not None or not ranks.alone:
            run = _run(
                model, x, y, loss, optimizer, batch_size, validation, metrics, augment, schedule, callbacks, seed
            )
    if not ranks.alone:
        ranks.compare({name: value for name, value in run.items() if name not in OF_RANK_0} | {"epochs": epochs})
    ranks.prepare(model, loss)
    callbacks, everyones_callbacks = callbacks if ranks.first else [], callbacks
    training = Training(model, optimizer)
    history, epoch, keeper = training.history, None, None
    progress_bar = Progress(progress and ranks.first, epochs, len(x))
    with ranks.agreeing():
        if checkpoint is not None and ranks.first:
            keeper = _Keeper(checkpoint, run, training, epochs, callbacks)
        resumed = keeper is not None and resume and os.path.exists(checkpoint)
        if resumed:
            epoch = keeper.restore()
            progress_bar.say(f"resumed from {keeper.path}: {training.epoch} epochs, {training.step} steps done")
        for callback in callbacks:
            getattr(callback, "start", _nothing)(training)
        if keeper is not None and not resumed:
            keeper.save()  # so that resuming finds no older run here, and a path that can't be written is found now
    with ranks, progress_bar as bar, Interrupt() as interrupt:

        def flags():
            return interrupt.asked, keeper is not None and keeper.due()

        epoch, asked = ranks.spread(training, epoch), False
        while training.epoch < epochs and not training.stop and not asked:
            epoch = epoch or _Epoch(training.epoch + 1, seed, ["loss", *metrics])
            totals = epoch.totals
            began = time.perf_counter() - epoch.seconds
            bar.start(epoch.number, epoch.samples)
            x_batch = y_batch = None
            ranks.join()
            for x_batch, y_batch in _shares(x, y, batch_size, augmented, epoch, seed, ranks):
                if schedule is not None:
                    optimizer.lr = schedule(training.step)
                prediction = model.forward(x_batch, training=True)
                n, value, gradient, numbers = ranks.judge(prediction, y_batch, loss, metrics, flags)
                if not math.isfinite(value):
                    what = f"the loss is {value}"
                    raise _not_finite(what, training, epoch, x_batch, y_batch, loss, len(x), batch_size, seed, ranks)
                for name, number in zip(totals, (value, *numbers), strict=True):
                    totals[name] += n * float(number)
                model.backward(gradient)
                ranks.sum_gradients()
                optimizer.step()
                training.step += 1
                epoch.batches += 1
                epoch.samples += n
                bar.advance(n, totals, epoch.samples)
                asked, due = flags() if ranks.alone else ranks.flags
                if asked or due:
                    epoch.seconds = time.perf_counter() - began
                    if asked or not np.isfinite(model.flat_values).all():
                        break
                    if keeper is not None:
                        keeper.save(epoch)
            ranks.leave()
            if not np.isfinite(model.flat_values).all():
                what = "a parameter is not finite"
                raise _not_finite(what, training, epoch, x_batch, y_batch, loss, len(x), batch_size, seed, ranks)
            asked = ranks.any(interrupt.asked)
            if asked:
                break
            results = {name: total / epoch.samples for name, total in totals.items()}
            if validation is not None:
                results |= _evaluated(model, *validation, loss, metrics, ranks)
            seconds = time.perf_counter() - began
            results, seconds = ranks.told((results, seconds))
            for name, result in (results | {"lr": optimizer.lr, "seconds": seconds}).items():
                history.setdefault(name, []).append(result)
            bar.finish(results, epoch.samples / seconds)
            training.epoch, epoch = epoch.number, None
            for callback in callbacks:
                callback(training)
            ranks.spread(training)
            if keeper is not None:
                keeper.save()
            asked = ranks.any(interrupt.asked)
        history.interrupted = asked
        if asked:
            if epoch is not None and keeper is not None:
                keeper.save(epoch)
            bar.say(f"interrupted after {training.epoch} epochs, {training.step} steps")
        for callback in callbacks:
            getattr(callback, "finish", _nothing)(training)
        ranks.spread(training)
        ranks.spread_callbacks(_with_state(everyones_callbacks))
    return history


def _nothing(training):
    pass


def _shares(x, y, batch_size, augmented, epoch, seed, ranks):
    """This rank's share of each batch that the epoch still has."""
    order = batches(x, y, batch_size, seed=(seed, epoch.number), shard=ranks.shard if augmented is None else None)
    for x_batch, y_batch in islice(order, epoch.batches, None):
        if augmented is None:
            ranks.place(min(batch_size, len(x) - epoch.samples))
        else:
            x_batch, y_batch = augmented(x_batch, y_batch, epoch.rng)
            if not ranks.alone:
                share = ranks.place(len(x_batch))
                x_batch, y_batch = x_batch[share], y_batch[share]
        yield x_batch, y_batch


def _evaluated(model, x, y, loss, metrics, ranks):
    prediction = ranks.predict(model, x)
    if not ranks.first:
        return {}
    results = {"val_loss": float(loss(prediction, y)[0])}
    return results | {f"val_{name}": float(metric(prediction, y)) for name, metric in metrics.items()}


def _augmentation(augment):
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
            x = augment(x, rng)
            if x is None:
                raise TypeError("fit: augment returned None; it must return the batch")
            return x, y

        return augmented

    def augmented(x, y, rng):
        pair = augment(x, y, rng)
        if not isinstance(pair, tuple) or len(pair) != 2 or len(pair[0]) != len(pair[1]):
            raise TypeError("fit: augment(x, y, rng) must return the pair (x, y), both of one length")
        return pair

    return augmented


# --- the run's checkpoint -----------------------------------------------------------------------------------


class _Keeper:
    """Writes a run to its file, and brings it back."""

    def __init__(self, path, run, training, epochs, callbacks):
        self.path, self.run, self.training, self.epochs = path, run, training, epochs
        self.callbacks = _with_state(callbacks)
        self.random_layers = [layer for layer in training.model.walk() if hasattr(layer, "state")]
        self.saved = time.perf_counter()

    def due(self):
        return time.perf_counter() - self.saved > SAVE_SECONDS

    def save(self, epoch=None):
        """`epoch` is the one under way, if there is one."""
        training = self.training
        state = {
            "epochs": self.epochs,
            "epoch": training.epoch,
            "step": training.step,
            "stop": training.stop,
            "history": training.history,
            "under way": None if epoch is None else epoch.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "layers": [layer.state for layer in self.random_layers],
            "callbacks": [callback.state_dict() for callback in self.callbacks],
        }
        save_run(training.model, self.path, self.run, state)
        self.saved = time.perf_counter()

    def restore(self):
        """The epoch under way, or None.  Where the file does not fit, a ValueError, and nothing has changed."""
        training = self.training
        run, state, fill = load_run(training.model, self.path, self.run)
        epoch = None
        if state["under way"] is not None:
            epoch = _Epoch(0, 0, ())
            epoch.load_state_dict(state["under way"])
        loaded = []
        try:
            owners = [*self.callbacks, training.optimizer]
            for owner, its in zip(owners, [*state["callbacks"], state["optimizer"]], strict=True):
                loaded.append((owner, owner.state_dict()))
                owner.load_state_dict(its)
        except Exception:
            for owner, before in loaded:
                owner.load_state_dict(before)
            raise
        fill()
        for layer, its in zip(self.random_layers, state["layers"], strict=True):
            layer.state = its
        training.history.update(state["history"])
        training.epoch, training.step = state["epoch"], state["step"]
        training.stop = state["stop"] and self.epochs <= state["epochs"]
        self.run = run  # with the learning rate that it began with
        return epoch


def _run(model, x, y, loss, optimizer, batch_size, validation, metrics, augment, schedule, callbacks, seed):
    """What must be the same for a run to be resumed: names -> strings, numbers or None."""
    settings = {
        f"optimizer's {name}": value
        for name, value in getattr(optimizer, "state_dict", dict)().items()
        if not isinstance(value, np.ndarray) and name != "steps" and not (name == "lr" and schedule is not None)
    }
    while isinstance(loss, partial):
        loss = loss.func
    targets = np.asarray(y) if hasattr(y, "__array__") else np.empty(0, object)
    known = targets.dtype.kind in "fiub"
    return {
        "fit's seed": seed,
        "batch_size": positive_int(batch_size, "fit: batch_size"),
        "the number of samples": len(x),
        "the checksum of y": zlib.crc32(np.ascontiguousarray(targets)) if known else None,
        "validation's number of samples": None if validation is None else len(validation[0]),
        "the loss": getattr(loss, "__name__", type(loss).__name__),
        "the list of metrics": ", ".join(map(str, metrics)) or "empty",
        "augment": augment is not None,
        "schedule": schedule is not None,
        "the list of callbacks with a state": ", ".join(type(c).__name__ for c in _with_state(callbacks)) or "empty",
        "the model's seed": getattr(model, "seed", None),
        "the model's dtype": str(model.dtype),
        "the model's input_shape": str(model.input_shape),
        **described(model),
        **settings,
    }


def _with_state(callbacks):
    return [c for c in callbacks if hasattr(c, "state_dict") and hasattr(c, "load_state_dict")]


# --- when the loss is no number -----------------------------------------------------------------------------


def _not_finite(what, training, epoch, x, y, loss, samples, batch_size, seed, ranks):
    """The NonFiniteError, after going through the model once more, with the whole batch, to see where it began."""
    ranks.leave()
    x, y = ranks.whole(x), ranks.whole(y)
    broken_by_step = what != "a parameter is not finite"
    step = training.step + broken_by_step
    where, layer, rows = _first_not_finite(training.model, x, y, loss)
    numbers = np.arange(samples)
    batch = epoch.batches if broken_by_step else epoch.batches - 1
    order, _ = next(islice(batches(numbers, numbers, batch_size, seed=(seed, epoch.number)), batch, None))
    # augment may have returned more or fewer rows than it was given
    indices = tuple(int(order[row]) for row in rows) if len(order) == len(x) else ()
    if 1 < len(rows) == len(x):
        where += ", in every row of the batch"
    elif rows:
        where += f", in row{'s' * (len(rows) > 1)} {_numbers(rows)} of the batch"
        where += f" (sample{'s' * (len(rows) > 1)} {_numbers(indices)} of x)" if indices else ""
    return ranks.known(
        NonFiniteError(
            f"epoch {epoch.number}, step {step}: {what}; {where}",
            epoch=epoch.number,
            step=step,
            layer=layer,
            rows=rows,
            samples=indices,
        )
    )


def _numbers(numbers, most=8):
    more = len(numbers) - most
    return ", ".join(map(str, numbers[:most])) + (f" and {more} more" if more > 0 else "")


def _first_not_finite(model, x, y, loss):
    """In words, the layer's label, and which rows of the batch, as far as that can be told."""
    rows = _rows_not_finite(x)
    if rows:
        return "the input is not finite", None, rows
    # Gradients travel from the last layer to the first, so the last layer with a broken parameter was the
    # first that received a broken gradient, in an earlier step.  Of nested layers, the inner ones come first here.
    for layer in reversed(list(model.walk())):
        broken = [p.name for p in layer.parameters if not np.isfinite(p.value).all()]
        if broken:
            because = "the gradient there was not finite, or the learning rate too high"
            where = f"it began at {layer.label}, whose parameter {broken[0]} an earlier step broke: {because}"
            return where, layer.label, ()
    prediction, layer = _forward_again(model, x)
    rows = _rows_not_finite(prediction)
    if layer is not None:
        return f"it began at {layer.label}: its parameters are finite and its output is not", layer.label, rows
    rows = _rows_of_loss(loss, prediction, y)
    return "every layer's output is finite, so it began in the loss: look at the targets", None, rows


def _forward_again(model, x):
    """The prediction, and the first layer whose output is not finite, or None.

    Dropout drops what it dropped before, and running statistics and the count of Dropout's steps stay as they are.
    """
    layers = list(model.walk())
    first = []

    def watched(layer, forward):
        def watching(x, training=False):
            y = forward(x, training)
            if not first and not np.isfinite(y).all():  # an inner layer is done before the one around it
                first.append(layer)
            return y

        return watching

    buffers = {name: array.copy() for name, array in model.buffers().items()}
    states = [(layer, layer.state) for layer in layers if isinstance(layer, Dropout)]
    try:
        for layer, (key, steps) in states:
            layer.state = key, max(steps - 1, 0)
        for layer in layers:
            layer.forward = watched(layer, layer.forward)
        prediction = model.forward(x, training=True)
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
        for layer, state in states:
            layer.state = state
        for name, array in model.buffers().items():
            array[...] = buffers[name]
    return prediction, first[0] if first else None


def _rows_not_finite(x):
    x = np.asarray(x)
    return tuple(np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1)).tolist())


def _rows_of_loss(loss, prediction, y):
    """The rows whose own loss is not finite; none where the loss is not one of rows by themselves."""
    try:
        return tuple(
            row for row in range(len(y)) if not math.isfinite(loss(prediction[row : row + 1], y[row : row + 1])[0])
        )
    except Exception:  # whatever it is: the error to report is that the loss is no number
        return ()


# --- checks -------------------------------------------------------------------------------------------------


def _loss(loss):
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"fit: there is no loss {loss!r}; there are {', '.join(LOSSES)}")
        return LOSSES[loss]
    if not callable(loss):
        raise TypeError(
            f"fit: loss must be a function (prediction, target) -> (value, gradient) or a name, got {loss!r}"
        )
    return loss


def _metrics(metrics):
    """As a dict from name to function."""
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
            raise ValueError(f"fit: there is no metric {metric!r}; there are {', '.join(METRICS)}")
        if not isinstance(metric, str) and not callable(metric):
            raise TypeError(
                f"fit: a metric must be a function (prediction, target) -> number or a name, got {metric!r}"
            )
    return {name: METRICS[metric] if isinstance(metric, str) else metric for name, metric in metrics.items()}


def _check(model, optimizer, validation, augment, schedule, callbacks):
    if not hasattr(model, "flat_values"):
        raise TypeError(f"fit: model must be a tinynet.Sequential, got {type(model).__name__}")
    if not hasattr(optimizer, "step") or isinstance(optimizer, type):
        raise TypeError(f"fit: optimizer must be an optimizer, such as Adam(model, lr=1e-3), got {optimizer!r}")
    if getattr(optimizer, "model", model) is not model:
        raise ValueError("fit: the optimizer was made for another model")
    for name, function in (("augment", augment), ("schedule", schedule)):
        if function is not None and not callable(function):
            raise TypeError(f"fit: {name} must be a function, got {function!r}")
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"fit: a callback must be a function of a Training, got {callback!r}")
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise ValueError(f"fit: validation must be a pair (x, y), got {type(validation).__name__}")
        if len(validation[0]) != len(validation[1]) or len(validation[0]) == 0:
            raise ValueError(f"fit: validation has {len(validation[0])} samples and {len(validation[1])} targets")
        shape = getattr(validation[0], "shape", (None, *model.input_shape))[1:]
        if shape != model.input_shape:
            raise ValueError(f"fit: the model takes samples {model.input_shape}, those of validation are {shape}")


def _check_checkpoint(checkpoint, resume, optimizer):
    if not isinstance(resume, (bool, np.bool_)):
        raise TypeError(f"fit: resume must be True or False, and checkpoint the file, got resume={resume!r}")
    if checkpoint is None:
        if resume:
            raise ValueError("fit: resume=True needs checkpoint=, the file to go on from")
        return
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(f"fit: checkpoint must be the path of a file, got {checkpoint!r}")
    if not hasattr(optimizer, "state_dict") or not hasattr(optimizer, "load_state_dict"):
        name = type(optimizer).__name__
        raise TypeError(
            f"fit: a checkpoint needs an optimizer with state_dict and load_state_dict, {name} has not both"
        )


def _check_last_batch(model, samples, batch_size, augment):
    """Found now, and not at the end of an epoch: a batch of one, which has no variance."""
    if samples % batch_size == 1 % batch_size and augment is None:
        for layer in model.walk():
            if isinstance(layer, BatchNorm) and math.prod(layer.input_shape[:-1]) == 1:
                raise ValueError(
                    f"fit: of {samples} samples, batches of {batch_size} leave a last one of 1, in which {layer.label} "
                    "finds no variance; choose another batch_size"
                )


def _check_monitors(callbacks, metrics, validation):
    names = ["loss", *metrics]
    names += [] if validation is None else [f"val_{name}" for name in names]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in (*names, "lr", "seconds"):
            advice = "; give validation=(x, y)" if validation is None and monitor.startswith("val_") else ""
            raise ValueError(
                f"fit: {type(callback).__name__} watches {monitor!r}, and this run has {', '.join(names)}{advice}"
            )


def _check_ending(model, loss):
    """Refuse a loss that takes the model's outputs for something else: it would train all the same, and badly.

    After a second softmax, say, the loss of ten classes can't fall below log(1 + 9 / e) = 1.46, and its gradient fades
    where the model is sure and wrong.
    """
    while isinstance(loss, partial):
        loss = loss.func
    name = getattr(loss, "__name__", None)
    ending, where = _ending(model.layers)
    if ending is None or LOSSES.get(name) is not loss or EXPECTED.get(loss, ending) == ending:
        return
    if EXPECTED[loss] == "logits":
        advice = "leave that out, for the loss turns logits into probabilities itself"
    else:
        advice = f"train with {'sigmoid' if loss is binary_cross_entropy else 'softmax'}_cross_entropy, on logits"
    raise ValueError(f"fit: {name} expects {EXPECTED[loss]}, but the model ends in {ending}, from {where}: {advice}")


def _ending(layers):
    """Whether they end in "logits", "probabilities" or (None) something else, and which layer these come from."""
    for index, layer in reversed(list(enumerate(layers))):
        if isinstance(layer, (Softmax, Sigmoid)):
            return "probabilities", layer.label
        if isinstance(layer, (Dense, Conv2D)):
            if layer.activation_name == "sigmoid":
                return "probabilities", f'{layer.label} with activation="sigmoid"'
            return None if layer.activation_name else "logits", layer.label
        if isinstance(layer, (BatchNorm, LayerNorm)):  # any numbers, whatever came in
            return "logits", layer.label
        if isinstance(layer, Residual):  # whatever is added to logits, the sum is no probability
            endings = [_ending(branch) for branch in layer.branches]
            return next((ending for ending in endings if ending[0] == "logits"), (None, None))
        if isinstance(layer, Parallel):
            endings = [_ending([*layers[:index], *branch]) for branch in layer.branches]
            return endings[0] if len({kind for kind, _ in endings}) == 1 else (None, None)
        if not isinstance(layer, (Reshape, Dropout, MaxPool2D, AvgPool2D, GlobalMaxPool2D, GlobalAvgPool2D)):
            break
    return None, None
