"""Kernels that are kept on disk: old or damaged code never runs, and what can't be kept costs compile time only."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import numba
import numpy as np
import pytest

import tinynet as tn
from tinynet.kernels import compile, compile_cache
from tinynet.kernels.compile import kernel

pytestmark = pytest.mark.slow

PACKAGE = Path(tn.__file__).parent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder where kernels are kept, of this process and of those that it starts."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(compile_cache, "_warned", False)
    return tmp_path / "kept"


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# --- in one process -----------------------------------------------------------------------------------------


def triple(x):
    return 3 * x


def found(function=triple, argument=14, expected=42, **flags):
    """Whether a new kernel of this function finds its machine code, which gives what is expected."""
    made = kernel(**flags)(function)
    assert made(argument) == expected
    return sum(made.stats.cache_hits.values()) == 1


def test_a_kernel_is_found_by_the_next_one_of_the_same_function(folder):
    assert not found()
    assert found()
    assert len(files(folder)) == 1


def quadruple(x):
    return 4 * x


def test_a_kernel_that_ran_under_a_profiler_is_found_without_it(folder):
    sys.setprofile(lambda *event: None)
    try:
        assert not found(quadruple, 3, 12)
    finally:
        sys.setprofile(None)
    assert found(quadruple, 3, 12)


def flip(position):
    def damaged(content):
        content = bytearray(content)
        content[int(position * (len(content) - 1))] ^= 4
        return bytes(content)

    return damaged


DAMAGES = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "a byte too many": lambda content: content + b"\0",
    "a flipped bit of the digest": flip(0),
    "a flipped bit of the code": flip(0.5),
    "a flipped bit at the end": flip(1),
    "zeros": lambda content: bytes(len(content)),
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "another pickle": lambda content: pickle.dumps({"some": "thing"}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_compiled_anew_and_written_over(folder, damage, capfd):
    found()
    [path] = files(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert not found()
    assert files(folder) == [path]
    assert found()
    assert capfd.readouterr() == ("", "")


def test_a_file_under_the_name_of_another_is_not_run(folder):
    found()
    [first] = files(folder)
    found(argument=1.5, expected=4.5)
    [second] = set(files(folder)) - {first}
    shutil.copy(first, second)
    assert not found(argument=1.5, expected=4.5)


@pytest.mark.parametrize("error", [ImportError, AttributeError, MemoryError, RecursionError, EOFError, OSError])
def test_a_file_that_cannot_be_unpickled_is_compiled_anew(folder, error, monkeypatch):
    found()

    def loads(data):
        raise error("out of order")

    monkeypatch.setattr(compile_cache.pickle, "loads", loads)
    assert not found()


def test_a_folder_in_place_of_a_file_costs_a_compilation_and_a_line(folder, capfd):
    found()
    [path] = files(folder)
    path.unlink()
    path.mkdir()
    assert not found()
    assert "NUMBA_CACHE_DIR" in capfd.readouterr().err
    assert files(folder) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("function", ["makedirs", "replace"])
def test_what_cannot_be_written_is_said_once_and_leaves_nothing(folder, function, code, monkeypatch, capfd):
    def fails(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(compile_cache.os, function, fails)
    for x, y in ((14, 42), (1.5, 4.5), (1j, 3j)):
        assert not found(argument=x, expected=y)
    output, errors = capfd.readouterr()
    assert output == ""
    [line] = errors.splitlines()
    assert os.strerror(code) in line
    assert str(folder) in line
    assert "NUMBA_CACHE_DIR" in line
    assert files(folder) == []


def test_a_file_that_another_process_has_just_written_is_no_failure(folder, monkeypatch, capfd):
    found()
    [path] = files(folder)
    content = path.read_bytes()
    path.unlink()

    def in_use(source, target):  # as on Windows, while another process reads it
        path.write_bytes(content)
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(compile_cache.os, "replace", in_use)
    assert not found()
    assert files(folder) == [path]
    assert capfd.readouterr().err == ""


def test_flags_globals_closures_and_settings_are_part_of_what_a_kernel_is(folder, monkeypatch):
    def bound(number):
        return FunctionType(triple.__code__.replace(co_consts=(None, number)), {"__name__": __name__}, "triple")

    def times(number):
        return lambda x: number * x

    def called(function):
        return lambda x: function(x)

    assert not found()
    assert not found(fast=True)
    assert not found(bound(4), expected=56)
    for factory, one, two in (
        (times, 5, 6),
        (times, np.float64(5), np.float64(6)),
        (called, numba.njit(times(5)), numba.njit(times(6))),
    ):
        assert not found(factory(one), expected=70)
        assert not found(factory(two), expected=84)
        assert found(factory(one), expected=70)
        assert found(factory(two), expected=84)
    assert found()
    monkeypatch.setattr(numba.config, "BOUNDSCHECK", 1)
    assert not found()


SCALE = 1


def scaled(x):
    return SCALE * x


def test_a_global_that_a_kernel_or_what_it_calls_refers_to_is_part_of_it(folder, monkeypatch):
    def calls():
        call = numba.njit(scaled)
        return lambda x: call(x)

    for value, expected in ((2, 28), (3, 42)):
        monkeypatch.setitem(globals(), "SCALE", value)
        assert not found(scaled, expected=expected)
        assert not found(calls(), expected=expected)
        assert found(scaled, expected=expected)
        assert found(calls(), expected=expected)


class Mute:
    def __repr__(self):
        raise ValueError("no comment")


def test_a_kernel_whose_globals_cannot_be_determined_runs_and_is_not_kept(folder, capfd):
    known = {"__name__": __name__, "size": Mute()}  # not what x.size is, but Python's bytecode doesn't say so
    function = FunctionType((lambda x: x.size).__code__, known, "size_of")
    for _ in range(2):
        assert not found(function, np.ones(3), 3)
    assert files(folder) == []
    assert capfd.readouterr() == ("", "")


def test_three_versions_of_a_kernel_are_kept(folder, monkeypatch):
    found()
    [first] = files(folder)
    os.utime(first, (1e9, 1e9))
    abandoned = first.with_name(f"{first.name}.{'0' * 16}")  # by a process that was killed
    abandoned.touch()
    os.utime(abandoned, (1e9, 1e9))
    beside = first.with_name(first.name.replace("triple", "other"))
    beside.touch()
    digests = compile_cache.digests
    for version in range(3):
        assert first in files(folder)

        def changed(*arguments, version=version):
            _, key = digests(*arguments)
            return bytes([version]) * 32, bytes([version]) + key[1:]

        monkeypatch.setattr(compile_cache, "digests", changed)
        assert not found()
        assert found()
    assert first not in files(folder)
    assert len(files(folder)) == 4
    assert beside in files(folder)


def test_recompile_compiles(folder):
    made = kernel()(triple)
    made(14)
    made.recompile()
    assert sum(made.stats.cache_misses.values()) == 2


def test_all_types_of_arguments_of_a_parallel_kernel_are_compiled_alike(monkeypatch):
    made = []
    monkeypatch.setattr(compile, "keep", lambda compiled: made.append(compiled) or compiled)

    @kernel(parallel=True)
    def fill(a):
        for i in numba.prange(a.size):
            b = np.empty(4, a.dtype)
            b[:] = 0
            a[i] = b[0]

    loops = []
    for dtype in ("f4", "f8"):
        fill(np.ones(3, dtype))
        [compiled] = made
        metadata = compiled.get_metadata(compiled.signatures[-1])
        loops.append(len(metadata["parfor_diagnostics"].initial_parfors))
    assert loops == [1, 1]


# --- across processes -----------------------------------------------------------------------------------------

KERNELS = """
import numpy as np
from tinynet.kernels.compile import kernel
from tinynet.kernels.matmul import View, matmul
from numba import prange
import shared

@kernel()
def serial(x, y):
    for i in range(x.size):
        y[i] = shared.scaled(x[i])
"""

SHARED = """
from numba.extending import overload
from constants import SCALE

def scaled(x):
    return SCALE * x

@overload(scaled)
def _scaled(x):
    return lambda x: SCALE * x
"""

RUN = """
from numba.core import event

class Compiled(event.Listener, list):
    def on_start(self, event):
        self.append(event.data["dispatcher"].__name__)
    def on_end(self, event):
        pass

compiled = Compiled()
event.register("numba:compile", compiled)
import numpy as np
import kernels
x, y = np.arange(1.0, 3.0), np.zeros(2)
"""

RESULT = "print(y[0], *compiled)\n"
SERIAL = RUN + "kernels.serial(x, y)\n" + RESULT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a user's own kernel, and with what it shares in two files."""
    project = tmp_path / "project"
    project.mkdir()
    for name, text in (("kernels", KERNELS), ("shared", SHARED), ("constants", "SCALE = 3.0\n")):
        (project / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{project}{os.pathsep}{PACKAGE.parent}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # Python takes a .pyc of the same time and size for the same
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    monkeypatch.chdir(tmp_path)  # Python looks for modules here first
    return project


def start(code, **environment):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | environment, **pipes)


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output.split(), errors


def run(code, **environment):
    """The words that a Python process of its own prints, and what it says on standard error."""
    return finish(start(code, **environment))


def write(path, text):
    """Change a file without a trace in its size and time."""
    status = path.stat()
    path.write_text(text)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_next_process_compiles_nothing(project):
    with (project / "kernels.py").open("a") as file:
        file.write(
            """
@kernel(parallel=True)
def threads(x, y):
    for i in prange(x.size):
        y[i] += shared.scaled(x[i])

@kernel()
def outer(x, y):
    serial(x, y)

@kernel(matmul=True)
def product(a, b, c):
    out = View(c, 0, 0)
    matmul((1, 2, 2), View(a, 0, (0, 1)), View(b, 0, 0), start=out, out=out, floor=-np.inf)

def times(inner, factor):
    def body(x, y):
        inner(x, y)
        y[0] *= factor
    return kernel()(body)
"""
        )
    code = """
kernels.outer(x, y)
kernels.threads(x, y)
kernels.times(kernels.serial, 2.0)(x, y)
kernels.product(x, np.ones(2), y)
"""
    words, errors = run(RUN + code + RESULT)
    assert words[0] == "9.0"
    assert {"outer", "serial", "threads_parallel", "body", "product"} <= set(words)
    for seed in "12":
        assert run(RUN + code + RESULT, PYTHONHASHSEED=seed) == (["9.0"], "")


def test_kernels_of_one_factory_from_different_processes_do_not_mix(project):
    with (project / "kernels.py").open("a") as file:
        file.write(
            """
def times(factor):
    @kernel(parallel=True)
    def body(x, y):
        for i in prange(x.size):
            y[i] = factor * x[i]
    return body
"""
        )
    for factor in (2.0, 3.0):
        words, _ = run(RUN + f"kernels.times({factor})(x, y)\n" + RESULT)
        assert words[0] == str(factor)
        assert "body_parallel" in words
    code = "for f in (2.0, 3.0):\n    kernels.times(f)(x, y)\n    print(*y)\n"
    assert run(RUN + code + RESULT) == (["2.0", "4.0", "3.0", "6.0", "3.0"], "")


def test_what_kernels_share_may_change_and_change_back(project, folder):
    (project / "constants.py").rename(project / "this.py")  # the name of one of Python's own modules
    (project / "shared.py").write_text(SHARED.replace("constants", "this"))
    assert run(SERIAL)[0][:2] == ["3.0", "serial"]
    assert run(SERIAL)[0] == ["3.0"]
    write(project / "this.py", "SCALE = 4.0\n")
    assert run(SERIAL)[0][:2] == ["4.0", "serial"]
    write(project / "this.py", "SCALE = 3.0\n")
    assert run(SERIAL)[0] == ["3.0"]
    # A copy with other times is the same.
    for path in project.glob("*.py"):
        os.utime(path, (1e9, 1e9))
    assert run(SERIAL)[0] == ["3.0"]


def test_what_changed_while_a_process_ran_is_not_kept(project, folder):
    code = "with open(kernels.shared.__file__, 'a') as file:\n    file.write('# new')\nkernels.serial(x, y)\n"
    assert run(RUN + code + RESULT)[0][:2] == ["3.0", "serial"]
    assert files(folder) == []


def test_a_change_of_the_package_is_noticed(project, folder, monkeypatch):
    shutil.copytree(PACKAGE, project / "tinynet", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(project))
    (project / "shared.py").write_text("from tinynet.kernels.floats import log1p as scaled\n")
    code = RUN + "kernels.serial(x / 3, y)\n" + RESULT
    words, _ = run(code)
    assert float(words[0]) == pytest.approx(np.log(4 / 3))
    assert words[1] == "serial"
    assert run(code) == (words[:1], "")
    floats = project / "tinynet" / "kernels" / "floats.py"
    text = floats.read_text()
    assert text.count("dtype(2 / (2 * k + 1))") == 1
    write(floats, text.replace("dtype(2 / (2 * k + 1))", "dtype(4 / (2 * k + 1))"))
    changed, _ = run(code)
    assert changed[0] != words[0]
    write(floats, text)
    assert run(code) == (words[:1], "")


def test_processes_that_start_at_once_share_one_empty_folder(project, folder):
    for process in [start(SERIAL) for _ in range(3)]:
        words, errors = finish(process)
        assert words[0] == "3.0"
        assert errors == ""
    assert {path.suffix for path in files(folder)} == {".kernel"}
    assert run(SERIAL) == (["3.0"], "")


POWERLESS = """
import ctypes, sys
if sys.platform == "linux":  # root may write everywhere
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None).capset(version_3, (ctypes.c_uint32 * 6)()) == 0
"""


def test_group_norm_has_the_same_bits_compiled_and_from_the_cache(project):
    code = """
import numpy as np
import tinynet as tn
layer, rng = tn.GroupNorm(5), np.random.default_rng(0)
layer.build((9, 20), "float64", rng)
y = layer.forward(rng.standard_normal((7, 9, 20)), training=True)
print(layer.backward(rng.standard_normal(y.shape)).tobytes().hex())
"""
    assert run(code)[0] == run(code)[0]


def test_a_read_only_folder_is_used_where_it_is_warm_and_named_where_it_is_cold(project, folder):
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    for chosen, place in ((str(folder), folder), ("", project / "__pycache__")):
        places = {**nowhere, "NUMBA_CACHE_DIR": chosen}
        for path in (place, project):
            path.mkdir(exist_ok=True)
            path.chmod(0o555)
        words, errors = run(POWERLESS + SERIAL, **places)
        assert words[:2] == ["3.0", "serial"]
        assert len(errors.splitlines()) == 1
        assert f"{place}" in errors
        assert "NUMBA_CACHE_DIR" in errors
        for path in (place, project):
            path.chmod(0o755)
        run(SERIAL, **places)
        folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        assert run(POWERLESS + SERIAL, **places) == (["3.0"], "")
        for path in folders:
            path.chmod(0o755)


def test_a_file_that_may_not_be_read_is_replaced(project, folder):
    run(SERIAL)
    [path] = files(folder)
    path.chmod(0)
    assert run(POWERLESS + SERIAL)[0][:2] == ["3.0", "serial"]
    assert run(POWERLESS + SERIAL) == (["3.0"], "")


def test_a_disk_that_is_full_costs_compile_time_only(project, folder):
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
    words, errors = run(code + SERIAL + "kernels.serial(x.astype('f4'), y)\n")
    assert words[:2] == ["3.0", "serial"]
    assert len(errors.splitlines()) == 1
    assert str(folder) in errors
    assert files(folder) == []


def test_kernels_of_a_package_in_a_zip_are_kept(project, tmp_path, monkeypatch):
    shutil.copytree(PACKAGE, project / "tinynet", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", shutil.make_archive(tmp_path / "all", "zip", project))
    assert run(SERIAL)[0][:2] == ["3.0", "serial"]
    assert run(SERIAL) == (["3.0"], "")


def test_kernels_typed_into_an_interpreter_run_and_are_not_kept(project, folder):
    code = "from tinynet.kernels.compile import kernel\nf = kernel()(lambda x: 3 * x)\nprint(f(14), f.stats.cache_path)"
    assert run(code) == (["42", "None"], "")
    assert files(folder) == []


def test_without_the_compiler_nothing_is_kept(project, folder):
    words, errors = run(SERIAL, NUMBA_DISABLE_JIT="1")
    assert (words, errors) == (["3.0"], "")
    assert not folder.exists()
