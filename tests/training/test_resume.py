"""A training that was stopped, interrupted or killed, and resumed, gives the bits of one that never was.

Run as a program, this is the training that the tests below interrupt and kill:  test_resume.py CHECKPOINT RESULT
"""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tinynet as tn
from tinynet.training import resume

KILLS = int(os.environ.get("TINYNET_KILLS", "4"))

rng = np.random.default_rng(0)
Y = rng.integers(0, 3, 100)
X = (rng.standard_normal((100, 4)) + np.eye(3, 4)[Y] * 3).astype(np.float32)
VALIDATION = X[:30], Y[:30]
STEPS = 7  # an epoch
EPOCHS = 5


def new_model(seed=0, dtype="float32", units=8):
    inner = tn.Residual([tn.Dense(units), tn.Dropout(0.2), tn.LayerNorm()])
    layers = [tn.Dense(units, activation="tanh"), tn.BatchNorm(), tn.Dropout(0.3), inner, tn.Dense(3)]
    return tn.Sequential(layers, (4,), seed=seed, dtype=dtype)


def noisy(x, y, rng):
    """With numbers of 32 bits as well, of which the generator keeps every second one for later."""
    x += rng.standard_normal(x.shape, np.float32) * 0.1 + rng.integers(2, dtype=np.uint32)
    return x, np.eye(3, dtype=np.float32)[y]


class Run:
    """A training with everything that has a state; `at` is called before every step with its number."""

    def __init__(self, path=None, at=None, make=tn.Adam, folder=None, patience=99, **options):
        self.model = options.pop("model", None) or new_model()
        self.optimizer = options.pop("optimizer", None) or make(self.model, 0.01)
        self.stopping = tn.EarlyStopping("val_loss", patience=patience)
        self.steps = 0
        callbacks = [self.stopping]
        if folder is not None:
            callbacks += [tn.CSVLog(folder / "log.csv"), tn.Checkpoint(folder / "best", monitor="val_accuracy")]

        def augment(x, y, rng):
            self.steps += 1
            if at is not None:
                at(self.steps)
            return noisy(x, y, rng)

        options = {
            "loss": "softmax_cross_entropy",
            "metrics": "accuracy",
            "validation": VALIDATION,
            "epochs": EPOCHS,
            "batch_size": 16,
            "seed": 3,
            "schedule": tn.cosine(0.02, STEPS * EPOCHS, warmup=3),
            "augment": augment,
            "callbacks": callbacks,
            "progress": False,
            "checkpoint": path,
            **options,
        }
        x, y = options.pop("data", (X, Y))
        self.history = tn.fit(self.model, x, y, optimizer=self.optimizer, **options)

    def bits(self):
        """All that must be the same."""
        return {
            "values": self.model.flat_values.tobytes(),
            "buffers": {name: array.tobytes() for name, array in self.model.buffers().items()},
            "dropout": [layer.state for layer in self.model.walk() if isinstance(layer, tn.Dropout)],
            "optimizer": {k: getattr(v, "tobytes", lambda v=v: v)() for k, v in self.optimizer.state_dict().items()},
            "history": {name: [v.hex() for v in values] for name, values in self.history.items() if name != "seconds"},
            "best": (self.stopping.best, self.stopping.best_epoch),
        }


def press_ctrl_c(at):
    def press(step):
        if step == at:
            signal.raise_signal(signal.SIGINT)

    return press


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@pytest.fixture(scope="module")
def never_stopped():
    return Run().bits()


# --- stopped and resumed ------------------------------------------------------------------------------------


def test_a_checkpoint_changes_nothing_of_a_run_that_is_not_stopped(path, never_stopped):
    assert Run(path).bits() == never_stopped
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("step", [1, 3, STEPS, STEPS + 1, 3 * STEPS, STEPS * EPOCHS - 1])
def test_ctrl_c_at_any_step_and_resuming_gives_the_same_bits(path, tmp_path, never_stopped, step):
    stopped = Run(path, press_ctrl_c(step), folder=tmp_path)
    assert stopped.steps == step
    assert stopped.history.interrupted
    assert len(stopped.history.get("loss", [])) == (step - 1) // STEPS
    again = Run(path, resume=True, folder=tmp_path)
    assert again.steps == STEPS * EPOCHS - step
    assert again.bits() == never_stopped
    assert not again.history.interrupted
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["epoch", *again.history]
    expected = [[float(epoch), *values] for epoch, values in enumerate(zip(*again.history.values(), strict=True), 1)]
    assert [[float(text) for text in row] for row in rows[1:]] == expected


def test_ctrl_c_again_and_again_gives_the_same_bits(path, never_stopped):
    steps = 0
    while steps < STEPS * EPOCHS:
        run = Run(path, press_ctrl_c(4), resume=True)
        steps += run.steps
    assert steps == STEPS * EPOCHS
    assert Run(path, resume=True).bits() == never_stopped


@pytest.mark.parametrize(
    "make",
    [
        lambda model, lr: tn.SGD(model, lr),
        lambda model, lr: tn.SGD(model, lr, momentum=0.9, nesterov=True, weight_decay=0.01, clip_norm=1.0),
        lambda model, lr: tn.RMSprop(model, lr, momentum=0.5),
        lambda model, lr: tn.AdamW(model, lr),
    ],
)
def test_every_optimizer_goes_on(path, make):
    def halving(run):
        run.optimizer.lr *= 0.5

    options = {"make": make, "schedule": None, "epochs": 3, "callbacks": [halving]}
    expected = Run(**options)
    stopped = Run(path, press_ctrl_c(STEPS + 3), **options)
    assert stopped.optimizer.lr == 0.005
    assert Run(path, resume=True, **options).bits() == expected.bits()
    Run(path, press_ctrl_c(STEPS + 3), **options)
    same = Run(path, resume=True, model=stopped.model, optimizer=stopped.optimizer, **options)  # whose lr is 0.005 now
    assert same.bits() == expected.bits()


def test_more_epochs_continue_a_finished_run(path, never_stopped):
    Run(path, epochs=2)
    assert Run(path, epochs=EPOCHS, resume=True).bits() == never_stopped


def test_a_finished_run_returns_its_history_at_once(path, never_stopped):
    Run(path)
    before = path.read_bytes()
    for epochs in (EPOCHS, EPOCHS - 1):
        again = Run(path, resume=True, epochs=epochs)
        assert again.steps == 0
        assert again.bits() == never_stopped
    assert path.read_bytes() == before


def test_a_run_that_a_callback_stopped_is_finished_unless_more_epochs_are_asked_for(path):
    def stop(run):
        run.stop = run.epoch == 2

    expected = Run(callbacks=[stop])
    Run(path, callbacks=[stop])
    again = Run(path, callbacks=[stop], resume=True)
    assert again.steps == 0
    assert again.bits() == expected.bits()
    assert len(Run(path, callbacks=[stop], resume=True, epochs=EPOCHS + 1).history["loss"]) == EPOCHS + 1


def test_the_best_weights_come_back_from_a_run_that_stopped_early(path):
    options = {"make": lambda model, lr: tn.SGD(model, 0.5), "schedule": None, "patience": 2, "epochs": 40}
    expected = Run(**options)
    best = expected.stopping.best_epoch
    assert best < len(expected.history["loss"]) == best + 2
    Run(path, press_ctrl_c(STEPS * best + 2), **options)
    again = Run(path, resume=True, **options)
    assert again.bits() == expected.bits()
    assert Run(path, resume=True, **options).bits() == expected.bits()


def test_without_a_file_resuming_begins_anew(path, never_stopped):
    assert Run(path, resume=True).bits() == never_stopped


def test_a_new_run_takes_the_place_of_an_older_one_at_once(path):
    Run(path)
    Run(path, press_ctrl_c(1))  # had this one been killed before its first epoch was over ...
    assert Run(path, resume=True).steps == STEPS * EPOCHS - 1  # ... it would not be taken for finished


def test_within_an_epoch_the_file_is_written_when_it_is_old(path, monkeypatch, never_stopped):
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0)
    copies = []

    def copy(step):
        copies.append(shutil.copy(path, path.parent / f"copy {step}"))

    Run(path, copy)
    monkeypatch.undo()
    assert len(copies) == STEPS * EPOCHS
    for done in (0, 5, STEPS, 2 * STEPS + 3, STEPS * EPOCHS - 1):
        again = Run(copies[done], resume=True)
        assert again.steps == STEPS * EPOCHS - done
        assert again.bits() == never_stopped


def test_what_is_not_finite_never_gets_into_a_checkpoint(path, monkeypatch):
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0)

    def poisoned(prediction, target):
        value, gradient = tn.softmax_cross_entropy(prediction, target)
        poisoned.calls += 1
        if poisoned.calls == STEPS + 3:
            gradient[0] = np.nan
        return value, gradient

    poisoned.calls = 0
    options = {"loss": poisoned, "validation": None, "callbacks": ()}
    with pytest.raises(tn.NonFiniteError, match=f"epoch 2, step {STEPS + 3}: a parameter is not finite"):
        Run(path, **options)
    model = new_model(9)
    tn.load(model, path)
    assert np.isfinite(model.flat_values).all()
    again = Run(path, resume=True, **options)
    assert again.steps == STEPS * (EPOCHS - 1) - 2


def test_a_checkpoint_is_a_model_too(path):
    run = Run(path, validation=None, callbacks=())
    model = new_model(9)
    tn.load(model, path)
    np.testing.assert_array_equal(model.predict(X), run.model.predict(X))


def test_a_history_with_nan_and_infinity_comes_back(path):
    numbers = [math.nan, math.inf, -math.inf, 0.1 + 0.2]

    def odd(prediction, target):
        return numbers[len(seen)]

    seen = []
    options = {"metrics": odd, "validation": None, "callbacks": [lambda run: seen.append(1)]}
    expected = Run(path, epochs=4, **options).history["odd"]
    found = Run(path, epochs=4, resume=True, **options).history["odd"]
    assert [number.hex() for number in found] == [number.hex() for number in expected]
    assert math.isnan(found[0])


def test_resuming_says_so(path, capsys):
    Run(path, press_ctrl_c(STEPS + 2), progress=True)
    Run(path, resume=True, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch 1/5  loss")
    assert lines[1:3] == [
        f"interrupted after 1 epochs, {STEPS + 2} steps",
        f"resumed from {path}: 1 epochs, {STEPS + 2} steps done",
    ]
    assert [line[:9] for line in lines[3:]] == [f"epoch {k}/5" for k in (2, 3, 4, 5)]


def same_bits_resumed(path, **options):
    expected = Run(**options).bits()
    Run(path, press_ctrl_c(STEPS + 2), **options)
    assert Run(path, resume=True, **options).bits() == expected


def test_a_run_with_weights_of_samples_and_metrics_of_the_whole_epoch_goes_on_to_the_same_bits(path):
    weights = {"sample_weight": np.arange(100) % 4, "validation": (*VALIDATION, np.arange(30) % 3)}
    same_bits_resumed(path, metrics=["auc", "accuracy"], **weights)


def test_a_run_that_holds_out_a_share_goes_on_to_the_same_bits(path):
    same_bits_resumed(path, validation=0.2, drop_last=True)


# --- what is refused ----------------------------------------------------------------------------------------

OTHERS = {
    "another seed": ({"seed": 4}, ["fit's seed was 3 and is 4 here"]),
    "another batch size": ({"batch_size": 20}, ["batch_size was 16 and is 20 here"]),
    "fewer samples": ({"data": (X[:-1], Y[:-1])}, ["the number of samples was 100 and is 99 here"]),
    "other targets": ({"data": (X, Y[::-1])}, ["the checksum of y was"]),
    "another model": (
        {"model": lambda: new_model(units=9)},
        [
            r"layer 0 was Dense\(units=8, .* here; layer 1 was",
            r"layer 3\.0 was .* and is Dense\(units=9.* -> \(9,\) here",
        ],
    ),
    "another seed of the model": ({"model": lambda: new_model(seed=1)}, ["the model's seed was 0 and is 1 here"]),
    "another dtype": (
        {"model": lambda: new_model(dtype="float64")},
        ["the model's dtype was float32 and is float64 here$"],
    ),
    "another optimizer": (
        {"make": tn.RMSprop},
        ["optimizer's optimizer was Adam and is RMSprop here", "beta1 was 0.9 and is absent here"],
    ),
    "another beta": (
        {"make": lambda model, lr: tn.Adam(model, lr, (0.8, 0.999))},
        ["optimizer's beta1 was 0.9 and is 0.8 here$"],
    ),
    "another loss": (
        {"loss": lambda p, t: tn.softmax_cross_entropy(p, t)},
        ["the loss was softmax_cross_entropy and is <lambda> here$"],
    ),
    "other metrics": ({"metrics": None}, ["the list of metrics was accuracy and is empty here$"]),
    "no augmentation": ({"augment": None}, ["augment was True and is False here$"]),
    "no schedule": ({"schedule": None}, ["schedule was True and is False here"]),
    "other validation": ({"validation": (X[:20], Y[:20])}, ["validation's number of samples was 30 and is 20 here$"]),
    "weights of samples": ({"sample_weight": np.ones(100)}, ["the checksum of sample_weight was absent and is"]),
    "weights of the validation": ({"validation": (*VALIDATION, np.ones(30))}, ["checksum of validation's weights was"]),
    "another share": (
        {"validation": 0.3},
        ["number of samples was 100 and is 70", "validation's share was absent"],
    ),
    "weights of classes": ({"class_weight": [1, 2, 3]}, [r"class_weight was absent and is \[1, 2, 3\] here$"]),
    "dropping": ({"drop_last": True}, ["drop_last was absent and is True here$"]),
    "other callbacks": ({"callbacks": ()}, ["the list of callbacks with a state was EarlyStopping and is empty here$"]),
    "another monitor": (
        {"callbacks": [tn.EarlyStopping("val_accuracy")]},
        ["EarlyStopping: monitor was 'val_loss' and is 'val_accuracy' here"],
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_file_of_another_run_is_refused_by_what_differs(path, case):
    changes, messages = OTHERS[case]
    Run(path, press_ctrl_c(STEPS + 2))
    content = path.read_bytes()
    model = changes.get("model", new_model)()
    optimizer = changes.get("make", tn.Adam)(model, 0.01)
    before = model.flat_values.copy(), repr(optimizer.state_dict())
    for message in messages:
        with pytest.raises(ValueError, match=message):
            Run(path, resume=True, **{**changes, "model": model, "optimizer": optimizer})
    assert path.read_bytes() == content
    np.testing.assert_array_equal(model.flat_values, before[0])
    assert repr(optimizer.state_dict()) == before[1]
    assert all(layer.state[1] == 0 for layer in model.walk() if isinstance(layer, tn.Dropout))


def test_another_learning_rate_is_refused_where_no_schedule_sets_it(path):
    Run(path, schedule=None, epochs=1)
    with pytest.raises(ValueError, match=r"optimizer's lr was 0\.01 and is 0\.02 here$"):
        Run(path, schedule=None, resume=True, make=lambda model, lr: tn.Adam(model, 0.02))


def test_a_callback_that_refuses_its_state_leaves_all_as_it_was(path):
    class Counter:
        def __init__(self, most=99):
            self.count, self.most = 0, most

        def __call__(self, run):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            if state["count"] > self.most:
                raise ValueError("too much")
            self.count = state["count"]

    Run(path, callbacks=[Counter(), Counter()], epochs=2)
    first, model = Counter(), new_model(0)
    with pytest.raises(ValueError, match="too much"):
        Run(path, callbacks=[first, Counter(1)], resume=True, model=model)
    assert first.count == 0
    np.testing.assert_array_equal(model.flat_values, new_model(0).flat_values)
    Run(path, callbacks=[first, Counter()], resume=True, epochs=3)
    assert first.count == 3


@pytest.mark.parametrize("content", [b"", b"<html>", os.urandom(300)])
def test_a_damaged_file_is_no_reason_to_begin_anew(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="run is no safetensors file, or not a whole one"):
        Run(path, resume=True)
    assert path.read_bytes() == content


def test_a_models_file_is_no_run(path):
    tn.save(new_model(), path)
    with pytest.raises(ValueError, match="holds a model but no run to resume"):
        Run(path, resume=True)


def test_an_optimizer_of_ones_own_needs_a_state_for_a_checkpoint(path):
    class Still:
        lr = 0.1

        def step(self):
            pass

    with pytest.raises(TypeError, match="needs an optimizer with state_dict and load_state_dict, Still has not both"):
        Run(path, optimizer=Still())
    assert not path.exists()
    assert Run(optimizer=Still(), epochs=1, schedule=None).steps == STEPS


# --- Ctrl-C -------------------------------------------------------------------------------------------------


def test_a_second_ctrl_c_raises_at_once(path, never_stopped):
    def press_twice(step):
        if step == 10:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Run(path, press_twice)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = Run(path, resume=True)  # from the end of the first epoch
    assert again.steps == STEPS * (EPOCHS - 1)
    assert again.bits() == never_stopped


def test_ctrl_c_in_a_callback_or_the_validation_ends_after_the_epoch(path, never_stopped):
    def press(*arguments):
        press.calls += 1
        if press.calls == 2:
            signal.raise_signal(signal.SIGINT)
        return 0.0

    def judged(prediction, target):
        return press() if len(target) == 30 else 0.0

    for options in ({"callbacks": [press]}, {"metrics": {"accuracy": judged}}):
        press.calls = 0
        run = Run(path, **options)
        assert run.steps == 2 * STEPS
        assert len(run.history["loss"]) == 2
        assert run.history.interrupted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_old_handler_is_back_after_an_error():
    def fail(step):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        Run(None, fail)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_callers_own_is_left_alone():
    pressed = []
    for handler in (lambda number, frame: pressed.append(number), signal.SIG_IGN):
        old = signal.signal(signal.SIGINT, handler)
        try:
            run = Run(None, press_ctrl_c(3), epochs=1)
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, old)
        assert run.steps == STEPS
        assert not run.history.interrupted
    assert pressed == [signal.SIGINT]


def test_fit_runs_in_a_thread_and_leaves_signals_to_the_main_one(never_stopped):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(Run(None)))
    thread.start()
    thread.join()
    assert runs[0].bits() == never_stopped
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- whole processes ----------------------------------------------------------------------------------------

LONG = 60  # epochs


def program(path, result):
    """Trains slowly enough to be killed on the way, and tells when it has begun."""

    def at(step):
        if step == 1:
            print("training", flush=True)
        time.sleep(0.001)

    run = Run(path, at, resume=True, epochs=LONG, progress=False)
    if run.history.interrupted:
        print("interrupted", flush=True)
        return
    with open(result, "w") as file:
        json.dump({"bits": repr(run.bits())}, file)


@pytest.fixture(scope="module")
def long_run():
    return repr(Run(epochs=LONG).bits())


def started(path, result):
    process = subprocess.Popen([sys.executable, __file__, str(path), str(result)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() in ("training\n", "")  # "" if nothing was left to train
    return process


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_the_bits_are_the_same(path, tmp_path, long_run):
    result, moments = tmp_path / "result", np.random.default_rng()
    kills = finished = 0
    while kills < KILLS or not finished:
        process = started(path, result)
        if kills < KILLS:
            try:
                process.wait(moments.uniform(0, 0.25))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
        code = process.wait()
        process.stdout.close()
        tn.load(new_model(9), path)  # whole, whatever happened
        if code == 0:
            finished += 1
            assert json.loads(result.read_text())["bits"] == long_run
            assert os.listdir(tmp_path).count(path.name) == 1
            path.unlink()
        else:
            assert code == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) <= 2  # the result, and at most what one killed save left


@pytest.mark.slow
def test_ctrl_c_ends_a_program_cleanly_and_it_can_be_resumed(path, tmp_path, long_run):
    result = tmp_path / "result"
    process = started(path, result)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    if not result.exists():  # it was not done already
        assert out == "interrupted\n"
        process = started(path, result)
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert json.loads(result.read_text())["bits"] == long_run


if __name__ == "__main__":
    program(*sys.argv[1:])
