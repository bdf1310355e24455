"""What waits for each model: how many jobs, since when, and about how many seconds of work.

Knows jobs that have not begun, and how fast each model was; knows no residency but its words.
Invariant: nothing is estimated for a model that has never worked.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.engine.job import Job
from pipelines.residency.holding import Wanted

# How much of what is known a new measurement leaves.
KEPT = 0.9


class Pace:
    """Seconds for each unit of work, by model, as measured lately."""

    def __init__(self) -> None:
        self._seconds_per_work: dict[str, float] = {}

    def observe(self, model: str, work: float, seconds: float) -> None:
        if work > 0:
            measured = seconds / work
            known = self._seconds_per_work.get(model, measured)
            self._seconds_per_work[model] = KEPT * known + (1 - KEPT) * measured

    def seconds_for(self, model: str, work: float) -> float:
        return work * self._seconds_per_work.get(model, 0.0)


def wanted_by(waiting: Iterable[Job], pace: Pace) -> tuple[Wanted, ...]:
    """One for each model that jobs wait for."""
    by_model: dict[str, list[Job]] = {}
    for job in waiting:
        by_model.setdefault(job.request.model, []).append(job)
    return tuple(
        Wanted(
            model,
            min(job.arrived_seconds for job in jobs),
            len(jobs),
            pace.seconds_for(model, sum(job.work_left() for job in jobs)),
        )
        for model, jobs in by_model.items()
    )
