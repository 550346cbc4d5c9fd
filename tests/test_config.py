"""Threads, and what show_config says."""

import numba
import numpy as np
import pytest

import tinynet
from tinynet import config
from tinynet.kernels.tile import TILE


def test_the_number_of_threads_is_set_and_read():
    most = numba.config.NUMBA_NUM_THREADS
    try:
        config.set_num_threads(1)
        assert config.get_num_threads() == numba.get_num_threads() == 1
        config.set_num_threads(np.int64(most))
        assert config.get_num_threads() == most
    finally:
        numba.set_num_threads(most)


@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (10_000, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_an_impossible_number_of_threads_is_refused(n, error):
    before = config.get_num_threads()
    with pytest.raises(error, match="set_num_threads: the number of threads must be"):
        config.set_num_threads(n)
    assert config.get_num_threads() == before


def test_show_config_says_what_the_host_is(capsys):
    found = config.show_config("dict")
    text = str(config.show_config())
    assert capsys.readouterr().out == ""
    assert type(found) is dict
    assert config.show_config("print") is None
    assert capsys.readouterr().out == f"{text}\n"
    assert repr(config.show_config()) == text
    for name, value in found.items():
        assert value
        assert any(line.split() == [*name.split(), *value.split()] for line in text.splitlines())
    assert found["tinynet"] == tinynet.__version__
    assert found["numpy"] == np.__version__
    assert numba.__version__ in found["numba"]
    assert found["threads"] == f"{config.get_num_threads()} of {numba.config.NUMBA_NUM_THREADS}"
    rows, vectors, lanes = TILE[np.dtype(np.float32)]
    assert f"float32 {rows} rows x {vectors} vectors of {lanes}" in found["tile"]
    assert found["vectors"] == f"{32 * lanes} bits"
    assert "driver" in found["cuda"]


def test_show_config_refuses_other_modes():
    with pytest.raises(ValueError, match='mode must be "print" or "dict"'):
        config.show_config("xml")
