"""The short form of soak.py: some seconds of training in one process leave its memory where it was."""

import os
import subprocess
import sys

import pytest
import soak

pytestmark = pytest.mark.slow


def test_memory_does_not_grow_over_some_seconds_of_training():
    program = [sys.executable, soak.__file__, "--minutes", "0.1", "--calls", "100000"]
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}
    run = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout


def test_a_leak_is_noticed(monkeypatch):
    kept = []
    monkeypatch.setattr(soak.Work, "fit", lambda work: kept.append(bytearray(200_000)))
    failures = soak.soak(0.5, 10, say=lambda text: None)
    assert len(failures) >= 2  # what a round leaves behind, at the start and at the end, if not the RSS
    assert any("left" in text for text in failures)
    kept.clear()
    assert abs(soak.left_behind(lambda: kept.append(bytes(50)))) < 1000
    assert soak.left_behind(lambda: kept.extend(bytes(50) for _ in range(500))) > 500 * 50
