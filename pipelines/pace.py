"""How fast each model draws, learned from what it has drawn; so that a long wait is foreseen, not suffered.

Knows models, work and seconds; knows no jobs and no clock. Both processes learn by it.
Invariant: an estimate never invents: a model that has drawn nothing has none.
"""

from __future__ import annotations

# The weight of the newest measurement in the running mean.
NEWEST_WEIGHT = 0.2


class Pace:
    """Device seconds per unit of work (pixels x rows x steps), by model."""

    def __init__(self) -> None:
        self._seconds_per_work: dict[str, float] = {}

    def observe(self, model: str, work: float, device_seconds: float) -> None:
        """Something of so much work, more than 0, took so long."""
        newest = device_seconds / work
        mean = self._seconds_per_work.get(model, newest)
        self._seconds_per_work[model] = mean + NEWEST_WEIGHT * (newest - mean)

    def seconds_for(self, model: str, work: float) -> float | None:
        """None: nobody knows yet."""
        pace = self._seconds_per_work.get(model)
        return None if pace is None else pace * work
