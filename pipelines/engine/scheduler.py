"""Decides which jobs take the next denoise step.

Knows jobs' models, keys and order of arrival; knows no tensors, clocks or threads.
Invariant: every batch has one model and one batch key, and is led by the job that came first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job as the scheduler sees it. `key` is None until the job is prepared; `phase` names its next work item."""

    job_id: str
    model: str
    phase: str
    key: Hashable
    runs_alone: bool = False


def next_batch(candidates: Sequence[Candidate], job_limit: int) -> tuple[str, ...]:
    """The ids of the jobs that work next: the first come, and up to `job_limit` in all that can share its forward.

    candidates: in order of arrival. A job that runs alone shares with nobody, nor does one that is not prepared.
    """
    if not candidates:
        return ()
    leader = candidates[0]
    if leader.key is None or leader.runs_alone:
        return (leader.job_id,)
    mates = (other for other in candidates if _share(leader, other))
    return tuple(mate.job_id for mate, _ in zip(mates, range(job_limit), strict=False))


def _share(leader: Candidate, other: Candidate) -> bool:
    alike = (other.model, other.phase, other.key) == (leader.model, leader.phase, leader.key)
    return alike and not other.runs_alone
