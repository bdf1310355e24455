"""Decides which jobs take the next work item: fair between callers, then least work left first, and nobody starves.

Knows what candidates and situations say; knows no tensors, clocks or threads.
Invariant: a batch has one model, one phase and one key, and fits the memory that is left; its leader's caller is within
a burst of the least served of all who wait.
Sources: shortest remaining work minimises the mean time in the system (Schrage, 1968); ageing keeps it from starving.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

from pipelines.engine.candidate import Candidate, Phase, Situation, admissible, fill, may_share

# How far a caller may run ahead of the least served one before the others come first: one large picture (1024 x 1024,
# 30 steps, with guidance) and a bit. Less would slice time where finishing one picture after another serves all better.
BURST_WORK = 80.0 * 1024 * 1024
# A job that has waited so long counts half its work.
AGEING_SECONDS = 60.0


def next_batch(candidates: Sequence[Candidate], situation: Situation) -> tuple[str, ...]:
    """The ids of the jobs that work next, the leader first; empty when none can.

    Where a denoise step would leave rows free that pay, jobs that could fill them are prepared first. While the first
    in turn does not fit into the memory, nobody new is admitted, so that its turn comes.
    """
    in_turn = _in_turn(candidates, situation)
    if in_turn and not admissible(in_turn[:1], situation.memory_left_bytes):
        in_turn = [one for one in in_turn if one.is_admitted]
    able = admissible(in_turn, situation.memory_left_bytes)
    if not able:
        return ()
    leader = able[0]
    batch = fill(leader, (other for other in able if may_share(leader, other)), situation)
    if leader.phase is not Phase.DENOISE or leader.runs_alone:
        return batch
    rows_left = situation.row_cap(leader) - sum(one.rows for one in able if one.job_id in batch)
    joining = _joining(leader, able, rows_left)
    if not joining:
        return batch
    return fill(joining[0], (other for other in joining if may_share(joining[0], other)), situation)


def urgency(candidate: Candidate, situation: Situation) -> tuple[float, float, str]:
    """Smaller is sooner: the work left, less for the patient and the important, more where the model must change.

    In logarithms, so that the order of two waiting jobs never turns back while they grow old: a job is passed only by
    those that arrive within AGEING_SECONDS for each halving of its work.
    """
    waited_seconds = max(0.0, situation.now_seconds - candidate.arrived_seconds)
    switch = situation.switch_work if situation.last_model not in (None, candidate.model) else 0.0
    halvings = log2(max(1.0, candidate.work_left + switch)) - candidate.priority - waited_seconds / AGEING_SECONDS
    return (halvings, candidate.arrived_seconds, candidate.job_id)


def _in_turn(candidates: Sequence[Candidate], situation: Situation) -> list[Candidate]:
    """By urgency; those of callers who are too far ahead of the least served one come after all others."""
    waiting = {candidate.caller for candidate in candidates}
    least = situation.shares.least_served(waiting)
    ahead = {caller for caller in waiting if situation.shares.lead_of(caller, least) > BURST_WORK}
    return sorted(candidates, key=lambda one: (one.caller in ahead, urgency(one, situation)))


def _joining(leader: Candidate, in_turn: Sequence[Candidate], rows_left: int) -> list[Candidate]:
    """The first in turn of the jobs that, once prepared, could fill the rows left in the leader's steps."""
    joining = []
    for one in in_turn:
        is_alike = (one.phase, one.model, one.size) == (Phase.PREPARE, leader.model, leader.size)
        if is_alike and not one.runs_alone and one.denoise_rows <= rows_left:
            joining.append(one)
            rows_left -= one.denoise_rows
    return joining
