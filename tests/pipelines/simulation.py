"""One device on made-up time: it serves jobs without tensors as pipelines/engine/runner.py serves real ones.

Knows a policy, callers and work; knows no tensors, clocks or threads.
Invariant: time passes by nothing but work, and by waiting for the next arrival when there is no work.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import mean, quantiles

from pipelines.engine.candidate import Candidate, Phase, Situation
from pipelines.engine.shares import Shares

PIXELS = 512 * 512
# A saturated device: a step of one row of a 512 x 512 picture takes 0.1 s, and more rows take as much longer.
WORK_PER_SECOND = PIXELS / 0.1
# As in pipelines/engine/job.py, which knows tensors.
PREPARE_STEPS, DECODE_STEPS = 0.05, 1.5
# The known mix: half of the jobs are quick drafts, and a tenth do a third of the work.
MIX_STEPS, MIX_WEIGHTS, MIX_LOAD = (4, 20, 60, 120), (50, 20, 20, 10), 0.8

Policy = Callable[[Sequence[Candidate], Situation], tuple[str, ...]]


@dataclass(slots=True)
class Job:
    """step: None until it is prepared. is_broken: its forward fails, and with it that of all who share it."""

    id: str
    steps: int
    caller: str = "a"
    rows: int = 1
    pixels: int = PIXELS
    arrived_seconds: float = 0.0
    model: str = "m"
    key: Hashable = None
    footprint_bytes: int = 0
    priority: int = 0
    is_broken: bool = False
    step: int | None = None
    runs_alone: bool = False

    @property
    def phase(self) -> Phase:
        if self.step is None:
            return Phase.PREPARE
        return Phase.DENOISE if self.step < self.steps else Phase.DECODE

    def next_work(self) -> float:
        steps = {Phase.PREPARE: PREPARE_STEPS, Phase.DENOISE: float(self.rows), Phase.DECODE: DECODE_STEPS}
        return self.pixels * steps[self.phase]

    def work_left(self) -> float:
        to_prepare = PREPARE_STEPS if self.step is None else 0.0
        return self.pixels * (to_prepare + self.rows * (self.steps - (self.step or 0)) + DECODE_STEPS)

    def candidate(self) -> Candidate:
        return Candidate(
            job_id=self.id,
            caller=self.caller,
            model=self.model,
            phase=self.phase,
            key=(self.pixels, None if self.step is None else self.key),
            rows=self.rows if self.phase is Phase.DENOISE else 1,
            work_left=self.work_left(),
            arrived_seconds=self.arrived_seconds,
            size=self.pixels,
            denoise_rows=self.rows,
            footprint_bytes=self.footprint_bytes,
            request_key=(self.steps, self.rows, self.pixels, self.key),
            priority=self.priority,
            is_admitted=self.step is not None,
            runs_alone=self.runs_alone,
        )


@dataclass(slots=True)
class Device:
    """Does one work item at a time. settled: when each job was; served: the work done for each caller."""

    policy: Policy
    row_cap: int = 1
    memory_bytes: int | None = None
    switch_work: float = 0.0
    now_seconds: float = 0.0
    settled: dict[str, float] = field(default_factory=dict)
    served: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _jobs: dict[str, Job] = field(default_factory=dict)
    _candidates: dict[str, Candidate] = field(default_factory=dict)
    _shares: Shares = field(default_factory=Shares)
    _last_model: str | None = None

    def serve(self, jobs: Iterable[Job], until_seconds: float = inf) -> None:
        """Take the jobs as they arrive, and work until all are settled or the time is over."""
        coming = sorted(jobs, key=lambda job: job.arrived_seconds, reverse=True)
        while (coming or self._jobs) and self.now_seconds < until_seconds:
            if not self._jobs:
                self.now_seconds = max(self.now_seconds, coming[-1].arrived_seconds)
            while coming and coming[-1].arrived_seconds <= self.now_seconds:
                self._submit(coming.pop())
            self._work()

    def _submit(self, job: Job) -> None:
        self._shares.join(job.caller)
        self._jobs[job.id], self._candidates[job.id] = job, job.candidate()

    def _work(self) -> None:
        batch = [self._jobs[job_id] for job_id in self.policy(list(self._candidates.values()), self._situation())]
        self._last_model = batch[0].model
        fails = batch[0].phase is Phase.DENOISE and any(job.is_broken for job in batch)
        if not fails:
            self._advance(batch)
        elif len(batch) == 1:
            self._settle(batch[0])
        for job in batch:
            job.runs_alone = fails
            if job.id in self._jobs:
                self._candidates[job.id] = job.candidate()

    def _situation(self) -> Situation:
        held_bytes = sum(one.footprint_bytes for one in self._candidates.values() if one.is_admitted)
        return Situation(
            now_seconds=self.now_seconds,
            shares=self._shares,
            memory_left_bytes=None if self.memory_bytes is None else self.memory_bytes - held_bytes,
            last_model=self._last_model,
            row_cap=lambda _: self.row_cap,
            switch_work=self.switch_work,
        )

    def _advance(self, batch: Sequence[Job]) -> None:
        self.now_seconds += sum(job.next_work() for job in batch) / WORK_PER_SECOND
        for job in batch:
            self._shares.charge(job.caller, job.next_work())
            self.served[job.caller] += job.next_work()
        for job in batch:
            if job.phase is Phase.DECODE:
                self._settle(job)
            job.step = 0 if job.step is None else job.step + 1

    def _settle(self, job: Job) -> None:
        del self._jobs[job.id], self._candidates[job.id]
        self._shares.leave(job.caller)
        self.settled[job.id] = self.now_seconds


@dataclass(frozen=True, slots=True)
class Slowdowns:
    """How many times longer than alone the jobs took."""

    mean: float
    p95: float
    worst: float


def known_mix(policy: Policy, job_count: int, caller_count: int, seed: int) -> Slowdowns:
    """Serve the known mix, one row at a time, from callers who are all alike."""
    jobs = list(_mix(job_count, caller_count, random.Random(seed)))
    seconds_alone = {job.id: job.work_left() / WORK_PER_SECOND for job in jobs}
    device = Device(policy)
    device.serve(jobs)
    slowdowns = [(device.settled[job.id] - job.arrived_seconds) / seconds_alone[job.id] for job in jobs]
    return Slowdowns(mean(slowdowns), quantiles(slowdowns, n=20)[-1], max(slowdowns))


def _mix(job_count: int, caller_count: int, dice: random.Random) -> Iterator[Job]:
    works = [Job("", steps).work_left() for steps in MIX_STEPS]
    mean_work = sum(work * weight for work, weight in zip(works, MIX_WEIGHTS, strict=True)) / sum(MIX_WEIGHTS)
    now_seconds = 0.0
    for number in range(job_count):
        now_seconds += dice.expovariate(MIX_LOAD * WORK_PER_SECOND / mean_work)
        steps, caller = dice.choices(MIX_STEPS, MIX_WEIGHTS)[0], f"caller {dice.randrange(caller_count)}"
        yield Job(f"{number:06}", steps, caller, arrived_seconds=now_seconds)
