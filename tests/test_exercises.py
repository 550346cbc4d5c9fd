"""The exercises: every gap is noticed, and the answers are right."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "exercises"
EXERCISES = sorted(path for path in FOLDER.glob("*.py") if path.with_name(f"{path.stem}_answers.py").exists())


def verdicts(program):
    """{task: what is said of it}, and the exit status."""
    done = subprocess.run([sys.executable, "-W", "error", program], capture_output=True, text=True, timeout=300)
    assert not done.stderr
    lines = [line for line in done.stdout.splitlines() if line[:1].isdigit()]
    return dict(line.split(": ", 1) for line in lines), done.returncode


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda path: path.stem)
def test_each_gap_is_noticed_and_each_answer_is_right(exercise):
    asked, status = verdicts(exercise)
    assert status == 1
    assert len(asked) >= 3
    assert all(said.startswith(("not written yet", "not right: ")) for said in asked.values())
    answered, status = verdicts(exercise.with_name(f"{exercise.stem}_answers.py"))
    assert answered == dict.fromkeys(asked, "right")
    assert status == 0


def test_there_is_an_exercise_and_the_index_lists_it():
    text = (FOLDER.parent / "README.md").read_text()
    assert EXERCISES
    for exercise in EXERCISES:
        assert f"exercises/{exercise.name}" in text
