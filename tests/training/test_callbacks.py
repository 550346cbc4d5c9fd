"""Callbacks that look for the best epoch know which way is better, or ask; and what fit says when it is interrupted."""

import io
import json
import os
import signal
import sys
from functools import partial

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

import tinynet as tn
from tinynet.training import Training, progress

Y = np.arange(40) % 3
X = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32) + 2 * np.eye(3, 4, dtype=np.float32)[Y]
VALIDATION = X[:12], Y[:12]


def fitted(**options):
    m = options.pop("model", None) or tn.Sequential([tn.Dense(3)], 4)
    options = {"loss": "softmax_cross_entropy", "epochs": 3, "progress": False, "validation": VALIDATION, **options}
    return m, tn.fit(m, X, Y, optimizer=tn.Adam(m, 0.05), **options)


def scripted(*values):
    """A metric of one's own that takes these values on the validation set, one after the other."""
    left = iter(values)
    return lambda prediction, target: next(left) if len(target) == 12 else 0.0


# --- which way is better ------------------------------------------------------------------------------------


class Worse:
    """A callback before the one that watches: makes the model worse in every epoch."""

    def __call__(self, training):
        training.model.flat_values[...] *= -1


@pytest.mark.parametrize(
    ("metrics", "monitor", "way"),
    [
        ({"acc": tn.accuracy}, "val_acc", max),
        ({"acc": tn.accuracy}, "acc", max),
        ({"right": "accuracy"}, "val_right", max),
        ({"auc": partial(tn.metrics.top_k_accuracy, k=2)}, "val_auc", max),
        ({"top": partial(partial(tn.metrics.top_k_accuracy), k=2)}, "val_top", max),
        ({"not an accuracy": tn.softmax_cross_entropy}, "val_not an accuracy", min),
        ({"f1": partial(tn.softmax_cross_entropy, label_smoothing=0.1)}, "f1", min),
        (None, "val_loss", min),
        (None, "loss", min),
    ],
)
def test_losses_and_the_metrics_of_the_package_say_which_way_is_better_whatever_they_are_called(
    tmp_path, metrics, monitor, way
):
    stopping, saving = tn.EarlyStopping(monitor, patience=9), tn.Checkpoint(tmp_path / "best", monitor=monitor)
    _, history = fitted(metrics=metrics, callbacks=[stopping, saving, Worse()], epochs=4)
    assert len(set(history[monitor])) > 1
    assert stopping.best == saving.best == way(history[monitor])
    assert stopping.best_epoch == 1 + history[monitor].index(stopping.best)


def test_what_is_nan_is_no_improvement_and_says_so():
    stopping, nan = tn.EarlyStopping("val_loss", patience=2), (np.full((3, 4), np.nan), [0, 1, 2])
    with pytest.warns(UserWarning, match="EarlyStopping: 'val_loss' is NaN, which is never an improvement"):
        _, history = fitted(validation=nan, callbacks=stopping, epochs=9)
    assert (len(history["val_loss"]), stopping.best) == (2, None)


def test_a_lower_calibration_error_is_better():
    m = tn.Sequential([tn.Dense(3), tn.Softmax()], 4)
    stopping = tn.EarlyStopping("val_ece", patience=9)
    metrics = {"ece": tn.metrics.expected_calibration_error}
    _, history = fitted(model=m, loss="categorical_cross_entropy", metrics=metrics, callbacks=stopping, epochs=4)
    assert stopping.best == min(history["val_ece"])


def test_every_metric_that_returns_one_number_says_which_way_it_goes():
    scores, labels = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), [0, 1, 1]
    others = {"CalibrationBins", "bootstrap_interval", "precision_recall_curve", "roc_curve"}  # take other arguments
    regression = {tn.metrics.r2, tn.metrics.root_mean_squared_error}
    others |= {function.__name__ for function in regression}
    numbers = {
        function
        for function in (getattr(tn.metrics, name) for name in set(tn.metrics.__all__) - others)
        if isinstance(function(scores, labels, **({"k": 1} if function is tn.metrics.top_k_accuracy else {})), float)
    }
    numbers |= regression
    assert numbers - {tn.metrics.temperature_scaling} == set(tn.metrics.BETTER)  # a temperature is no success


def accuracy(prediction, target):
    """Of one's own: nobody can know what it measures."""
    return tn.accuracy(prediction, target)


@pytest.mark.parametrize("make", [tn.EarlyStopping, partial(tn.Checkpoint, "unused")])
@pytest.mark.parametrize(
    ("metrics", "monitor"),
    [
        (accuracy, "val_accuracy"),
        ({"auc": lambda p, t: 0.5}, "auc"),
        ({"f1": partial(accuracy)}, "val_f1"),
        (None, "lr"),
        (None, "seconds"),
    ],
)
def test_a_function_of_ones_own_needs_a_mode_which_is_asked_for_before_anything_is_trained(make, metrics, monitor):
    m = tn.Sequential([tn.Dense(3)], 4)
    name = type(make(monitor=monitor)).__name__
    message = rf'fit: {name} watches \'{monitor}\' and must know .* mode="max" if higher is better, mode="min" if lower'
    with pytest.raises(ValueError, match=message):
        fitted(model=m, metrics=metrics, callbacks=make(monitor=monitor))
    np.testing.assert_array_equal(m.flat_values, tn.Sequential([tn.Dense(3)], 4).flat_values)
    assert not os.path.exists("unused")


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({"mode": "max"}, (0.9, 2)),
        ({"mode": "min"}, (0.2, 3)),
        ({"maximize": True}, (0.9, 2)),
        ({"maximize": False}, (0.2, 3)),
        ({"mode": "max", "maximize": True}, (0.9, 2)),
        ({"mode": "min", "maximize": False}, (0.2, 3)),
    ],
)
def test_a_mode_says_which_way_is_better_and_maximize_is_another_word_for_it(tmp_path, options, best):
    stopping, saving = tn.EarlyStopping("val_s", 9, **options), tn.Checkpoint(tmp_path / "m", "val_s", **options)
    fitted(metrics={"s": scripted(0.5, 0.9, 0.2)}, callbacks=[stopping, saving])
    assert (stopping.best, stopping.best_epoch) == (saving.best, saving.best_epoch) == best


def test_a_mode_that_contradicts_is_refused():
    for options, message in [
        ({"mode": "max", "maximize": False}, "mode='max' and maximize=False contradict each other"),
        ({"mode": "min", "maximize": True}, "mode='min' and maximize=True contradict each other"),
        ({"mode": "auto"}, 'mode must be "min", "max" or None, got \'auto\''),
        ({"mode": True}, "mode must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            tn.EarlyStopping("val_auc", **options)
    with pytest.raises(ValueError, match="Checkpoint: mode='max' needs a monitor"):
        tn.Checkpoint("unused", mode="max")
    with pytest.raises(ValueError, match="Checkpoint: maximize=True needs a monitor"):
        tn.Checkpoint("unused", maximize=True)
    with pytest.raises(
        ValueError, match=r"path is taken as it is, got 'w-{epoch:02d}'; for a file an epoch, give fit a f"
    ):
        tn.Checkpoint("w-{epoch:02d}")
    for options in ({"mode": "min"}, {"maximize": False}):
        callback = tn.EarlyStopping("val_acc", **options)
        message = "mode='min', but 'val_acc' is better the higher it is: leave mode out, or watch a function of your"
        with pytest.raises(ValueError, match=message):
            fitted(metrics={"acc": tn.accuracy}, callbacks=callback)
    with pytest.raises(ValueError, match="mode='max', but 'val_loss' is better the lower it is"):
        fitted(callbacks=tn.EarlyStopping(mode="max"))


def test_each_fit_finds_out_anew_which_way_is_better():
    stopping = tn.EarlyStopping("val_s", patience=9)
    for metric, way in ((tn.accuracy, max), (tn.softmax_cross_entropy, min)):
        _, history = fitted(metrics={"s": metric}, callbacks=stopping)
        assert stopping.best == way(history["val_s"])
    with pytest.raises(ValueError, match="must know which of its values is the best"):
        fitted(metrics={"s": scripted(1, 2, 3)}, callbacks=stopping)


def test_in_a_loop_of_ones_own_losses_are_known_and_anything_else_is_asked_for_in_the_first_call():
    training = Training(tn.Sequential([tn.Dense(3)], 4), None)
    for name in ("loss", "val_loss", "val_accuracy"):
        training.history[name] = []
    callbacks = {name: tn.EarlyStopping(name, patience=1) for name in training.history}
    for value in (2.0, 1.0, 3.0):
        training.epoch += 1
        for name, callback in callbacks.items():
            training.history[name].append(value)
            if name == "val_accuracy":
                with pytest.raises(ValueError, match=r"^EarlyStopping watches 'val_accuracy' and must know .* mode="):
                    callback(training)
            else:
                callback(training)
    assert training.stop
    assert callbacks["loss"].best == callbacks["val_loss"].best == 1.0
    known = tn.EarlyStopping("val_accuracy", mode="max")
    known(training)
    assert known.best == 3.0


def test_a_callback_of_ones_own_with_a_monitor_is_told_which_way_is_better():
    class Watching:
        monitor = "val_acc"

        def watch(self, better):
            self.better = better

        def __call__(self, training):
            pass

    callback = Watching()
    fitted(metrics={"acc": tn.accuracy, "own": scripted(1, 2, 3)}, callbacks=callback)
    assert callback.better == {
        "loss": "min", "acc": "max", "own": None, "val_loss": "min", "val_acc": "max", "val_own": None
    }  # fmt: skip
    del Watching.watch  # which it may be without
    fitted(metrics={"acc": tn.accuracy}, callbacks=Watching())


def test_a_loss_of_the_package_is_a_metric_by_its_value():
    m, history = fitted(metrics=[tn.softmax_cross_entropy, partial(tn.softmax_focal, gamma=1.0)], epochs=1)
    assert history["val_softmax_cross_entropy"] == history["val_loss"]
    assert history["val_partial"] == [float(tn.softmax_focal(m.predict(X[:12]), Y[:12], gamma=1.0)[0])]


# --- a run of version 0.1 -----------------------------------------------------------------------------------


def as_version_0_1(path, maximize):
    """Write the file as version 0.1 did: no checksum, and a callback's state with `maximize`."""
    with safe_open(path, framework="np") as file:
        about = json.loads(file.metadata()["tinynet"])
    (callback,) = about["state"]["dict"]["callbacks"]
    del callback["dict"]["mode"]
    callback["dict"]["maximize"] = maximize
    path.write_bytes(to_bytes(load_file(path), {"tinynet": json.dumps(about)}))


def test_a_run_of_version_0_1_that_looked_the_right_way_goes_on(tmp_path):
    path = tmp_path / "run"
    for monitor, metrics, maximize in (("val_accuracy", "accuracy", True), ("val_loss", None, False)):
        expected = tn.EarlyStopping(monitor, patience=9)
        fitted(metrics=metrics, callbacks=expected, epochs=4)
        fitted(metrics=metrics, callbacks=tn.EarlyStopping(monitor, patience=9), epochs=2, checkpoint=path)
        as_version_0_1(path, maximize)
        found = tn.EarlyStopping(monitor, patience=9)
        fitted(metrics=metrics, callbacks=found, epochs=4, checkpoint=path, resume=True)
        assert (found.best, found.best_epoch) == (expected.best, expected.best_epoch)


@pytest.mark.parametrize(("metrics", "options"), [({"acc": tn.accuracy}, {}), ({"acc": accuracy}, {"mode": "max"})])
def test_a_run_of_version_0_1_that_kept_the_worst_goes_on_and_looks_for_the_best_from_there(tmp_path, metrics, options):
    path = tmp_path / "run"
    fitted(metrics=metrics, callbacks=tn.EarlyStopping("val_acc", 9, **options), epochs=2, checkpoint=path)
    as_version_0_1(path, False)
    stopping = tn.EarlyStopping("val_acc", 9, **options)
    with pytest.warns(UserWarning, match="EarlyStopping: tinynet 0.1 took lower values of 'val_acc' for better"):
        _, history = fitted(metrics=metrics, callbacks=stopping, epochs=5, checkpoint=path, resume=True)
    assert stopping.best == max(history["val_acc"][2:])
    assert stopping.best_epoch >= 3


def test_another_mode_than_the_run_had_is_refused(tmp_path):
    path, metrics = tmp_path / "run", {"s": lambda p, t: 0.5}
    fitted(metrics=metrics, callbacks=tn.EarlyStopping("val_s", mode="max"), checkpoint=path)
    with pytest.raises(ValueError, match="EarlyStopping: mode was 'max' and is 'min' here"):
        fitted(metrics=metrics, callbacks=tn.EarlyStopping("val_s", mode="min"), checkpoint=path, resume=True)


# --- interrupted --------------------------------------------------------------------------------------------


def press(x, rng):
    signal.raise_signal(signal.SIGINT)
    return x


def test_a_history_without_an_epoch_says_so():
    _, history = fitted(augment=press)
    assert history.interrupted
    with pytest.raises(KeyError, match="has no 'loss', for no epoch was finished: Ctrl-C ended the training in the"):
        history["loss"]
    with pytest.raises(ValueError, match="no epochs to draw, for no epoch was finished"):
        history.plot()
    with pytest.raises(KeyError, match=r"the history has no 'loss', for no epoch was finished\"$"):
        tn.History()["loss"]


def test_the_first_ctrl_c_says_at_once_that_it_was_heard(capsys):
    heard = []

    def look(x, rng):
        press(x, rng)
        heard.append(capsys.readouterr())
        return x

    fitted(augment=look)
    (said,) = heard
    assert said.out == ""
    assert said.err.startswith("\nCtrl-C: the training stops after the current step (while kernels are compiled, ")
    assert "Ctrl-C again stops it at once" in said.err


class Bare:
    """What a program may put in place of a standard stream."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Flushing(Bare):
    def flush(self):
        self.text += "|"


class Broken:
    """`fails` at the first write, and says so."""

    def __init__(self, error, **more):
        self.error, self.writes = error, 0
        vars(self).update(more)

    def write(self, text):
        self.writes += 1
        raise self.error

    def flush(self):
        raise self.error


@pytest.mark.parametrize("stream", [None, Bare(), Flushing(), Broken(OSError(5, "gone")), Broken(ValueError("closed"))])
def test_ctrl_c_is_obeyed_whatever_standard_error_is(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    _, history = fitted(augment=press)
    assert history.interrupted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if isinstance(stream, Bare):
        assert stream.text.strip("|") == progress.HEARD


def test_a_ctrl_c_that_comes_while_standard_error_is_written_to_is_heard_all_the_same(monkeypatch, tmp_path):
    with open(tmp_path / "err", "wb") as file:
        monkeypatch.setattr(sys, "stderr", Broken(RuntimeError("reentrant call"), fileno=file.fileno))
        fitted(augment=press)
        monkeypatch.undo()
    assert (tmp_path / "err").read_text() == progress.HEARD


# --- where the progress goes --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [Bare(), Flushing()])
def test_the_progress_goes_to_any_object_with_a_write(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    fitted(progress=True, epochs=2)
    assert stream.text.count("epoch 1/2  loss ") == stream.text.count("epoch 2/2  loss ") == 1
    assert stream.text.endswith(" samples/s\n" + ("|" if isinstance(stream, Flushing) else ""))


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    "make",
    [
        lambda: Broken(BrokenPipeError(32, "Broken pipe")),
        lambda: Broken(OSError(5, "gone"), isatty=lambda: True, encoding="utf-8"),
        lambda: Broken(BrokenPipeError(32, "Broken pipe"), isatty=lambda: True),
        lambda: Broken(KeyError("mine")),
        closed,
    ],
)
def test_a_progress_that_cannot_be_shown_ends_no_training_and_is_mentioned_once(monkeypatch, capsys, make):
    expected, stream = fitted()[0], make()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        m, history = fitted(progress=True)
    assert len(history["loss"]) == 3
    np.testing.assert_array_equal(m.flat_values, expected.flat_values)
    said = capsys.readouterr().err
    assert said.count("fit: the progress can't be shown any more, and the training goes on (") == 1
    assert said.count("\n") == 1


def test_without_a_standard_output_there_is_no_progress_and_no_word_about_it(monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        _, history = fitted(progress=True)
    assert len(history["loss"]) == 3
    assert capsys.readouterr().err == ""


def test_letters_that_the_output_cannot_encode_are_no_reason_to_fail(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    fitted(progress=True, metrics={"größe": tn.accuracy}, epochs=1)
    assert rb"gr\xf6\xdfe 0." in stream.buffer.getvalue()
