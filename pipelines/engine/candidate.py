"""A job as the policies see it, and what they are told about the device.

Knows callers, work, keys, rows and bytes; knows no tensors, clocks or threads.
Invariant: nothing here changes; a policy decides from it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pipelines.engine.shares import Shares


class Phase(Enum):
    """What a job's next work item is."""

    PREPARE = "prepare"
    DENOISE = "denoise"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that could work next.

    key: jobs of equal model, phase and key may share a work item. request_key: equal for jobs whose whole requests are
    alike. rows: what the next work item fills of a forward; denoise_rows: what every denoise step will. size: jobs of
    unequal size never share a denoise step. work_left: work units (rows x pixels x steps) until the job
    is done. footprint_bytes: what it may hold at its peak, from its first work item on. priority: each step up counts
    the work left half.
    """

    job_id: str
    caller: str
    model: str
    phase: Phase
    key: Hashable
    rows: int
    work_left: float
    arrived_seconds: float
    size: Hashable = None
    denoise_rows: int = 1
    footprint_bytes: int = 0
    request_key: Hashable = None
    priority: int = 0
    is_admitted: bool = False
    runs_alone: bool = False


def no_row_cap(_: Candidate) -> int:
    """Any number of rows."""
    return 1 << 30


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision depends on besides the jobs.

    memory_left_bytes: the budget less the footprints of all admitted jobs; None is no limit. row_cap: how many rows a
    batch led by this candidate may fill. switch_work: the price, in work units, of going over to another model than
    last_model.
    """

    now_seconds: float
    shares: Shares = field(default_factory=Shares)
    memory_left_bytes: int | None = None
    last_model: str | None = None
    row_cap: Callable[[Candidate], int] = no_row_cap
    switch_work: float = 0.0


def admissible(candidates: Sequence[Candidate], memory_left_bytes: int | None) -> list[Candidate]:
    """Those that hold their memory already, and those that would fit into what is left."""
    if memory_left_bytes is None:
        return list(candidates)
    return [one for one in candidates if one.is_admitted or one.footprint_bytes <= memory_left_bytes]


def fill(leader: Candidate, mates: Iterable[Candidate], situation: Situation) -> tuple[str, ...]:
    """The leader and those of its mates, in their order, that fit beside it into the rows and the memory.

    A leader that runs alone gets no company; one that alone is above the cap still runs.
    """
    chosen = [leader.job_id]
    if leader.runs_alone:
        return tuple(chosen)
    rows_left = situation.row_cap(leader) - leader.rows
    memory_left = _after(leader, situation.memory_left_bytes)
    for mate in mates:
        if mate.rows <= rows_left and admissible([mate], memory_left):
            chosen.append(mate.job_id)
            rows_left -= mate.rows
            memory_left = _after(mate, memory_left)
    return tuple(chosen)


def may_share(leader: Candidate, other: Candidate) -> bool:
    """Whether the other job could join the leader's work item."""
    alike = (other.model, other.phase, other.key) == (leader.model, leader.phase, leader.key)
    return alike and other.job_id != leader.job_id and not other.runs_alone


def _after(candidate: Candidate, memory_left_bytes: int | None) -> int | None:
    """The memory left once the candidate has been admitted."""
    if memory_left_bytes is None or candidate.is_admitted:
        return memory_left_bytes
    return memory_left_bytes - candidate.footprint_bytes
