"""fit is the five-line loop; its history, its reports, and what it refuses."""

import csv
import inspect
import io
import math
import pickle
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from tqdm import tqdm

from tinynet import plots
from tinynet.checkpoint import load
from tinynet.data import batches
from tinynet.layers.activations import Sigmoid
from tinynet.layers.base import Layer
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.blocks import Concat, Residual
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.layernorm import LayerNorm
from tinynet.layers.pooling import GlobalAvgPool2D
from tinynet.layers.shape import Flatten, Reshape
from tinynet.layers.softmax import Softmax
from tinynet.losses.by_name import LOSSES
from tinynet.losses.mean_squared_error import mean_squared_error
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy
from tinynet.metrics import accuracy
from tinynet.model import Sequential
from tinynet.training import Checkpoint, CSVLog, EarlyStopping, History, NonFiniteError, fit, progress
from tinynet.training.optim import SGD, Adam, cosine
from tinynet.training.samples import augmentation

rng = np.random.default_rng(0)
Y = rng.integers(0, 3, 100)
X = (rng.standard_normal((100, 4)) + np.eye(3, 4)[Y] * 3).astype(np.float32)


class Running(Layer):
    """y = x - mean in training, and x less a running mean otherwise: what BatchNorm does, but for the scale."""

    def build(self, input_shape, dtype, rng):
        output_shape = super().build(input_shape, dtype, rng)
        self.buffers = {"mean": np.zeros(output_shape, self.dtype), "steps": np.zeros((), np.int64)}
        return output_shape

    def forward(self, x, training=False):
        if not training:
            return x - self.buffers["mean"]
        mean = x.mean(axis=0)
        self.buffers["mean"][...] = 0.9 * self.buffers["mean"] + 0.1 * mean
        self.buffers["steps"][...] += 1
        return x - mean

    def backward(self, dy, input_grad=True):
        return dy - dy.mean(axis=0)


def small_model(seed=0, last=3):
    return Sequential([Dense(8, activation="tanh"), Dropout(0.1), Dense(last)], (4,), seed=seed)


def trained(model=None, lr=0.05, **options):
    model = model or small_model()
    options = {"loss": softmax_cross_entropy, "epochs": 3, "batch_size": 16, "progress": False, **options}
    x, y = options.pop("data", (X, Y))
    history = fit(model, x, y, optimizer=Adam(model, lr), **options)
    return model, history


def test_fit_is_the_five_line_loop():
    model, history = trained(seed=5)
    by_hand, losses = small_model(), []
    optimizer = Adam(by_hand, lr=0.05)
    for epoch in (1, 2, 3):
        total = 0.0
        for x, y in batches(X, Y, batch_size=16, seed=(5, epoch)):
            logits = by_hand.forward(x, training=True)
            loss, dlogits = softmax_cross_entropy(logits, y)
            by_hand.backward(dlogits)
            optimizer.step()
            total += len(x) * float(loss)
        losses.append(total / len(X))
    np.testing.assert_array_equal(model.flat_values, by_hand.flat_values)
    assert history["loss"] == losses
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    weights = [trained(seed=seed)[0].flat_values for seed in (1, 1, 2)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()


def test_the_history_has_one_number_an_epoch():
    model, history = trained(validation=(X[:30], Y[:30]), metrics="accuracy", epochs=4)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"]
    assert all(len(values) == 4 and all(type(v) is float for v in values) for values in history.values())
    prediction = model.predict(X[:30])
    assert history["val_accuracy"][-1] == accuracy(prediction, Y[:30])
    assert history["val_loss"][-1] == pytest.approx(float(softmax_cross_entropy(prediction, Y[:30])[0]))
    assert history["accuracy"][-1] > 0.8
    with pytest.raises(KeyError, match="no 'val_f1'; it has loss, accuracy"):
        history["val_f1"]


def test_metrics_come_as_a_name_a_function_a_list_or_a_dict():
    def zero(prediction, target):
        return 0

    for metrics, names in [
        (zero, ["zero"]),
        (["accuracy", zero], ["accuracy", "zero"]),
        ({"right": "accuracy", "none": zero}, ["right", "none"]),
    ]:
        _, history = trained(metrics=metrics, epochs=1)
        assert list(history)[1:-2] == names


def test_a_loss_comes_as_a_name_or_a_function_of_ones_own():
    model, named = trained(small_model(), loss="softmax_cross_entropy")
    assert named["loss"] == trained()[1]["loss"]

    def distance(prediction, target):
        d = prediction - np.eye(3, dtype=prediction.dtype)[target]
        return float((d**2).sum()), 2 * d

    _, history = trained(loss=distance, lr=0.01)
    assert history["loss"][-1] < history["loss"][0]


def test_a_schedule_is_asked_before_every_step():
    asked = []

    def schedule(step):
        asked.append(step)
        return cosine(0.1, 21)(step)

    _, history = trained(schedule=schedule)
    assert asked == list(range(21))
    assert history["lr"] == [cosine(0.1, 21)(step) for step in (6, 13, 20)]


def test_augment_sees_every_training_batch_and_may_overwrite_it():
    before, seen = X.copy(), []

    def augment(x, rng):
        seen.append(len(x))
        x *= rng.uniform(0.9, 1.1)
        return x

    model, _ = trained(augment=augment, epochs=2)
    assert seen == [16, 16, 16, 16, 16, 16, 4] * 2
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(model.flat_values, trained(augment=augment, epochs=2)[0].flat_values)
    assert (model.flat_values != trained(epochs=2)[0].flat_values).any()


def test_augment_may_change_the_targets_too():
    def mixed(x, y, rng):
        other = rng.permutation(len(x))
        share = rng.beta(0.2, 0.2)
        onehot = np.eye(3, dtype=np.float32)[y]
        x, y = share * x + (1 - share) * x[other], share * onehot + (1 - share) * onehot[other]
        return x.astype(np.float32), y.astype(np.float32)

    model, history = trained(augment=mixed, epochs=4, metrics="accuracy")
    assert history["loss"][-1] < history["loss"][0]
    assert (model.flat_values == trained(augment=mixed, epochs=4)[0].flat_values).all()


@pytest.mark.parametrize(
    ("augment", "with_targets"),
    [
        (lambda x, rng: x, False),
        (lambda a, b: a, False),
        (lambda batch, rng, padding=4: batch, False),
        (partial(lambda batch, rng, size: batch, size=3), False),
        (lambda *arrays: arrays[0], False),
        (lambda x, y, rng: (x, y), True),
        (lambda a, b, c: (a, b), True),
        (lambda x, y, rng, alpha=0.2: (x, y), True),
        (lambda x, y, rng=None: (x, y), True),
        (partial(lambda x, y, rng, alpha: (x, y), alpha=0.2), True),
    ],
)
def test_augment_is_called_as_its_parameters_say(augment, with_targets):
    called = []

    def watched(*arguments):
        called.append(arguments)
        return augment(*arguments)

    watched.__signature__ = inspect.signature(augment)
    generator = np.random.default_rng(0)
    x, y = augmentation(watched)(X, Y, generator)
    assert x is X
    assert y is Y
    (arguments,) = called
    assert len(arguments) == 2 + with_targets
    assert arguments[-1] is generator


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (lambda x: x, r"of \(x, rng\) or of \(x, y, rng\)"),
        (lambda batch, rng, size: batch, "missing a required argument: 'size'"),
        (lambda x, *, rng: x, "augment must be a function of"),
        (lambda x, y, z, rng: x, "augment must be a function of"),
        (lambda x, rng: None, "augment returned None"),
        (lambda x, y, rng: x, "must return the pair"),
        (lambda x, y, rng: (x, y[1:]), "must return the pair"),
    ],
)
def test_an_augment_that_does_not_fit_is_refused(augment, message):
    model = small_model()
    with pytest.raises(TypeError, match=message):
        trained(model, augment=augment)
    np.testing.assert_array_equal(model.flat_values, small_model().flat_values)


def test_of_several_augments_each_gets_what_the_one_before_made():
    def noisy(x, rng):
        return x + rng.normal(size=x.shape).astype(np.float32)

    def other_labels(x, y, rng):
        return 2 * x, rng.permutation(y)

    one, _ = trained(augment=lambda x, y, rng: other_labels(noisy(x, rng), y, rng))
    several, _ = trained(augment=[noisy, other_labels])
    np.testing.assert_array_equal(one.flat_values, several.flat_values)
    with pytest.raises(TypeError, match="augment must be a function, got 3"):
        trained(augment=[noisy, 3])


def test_callbacks_see_every_epoch_and_can_stop():
    epochs = []

    def callback(training):
        epochs.append((training.epoch, training.step, training.history["loss"][-1]))
        training.stop = training.epoch == 2

    _, history = trained(callbacks=[callback], epochs=10)
    assert [(epoch, step) for epoch, step, _ in epochs] == [(1, 7), (2, 14)]
    assert [loss for *_, loss in epochs] == history["loss"]


def test_early_stopping_waits_for_patience_epochs_without_improvement():
    values = iter([5.0, 3.0, 4.0, 2.0, 2.0, 2.5, 9.0, 9.0])

    def scripted(prediction, target):
        return next(values) if len(target) == 30 else 0.0

    stopping = EarlyStopping("val_scripted", patience=3, mode="min")
    _, history = trained(metrics=scripted, validation=(X[:30], Y[:30]), callbacks=stopping, epochs=20)
    assert history["val_scripted"] == [5.0, 3.0, 4.0, 2.0, 2.0, 2.5, 9.0]
    assert (stopping.best, stopping.best_epoch) == (2.0, 4)


def scripted(*values):
    """A metric that takes these values on the validation set (30 samples), one after the other."""
    left = iter(values)

    def metric(prediction, target):
        return next(left) if len(target) == 30 else 0.0

    return metric


VALIDATION = X[:30], Y[:30]


class Recorder:
    """A callback that keeps every epoch's weights and buffers."""

    def __init__(self):
        self.values, self.buffers = [], []

    def __call__(self, training):
        self.values.append(training.model.flat_values.copy())
        self.buffers.append({name: array.copy() for name, array in training.model.buffers().items()})


def test_early_stopping_brings_back_the_best_epoch():
    for restore_best, expected in ((True, 1), (False, -1)):
        recorder, model = Recorder(), Sequential([Dense(8), Running(), Dense(3)], (4,))
        stopping = EarlyStopping("val_s", patience=2, restore_best=restore_best, mode="min")
        metrics = {"s": scripted(3.0, 1.0, 2.0, 2.0)}
        _, history = trained(model, metrics=metrics, validation=VALIDATION, callbacks=[recorder, stopping], epochs=9)
        assert (len(history["loss"]), stopping.best_epoch) == (4, 2)
        np.testing.assert_array_equal(model.flat_values, recorder.values[expected])
        for name, array in model.buffers().items():
            np.testing.assert_array_equal(array, recorder.buffers[expected][name])


def test_early_stopping_looks_for_the_highest_or_the_lowest_and_never_at_nan():
    nan = math.nan
    for monitor, maximize, values, best in [
        ("val_accuracy", True, [0.5, 0.9, 0.8, 0.7], (0.9, 2)),
        ("val_s", False, [nan, 0.9, nan, 0.8, 0.85, nan], (0.8, 4)),
        ("val_s", True, [nan, 0.7, nan, 0.8, 0.75, nan], (0.8, 4)),
        ("val_s", False, [nan, nan], (None, None)),
    ]:
        metrics = {monitor[4:]: scripted(*values)}
        stopping = EarlyStopping(monitor, patience=2, maximize=maximize)
        is_nan = any(map(math.isnan, values))
        with pytest.warns(UserWarning, match="'val_s' is NaN") if is_nan else nullcontext():
            _, history = trained(metrics=metrics, validation=VALIDATION, callbacks=stopping, epochs=20)
        assert len(history["loss"]) == len(values)
        assert (stopping.best, stopping.best_epoch) == best


def test_early_stopping_begins_anew_with_each_training():
    stopping = EarlyStopping("val_s", patience=2, mode="min")
    for values, best in (([1.0, 2.0, 3.0], 1.0), ([7.0, 6.0, 8.0, 9.0], 6.0)):
        trained(metrics={"s": scripted(*values)}, validation=VALIDATION, callbacks=stopping, epochs=9)
        assert stopping.best == best


def test_a_checkpoint_callback_saves_every_epoch_or_the_best(tmp_path):
    recorder = Recorder()
    callbacks = [recorder, Checkpoint(tmp_path / "last"), Checkpoint(tmp_path / "best", monitor="val_s", mode="min")]
    callbacks.append(lambda training: load(small_model(), tmp_path / "last"))
    trained(metrics={"s": scripted(3, 1, 2)}, validation=VALIDATION, callbacks=callbacks)
    for name, epoch in (("last", 2), ("best", 1)):
        model = small_model(9)
        load(model, tmp_path / name)
        np.testing.assert_array_equal(model.flat_values, recorder.values[epoch])


def test_a_csv_log_is_the_history_line_by_line(tmp_path):
    seen = []

    def look(training):
        seen.append((tmp_path / "log.csv").read_text().count("\n"))

    def odd(prediction, target):
        return math.nan

    metrics = {"accuracy": "accuracy", 'odd, "one"': odd}
    for _ in range(2):  # the second run starts the file anew
        log = CSVLog(tmp_path / "log.csv")
        _, history = trained(metrics=metrics, validation=VALIDATION, callbacks=[log, look])
        with open(tmp_path / "log.csv", newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["epoch", *history]
        assert [row[0] for row in rows[1:]] == ["1", "2", "3"]
        for column, name in enumerate(history, 1):
            np.testing.assert_array_equal([float(row[column]) for row in rows[1:]], history[name])
    assert seen == [2, 3, 4] * 2


def test_a_callback_that_cannot_work_is_refused_at_once():
    model = small_model()
    for callback, message in [
        (EarlyStopping(), "EarlyStopping watches 'val_loss', and this run has loss; give validation="),
        (Checkpoint("m", monitor="accuracy"), "Checkpoint watches 'accuracy', and this run has loss$"),
    ]:
        with pytest.raises(ValueError, match=message):
            trained(model, callbacks=callback)
    for make in (lambda: EarlyStopping(maximize="max"), lambda: EarlyStopping(3), lambda: Checkpoint("m", monitor=1)):
        with pytest.raises(TypeError, match="must be"):
            make()
    for callback in (Checkpoint("nowhere/m"), CSVLog("nowhere/log.csv")):
        with pytest.raises(FileNotFoundError, match=f"{type(callback).__name__}: there is no folder .*nowhere"):
            trained(model, callbacks=callback)
    np.testing.assert_array_equal(model.flat_values, small_model().flat_values)


def test_without_a_terminal_there_is_one_line_an_epoch(capsys):
    trained(progress=True, metrics="accuracy", validation=(X, Y), epochs=10)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 10
    number = r"\d\.\d{4}"
    for epoch, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"epoch {epoch:2}/10  loss {number}  accuracy {number}  val_loss {number}  val_accuracy {number}"
            r"  [\d,]+ samples/s",
            line,
        )
    assert err == ""


def test_progress_false_is_silent(capsys):
    trained(progress=False)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar_fills_until_the_line_is_there(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    trained(progress=True, metrics="accuracy", epochs=2)
    first, second, _ = (line.split("\r") for line in capsys.readouterr().out.split("\n"))
    assert re.match(r"epoch 1/2 .* 0/100", first[1])
    assert re.fullmatch(r"epoch 2/2  loss \d\.\d{4}  accuracy \d\.\d{4}  [\d,]+ samples/s", second[-1])


def test_in_a_notebook_short_epochs_have_no_bar(monkeypatch):
    """There it takes a tenth of a second to draw one.  The first epoch, which may compile kernels, has one at once."""
    drawn, seconds = [], [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    monkeypatch.setattr(progress, "shows_bars", lambda stream: True)
    monkeypatch.setattr(progress, "seconds_to_show", lambda stream: 0.5)
    monkeypatch.setattr(
        progress, "progress_bar", lambda stream, **options: drawn.append(options) or tqdm(file=io.StringIO(), **options)
    )

    def slow_at_last(training):
        seconds[0] += 0.3 if training.epoch == 2 else 0.01

    slow_at_last.step = slow_at_last
    trained(progress=True, epochs=3, batch_size=25, callbacks=slow_at_last)
    assert [(options["desc"], options["initial"]) for options in drawn] == [("epoch 1/3", 0), ("epoch 3/3", 50)]


# --- losses that are no numbers -----------------------------------------------------------------------------


def test_a_nan_in_the_input_stops_at_once_and_is_named():
    x = X.copy()
    x[3, 1] = np.nan
    model = small_model()
    message = r"epoch 1, step 1: the loss is nan; the input is not finite, in row \d+ of the batch \(sample 3 of x\)$"
    with pytest.raises(NonFiniteError, match=message) as caught:
        fit(model, x, Y, loss=softmax_cross_entropy, optimizer=Adam(model), epochs=1, batch_size=100, progress=False)
    np.testing.assert_array_equal(model.flat_values, small_model().flat_values)
    (row,) = caught.value.rows
    first, _ = next(batches(X, Y, 100, seed=(0, 1)))
    np.testing.assert_array_equal(first[row], X[3])
    assert caught.value.samples == (3,)


def test_what_augment_broke_is_not_said_of_the_data():
    def breaks(x, rng):
        x[5] = np.inf
        return x

    with pytest.raises(
        NonFiniteError, match=r"input is not finite after augment, though x itself is, in row 5 of the b.*h$"
    ) as caught:
        trained(augment=breaks)
    assert (caught.value.rows, caught.value.samples) == ((5,), ())
    x = X.copy()
    x[3, 1] = np.nan
    with pytest.raises(
        NonFiniteError, match=r"the input is not finite, in row \d+ of the batch \(sample 3 of x\)$"
    ) as caught:
        trained(augment=lambda x, rng: x[::-1], data=(x, Y))
    assert caught.value.samples == (3,)


def test_the_rows_are_named_as_the_batch_and_as_the_data_number_them():
    x = X.copy()
    x[[7, 20, 90], 0] = 1e30  # finite, and too much for the second layer
    model = Sequential([Dense(8), Dense(3)], (4,))
    model.parameters()[2].value[...] = 1e20
    with pytest.raises(NonFiniteError) as caught:
        trained(model, batch_size=50, lr=1e-9, seed=3, data=(x, Y))
    error = caught.value
    places = np.random.default_rng((3, 1)).permutation(100)
    expected = [(row, int(places[row])) for row in range(50) if places[row] in (7, 20, 90)]
    assert list(zip(error.rows, error.samples, strict=True)) == expected
    assert len(expected) >= 1  # what this seed puts into the first batch
    assert "of the batch (sample" in str(error)
    assert error.layer == "Dense (layer 1)"


def test_the_first_layer_with_a_broken_output_is_named():
    model = Sequential([Dense(8), Dense(8), Dense(3)], (4,))
    model.parameters()[2].value[...] = 1e38
    with pytest.raises(NonFiniteError, match=r"it began at Dense \(layer 1\): its parameters are finite") as caught:
        trained(model)
    assert (caught.value.epoch, caught.value.step, caught.value.layer) == (1, 1, "Dense (layer 1)")
    assert isinstance(caught.value, ArithmeticError)


def test_a_layer_inside_another_is_named_and_the_search_changes_nothing():
    inner = Residual([Dense(4, activation="tanh"), Concat([Dense(4), Dropout(0.5), Running(), Dense(2)]), Dense(4)])
    model = Sequential([Dense(4), inner, Dense(3)], (4,))
    next(p for p in model.parameters() if p.name == "1.1.3.weight").value[...] = 3e38
    with pytest.raises(NonFiniteError, match=r"at Dense \(layer 1\.1\.3\): its parameters are finite") as caught:
        trained(model)
    assert caught.value.layer == "Dense (layer 1.1.3)"
    dropout, running = (next(layer for layer in model.walk() if isinstance(layer, k)) for k in (Dropout, Running))
    assert dropout.state[1] == 1  # the one step that was made
    assert running.buffers["steps"] == 1
    assert not any("forward" in vars(layer) for layer in model.walk())


def test_a_broken_parameter_inside_a_block_is_named():
    model = Sequential([Residual([Dense(4), Dense(4)]), Dense(3)], (4,))
    model.parameters()[0].value[0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"began at Dense \(layer 0\.0\), whose parameter 0\.0\.weight"):
        trained(model)


def test_the_rows_whose_loss_is_infinite_are_named():
    def harsh(prediction, target):
        value, gradient = softmax_cross_entropy(prediction, target)
        return (math.inf if np.isin(target, 7).any() else value), gradient

    y = Y.copy()
    y[[11, 60]] = 7
    with pytest.raises(NonFiniteError, match="every layer's output is finite, so it began in the loss") as caught:
        trained(Sequential([Dense(8)], (4,)), loss=harsh, data=(X, y), batch_size=100)
    assert sorted(caught.value.samples) == [11, 60]
    assert [y[sample] for sample in caught.value.samples] == [7, 7]


def test_a_step_that_breaks_a_parameter_is_found_in_the_next():
    model = small_model()
    calls = []

    def poisoned(prediction, target):
        value, gradient = softmax_cross_entropy(prediction, target)
        calls.append(value)
        if len(calls) == 5:
            gradient[0, 0] = np.nan
        return value, gradient

    with pytest.raises(
        NonFiniteError, match=r"step 6: the loss is nan; it began at Dense \(layer 2\), whose parameter"
    ):
        trained(model, loss=poisoned)


def test_the_last_step_of_an_epoch_is_watched_too():
    def poisoned(prediction, target):
        value, gradient = softmax_cross_entropy(prediction, target)
        return value, gradient * np.nan

    with pytest.raises(NonFiniteError, match=r"step 1: a parameter is not finite; it began at Dense \(layer 2\)"):
        trained(loss=poisoned, batch_size=100)


def test_a_loss_that_breaks_by_itself_is_named():
    with pytest.raises(NonFiniteError, match="every layer's output is finite, so it began in the loss"):
        trained(loss=lambda prediction, target: (math.inf, prediction))


def test_a_learning_rate_far_too_high_ends_in_a_clear_error():
    model = Sequential([Dense(8), Dense(1)], (4,))
    with pytest.raises(NonFiniteError):
        fit(
            model,
            X,
            X[:, :1],
            loss=mean_squared_error,
            optimizer=SGD(model, 1e6),
            epochs=50,
            progress=False,
            batch_size=10,
        )


# --- what is refused ----------------------------------------------------------------------------------------

REFUSED = [
    ({"loss": "softmac"}, ValueError, "no loss 'softmac'; there are softmax_cross_entropy"),
    ({"loss": 3}, TypeError, "loss must be a function"),
    ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    ({"epochs": 2.5}, TypeError, "epochs must be a whole number"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ({"seed": -1}, ValueError, "seed must be at least 0"),
    ({"metrics": "f2"}, ValueError, "no metric 'f2'; there are accuracy, top_k_accuracy, precision"),
    ({"metrics": "top_k_accuracy"}, ValueError, "k must be at most 3, the number of classes, got 5"),
    ({"metrics": 3}, TypeError, "a metric must be a function"),
    ({"metrics": [accuracy, "accuracy"]}, ValueError, "two metrics have one name"),
    ({"metrics": {"loss": accuracy}}, ValueError, "can't be called 'loss'"),
    ({"validation": X}, ValueError, "validation must be a pair"),
    ({"validation": 1.0}, ValueError, r"validation must be a share between 0 and 1, or a pair \(x, y\), got 1.0"),
    ({"validation": 0}, ValueError, "a share between 0 and 1"),
    ({"validation": float("nan")}, ValueError, "a share between 0 and 1"),
    ({"validation": True}, ValueError, "must be a pair .* or a share of the samples, such as 0.2, got a bool"),
    ({"validation": 0.5, "data": (X[:1], Y[:1])}, ValueError, "of one sample, none can be held out"),
    ({"validation": 0.5, "data": (iter(X), Y)}, TypeError, "x must be an array or have a length"),
    ({"drop_last": 1}, TypeError, "drop_last must be True or False, got 1"),
    ({"drop_last": True, "batch_size": 101}, ValueError, "drops all 100 samples, fewer than a batch of 101"),
    ({"class_weight": "ballanced"}, ValueError, r'class_weight must be "balanced", a dict, an array \(3,\) or None'),
    ({"class_weight": [1, 2]}, ValueError, "class_weight must be 3 finite numbers of at least 0, one a class, got"),
    ({"class_weight": [1, 2, -1]}, ValueError, "3 finite numbers of at least 0"),
    ({"class_weight": {3: 1.0}}, ValueError, "class_weight has 3, and the classes are whole numbers below 3"),
    ({"class_weight": {"cat": 1.0}}, ValueError, "class_weight has 'cat'"),
    ({"class_weight": "balanced", "loss": "mse"}, TypeError, "mean_squared_error has not"),
    ({"class_weight": "balanced", "loss": "sigmoid_focal"}, TypeError, "sigmoid_focal has not; it has alpha"),
    ({"class_weight": "balanced", "loss": lambda p, t: (0.0, p)}, TypeError, "<lambda> has not"),
    ({"class_weight": "balanced", "loss": "bce"}, ValueError, "is of one question, and the model answers 3; give its"),
    (
        {"class_weight": "balanced", "loss": partial(softmax_cross_entropy, weight=[1, 2, 3])},
        ValueError,
        "softmax_cross_entropy has weights of classes already",
    ),
    ({"validation": (X, Y[:3])}, ValueError, "validation has 100 samples and 3 targets"),
    ({"augment": True}, TypeError, "augment must be a function, got True"),
    ({"schedule": 0.1}, TypeError, "schedule must be a function, got 0.1"),
    ({"callbacks": [1]}, TypeError, "a callback must be a function"),
    ({"resume": True}, ValueError, "resume=True needs checkpoint="),
    ({"resume": "run"}, TypeError, "resume must be True or False, and checkpoint the file, got resume='run'"),
    ({"checkpoint": True}, TypeError, "checkpoint must be the path of a file, got True"),
    ({"checkpoint": "nowhere/run"}, FileNotFoundError, "there is no folder .*nowhere to write run in"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_bad_arguments_are_refused_before_anything_is_trained(options, error, message):
    model = small_model()
    with pytest.raises(error, match=message):
        trained(model, **options)
    np.testing.assert_array_equal(model.flat_values, small_model().flat_values)


def test_the_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="made for another model"):
        fit(small_model(), X, Y, loss=softmax_cross_entropy, optimizer=Adam(small_model()), epochs=1)
    with pytest.raises(TypeError, match="optimizer must be an optimizer, such"):
        fit(small_model(), X, Y, loss=softmax_cross_entropy, optimizer="adam", epochs=1)
    with pytest.raises(TypeError, match=r"model must be a tinynet\.Sequential, got Dense"):
        fit(Dense(3), X, Y, loss=softmax_cross_entropy, optimizer=None, epochs=1)


def test_a_last_batch_without_a_variance_is_refused_before_it_comes():
    for layers in ([Dense(8), BatchNorm(), Dense(3)], [Residual([Dense(4), BatchNorm()]), Dense(3)]):
        model = Sequential(layers, (4,))
        before = model.flat_values.copy()
        message = (
            r"of 100 samples, batches of 33 leave a last one of 1, in which BatchNorm \(layer .* finds no variance"
        )
        with pytest.raises(ValueError, match=message):
            trained(model, batch_size=33)
        np.testing.assert_array_equal(model.flat_values, before)
        trained(model, batch_size=32, epochs=1)
    with pytest.raises(ValueError, match="of 100 samples, batches of 1 leave"):
        trained(model, batch_size=1)
    images = Sequential([Reshape((2, 2, 1)), BatchNorm(), Flatten(), Dense(3)], (4,))
    trained(images, batch_size=33, epochs=1)  # an image has more than one number a channel


def test_data_of_different_lengths_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match="x has 100 samples, but y has 99"):
        fit(model, X, Y[:-1], loss=softmax_cross_entropy, optimizer=Adam(model), epochs=1)


# Y tells which of three classes; YES answers three questions at once.
YES = np.eye(3, dtype=np.float32)[Y]


class LogSoftmax(Layer):
    """A layer of a user's own."""

    def forward(self, x, training=False):
        self._y = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
        return self._y

    def backward(self, dy, input_grad=True):
        return dy - np.exp(self._y) * dy.sum(axis=1, keepdims=True)


def ending_in(*layers):
    return Sequential([Dense(8, activation="relu"), *layers], (4,))


@pytest.mark.parametrize(
    ("layers", "loss", "message"),
    [
        (
            [Dense(3), Softmax()],
            softmax_cross_entropy,
            "fit: softmax_cross_entropy expects logits, but the model ends in probabilities, "
            r"from Softmax \(layer 2\): leave that out, for the loss turns logits into probabilities itself",
        ),
        ([Dense(3), Softmax()], "softmax_focal", r"softmax_focal expects logits, .* Softmax \(layer 2\)"),
        ([Dense(3), Softmax()], "kl_divergence", "kl_divergence expects logits"),
        ([Dense(3), Softmax()], "nll", "nll expects log-probabilities, .* train with softmax_cross_entropy, on logits"),
        (
            [Dense(3), Sigmoid()],
            "sigmoid_cross_entropy",
            r"expects logits, .* from Sigmoid \(layer 2\): leave that out",
        ),
        ([Dense(3), Sigmoid()], "softmax_cross_entropy", "expects logits, but the model ends in probabilities"),
        (
            [Dense(3, activation="sigmoid")],
            "sigmoid_focal",
            r'probabilities, from Dense \(layer 1\) with activation="sigmoid": leave that out',
        ),
        (
            [Reshape((2, 2, 2)), Conv2D(3, 2, activation="sigmoid"), Flatten()],
            "sigmoid_cross_entropy",
            r'from Conv2D \(layer 2\) with activation="sigmoid"',
        ),
        (
            [Dense(3)],
            "binary_cross_entropy",
            r"fit: binary_cross_entropy expects probabilities, but the model ends in logits, from Dense \(layer 1\): "
            "train with sigmoid_cross_entropy, on logits",
        ),
        ([Dense(3)], "categorical_cross_entropy", "train with softmax_cross_entropy, on logits"),
        ([Dense(3)], "nll", "nll expects log-probabilities, but the model ends in logits"),
        ([Dense(3), BatchNorm()], "nll", r"ends in logits, from BatchNorm \(layer 2\)"),
        ([Dense(3), LayerNorm(), Dropout(0.1)], "binary_cross_entropy", r"ends in logits, from LayerNorm \(layer 2\)"),
        (
            [Reshape((2, 2, 2)), Conv2D(3, 1), GlobalAvgPool2D()],
            "categorical_cross_entropy",
            r"ends in logits, from Conv2D \(layer 2\)",
        ),
        (
            [Dense(3), Softmax()],
            partial(partial(softmax_cross_entropy, label_smoothing=0.1), reduction="sum"),
            "softmax_cross_entropy expects logits",
        ),
    ],
)
def test_a_loss_that_expects_something_else_than_the_model_ends_in_is_refused(layers, loss, message):
    model = ending_in(*layers)
    before = model.flat_values.copy()
    with pytest.raises(ValueError, match=message):
        fit(model, X, Y, loss=loss, optimizer=Adam(model), epochs=1, progress=False)
    np.testing.assert_array_equal(model.flat_values, before)


@pytest.mark.parametrize(
    ("layers", "loss", "target"),
    [
        ([Dense(3)], "softmax_cross_entropy", Y),
        ([Dense(3)], "sigmoid_cross_entropy", YES),
        ([Dense(3), Softmax()], "categorical_cross_entropy", Y),
        ([Dense(3), Sigmoid()], "binary_cross_entropy", YES),
        ([Dense(3, activation="sigmoid")], "binary_cross_entropy", YES),
        ([Dense(3), Sigmoid()], "mean_squared_error", YES),
        ([Dense(3), LogSoftmax()], "nll", Y),
        ([Dense(3), Softmax()], lambda p, t: softmax_cross_entropy(p, t), Y),  # one's own loss is one's own business
    ],
)
def test_a_loss_and_an_ending_that_fit_are_trained(layers, loss, target):
    model = ending_in(*layers)
    history = fit(model, X, target, loss=loss, optimizer=Adam(model, 0.02), epochs=3, progress=False)
    assert history["loss"][-1] < history["loss"][0]


# --- accuracy -----------------------------------------------------------------------------------------------


def test_accuracy_computed_by_hand():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert accuracy(scores, [1, 0, 0, 0]) == 0.75
    assert accuracy([1, 0, 1, 0], [1, 0, 0, 0]) == 0.75
    assert accuracy(scores, np.eye(2)[[1, 0, 0, 0]]) == 0.75
    assert accuracy(np.array([1.5, -2.0]) > 0, [1, 1]) == 0.5
    assert accuracy(np.zeros((2, 3, 4)), np.zeros((2, 3), np.int8)) == 1.0  # the first of equals


def test_a_row_with_a_nan_is_never_right():
    assert accuracy(np.array([[np.nan, 0.0], [1.0, 0.0]]), [0, 0]) == 0.5


@pytest.mark.parametrize(
    ("predictions", "labels", "error", "message"),
    [
        (np.zeros((4, 1)), [0] * 4, ValueError, "at least 2 classes"),
        (np.zeros(4), [0] * 4, ValueError, "threshold=0 for logits, threshold=0.5 for prob"),
        (np.zeros((4, 3)), [0] * 3, ValueError, r"labels of shape \(4,\) expected, got \(3,\)"),
        (np.zeros((4, 3)), np.zeros(4), TypeError, "labels must be whole numbers"),
        (np.zeros((0, 3)), np.zeros(0, int), ValueError, "no predictions"),
        (["a"], ["b"], TypeError, "predictions must be numbers"),
    ],
)
def test_accuracy_refuses_what_it_cannot_judge(predictions, labels, error, message):
    with pytest.raises(error, match=message):
        accuracy(predictions, labels)


# --- pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_history_draws_itself(tmp_path, suffix):
    history = History(loss=[2.0, 0.5, 0.1], val_loss=[1.5, 0.7, 0.3], accuracy=[0.2, 0.7, 1.0], lr=[1, 1, 1])
    picture = history.plot(tmp_path / f"curves.{suffix}")
    assert isinstance(picture, Figure)
    assert (tmp_path / f"curves.{suffix}").stat().st_size > 1000
    loss, metric = picture.axes
    assert loss.get_yscale() == "log"
    assert [line.get_ydata().tolist() for line in loss.lines] == [history["loss"], history["val_loss"]]
    assert metric.get_ylabel() == "accuracy"


def test_a_grid_of_images_marks_the_mistakes(tmp_path):
    images = rng.random((11, 5, 5, 1))
    picture = plots.image_grid(
        images, np.arange(11) % 3, np.zeros(11, int), tmp_path / "grid.png", names="abc", columns=4
    )
    titles = [panel.get_title() for panel in picture.axes]
    assert titles[:4] == ["a", "a, is b", "a, is c", "a"]
    assert titles[11] == ""
    assert (tmp_path / "grid.png").exists()


def test_drawing_needs_no_display_and_chooses_no_backend():
    code = """
import sys
from tinynet import plots
from tinynet.training.samples import augmentation
plots.training_curves({"loss": [1.0]})
assert "matplotlib.pyplot" not in sys.modules  # which is what opens windows and picks backends
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: History().plot(), "no epochs to draw"),
        (lambda: plots.image_grid(np.zeros((2, 5)), [0, 1]), "images must be"),
        (lambda: plots.image_grid(np.zeros((2, 5, 5)), [0]), "labels must be"),
        (lambda: plots.image_grid(np.zeros((2, 5, 5)), [0, 1], [0]), "predictions must be"),
        (lambda: plots.image_grid(np.zeros((2, 5, 5)), [0, 1], columns=0), "columns must be"),
    ],
)
def test_pictures_refuse_what_they_cannot_draw(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_every_loss_is_known_by_its_name():
    for name, function in LOSSES.items():
        assert function.__name__ == name


def test_the_pickle_of_an_early_versions_history_loads():
    history = pickle.loads(b"\x80\x02ctinynet.history\nHistory\n)\x81U\x04loss(F0.5\nls.")
    assert type(history) is History
    assert history == {"loss": [0.5]}
