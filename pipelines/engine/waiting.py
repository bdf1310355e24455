"""What waits for each model: how many jobs, since when, and about how many seconds of work.

Knows jobs that have not begun, and how fast each model was; knows no residency but its words.
Invariant: nothing is estimated for a model that has never worked.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.engine.job import Job
from pipelines.pace import Pace
from pipelines.residency.holding import Wanted


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
            pace.seconds_for(model, sum(job.work_left() for job in jobs)) or 0.0,
        )
        for model, jobs in by_model.items()
    )
