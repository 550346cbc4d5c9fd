"""python -m tinynet warmup, the line that says that kernels are compiled, and the process that compiles ahead."""

import json
import os
import signal
import subprocess
import sys
import time

import numba
import numpy as np
import pytest

import tinynet as tn
from tinynet import compile_ahead
from tinynet.__main__ import layers
from tinynet.kernels import compile_cache

STEP = "import numpy as np, tinynet as tn; tn.softmax_cross_entropy(np.zeros((2, 3), 'f4'), [0, 1])"


def run(cache, *arguments, **environment):
    environment = {**os.environ, "TINYNET_QUIET": "", "NUMBA_CACHE_DIR": str(cache), **environment}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_one_line_says_that_kernels_are_compiled_and_warm_runs_are_silent(tmp_path):
    quiet = run(tmp_path / "quiet", "-c", STEP, TINYNET_QUIET="1")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    cold, warm = run(tmp_path, "-c", STEP), run(tmp_path, "-c", STEP)
    assert cold.stderr.count("\n") == 1
    assert "compiling kernels, once for this machine" in cold.stderr
    assert str(tmp_path) in cold.stderr
    assert (warm.returncode, warm.stderr) == (0, "")


@pytest.mark.slow
def test_after_warmup_nothing_is_compiled(tmp_path):
    done = run(
        tmp_path, "-m", "tinynet", "warmup", "--dtype", "float32", "--layers", "--losses", "softmax_cross_entropy"
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert run(tmp_path, "-c", STEP).stderr == ""


def test_warmup_refuses_what_it_does_not_know(tmp_path):
    for arguments in (["--layers", "Dens"], ["--dtype", "float16"], ["--processes", "0"]):
        done = run(tmp_path, "-m", "tinynet", "warmup", *arguments)
        assert done.returncode == 2
        assert arguments[-1] in done.stderr


# A first step up to its forward pass; then what follows is known of the second process.
FORWARD = """
import sys
import numpy as np
import tinynet as tn
from tinynet import compile_ahead

layers = [tn.BatchNorm(), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(3, activation="relu")]
model = tn.Sequential(layers, input_shape=(4, 4, 2), seed=0)
x = np.random.default_rng(0).normal(size=(8, 4, 4, 2)).astype("f4")
y = model.forward(x, training=True)
"""
GRADIENTS = "\nmodel.backward(y)\nprint(*model.flat_grads.tolist())"


def gradients():
    known = {}
    exec(FORWARD, known)
    known["model"].backward(known["y"])
    return known["model"].flat_grads


@pytest.mark.slow
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS == 1, reason="one processor has one process")
def test_a_second_process_compiles_what_backward_will_need(tmp_path):
    done = run(tmp_path, "-c", FORWARD + "print(compile_ahead._helper.wait())", TINYNET_COMPILE_AHEAD="1")
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    names = {path.name.split("-")[0] for path in tmp_path.rglob("*")}
    assert {"pooling_2x2.max_pool_2x2_backward", "dense.backward_blocks", "matmul.tinynet_matmul"} <= names
    assert compile_ahead.LOCK not in names
    backward = run(tmp_path, "-c", FORWARD + GRADIENTS)
    assert backward.stderr == "", "what the second process did not compile"
    np.testing.assert_array_equal(np.array(backward.stdout.split(), "f4"), gradients())


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
@pytest.mark.skipif(sys.platform == "win32", reason="it knows no such signal")
def test_the_second_process_ends_with_the_first(end, tmp_path):
    lines = [
        "import os, signal, sys",
        "import tinynet as tn",
        "from tinynet import compile_ahead",
        "compile_ahead._start(tn.Sequential([tn.GELU(), tn.LSTM(8)], input_shape=(4, 8)), 8, sys.argv[1])",
        "assert compile_ahead._helper.poll() is None",
        end,
    ]
    done = run(tmp_path, "-c", "\n".join(lines), str(tmp_path))
    assert done.returncode == (-signal.SIGKILL if end else 0), done.stderr
    deadline = time.monotonic() + 60
    while (tmp_path / compile_ahead.LOCK).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.rglob("*")) == [], "what it compiled, or a lock that it left"


@pytest.mark.slow
def test_a_second_process_that_fails_leaves_no_lock(tmp_path):
    code = "import tinynet as tn; from tinynet import compile_ahead; compile_ahead._compile = None; import sys"
    code += "; compile_ahead._start(tn.Sequential([tn.ReLU()], input_shape=2), 8, sys.argv[1])"
    code += "; open(sys.argv[1] + '/compiling_ahead', 'w').close(); print(compile_ahead._helper.wait())"
    done = run(tmp_path, "-c", code, str(tmp_path))  # what it finds in the file is no JSON
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_each_common_layer_is_compiled_ahead():
    more = [((7,), [tn.Embedding(5, 8), tn.GRU(8), tn.TransformerBlock(2), tn.LSTM(4), tn.Dense(2)])]
    for shape, stack in [*more, *(pair for pairs in layers().values() for pair in pairs)]:
        work = json.loads(json.dumps(compile_ahead._work(tn.Sequential(stack, input_shape=shape), 2)))
        assert len(work["layers"]) == len(stack)
        for each in work["layers"]:
            compile_ahead._pass_through(*each, np.dtype(work["dtype"]))


def test_of_several_processes_one_starts_another(tmp_path, monkeypatch):
    lock, started = str(tmp_path / "new" / compile_ahead.LOCK), []
    monkeypatch.setattr(compile_ahead.subprocess, "Popen", lambda *arguments, **options: started.append(arguments))
    assert compile_ahead._locked(lock, "")
    assert not compile_ahead._locked(lock, "")
    compile_ahead._start(tn.Sequential([tn.ReLU()], input_shape=2), 8, str(tmp_path / "new"))
    assert started == []
    long_ago = time.time() - 2 * compile_ahead.LOCK_SECONDS
    os.utime(lock, (long_ago, long_ago))
    assert compile_ahead._locked(lock, ""), "whoever made it was killed"


def test_where_no_process_can_be_started_the_step_compiles_alone(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(compile_ahead.subprocess, "Popen", refuse)
    compile_ahead._start(tn.Sequential([tn.ReLU()], input_shape=2), 8, str(tmp_path))
    assert compile_ahead._helper is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def asked(monkeypatch):
    """What would start a second process, where Numba has two threads."""
    found = []
    monkeypatch.setenv("TINYNET_COMPILE_AHEAD", "1")
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 2)
    monkeypatch.setattr(compile_cache, "before_compiling", None)
    monkeypatch.setattr(compile_ahead, "_start", lambda *arguments: found.append(arguments))
    return found


class Compiles(tn.ReLU):
    """It finds that a kernel must be compiled, and nobody there to ask is no error."""

    def forward(self, x, training=False):
        (compile_cache.before_compiling or str)("folder")
        return super().forward(x, training)


@pytest.mark.parametrize("lengths", [False, True])
def test_a_second_process_is_asked_for_within_the_first_forward_pass_of_a_training(lengths, asked):
    model, x = tn.Sequential([Compiles()], input_shape=(4, 2)), np.zeros((8, 4, 2), "f4")
    model.predict(x)
    model.forward(x)
    assert asked == [], "nothing will go backward"
    for _ in range(2):
        model.forward((x, np.full(8, 4)) if lengths else x, training=True)
        assert compile_cache.before_compiling is None
        assert asked == [(model, 8, "folder")]


@pytest.mark.parametrize("x", [np.zeros((8, 2)).tolist(), (np.zeros((8, 4, 2)), np.full(8, 4))])
def test_rows_are_counted_whatever_they_come_in(x, asked):
    compile_ahead.expect(tn.Sequential([tn.ReLU()], input_shape=2), x)
    compile_cache.before_compiling("folder")
    assert asked[0][1] == 8


def test_what_is_no_batch_is_left_to_the_layer_that_refuses_it(asked):
    with pytest.raises(ValueError, match="ReLU"):
        tn.Sequential([tn.ReLU()], input_shape=2).forward(3.0, training=True)
    assert compile_cache.before_compiling is None
    assert asked == []


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (os.environ, "TINYNET_COMPILE_AHEAD", "0"),
        (sys, "executable", ""),
        (sys, "frozen", True),
        (numba.config, "NUMBA_NUM_THREADS", 1),
    ],
)
def test_no_second_process_is_started(where, name, value, asked, monkeypatch):
    compile_ahead.expect(tn.Sequential([tn.ReLU()], input_shape=2), np.zeros((8, 2)))
    assert compile_cache.before_compiling is not None
    compile_ahead.expect_nothing()
    if where is os.environ:
        monkeypatch.setenv(name, value)
    else:
        monkeypatch.setattr(where, name, value, raising=False)
    compile_ahead.expect(tn.Sequential([tn.ReLU()], input_shape=2), np.zeros((8, 2)))
    assert compile_cache.before_compiling is None


def test_the_second_process_is_told_each_kind_of_layer_once_and_takes_little_memory():
    alike = [tn.Dense(4, activation="relu") for _ in range(4)]
    model = tn.Sequential([alike[0], Compiles(), *alike[1:], tn.Dropout(0.5)], input_shape=4, dtype="float64")
    work = compile_ahead._work(model, 5000)
    dense = {"layer": "Dense", "options": {"units": 4, "activation": "relu"}}
    dropout = {"layer": "Dropout", "options": {"rate": 0.5}}
    rows = compile_ahead.ROWS
    layers = [(dense, (4,), False, rows), (dense, (4,), True, rows), (dropout, (4,), True, rows)]
    assert work == {"layers": layers, "dtype": "float64"}
    large = tn.Sequential([tn.Conv2D(8, 3, padding="same"), tn.Flatten(), tn.Dense(9)], input_shape=(512, 512, 3))
    assert [(about["layer"], rows) for about, *_, rows in compile_ahead._work(large, 64)["layers"]] == [
        ("Conv2D", 4),
        ("Flatten", 4),
    ]


def test_of_branches_with_an_input_each_the_layers_are_compiled():
    branches = tn.Parallel([[tn.Dense(3)], [tn.Dense(4), tn.ReLU()]])
    model = tn.Sequential([branches, tn.Dense(2)], input_shape=((5,), (6,)))
    names = [(about["layer"], shape) for about, shape, *_ in compile_ahead._work(model, 8)["layers"]]
    assert sorted(names) == [("Dense", (5,)), ("Dense", (6,)), ("Dense", (7,)), ("ReLU", (4,))]
