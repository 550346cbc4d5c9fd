"""What all tests share: their folders are importable, also by the processes that they start."""

import os
from pathlib import Path

TESTS = Path(__file__).parent
FOLDERS = [TESTS, *sorted(path for path in TESTS.iterdir() if any(path.glob("*.py")))]
given = os.environ.get("PYTHONPATH")
os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, FOLDERS), *([given] if given else [])])
