"""While the first training step of a model compiles kernels, a second Python compiles those that the step needs later.

A kernel is compiled when it is first called, one after the other, on one processor: that takes 16 s for a LeNet-like
network, and 10 s so (2-core Intel Xeon, Emerald Rapids).  Processes share what they compile, as files.  So the second
one is told the model's layers and how many rows a batch has; it builds each of them alone, the one with the most
operations first, calls forward and backward with zeros, and ends.  The first process looks for a file before it
compiles anything.

Products of matrices are what the first process begins with, and a third of its time.  The second one does without: its
results are of no use to anyone.

There is none where the model's kernels are on disk already or can't be kept, on one processor, or where the environment
variable TINYNET_COMPILE_AHEAD is 0.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import weakref

import numba
import numpy as np

from tinynet.checks.assignments import of_package
from tinynet.kernels import compile_cache

LOCK = "compiling_ahead"  # a file where kernels are kept, while a second process writes there
LOCK_SECONDS = 600  # one so old was left by a process that was killed
ROWS = 256  # of a larger batch, so many: most kernels are the same, and memory is not asked for a second time

_helper = None


def expect(model, x) -> None:
    """A training step with this batch begins: should it compile anything, start a second process, unless one was."""
    wanted = os.environ.get("TINYNET_COMPILE_AHEAD", "1") != "0" and numba.config.NUMBA_NUM_THREADS > 1
    if _helper is None and wanted and sys.executable and not getattr(sys, "frozen", False):
        reference, rows = weakref.ref(model), min((ROWS, *getattr(x, "shape", ())[:1]))
        compile_cache.before_compiling = lambda folder: _start(reference(), rows, folder)


def _start(model, rows, folder):
    global _helper
    compile_cache.before_compiling = None
    lock = os.path.join(folder, LOCK)
    if model is None or not _locked(lock):
        return
    root = os.path.dirname(os.path.dirname(__file__))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "TINYNET_QUIET": "1",
        "TINYNET_COMPILE_AHEAD": "0",
    }
    if numba.config.CACHE_DIR:
        environment["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR
    # Without -P it would import what lies in the current folder and happens to be called numba.py.
    command = [sys.executable, *["-O"] * sys.flags.optimize, "-P", "-m", __name__, lock]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    no_window = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # on Windows, of a program that has none
    try:
        _helper = subprocess.Popen(command, **pipes, env=environment, creationflags=no_window)
    except OSError:  # no more processes are allowed
        _leave(lock)
        return
    atexit.register(_end, os.getpid(), lock)
    with contextlib.suppress(OSError):  # it has ended already
        _helper.stdin.write(json.dumps(_work(model, rows)).encode() + b"\n")
        _helper.stdin.flush()  # and left open: its end tells the other that this process has ended


def _locked(lock):
    """Whether this process may start one for the folder: of several that begin at once, one does."""
    try:
        os.makedirs(os.path.dirname(lock), exist_ok=True)
        with contextlib.suppress(OSError):
            if time.time() - os.stat(lock).st_mtime > LOCK_SECONDS:
                os.unlink(lock)
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except OSError:
        return False
    return True


def _end(owner, lock):
    """Nobody waits for what is not compiled yet.  A forked child leaves its parent's process alone."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            _helper.stdin.close()
        try:
            _helper.wait(timeout=1)
        except subprocess.TimeoutExpired:
            _helper.kill()
            _helper.wait()
            _leave(lock)


def _work(model, rows):
    """What the other process is told: every kind of layer once."""
    from tinynet.architecture import packed_layer  # which imports the model's module, as that does this one

    known = [(index, layer) for index, layer in enumerate(model.layers) if of_package(type(layer))]
    known.sort(key=lambda pair: -pair[1].flops)
    layers = [(packed_layer(layer), layer.input_shape, index > 0) for index, layer in known]
    distinct = {json.dumps(each): each for each in layers}
    return {"layers": list(distinct.values()), "rows": int(rows), "dtype": str(model.dtype)}


# --- the second process -------------------------------------------------------------------------------------------


def main(lock):
    try:
        work = json.loads(sys.stdin.readline())
        threading.Thread(target=_end_with_parent, args=[lock], daemon=True).start()
        _compile(work["layers"], work["rows"], np.dtype(work["dtype"]))
    finally:
        _leave(lock)


def _end_with_parent(lock):
    sys.stdin.read()
    _leave(lock)
    os._exit(0)


def _leave(lock):
    with contextlib.suppress(OSError):
        os.unlink(lock)


def _compile(layers, rows, dtype):
    from tinynet.architecture import made_layer
    from tinynet.kernels.compile import compiles_matmul
    from tinynet.kernels.matmul import stand_in
    from tinynet.model import Sequential

    compiles_matmul(stand_in)
    for about, input_shape, input_grad in layers:
        # One of a user's own class, say, or tied to another: the first process compiles what it needs.
        with contextlib.suppress(Exception):
            model = Sequential([made_layer(about)], tuple(input_shape), dtype=dtype)
            kind = np.int64 if model.layers[0].takes_integers else dtype
            y = model.forward(np.zeros((rows, *input_shape), kind), training=True)
            model.backward(y, input_grad=input_grad)


if __name__ == "__main__":
    main(sys.argv[1])
