"""The CUDA kernels, compiled to PTX and run instruction by instruction, against the CPU's: the simulator's table of cases."""

import cuda_simulated
import pytest
from cuda_simulated import TestSigmoid, TestSoftmax  # noqa: F401  collected here, and run on the machine

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
pytest.importorskip("numba_cuda")

import ptx_driver  # noqa: E402


@pytest.fixture(autouse=True)
def driver(monkeypatch):
    driver = ptx_driver.Driver()
    monkeypatch.setattr(cuda_simulated, "cuda", driver)
    with driver.in_place():
        yield driver
