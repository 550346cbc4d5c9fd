"""Threads of Python, forked and spawned processes, other threading layers, and places that can't be written to."""

import concurrent.futures
import ctypes.util
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import tinynet as tn
from tinynet.kernels.compile import kernel

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
LAYERS = ["omp", "workqueue"]
# Numba asks the system's linker for TBB, which doesn't look into a virtual environment.
TBB = ctypes.util.find_library("tbb") or next(iter(sorted(Path(sys.prefix, "lib").glob("libtbb.so.*"))), None)
if TBB:
    LAYERS.append("tbb")


def run(code, *, cwd=TESTS, fails=False, **environment):
    """What a Python process of its own prints; where it `fails`, what it says at the end."""
    if environment.get("NUMBA_THREADING_LAYER") == "tbb":
        code = f"import ctypes\nctypes.CDLL({str(TBB)!r}, mode=ctypes.RTLD_GLOBAL)\n" + code
    environment = {"NUMBA_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=os.environ | environment, timeout=300
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout.split()


# --- threads ----------------------------------------------------------------------------------------------


@kernel(parallel=True)
def who_works(threads):
    for i in numba.prange(len(threads)):
        threads[i] = numba.get_thread_id()


def test_kernels_use_the_threads_that_were_set():
    code = """
import threading
import numpy as np
import tinynet as tn
import test_processes

def used():
    threads = np.empty(1000, np.int64)
    test_processes.who_works(threads)
    print(*np.unique(threads), "of", tn.get_num_threads(), sep=",")

used()
tn.set_num_threads(1)
used()
other = threading.Thread(target=used)  # the number is a thread's own
other.start()
other.join()
"""
    for layer in ("omp", "workqueue"):
        assert run(code, NUMBA_THREADING_LAYER=layer) == ["0,1,of,2", "0,of,1", "0,1,of,2"]


AT_ONCE = """
import hashlib, threading
import numba
import numpy as np
import tinynet as tn
import test_model, test_processes

test_processes.who_works(np.empty(64, np.int64))
assert numba.threading_layer() == {layer!r}, numba.threading_layer()

def trained(k, results):
    rng = np.random.default_rng(k)
    x, y = rng.standard_normal((80, 8, 8, 2)).astype(np.float32), rng.integers(0, 3, 80)
    model = test_model.small_cnn(seed=k)
    optimizer = tn.Adam(model, lr=1e-2, clip_norm=1.0)
    for xb, yb in tn.batches(x, y, batch_size=40, seed=k):
        loss, dlogits = tn.softmax_cross_entropy(model.forward(xb, training=True), yb)
        model.backward(dlogits)
        optimizer.step()
    wide = rng.standard_normal((300, 200)).astype(np.float32)  # enough for a loss and an activation to take threads
    loss, gradient = tn.softmax_cross_entropy(tn.Sequential([tn.GELU()], 200).forward(wide), np.arange(300) % 200)
    results[k] = [*model.flat_values, loss, *gradient.ravel()]

def at_once(work, count):
    results = {{}}
    threads = [threading.Thread(target=work, args=(k, results)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results

alone = {{}}
for k in range(2):
    trained(k, alone)
assert at_once(trained, 2) == alone

test_model.test_predict_from_eight_threads_at_once_is_right(test_model.small_cnn)
print(hashlib.sha256(np.array([*alone[0], *alone[1]]).tobytes()).hexdigest())
"""


def test_two_trainings_and_eight_predictions_at_once_are_right_with_every_threading_layer():
    digests = {layer: run(AT_ONCE.format(layer=layer), NUMBA_THREADING_LAYER=layer) for layer in LAYERS}
    assert len(set(map(tuple, digests.values()))) == 1, digests


# --- forked and spawned processes -------------------------------------------------------------------------

FORK = """
import os
import numba
import numpy as np
import tinynet as tn
from tinynet.kernels import compile
from tinynet.kernels.compile import kernel

x, labels = np.random.default_rng(0).standard_normal((64, 100)), [0, 1] * 32
model = tn.Sequential([tn.Dense(100)], 100)  # large enough for a prediction to take threads

def child(work):
    # What `work` gave in a forked process.
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            answer = str(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    assert os.waitpid(process, 0)[1] == 0, answer
    return answer

def prediction():
    return model.predict(x).tolist()

def new_kernel():
    @kernel(parallel=True)
    def fill(a):
        for i in numba.prange(len(a)):
            a[i] = 1
    a = np.zeros(9)
    fill(a)
    return a.sum()

def small_loss():
    return tn.softmax_cross_entropy(x, labels)[0]
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@forks
@pytest.mark.parametrize("before", ["prediction()", "tn.get_num_threads()"])
def test_a_child_forked_after_gnu_openmp_started_gets_an_error_and_keeps_what_needs_no_threads(before):
    pytest.importorskip("numba.np.ufunc.omppool")
    code = f"""{FORK}
{before}
refused = [child(prediction), child(new_kernel), child(lambda: child(prediction))]
for answer in refused:
    assert answer.startswith("RuntimeError: this process was forked"), answer
    assert 'multiprocessing.get_context("spawn")' in answer and "NUMBA_THREADING_LAYER=workqueue" in answer
assert child(small_loss) == str(small_loss())
assert child(lambda: (tn.get_num_threads(), tn.show_config("dict")["threading layer"])) == "(2, 'omp')"
prediction()  # the parent goes on
print(numba.np.ufunc.omppool.openmp_vendor)
"""
    assert run(code, NUMBA_THREADING_LAYER="omp") == ["GNU"]


@forks
def test_a_pool_of_forked_processes_reports_the_error_and_does_not_hang():
    code = f"""{FORK}
import multiprocessing
prediction()
with multiprocessing.get_context("fork").Pool(1) as pool:
    pool.apply(model.predict, [x])
"""
    assert "RuntimeError: this process was forked" in run(code, fails=True, NUMBA_THREADING_LAYER="omp")


@forks
def test_a_child_forked_before_any_kernel_ran_works_and_so_does_its_parent():
    code = f"""{FORK}
first = child(prediction)
assert str(prediction()) == first
assert child(prediction).startswith("RuntimeError") == (numba.threading_layer() == "omp")
"""
    for layer in LAYERS:
        run(code, NUMBA_THREADING_LAYER=layer)


@forks
def test_other_threading_layers_work_in_a_forked_child_whoever_had_their_turn():
    code = f"""{FORK}
expected = str(prediction())
assert child(prediction) == child(lambda: child(prediction)) == expected
with compile._turn:  # a thread of the parent is at work, and does not exist in the child
    assert child(prediction) == expected
assert child(new_kernel) == "9.0"
"""
    for layer in LAYERS:
        if layer != "omp":
            run(code, NUMBA_THREADING_LAYER=layer)


def trained_weights(seed):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 20)).astype(np.float32), rng.integers(0, 3, 64)
    model = tn.Sequential([tn.Dense(30, activation="relu"), tn.Dense(3)], 20, seed=seed)
    optimizer = tn.Adam(model, lr=1e-2)
    for xb, yb in tn.batches(x, y, batch_size=16, seed=seed):
        _, dlogits = tn.softmax_cross_entropy(model.forward(xb, training=True), yb)
        model.backward(dlogits)
        optimizer.step()
    return model.flat_values.tobytes()


def test_spawned_processes_train_to_the_same_bits():
    expected = [trained_weights(seed) for seed in (0, 1)]
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(trained_weights, (0, 1))) == expected


# --- where nothing can be written ---------------------------------------------------------------------------

# Root may write anywhere; without its capabilities it is a user like others.
POWERLESS = """
import ctypes, os, pathlib, sys
if sys.platform == "linux":
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None).capset(version_3, (ctypes.c_uint32 * 6)()) == 0
import tinynet as tn
package = pathlib.Path(tn.__file__).parent
assert package == pathlib.Path("tinynet").absolute()
try:
    (package / "written").touch()
except PermissionError:
    pass
else:
    sys.exit("the package's folder can be written to")
"""
PREDICTION = """
import numpy as np
import tinynet as tn
x = np.random.default_rng(0).standard_normal((63, 100))
model = tn.Sequential([tn.Dense(90, activation="relu"), tn.Dense(3)], 100)  # the first is large enough for threads
print(model.predict(x).tobytes().hex())
"""
STEP = f"""{PREDICTION}
optimizer = tn.SGD(model, lr=0.1)
loss, dlogits = tn.softmax_cross_entropy(model.forward(x, training=True), [0, 1, 2] * 21)
model.backward(dlogits)
optimizer.step()
print(loss.hex(), model.flat_values.tobytes().hex())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with a copy of the package that can't be written to, and no kernels in it."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(Path(tn.__file__).parent, folder / "tinynet", ignore=shutil.ignore_patterns("__pycache__"))
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield folder
    for path in folders:
        path.chmod(0o755)


def kernels_in(folder):
    return {path.name.split("-")[0] for path in folder.rglob("*.kernel")}


def test_an_installation_that_is_read_only_gives_the_same_bits_wherever_its_kernels_are_kept(installed, tmp_path):
    expected = run(STEP)
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": ""}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "home"), "NUMBA_CACHE_DIR": ""}
    chosen = nowhere | {"NUMBA_CACHE_DIR": str(tmp_path / "chosen")}
    for place in (nowhere, home):
        assert run(POWERLESS + PREDICTION, cwd=installed, **place) == expected[:1]
    assert run(POWERLESS + STEP, cwd=installed, **chosen) == expected
    assert "dense.forward_blocks_parallel" in kernels_in(tmp_path / "home")
    assert {"dense.forward_blocks_parallel", "optim.sgd_update"} <= kernels_in(tmp_path / "chosen")
    assert not kernels_in(installed)
    # The kernels that are kept now are what these find: they compile none.
    before = set((tmp_path / "chosen").rglob("*"))
    for other in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "NUMBA_NUM_THREADS": "1"}):
        assert run(POWERLESS + STEP, cwd=installed, **chosen, **other) == expected
    assert set((tmp_path / "chosen").rglob("*")) == before
