"""What is known of the machine's caches."""

import re
import sys
from pathlib import Path

import pytest

import tinynet as tn
from tinynet.kernels import caches


def test_caches_have_sizes_that_show_config_says():
    first, second = caches.cache_size(1), caches.cache_size(2)
    assert 2**13 <= first < second <= 2**26
    assert tn.show_config()["caches"] == f"L1 {first // 1024} KB, L2 {second // 1024} KB a core"


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says")
def test_they_are_what_linux_says():
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        size = (index / "size").read_text().strip()
        level, kind = int((index / "level").read_text()), (index / "type").read_text().strip()
        if kind != "Instruction" and level <= 2:
            assert re.fullmatch(r"\d+K", size)
            assert caches.cache_size(level) == 1024 * int(size[:-1])


@pytest.mark.parametrize("error", [OSError, ValueError, KeyError, AttributeError])
def test_where_the_system_does_not_say_they_are_a_small_laptops(error, monkeypatch):
    def unknown(level):
        raise error

    monkeypatch.setattr(caches, "_linux", unknown)
    monkeypatch.setattr(caches, "_macos", unknown)
    assert (caches.cache_size(1), caches.cache_size(2)) == (caches.L1, caches.L2)
    monkeypatch.setattr(caches, "_linux", lambda level: None)
    monkeypatch.setattr(caches, "_macos", lambda level: None)
    assert (caches.cache_size(1), caches.cache_size(2)) == (caches.L1, caches.L2)
