"""Training: the five-line loop, with what one wishes for around it.

    for x, y in batches(x_train, y_train, batch_size):
        prediction = model.forward(x, training=True)
        value, gradient = loss(prediction, y)
        model.backward(gradient)
        optimizer.step()

fit is that loop over many epochs, with a progress bar, validation, metrics, a schedule of the learning rate and a
history, and it stops where the loss is no longer a number.  Write the loop yourself when you need anything else.
"""

import math
import sys
import time
from functools import partial

import numpy as np

from tinynet.data.batches import batches
from tinynet.layers.activations import Sigmoid
from tinynet.layers.base import positive_int
from tinynet.layers.blocks import Parallel, Residual
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
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
from tinynet.metrics import accuracy

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
METRICS = {f.__name__: f for f in (accuracy,)}


class NonFiniteError(ArithmeticError):
    """The loss or a parameter became NaN or infinite.

    `epoch` and `step` count from 1 and over the whole training; `layer` is the label of the one where it began,
    such as "Dense (layer 3)", or None.
    """

    def __init__(self, message, *, epoch=None, step=None, layer=None):
        super().__init__(message)
        self.epoch, self.step, self.layer = epoch, step, layer


class History(dict):
    """What fit recorded: a name -> a list with one number an epoch.

    "loss" and each metric are means over the epoch's batches, as they were while the model was changing; "val_loss"
    and "val_" + metric are of the whole validation set after the epoch; "lr" is the learning rate of the last
    step; "seconds" is how long the epoch took.
    """

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


class EarlyStopping:
    """A callback: stop once history[monitor] has not improved for `patience` epochs.

    `best` and `best_epoch` are the best value and the epoch that had it.
    """

    def __init__(self, monitor="val_loss", patience=5, maximize=False):
        self.monitor, self.patience, self.maximize = (
            monitor,
            positive_int(patience, "EarlyStopping: patience"),
            maximize,
        )
        self.best = self.best_epoch = None

    def __call__(self, training):
        value = training.history[self.monitor][-1]
        first = training.epoch == 1 or self.best is None
        if first or (value > self.best if self.maximize else value < self.best):
            self.best, self.best_epoch = value, training.epoch
        training.stop |= training.epoch - self.best_epoch >= self.patience


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
    seed=0,
    progress=True,
):
    """Train the model on samples x with targets y; returns a History.

    loss        a function (prediction, target) -> (value, gradient), such as softmax_cross_entropy, or the name of one
    optimizer   made for this very model: Adam(model, lr=1e-3)
    validation  a pair (x, y), judged after every epoch
    metrics     a function (prediction, target) -> number, or the name "accuracy", or a list or dict of those
    augment     a function (x, rng) -> x, called on every training batch, which it may overwrite
    schedule    a function step -> learning rate, with steps counted from 0 over the whole training
    callbacks   functions that are given a Training after every epoch
    seed        of the order of the samples, and of augment's rng: the same seed gives the same result, to the bit
    progress    a line an epoch, and on a terminal a bar until it is there; False for silence

    Raises NonFiniteError at the first loss that is not finite, naming the layer where that began; ValueError or
    TypeError, before anything is trained, for arguments that do not fit together, such as a model that ends in
    probabilities with a loss that expects logits.
    """
    loss, metrics = _loss(loss), _metrics(metrics)
    epochs, seed = positive_int(epochs, "fit: epochs"), positive_int(seed, "fit: seed", 0)
    callbacks = [callbacks] if callable(callbacks) else list(callbacks)
    _check(model, optimizer, validation, augment, schedule, callbacks)
    _check_ending(model, loss)
    training = Training(model, optimizer)
    history = training.history
    batches(x, y, batch_size, shuffle=False)  # complains about x, y and batch_size now
    with _Progress(progress, epochs, len(x)) as bar:
        for epoch in range(1, epochs + 1):
            began = time.perf_counter()
            totals, seen = dict.fromkeys(["loss", *metrics], 0.0), 0
            rng = np.random.default_rng((seed, epoch, 1))
            bar.start(epoch)
            for x_batch, y_batch in batches(x, y, batch_size, seed=(seed, epoch)):
                if augment is not None:
                    x_batch = augment(x_batch, rng)
                if schedule is not None:
                    optimizer.lr = schedule(training.step)
                prediction = model.forward(x_batch, training=True)
                value, gradient = loss(prediction, y_batch)
                if not math.isfinite(value):
                    raise _not_finite(f"the loss is {value}", model, x_batch, epoch, training.step + 1)
                model.backward(gradient)
                optimizer.step()
                training.step += 1
                n = len(x_batch)
                seen += n
                totals["loss"] += n * float(value)
                for name, metric in metrics.items():
                    totals[name] += n * float(metric(prediction, y_batch))
                bar.advance(n, totals, seen)
            if not np.isfinite(model.flat_values).all():
                raise _not_finite("a parameter is not finite", model, x_batch, epoch, training.step)
            results = {name: total / seen for name, total in totals.items()}
            if validation is not None:
                results |= _evaluated(model, *validation, loss, metrics)
            seconds = time.perf_counter() - began
            for name, result in (results | {"lr": optimizer.lr, "seconds": seconds}).items():
                history.setdefault(name, []).append(result)
            bar.finish(results, seen / seconds)
            training.epoch = epoch
            for callback in callbacks:
                callback(training)
            if training.stop:
                break
    return history


def _evaluated(model, x, y, loss, metrics):
    prediction = model.predict(x)
    results = {"val_loss": float(loss(prediction, y)[0])}
    return results | {f"val_{name}": float(metric(prediction, y)) for name, metric in metrics.items()}


# --- when the loss is no number -----------------------------------------------------------------------------


def _not_finite(what, model, x, epoch, step):
    """The NonFiniteError, after going through the model once more to see where it began."""
    where, layer = _first_not_finite(model, x)
    return NonFiniteError(f"epoch {epoch}, step {step}: {what}; {where}", epoch=epoch, step=step, layer=layer)


def _first_not_finite(model, x):
    """In words, and the layer's label."""
    if not np.isfinite(x).all():
        sample = int(np.argwhere(~np.isfinite(x))[0][0])
        return f"the input is not finite: sample {sample} of the batch", None
    # Gradients travel from the last layer to the first, so the last layer with a broken parameter was the
    # first that received a broken gradient, in an earlier step.
    for layer in reversed(model.layers):
        broken = [p.name for p in layer.parameters if not np.isfinite(p.value).all()]
        if broken:
            because = "the gradient there was not finite, or the learning rate too high"
            return (
                f"it began at {layer.label}, whose parameter {broken[0]} an earlier step broke: {because}",
                layer.label,
            )
    for layer in model.layers:
        x = layer.forward(x, training=True)
        if not np.isfinite(x).all():
            return f"it began at {layer.label}: its parameters are finite and its output is not", layer.label
    return "every layer's output is finite, so it began in the loss: look at the targets", None


# --- progress -----------------------------------------------------------------------------------------------


class _Progress:
    """A line for each epoch, and on a terminal a bar in its place until then; or nothing."""

    def __init__(self, wanted, epochs, samples):
        self.wanted, self.epochs, self.samples = wanted, epochs, samples
        self.bar = None
        self.terminal = bool(wanted) and sys.stdout is not None and sys.stdout.isatty()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.bar is not None:
            self.bar.close()

    def start(self, epoch):
        self.title = f"epoch {epoch:{len(str(self.epochs))}}/{self.epochs}"
        if self.terminal:
            from tqdm import tqdm

            self.bar = tqdm(
                total=self.samples,
                desc=self.title,
                unit=" samples",
                leave=False,
                file=sys.stdout,
                bar_format="{desc} {bar:20} {n_fmt}/{total_fmt} {rate_noinv_fmt}{postfix}",
            )
            self.drawn = time.perf_counter()

    def advance(self, n, totals, seen):
        if self.bar is not None:
            now = time.perf_counter()
            if now - self.drawn > 0.1:  # writing the numbers takes as long as a step of a small model
                self.drawn = now
                self.bar.set_postfix_str(_written(totals, seen), refresh=False)
            self.bar.update(n)

    def finish(self, results, rate):
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        if self.wanted:
            print(f"{self.title}  {_written(results)}  {rate:,.0f} samples/s", flush=True)


def _written(numbers, divisor=1):
    return "  ".join(f"{name} {_short(number / divisor)}" for name, number in numbers.items())


def _short(number):
    return f"{number:.4f}" if 1e-3 <= abs(number) < 1e4 or number == 0 else f"{number:.3e}"


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
        if isinstance(layer, Residual):  # whatever is added to logits, the sum is no probability
            endings = [_ending(branch) for branch in layer.branches]
            return next((ending for ending in endings if ending[0] == "logits"), (None, None))
        if isinstance(layer, Parallel):
            endings = [_ending([*layers[:index], *branch]) for branch in layer.branches]
            return endings[0] if len({kind for kind, _ in endings}) == 1 else (None, None)
        if not isinstance(layer, (Reshape, Dropout, MaxPool2D, AvgPool2D, GlobalMaxPool2D, GlobalAvgPool2D)):
            break
    return None, None
