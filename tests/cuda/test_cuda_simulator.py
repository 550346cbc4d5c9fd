"""The CUDA kernels in Numba's simulator: processes run the cases of cuda_simulated.py and of torch_simulated.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("numba_cuda")

HERE = Path(__file__).parent
PARTS = {
    "softmax": ["cuda_simulated.py", "-k", "TestSoftmax"],
    "sigmoid and the rest": ["cuda_simulated.py", "-k", "not TestSoftmax"],
    "tensors of PyTorch": ["torch_simulated.py"],
}


@pytest.fixture(scope="module")
def runs():
    """The processes, all started at once."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    started = {
        part: subprocess.Popen(
            [*command, HERE / file, *select],
            cwd=HERE.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for part, (file, *select) in PARTS.items()
    }
    yield started
    for run in started.values():
        run.kill()
        run.communicate()


@pytest.mark.parametrize("part", PARTS)
def test_the_kernels_give_what_they_give_on_the_cpu(runs, part):
    output = runs[part].communicate(timeout=900)[0].decode()
    assert runs[part].returncode == 0, output
    assert "passed" in output
    assert "skipped" not in output
