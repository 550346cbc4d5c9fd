"""While the first training step of a model compiles kernels, a second Python compiles those that the step needs later.

A kernel is compiled when it is first called, and on one processor: the first step of a LeNet-like network takes 18 to
22 s, and 11 to 13 s with this second process (2-core Intel Xeon, Emerald Rapids).  Processes share what they compile,
as files.  So the second one is told the model's layers and how many rows a batch has; it builds each layer alone, the
one with the most operations first, calls forward and backward with zeros, and ends.  The first process looks for a file
before it compiles anything.

Products of matrices are what the first process begins with, and a third of its time.  The second one calls an empty
function in their place, since nobody reads its results.

None is started where the forward pass finds all its kernels on disk, where kernels can't be kept, where Numba has one
thread, and where the environment variable TINYNET_COMPILE_AHEAD is 0.
"""

import atexit
import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
import weakref

import numba
import numpy as np

from tinynet.checks.assignments import of_package
from tinynet.data.sequences import count
from tinynet.kernels import compile_cache
from tinynet.layers.inputs import takes_several

LOCK = "compiling_ahead"  # a file where kernels are kept, while a second process writes there: it says what that does
LOCK_SECONDS = 600  # one so old was left by a process that was killed
# The second process takes no more rows than this, and of a layer no more than so many numbers in one array: which
# kernels are called hardly depends on that, and the first process needs the memory.
ROWS, NUMBERS = 256, 2**23

_helper = None


def expect(model, x) -> None:
    """Called when a model's first training step begins, with the batch: a kernel that must be compiled from now on
    starts the second process, if none was started before."""
    wanted = os.environ.get("TINYNET_COMPILE_AHEAD", "1") != "0" and numba.config.NUMBA_NUM_THREADS > 1
    if _helper is None and wanted and sys.executable and not getattr(sys, "frozen", False):
        reference = weakref.ref(model)
        try:
            rows = int(count(x))
        except Exception:  # the first layer will say what is wrong with x
            return
        compile_cache.before_compiling = lambda folder: _start(reference(), rows, folder)


def expect_nothing() -> None:
    """From now on, what must be compiled starts no process."""
    compile_cache.before_compiling = None


def _start(model, rows, folder):
    global _helper
    expect_nothing()
    try:
        work = json.dumps(_work(model, rows))
    except Exception:  # say, of an option that JSON can't hold: the step compiles alone
        return
    lock = os.path.join(folder, LOCK)
    if not _locked(lock, work):
        return
    environment = {**os.environ, "TINYNET_QUIET": "1", "TINYNET_COMPILE_AHEAD": "0"}
    if numba.config.CACHE_DIR:
        environment["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main({lock!r})"
    command = [sys.executable, *["-O"] * sys.flags.optimize, "-c", code]
    # Its standard input is a pipe that is left open: its end tells it that this process has ended.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    no_window = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # on Windows, of a program that has none
    try:
        _helper = subprocess.Popen(command, **pipes, env=environment, creationflags=no_window)
    except OSError:  # no more processes are allowed
        _leave(lock)
        return
    atexit.register(_end, os.getpid(), lock)


def _locked(lock, work):
    """Whether this process may start one for the folder: of several that begin at once, one does."""
    try:
        os.makedirs(os.path.dirname(lock), exist_ok=True)
        with contextlib.suppress(OSError):
            if time.time() - os.stat(lock).st_mtime > LOCK_SECONDS:
                os.unlink(lock)
        with open(lock, "x", encoding="utf-8") as file:
            file.write(work)
    except OSError:
        return False
    return True


def _end(owner, lock):
    """At the end of this process: the other one has nothing left to do.  A forked child leaves its parent's alone."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            _helper.stdin.close()
        try:
            failed = _helper.wait(timeout=1)
        except subprocess.TimeoutExpired:
            _helper.kill()
            failed = _helper.wait()
        if failed:
            _leave(lock)


def _work(model, rows):
    """What the other process is told: every kind of layer once, and for each its input, whether dx is asked, rows."""
    from tinynet.architecture import packed_layer  # which imports the model's module, as that does this one

    known, found = [], {}
    for index, layer in enumerate(model.layers):
        several = takes_several(layer.input_shape)  # then it is branches beside each other
        known += [(each, index > 0) for each in (layer.layers if several else [layer]) if of_package(type(each))]
    for layer, input_grad in sorted(known, key=lambda pair: -pair[0].flops):
        largest = max(math.prod(layer.input_shape), math.prod(layer.output_shape))
        if sum(p._value.size for p in layer.parameters) <= NUMBERS:
            least = min(rows, ROWS, max(1, NUMBERS // largest))
            work = packed_layer(layer), layer.input_shape, input_grad, least
            found[json.dumps(work)] = work
    return {"layers": list(found.values()), "dtype": str(model.dtype)}


# --- the second process -------------------------------------------------------------------------------------------


def main(lock):
    """Compile what the file says, and remove it."""
    threading.Thread(target=_end_with_parent, args=[lock], daemon=True).start()
    try:
        with open(lock, encoding="utf-8") as file:
            work = json.load(file)
        _compile(work["layers"], np.dtype(work["dtype"]))
    finally:
        _leave(lock)


def _end_with_parent(lock):
    sys.stdin.read()
    _leave(lock)
    os._exit(0)


def _leave(lock):
    with contextlib.suppress(OSError):
        os.unlink(lock)


def _compile(layers, dtype):
    from tinynet.kernels.compile import compiles_matmul
    from tinynet.kernels.matmul import stand_in

    numba.set_num_threads(1)  # which kernels are called does not depend on it
    compiles_matmul(stand_in)
    for each in layers:
        # One that holds a user's own class, say, or is tied to another: the first process compiles what it needs.
        with contextlib.suppress(Exception):
            _pass_through(*each, dtype)


def _pass_through(about, input_shape, input_grad, rows, dtype):
    from tinynet.architecture import made_layer
    from tinynet.model import Sequential

    model = Sequential([made_layer(about)], tuple(input_shape), dtype=dtype)
    kind = np.int64 if model.layers[0].takes_integers else dtype
    y = model.forward(np.zeros((rows, *input_shape), kind), training=True)
    model.backward(y, input_grad=input_grad)
