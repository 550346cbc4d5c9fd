"""Ranks of MPI train as one process does; what one of them meets, all of them meet; and none waits forever.

Run by mpiexec as a program, this is what the tests below start:  test_distributed.py PART FOLDER
"""

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet.kernels.dropout import CHUNK
from tinynet.training.counting import counting

pytestmark = pytest.mark.slow

rng = np.random.default_rng(0)
Y = rng.integers(0, 3, 50)
X = rng.standard_normal((50, 6, 6, 2)) + Y[:, None, None, None]
UNKNOWN = np.where(np.arange(50) % 7 < 5, -1, Y)  # some shares have no label that counts
WEIGHT = np.array([0.2, 1.0, 3.0])
IMPORTANCE = rng.integers(0, 3, 50) * (np.arange(50) % 12 > 3)  # some shares have nothing that counts
LENGTHS = rng.integers(0, 7, 50) * (np.arange(50) % 3 < 2)  # of sequences X[:, :, 0], each third of length 0
SEQUENCES, TAGS = (np.where(np.arange(6)[:, None] < LENGTHS[:, None, None], X[:, :, 0], np.nan), LENGTHS), Y[:, None]
TAGS = np.where(rng.random((50, 6)) < 0.2, -100, np.where(np.arange(6) < LENGTHS[:, None], TAGS, 99))


def new_model(seed=0, units=6, dtype="float64"):
    inner = tn.Residual([tn.Dense(units), tn.BatchNorm(), tn.Dropout(0.2)])
    first = [tn.Conv2D(3, 3, activation="tanh"), tn.BatchNorm(), tn.MaxPool2D(2), tn.Flatten(), tn.Dropout(0.3)]
    return tn.Sequential([*first, tn.Dense(units), inner, tn.Dense(3)], (6, 6, 2), seed=seed, dtype=dtype)


def tagger():
    layers = [tn.Dense(6), tn.BatchNorm(), tn.Dropout(0.3), tn.GroupNorm(2), tn.Tanh(), tn.Dense(3)]
    return tn.Sequential(layers, (6, 2), dtype="float64")


def classifier():
    recurrent = tn.LSTM(5, return_sequences=False)
    layers = [tn.Dense(4), tn.Dropout(0.3), tn.Parallel([[recurrent], [tn.GlobalMaxPool1D()]]), tn.Dense(3)]
    return tn.Sequential(layers, (6, 2), dtype="float64")


def two_inputs():
    image, series = [tn.Flatten(), tn.Dense(4), tn.BatchNorm()], [tn.Dropout(0.3), tn.LSTM(3, return_sequences=False)]
    return tn.Sequential([tn.Parallel([image, series]), tn.Dense(3)], ((6, 6, 2), (6, 2)), dtype="float64")


def mixed(x, y, rng):
    return tn.data.mixup(x, y, rng, classes=3)


def repeated(x, y, rng):
    """A batch of another length than it was."""
    return np.concatenate([x, x[:1]]), np.concatenate([y, y[:1]])


class Items:
    """A data set that reads one sample at a time."""

    read = 0

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.read += 1
        return X[index]


def train(communicator, x=X, y=Y, model=None, make=tn.Adam, lr=0.01, build=new_model, **options):
    model = model or build()
    optimizer = options.pop("optimizer", None) or make(model, lr)
    options = {
        "loss": "softmax_cross_entropy",
        "epochs": 2,
        "batch_size": 12,  # the last batch has two samples: of three ranks, one gets none
        "seed": 5,
        "progress": False,
        **options,
    }
    history = tn.fit(model, x, y, optimizer=optimizer, communicator=communicator, **options)
    return model, optimizer, history


def bits(model, optimizer, history):
    return repr(
        [
            model.flat_values.tobytes(),
            [array.tobytes() for array in model.buffers().values()],
            [layer.state for layer in model.walk() if isinstance(layer, tn.Dropout)],
            {name: getattr(v, "tobytes", lambda v=v: v)() for name, v in optimizer.state_dict().items()},
            {name: [v.hex() for v in values] for name, values in history.items()},
            history.interrupted,
        ]
    )


def numbers(model, optimizer, history):
    """What must be the same but for rounding, as one vector."""
    parts = [model.flat_values, *model.buffers().values(), optimizer.mean]
    parts += [values for name, values in history.items() if name != "seconds"]
    return np.concatenate([np.ravel(part) for part in parts])


EQUAL = {
    "plain": {"metrics": "accuracy", "validation": (X[:7], Y[:7])},
    "labels that don't count, and weights": {
        "y": UNKNOWN,
        "loss": partial(tn.softmax_cross_entropy, ignore_index=-1, weight=WEIGHT),
    },
    "the last layer with the loss": {
        "y": UNKNOWN,
        "loss": partial(tn.linear_cross_entropy, ignore_index=-1, weight=WEIGHT),
        "metrics": "accuracy",
        "validation": (X[:7], Y[:7]),
    },
    "the last layer with the loss, no label that counts": {
        "y": np.full(50, -1),
        "loss": partial(tn.linear_cross_entropy, ignore_index=-1),
    },
    "no label that counts": {"y": np.full(50, -1), "loss": partial(tn.softmax_cross_entropy, ignore_index=-1)},
    "a sum": {"loss": partial(tn.softmax_cross_entropy, reduction="sum"), "lr": 0.001},
    "mixup": {"augment": mixed, "schedule": tn.cosine(0.02, 10)},
    "a batch that augment makes longer": {"augment": repeated},
    "a function of one's own": {"loss": lambda p, t: tn.softmax_cross_entropy(p, t)},
    "lists": {"x": list(X), "y": Y.tolist()},
    "a data set": {"x": Items()},
    "fewer samples than ranks": {"batch_size": 2},
    "clipped": {"make": partial(tn.Adam, clip_norm=0.5)},
    "validation of one": {"validation": (X[:1], Y[:1]), "metrics": "accuracy"},
    "weights of samples": {
        "y": UNKNOWN,
        "loss": partial(tn.softmax_cross_entropy, ignore_index=-1, weight=WEIGHT),
        "sample_weight": IMPORTANCE,
        "metrics": "accuracy",
        "validation": (X[:7], Y[:7], IMPORTANCE[5:12]),
    },
    "metrics of the whole epoch": {
        "metrics": ["auc", "accuracy", "f1", "expected_calibration_error"],
        "sample_weight": IMPORTANCE,
        "validation": (X[:30], Y[:30], IMPORTANCE[:30]),
    },
    "a share held out, weights of classes": {
        "validation": 0.3,
        "class_weight": "balanced",
        "drop_last": True,
        "metrics": "accuracy",
    },
    "weights of samples, augmented": {"augment": mixed, "sample_weight": IMPORTANCE},
    "sequences": {
        "build": tagger,
        "x": SEQUENCES,
        "y": TAGS,
        "metrics": "accuracy",
        "sample_weight": IMPORTANCE,
        "validation": ((SEQUENCES[0][:5], LENGTHS[:5]), TAGS[:5]),
    },
    "sequences, the last layer with the loss": {
        "build": tagger,
        "x": SEQUENCES,
        "y": TAGS,
        "metrics": "accuracy",
        "loss": "linear_cross_entropy",
        "augment": lambda pair, rng: (pair[0], np.minimum(pair[1], 5)),
    },
    "several inputs": {
        "build": two_inputs,
        "x": (X, SEQUENCES),
        "metrics": "accuracy",
        "validation": ((X[:7], (SEQUENCES[0][:7], LENGTHS[:7])), Y[:7]),
    },
    "several inputs, augmented, with an epoch's metrics": {
        "build": two_inputs,
        "x": (list(X), SEQUENCES),
        "augment": lambda x, rng: (x[0] * rng.uniform(0.5, 1), x[1]),
        "metrics": "f1",
        "validation": 0.3,
    },
    "sequences of similar length": {
        "build": classifier,
        "x": SEQUENCES,
        "similar_length": True,
        "metrics": "accuracy",
        "validation": (SEQUENCES, Y),
    },
}


# --- what mpiexec runs --------------------------------------------------------------------------------------


def everyone(world, found):
    """What each rank has for it, the same for all: found, or what differs."""
    all_found = world.allgather(found)
    return found if all(other == all_found[0] for other in all_found) else {"differs": all_found}


def raised(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def equal_runs(world, folder):
    from mpi4py import MPI

    result = {}
    pair = world.Split(int(world.rank == 2))  # ranks 0 and 1; rank 2 is there by itself
    for name, options in EQUAL.items():
        alone = numbers(*train(None, **options))
        for which, communicator in (("3", world), ("2", pair), ("1", MPI.COMM_SELF)):
            if which != "3" and name not in ("plain", "mixup", "fewer samples than ranks", "sequences"):
                continue
            found = train(communicator, **options)
            same = len(set(communicator.allgather(bits(*found)))) == 1
            worst = float(np.abs(numbers(*found) - alone).max())
            result[f"{name}, {which}"] = everyone(communicator, {"same": same}) | {"worst": worst}
    data = Items()
    train(world, x=data, epochs=1)
    result["read"] = world.allgather(data.read)
    return result


def start_of_rank_0(world, folder):
    """Whatever the others' models and optimizers begin with."""
    model = new_model(seed=world.rank)
    for array in model.buffers().values():
        array += world.rank
    optimizer = tn.Adam(model)
    optimizer.mean += world.rank * 0.01
    found = numbers(*train(world, model=model, optimizer=optimizer))
    model = new_model(seed=0)
    return {"worst": float(np.abs(found - numbers(*train(None, model=model, optimizer=tn.Adam(model)))).max())}


def loop_of_ones_own(world, folder):
    def steps(model, communicator, rank, ranks):
        optimizer = tn.SGD(model, 0.1)
        for x, y in tn.batches(X[:48], Y[:48], 12, seed=0, shard=(rank, ranks)):
            value, gradient = tn.softmax_cross_entropy(model.forward(x, training=True), y, denominator=12)
            model.backward(gradient)
            if communicator is not None:
                tn.distributed.sum_gradients(model, communicator)
            optimizer.step()
        return model.flat_values

    def plain_model(seed):
        return tn.Sequential([tn.Flatten(), tn.Dense(5), tn.BatchNorm(), tn.Dense(3)], (6, 6, 2), seed, "float64")

    alone = steps(plain_model(0), None, 0, 1)
    if world is None:
        return None
    model = plain_model(world.rank)
    tn.distributed.broadcast(model, world)
    with tn.distributed.synchronized(model, world):
        found = steps(model, world, world.rank, world.size)
    left = [name for layer in model.walk() for name in vars(layer) if name.startswith("whole_")]
    return {"worst": float(np.abs(found - alone).max()), "left": repr(left)}


def dropout_of(model):
    return next(layer for layer in model.walk() if isinstance(layer, tn.Dropout))


def callbacks_of_rank_0(world, folder):
    called = []

    def halving(training):
        called.append(world.rank)
        training.optimizer.lr /= 2
        training.model.flat_values[0] = 7
        dropout_of(training.model).rate = 0.125
        training.model.forward(X[:4], training=True)  # on one rank alone: nobody is waited for
        training.stop = training.epoch == 3

    stopping = tn.EarlyStopping("val_loss", patience=9)
    callbacks = [halving, stopping, tn.CSVLog(folder / "log.csv"), tn.Checkpoint(folder / "model")]
    if world.rank == 1:
        callbacks = []  # a program may give them to rank 0 alone
    validation = X[:20], Y[:20]
    run = train(world, epochs=9, lr=0.4, validation=validation, callbacks=callbacks, progress=True)
    own = new_model()
    tn.load(own, folder / "model")
    with open(folder / "log.csv", newline="") as file:
        lines = [line[1] for line in csv.reader(file)]
    return {
        "same": len(set(world.allgather(bits(*run)))) == 1,
        "called": world.allgather(called),
        "lr": run[1].lr,
        "epochs": len(run[2]["loss"]),
        "lines": lines == ["loss", *map(str, run[2]["loss"])],
        "best": world.allgather(stopping.best_epoch),
        "best of history": 1 + int(np.argmin(run[2]["val_loss"])),
        "saved first weight": own.flat_values[0],
        "rates": world.allgather(dropout_of(run[0]).rate),
    }


def refused(world, folder):
    second = world.rank == 1
    few = 40 if second else 50
    (folder / "damaged").write_bytes(b"<html>")
    bad = X.copy()
    bad[31, 0, 0, 0] = np.nan
    labels = "softmax_cross_entropy"
    cases = {
        "other length": partial(train, world, x=X[:few], y=Y[:few]),
        "other targets": partial(train, world, y=Y[::-1] if second else Y),
        "other model": partial(train, world, model=new_model(units=5 if second else 6)),
        "other seed": partial(train, world, seed=int(second)),
        "other epochs": partial(train, world, epochs=3 if second else 2),
        "a bad argument": partial(train, world, loss="hinges" if second else labels),
        "a bad argument everywhere": partial(train, world, epochs=0),
        "a missing mode": partial(train, world, metrics={"own": len}, callbacks=[tn.EarlyStopping("own")]),
        "a missing folder": partial(train, world, checkpoint=folder / "none" / "run"),
        "a damaged file": partial(train, world, checkpoint=folder / "damaged", resume=True),
        "a callback's start": partial(train, world, callbacks=[tn.CSVLog(folder / "none" / "log")]),
        "no communicator": partial(train, 3),
        "none in sum_gradients": partial(tn.distributed.sum_gradients, new_model(), None),
        "NaN": partial(train, world, x=bad),
        "a parameter": partial(train, world, optimizer=Breaking(), model=BROKEN),
    }
    result = {name: world.allgather(raised(case)) for name, case in cases.items()}
    result["NaN alone"] = raised(train, None, x=bad)
    try:
        train(world, x=bad)
    except tn.NonFiniteError as error:
        result["samples"] = world.allgather((error.rows, error.samples, error.step))
    return result


BROKEN = new_model()


class Breaking:
    lr, model, steps = 0.1, BROKEN, 0

    def step(self):
        self.steps += 1
        if self.steps == 5:
            self.model.parameters()[2].value[0] = np.inf


def interrupted(world, folder):
    path = folder / "interrupted"

    def noisy(x, rng):
        noisy.calls += 1
        if noisy.calls == noisy.press and world.rank == 1:
            signal.raise_signal(signal.SIGINT)  # one rank alone hears of it
        return x + rng.standard_normal(x.shape)

    noisy.calls, noisy.press = 0, None
    options = {"augment": noisy, "validation": (X[:9], Y[:9]), "metrics": "accuracy", "epochs": 3}
    expected = train(world, **options)
    alone = train(None, **options)
    noisy.calls, noisy.press = 0, 7
    stopped = train(world, checkpoint=path, **options)
    if world.rank == 0:
        shutil.copy(path, folder / "copy")
    result = {
        "calls": world.allgather(noisy.calls),
        "interrupted": world.allgather(stopped[2].interrupted),
        "epochs": len(stopped[2]["loss"]),
    }
    noisy.press = None
    again = train(world, checkpoint=path, resume=True, **options)
    finished = train(world, checkpoint=path, resume=True, **options)

    def same(*run):  # but for the time it took
        run[2]["seconds"] = []
        return bits(*run)

    result["same"] = world.allgather(same(*again) == same(*finished) == same(*expected))
    if world.rank == 0:
        fewer = train(None, checkpoint=folder / "copy", resume=True, **options)
        fewer[2].pop("seconds"), alone[2].pop("seconds")
        result["with one process"] = float(np.abs(numbers(*fewer) - numbers(*alone)).max())
    return result


def shared_threads(world, folder):
    default = tn.distributed.share_threads(world)
    value = os.environ.pop("NUMBA_NUM_THREADS")
    shared = tn.distributed.share_threads(world)
    os.environ["NUMBA_NUM_THREADS"] = value
    return {"threads": world.allgather((default, shared))}


def together(world, folder):
    parts = equal_runs, start_of_rank_0, loop_of_ones_own, callbacks_of_rank_0, refused, interrupted, shared_threads
    found = {function.__name__: function(world, folder) for function in parts}
    if world.rank == 0:
        (folder / "found").write_text(json.dumps(found))


def one_raises(world, folder):
    """Rank 1 has a label that is none, and no other rank knows."""
    labels = Y.copy()
    labels[np.random.default_rng((5, 1)).permutation(50)[9]] = 77  # the 10th sample of the first batch
    train(world, y=labels)


def one_dies(world, folder):
    def augment(x, rng):
        augment.calls += 1
        if augment.calls == 13 and world.rank == 1 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x + rng.standard_normal(x.shape)

    augment.calls = 0
    found = [train(world, augment=augment, epochs=6, checkpoint=folder / "run", resume=True)]
    steps = augment.calls
    found.append(train(world, augment=augment, epochs=6))
    for run in found:
        run[2].pop("seconds")
    if world.rank == 0:
        (folder / "found").write_text(json.dumps({"steps": steps, "same": bits(*found[0]) == bits(*found[1])}))


def ctrl_c(world, folder):
    def at_work(training):
        (folder / "at work").touch()

    run = train(world, epochs=10**6, callbacks=[at_work], checkpoint=folder / "run")
    print(f"rank {world.rank}: {run[2].interrupted}, {len(run[2]['loss']) > 0}", flush=True)


# --- tests --------------------------------------------------------------------------------------------------


def mpiexec():
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert found, 'there is no mpiexec: pip install "tinynet-numba[mpi]"'
    return found


def start(part, ranks, folder):
    return launch(ranks, __file__, part, folder)


def launch(ranks, program, *arguments):
    command = [mpiexec(), "-n", str(ranks), sys.executable, "-W", "error", program, *map(str, arguments)]
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, seconds):
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # mpiexec ends its ranks
        raise AssertionError(f"still running after {seconds} s: {process.communicate()}") from None
    return process.returncode, out, err


@pytest.fixture(scope="module")
def compiled():
    """All kernels are in the cache: three processes that compile them at once would take minutes."""
    for options in EQUAL.values():
        train(None, **options)
    loop_of_ones_own(None, None)


@pytest.fixture(scope="module")
def found(compiled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    code, out, err = finish(start("together", 3, folder), 240)
    assert code == 0, out + err
    return {**json.loads((folder / "found").read_text()), "out": out}


def test_ranks_train_as_one_process_does(found):
    results = found["equal_runs"]
    read = results.pop("read")
    assert len(results) == len(EQUAL) + 8
    for name, result in results.items():
        assert result["same"] is True, name
        # Of two numbers, all that BatchNorm leaves is which is the larger: what rounding changes grows there.
        assert result["worst"] < (1e-4 if name.startswith("fewer") else 1e-7), name
    assert read == [17, 17, 17]  # of 50 samples; for the shape of an empty share, one is read


def test_all_ranks_begin_with_what_rank_0_has(found):
    assert found["start_of_rank_0"]["worst"] < 1e-7


def test_a_loop_of_ones_own_needs_three_more_lines(found):
    assert found["loop_of_ones_own"]["worst"] < 1e-10
    assert found["loop_of_ones_own"]["left"] == "[]"


def test_rank_0_prints_and_calls_callbacks_and_what_they_do_reaches_all(found):
    result = found["callbacks_of_rank_0"]
    assert result["same"]
    assert result["called"] == [[0, 0, 0], [], []]
    assert result["lr"] == 0.05
    assert result["epochs"] == 3
    assert result["lines"]
    best = result["best of history"]
    assert result["best"] == [best, None, best]
    assert result["saved first weight"] == 7
    assert result["rates"] == [0.125] * 3
    assert [line[:9] for line in found["out"].splitlines()] == ["epoch 1/9", "epoch 2/9", "epoch 3/9"]


def test_what_is_refused_is_refused_on_every_rank(found):
    result = found["refused"]
    differences = {
        "other length": "the number of samples is 40 and not 50",
        "other targets": "the checksum of y is ",
        "other model": "layer 5 is Dense(units=5, ",
        "other seed": "fit's seed is 1 and not 0",
        "other epochs": "epochs is 3 and not 2",
    }
    for name, text in differences.items():
        [message] = set(result[name])
        assert message.startswith("ValueError: fit: rank 1 was given another run than rank 0: there ")
        assert text in message
    first, second, third = result["a bad argument"]
    assert second.startswith("ValueError: fit: there is no loss 'hinges'")
    assert first == third == f"RuntimeError: fit: rank 1 of 3 failed: {second}"
    assert set(result["a bad argument everywhere"]) == {"ValueError: fit: epochs must be at least 1, got 0"}
    [message] = set(result["a missing mode"])
    assert message.startswith("ValueError: fit: EarlyStopping watches 'own' and must know which of its values is the")
    for name, kind in {
        "a missing folder": "FileNotFoundError: ",
        "a damaged file": "ValueError: ",
        "a callback's start": "FileNotFoundError: CSVLog: ",
    }.items():
        first, second, third = result[name]
        assert first.startswith(kind)
        assert second == third == f"RuntimeError: fit: rank 0 of 3 failed: {first}"
    for name in ("no communicator", "none in sum_gradients"):
        [message] = set(result[name])
        assert "communicator must be one of mpi4py's, such as MPI.COMM_WORLD, got " in message
        assert message.startswith("TypeError: ")


def test_a_loss_that_is_no_number_is_reported_as_one_process_would(found):
    result = found["refused"]
    [message] = set(result["NaN"])
    assert message == result["NaN alone"]
    assert "the input is not finite, in row " in message
    assert "(sample 31 of x)" in message
    [[rows, samples, _]] = {json.dumps(entry): entry for entry in result["samples"]}.values()
    assert len(rows) == 1
    assert samples == [31]
    [message] = set(result["a parameter"])
    assert message.startswith("NonFiniteError: epoch 1, step 5: a parameter is not finite; it began at BatchNorm")


def test_ctrl_c_on_one_rank_stops_all_after_the_same_step_and_they_go_on_to_the_same_bits(found):
    result = found["interrupted"]
    assert result["calls"] == [7, 7, 7]
    assert result["interrupted"] == [True] * 3
    assert result["epochs"] == 1
    assert result["same"] == [True] * 3
    assert result["with one process"] < 1e-7


def test_threads_are_shared_unless_the_user_has_set_them(found):
    assert found["shared_threads"]["threads"] == [[1, 1]] * 3


def test_an_error_of_one_rank_ends_all_of_them(compiled, tmp_path):
    code, _, err = finish(start("one_raises", 2, tmp_path), 120)
    assert code != 0
    assert "rank 1 of 2 failed, which ends them all:\nTraceback" in err
    assert "ValueError: softmax_cross_entropy: the target at position (3,) is 77" in err
    assert "rank 0 of 2 failed" not in err


def test_a_killed_rank_ends_all_of_them_and_the_run_goes_on_from_its_checkpoint(compiled, tmp_path):
    code, _, _ = finish(start("one_dies", 2, tmp_path), 120)
    assert code != 0
    assert not (tmp_path / "found").exists()
    code, _, err = finish(start("one_dies", 2, tmp_path), 120)
    assert code == 0, err
    assert json.loads((tmp_path / "found").read_text()) == {"steps": 20, "same": True}


def test_ctrl_c_at_mpiexec_ends_a_training_cleanly(compiled, tmp_path):
    process = start("ctrl_c", 2, tmp_path)
    for _ in range(600):
        if (tmp_path / "at work").exists() or process.poll() is not None:
            break
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process, 120)
    assert code == 0, err
    told = re.findall(r"rank \d: (?:True|False), (?:True|False)", out)  # both write at once, perhaps into one line
    assert sorted(told) == ["rank 0: True, True", "rank 1: True, True"]


def test_the_example_has_the_same_loss_curve_on_two_ranks(compiled, tmp_path):
    example = Path(__file__).parents[2] / "examples" / "19_data_parallel.py"
    code, out, err = finish(launch(2, example, "--out", tmp_path / "losses.png"), 120)
    assert code == 0, err
    ranks, _, most, *_ = out.splitlines()
    assert ranks == "2 ranks of 1 threads, 100 steps"
    assert float(most.split()[-1]) < 1e-5
    assert (tmp_path / "losses.png").exists()


# --- without MPI --------------------------------------------------------------------------------------------

LABELS = rng.integers(0, 4, 24)
SOME = np.where(rng.random(24) < 0.4, LABELS, -1)
BINARY = rng.integers(0, 2, (24, 4))
SOME_BINARY = np.where(rng.random((24, 4)) < 0.4, BINARY, -1)
SHARES = rng.dirichlet(np.ones(4), 24)
FOUR = np.array([0.5, 1.0, 2.0, 0.0])
COUNTED = {
    "softmax, labels": (partial(tn.softmax_cross_entropy, label_smoothing=0.1), LABELS),
    "softmax, the default label that doesn't count": (tn.softmax_cross_entropy, np.where(SOME < 0, -100, SOME)),
    "softmax, weighted": (partial(tn.softmax_cross_entropy, weight=FOUR, ignore_index=-1), SOME),
    "softmax, partial of a partial": (
        partial(partial(tn.softmax_cross_entropy, ignore_index=9), ignore_index=-1),
        SOME,
    ),
    "softmax, probabilities and weights": (partial(tn.softmax_cross_entropy, weight=FOUR), SHARES),
    "softmax, a sum": (partial(tn.softmax_cross_entropy, reduction="sum"), LABELS),
    "softmax, a denominator": (partial(tn.softmax_cross_entropy, denominator=5), LABELS),
    "focal": (partial(tn.softmax_focal, weight=FOUR, ignore_index=-1), SOME),
    "sigmoid": (partial(tn.sigmoid_cross_entropy, weight=FOUR, pos_weight=2.0, ignore_index=-1), SOME_BINARY),
    "sigmoid, all": (tn.sigmoid_cross_entropy, BINARY),
    "sigmoid focal": (partial(tn.sigmoid_focal, ignore_index=-1), SOME_BINARY),
    "sigmoid focal, weighted": (partial(tn.sigmoid_focal, weight=FOUR, ignore_index=-1), SOME_BINARY),
    "focal, probabilities": (partial(tn.softmax_focal, weight=FOUR), SHARES),
    "multiclass hinge": (partial(tn.multiclass_hinge, ignore_index=-1), SOME),
    "multiclass hinge, weighted": (partial(tn.multiclass_hinge, p=2, weight=FOUR, ignore_index=-1), SOME),
    "counts": (tn.poisson_nll, SHARES),
    "squares": (tn.mean_squared_error, SHARES),
    "huber": (tn.huber, SHARES),
    "divergence": (tn.kl_divergence, SHARES),
}


@pytest.mark.parametrize("case", COUNTED)
@pytest.mark.parametrize("cuts", [(5, 9), (1, 1)])
def test_means_of_shares_weighed_by_their_counts_are_the_mean(case, cuts):
    loss, targets = COUNTED[case]
    z = np.random.default_rng(1).standard_normal((24, 4))
    check_means(loss, targets, z, cuts, None)
    check_means(loss, targets, z, cuts, np.random.default_rng(2).integers(0, 3, 24).astype(float))


def check_means(loss, targets, z, cuts, weights):
    def judged(z, targets, weights):
        return loss(z, targets, **({} if weights is None else {"sample_weight": weights}))

    value, gradient = judged(z, targets, weights)
    shares = [None] * 3 if weights is None else np.split(weights, cuts)
    parts = [part for part in zip(np.split(z, cuts), np.split(targets, cuts), shares, strict=True) if len(part[0])]
    count = counting(loss)
    counts = [None if count is None else count(t, len(t), s) for _, t, s in parts]
    found = [judged(*part) for part in parts]
    total = 1 if counts[0] is None else sum(counts)
    shares = [1 if count is None else count / total for count in counts]
    assert sum(share * v for share, (v, _) in zip(shares, found, strict=True)) == pytest.approx(value, rel=1e-12)
    together = np.concatenate([share * g for share, (_, g) in zip(shares, found, strict=True)])
    np.testing.assert_allclose(together, gradient, rtol=1e-12, atol=1e-15)


def test_what_is_no_loss_of_the_package_is_a_mean_over_rows():
    assert counting(lambda p, t: tn.softmax_cross_entropy(p, t, ignore_index=-1))(SOME, 24) == 24


@pytest.mark.parametrize("cuts", [(0, 3, 70), (1, 1, 99), (CHUNK // 35, CHUNK // 35 + 1)])
def test_a_share_gets_its_part_of_the_batch_s_mask(cuts):
    layer = tn.Dropout(0.4)
    layer.build((7, 5), "float32", np.random.default_rng(0))
    key, _ = layer.state
    x = np.random.default_rng(1).random((300, 7, 5), np.float32)
    whole = layer.forward(x, training=True)
    np.testing.assert_array_equal(layer.backward(x), whole)
    cuts = [0, *cuts, 300]
    for first, last in itertools.pairwise(cuts):
        layer.state, layer.first_row = (key, 0), first
        np.testing.assert_array_equal(layer.forward(x[first:last], training=True), whole[first:last])
        np.testing.assert_array_equal(layer.backward(x[first:last]), whole[first:last])


@pytest.mark.parametrize("data", [np.arange(11), list(range(11)), list("abcdefghijk"), range(11)])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_the_shares_of_a_batch_are_the_batch(data, ranks):
    def joined(shares):
        return [item for share in shares for item in list(share)]

    whole = list(tn.batches(data, range(11), 4, seed=3))
    shares = [list(tn.batches(data, range(11), 4, seed=3, shard=(rank, ranks))) for rank in range(ranks)]
    for k, (x, y) in enumerate(whole):
        assert joined(share[k][0] for share in shares) == list(x)
        assert joined(share[k][1] for share in shares) == list(y)
        sizes = [len(share[k][0]) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        (2, "shard must be a pair"),
        ((1, 2, 3), "shard must be a pair"),
        ((2, 2), "of 2 ranks, the last is 1, got 2"),
        ((0, 0), "the ranks must be at least 1"),
        ((-1, 2), "the rank must be at least 0"),
    ],
)
def test_a_shard_that_is_none_is_refused(shard, message):
    with pytest.raises(ValueError, match=message):
        tn.batches(X, Y, 4, shard=shard)


if __name__ == "__main__":
    from mpi4py import MPI

    globals()[sys.argv[1]](MPI.COMM_WORLD, Path(sys.argv[2]))
