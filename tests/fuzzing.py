"""What the tests of random cases share: how many there are."""

import os

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
