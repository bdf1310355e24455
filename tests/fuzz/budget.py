"""How long fuzzing may take: `FUZZ_EXAMPLES=20000 scripts/test tests/fuzz` tries so many cases for each property.

Knows hypothesis's settings. What was found once stays: as an `@example` beside its property.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))


def budget(share: float = 1.0) -> settings:
    """share: of the examples, for properties of which each costs much."""
    slow = (HealthCheck.too_slow, HealthCheck.data_too_large)
    return settings(max_examples=max(2, int(EXAMPLES * share)), deadline=None, suppress_health_check=slow)
