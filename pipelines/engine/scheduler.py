"""Decides which jobs take the next work item: fair between callers, then least work left first, and nobody starves.

Knows what candidates and situations say; knows no tensors, clocks or threads.
Invariant: a batch has one model, one phase and one key, and fits the memory that is left; its leader's caller is within
a burst of the least served of all who wait.
Sources: shortest remaining work minimises the mean time in the system (Schrage, 1968); ageing keeps it from starving.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.engine.candidate import Candidate, Phase, Situation, admissible, fill, may_share

# How far a caller may run ahead of the least served one before the others come first: one large picture (1024 x 1024,
# 30 steps, with guidance) and a bit. Less would slice time where finishing one picture after another serves all better.
BURST_WORK = 80.0 * 1024 * 1024
# A job that has waited so long counts half its work.
AGEING_SECONDS = 60.0


def next_batch(candidates: Sequence[Candidate], situation: Situation) -> tuple[str, ...]:
    """The ids of the jobs that work next, the leader first; empty when none can.

    Where a denoise step would leave rows free that pay, jobs that could fill them are prepared first.
    """
    able = admissible(candidates, situation.memory_left_bytes)
    if not able:
        return ()
    by_urgency = sorted(able, key=lambda one: urgency(one, situation))
    fair = _fair_callers(able, situation)
    leader = next(one for one in by_urgency if one.caller in fair)
    batch = fill(leader, (other for other in by_urgency if may_share(leader, other)), situation)
    if leader.phase is not Phase.DENOISE or leader.runs_alone:
        return batch
    rows_left = situation.row_cap(leader) - sum(one.rows for one in able if one.job_id in batch)
    joining = _joining(leader, by_urgency, rows_left)
    return fill(joining[0], joining[1:], situation) if joining else batch


def urgency(candidate: Candidate, situation: Situation) -> tuple[float, float, str]:
    """Smaller is sooner: the work left, less for the patient and the important, more where the model must change."""
    waited_seconds = max(0.0, situation.now_seconds - candidate.arrived_seconds)
    switch = situation.switch_work if situation.last_model not in (None, candidate.model) else 0.0
    work = (candidate.work_left + switch) * 2.0**-candidate.priority / (1 + waited_seconds / AGEING_SECONDS)
    return (work, candidate.arrived_seconds, candidate.job_id)


def _fair_callers(candidates: Sequence[Candidate], situation: Situation) -> set[str]:
    """The callers who are not too far ahead of the least served one."""
    waiting = {candidate.caller for candidate in candidates}
    return {caller for caller in waiting if situation.shares.lead_of(caller, waiting) <= BURST_WORK}


def _joining(leader: Candidate, by_urgency: Sequence[Candidate], rows_left: int) -> list[Candidate]:
    """The most urgent of the jobs that, once prepared, could fill the rows left in the leader's steps."""
    joining = []
    for one in by_urgency:
        is_alike = (one.phase, one.model, one.size) == (Phase.PREPARE, leader.model, leader.size)
        if is_alike and not one.runs_alone and one.denoise_rows <= rows_left:
            joining.append(one)
            rows_left -= one.denoise_rows
    return joining
