"""What the tests of random cases share: how many there are, and that they run on one thread."""

import os

import numba
import pytest
from hypothesis import HealthCheck, Phase, settings

CASES = int(os.environ.get("TINYNET_FUZZ_CASES", "2000"))
RANDOM = settings(
    max_examples=CASES,
    derandomize="TINYNET_FUZZ_CASES" not in os.environ,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def one_thread():
    """Many calls on tiny arrays, for which a second thread is no help."""
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
