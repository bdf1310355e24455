"""The baseline: whole requests, first come first served, batching only equal ones.

Knows what candidates and situations say; knows no tensors, clocks or threads.
Invariant: a request that has begun is finished before the next begins; jobs share work only from beginning to end.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.engine.candidate import Candidate, Situation, admissible, fill, may_share


def next_batch(candidates: Sequence[Candidate], situation: Situation) -> tuple[str, ...]:
    """The ids of the jobs that work next, the leader first; empty when none can."""
    able = admissible(candidates, situation.memory_left_bytes)
    if not able:
        return ()
    leader = min(able, key=_turn)
    mates = sorted((other for other in able if may_share(leader, other) and _is_in_step(leader, other)), key=_turn)
    return fill(leader, mates, situation)


def _turn(candidate: Candidate) -> tuple[bool, float, str]:
    return (not candidate.is_admitted, candidate.arrived_seconds, candidate.job_id)


def _is_in_step(leader: Candidate, other: Candidate) -> bool:
    return (other.request_key, other.work_left) == (leader.request_key, leader.work_left)
