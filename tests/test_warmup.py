"""python -m tinynet warmup, and the line that says that kernels are compiled."""

import os
import subprocess
import sys

import pytest

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
