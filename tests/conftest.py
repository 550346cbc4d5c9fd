"""What all tests share: their folders are importable, also by the processes that they start; and some fixtures.

A file that wants a fixture for all its tests says so:  pytestmark = pytest.mark.usefixtures("one_thread")
"""

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FOLDERS = [TESTS, *sorted(path for path in TESTS.iterdir() if any(path.glob("*.py")))]
sys.path[:0] = [str(folder) for folder in FOLDERS if str(folder) not in sys.path]
given = os.environ.get("PYTHONPATH")
os.environ.setdefault("TINYNET_QUIET", "1")  # tests read what stands on standard error
os.environ.setdefault("TINYNET_COMPILE_AHEAD", "0")  # and what is compiled, and by whom
os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, FOLDERS), *([given] if given else [])])


@pytest.fixture
def one_thread():
    """Thousands of calls on tiny arrays: waiting for a second thread, while others use the machine, takes minutes."""
    import tinynet

    torch = sys.modules.get("torch")
    threads = tinynet.get_num_threads(), torch and torch.get_num_threads()
    tinynet.set_num_threads(1)
    if torch:
        torch.set_num_threads(1)
    yield
    tinynet.set_num_threads(threads[0])
    if torch:
        torch.set_num_threads(threads[1])


@pytest.fixture
def one_seed():
    """PyTorch's networks start with the same numbers in every run."""
    import torch

    torch.manual_seed(0)
