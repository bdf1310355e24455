"""Carries jobs through their life: prepared, denoised step by step, decoded, settled exactly once.

Knows families, jobs and the policies' choice; knows no sockets and no clocks but the one that it is given.
Invariant: every submitted job is settled by exactly one Image, Failed or Cancelled, and a failure settles nobody but
the job that caused it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager

import msgspec
import torch

from pipelines.denoise.decode import NonFiniteResults
from pipelines.denoise.state import DenoiseState
from pipelines.denoise.stepping import StepFaults
from pipelines.engine import fifo, scheduler
from pipelines.engine.candidate import Candidate, Phase, Situation
from pipelines.engine.encode import Pixels, encode
from pipelines.engine.failures import TooLarge, is_out_of_memory, to_failed
from pipelines.engine.faults import FaultPoints
from pipelines.engine.job import Job
from pipelines.engine.keep import with_kept
from pipelines.engine.residents import Residents
from pipelines.engine.row_caps import RowCaps
from pipelines.engine.safety import CheckUnavailable, SafetyCheck
from pipelines.engine.shares import Shares
from pipelines.engine.tally import Tally
from pipelines.engine.waiting import wanted_by
from pipelines.engine.watch import Watch
from pipelines.families.contract import Family
from pipelines.figures import WorkKind
from pipelines.messages import (
    Cancelled,
    EngineOptions,
    Event,
    Image,
    Output,
    Policy,
    Preview,
    Progress,
    Queued,
    Refused,
    Started,
    Submit,
    Working,
)
from pipelines.pace import Pace
from pipelines.weights.files import CheckpointProblem

KINDS: dict[Phase, WorkKind] = {Phase.PREPARE: "prepare", Phase.DENOISE: "denoise", Phase.DECODE: "decode"}
POLICIES: dict[Policy, Callable[[Sequence[Candidate], Situation], tuple[str, ...]]] = {
    "fair": scheduler.next_batch,
    "fifo": fifo.next_batch,
}
# The price of going over to another resident model: about two rows of a 1024 x 1024 step, so that models take turns
# where it makes no difference and switch at once where it does.
SWITCH_WORK = 2.0 * 1024 * 1024


class Runner:
    """Does one work item at a time: the caller decides when, and hands in commands between two items.

    emit: takes events, from this thread and from the encoding pool. encoders: where picture files are made, off this
    thread. clock: seconds. safety: what pictures must pass whose jobs want it. tally: counts what is
    done.
    """

    def __init__(
        self,
        models: Residents,
        emit: Callable[[Event], None],
        encoders: Executor,
        clock: Callable[[], float],
        options: EngineOptions | None = None,
        faults: FaultPoints | None = None,
        safety: SafetyCheck | None = None,
        tally: Tally | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._models, self._emit, self._encoders, self._clock = models, emit, encoders, clock
        self._options = options or EngineOptions()
        self._faults = faults or FaultPoints()
        self._safety = safety
        self._tally = tally or Tally()
        self._watch = watch or Watch(self._options.step_timeout_seconds)
        self._told_working: tuple[str, ...] = ()
        self._jobs: dict[str, Job] = {}
        self._candidates: dict[str, Candidate] = {}
        self._shares = Shares()
        self._row_caps = RowCaps(self._options.max_rows)
        self._last_model: str | None = None
        self._pace = Pace()
        self._has_changed = False
        self._work: dict[Phase, Callable[[list[Job]], None]] = {
            Phase.PREPARE: self._prepare,
            Phase.DENOISE: self._denoise,
            Phase.DECODE: self._decode,
        }

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    def submit(self, request: Submit) -> None:
        self._emit(Queued(request.job_id, ahead=len(self._jobs)))
        self._shares.join(request.caller)
        job = Job(request, self._clock())
        self._jobs[job.id] = job
        self._has_changed = True

    def cancel(self, job_id: str) -> None:
        if job_id in self._jobs:
            self._remove(self._jobs[job_id])
            self._emit(Cancelled(job_id))

    def look_at_models(self) -> None:
        """They are others than before."""
        self._has_changed = True

    def work(self) -> bool:
        """Do the next work item; whether there was one that could be done now. Failures settle the job that caused
        them, never raise."""
        self._see_to_models()
        choose = POLICIES[self._options.policy]
        batch = [self._jobs[job_id] for job_id in choose(list(self._candidates.values()), self._situation())]
        if not batch:
            return False
        self._last_model = batch[0].request.model
        for job in batch:
            self._begin(job)
        self._announce(batch)
        try:
            self._faults.strike(batch[0].phase, batch)
            self._work[batch[0].phase](batch)
            for job in batch:
                job.runs_alone = False
            self._watch.done(self._clock())
        except Exception as error:
            self._watch.failed()
            self._blame(batch, error)
        self._look_again(batch)
        return True

    def _announce(self, batch: list[Job]) -> None:
        """Say whose work item begins, where these are others than before, and have it watched."""
        job_ids = tuple(job.id for job in batch)
        if job_ids != self._told_working:
            self._told_working = job_ids
            self._emit(Working(job_ids))
        self._watch.begin(job_ids, self._shape_of(batch), sum(job.rows for job in batch), self._clock())

    def _see_to_models(self) -> None:
        """Have those brought that jobs wait for; give each job its model as soon as it is there, and take it from those
        that have not begun when it is to leave."""
        if not self._has_changed and not self._models.has_news(self._clock()):
            return
        self._has_changed = False
        waiting = [job for job in self._jobs.values() if not job.is_admitted]
        leased = {job.request.model for job in self._jobs.values() if job.is_admitted}
        coming = self._models.update(self._clock(), wanted_by(waiting, self._pace), leased)
        for model in coming & {job.request.model for job in waiting}:
            # If the process dies of loading, it is the oldest job that had asked for it.
            self._begin(next(job for job in waiting if job.request.model == model))
        for job in waiting:
            self._give_model(job)

    def _give_model(self, job: Job) -> None:
        problem = self._models.problem(job.request.model)
        if problem is not None:
            self._fail(job, CheckpointProblem(problem))
            return
        family = self._models.family(job.request.model)
        if family is not job.family:
            job.family = family
            self._look_again([job])
            self._refuse_too_large(job)

    def _situation(self) -> Situation:
        return Situation(
            now_seconds=self._clock(),
            shares=self._shares,
            memory_left_bytes=self._memory_left_bytes(),
            last_model=self._last_model,
            row_cap=self._row_cap,
            switch_work=SWITCH_WORK,
        )

    def _memory_left_bytes(self) -> int | None:
        if self._options.memory_bytes is None:
            return None
        held = sum(candidate.footprint_bytes for candidate in self._candidates.values() if candidate.is_admitted)
        return self._options.memory_bytes - held

    def _row_cap(self, candidate: Candidate) -> int:
        """As measured; in exact mode fixed, and one at a time for what is not padded."""
        if self._options.exact_rows is not None:
            return self._options.exact_rows if candidate.phase is Phase.DENOISE else 1
        return self._row_caps.cap(_shape(candidate))

    def _shape_of(self, batch: list[Job]) -> Hashable:
        return _shape(self._candidates[batch[0].id])

    def _look_again(self, batch: list[Job]) -> None:
        """Show the policies what has become of these jobs; those without a model cannot work."""
        for job in batch:
            self._candidates.pop(job.id, None)
            if job.id in self._jobs and job.family is not None:
                self._candidates[job.id] = job.candidate()

    def _refuse_too_large(self, job: Job) -> None:
        budget = self._options.memory_bytes
        if budget is not None and job.footprint_bytes > budget:
            self._fail(job, TooLarge(f"{job.footprint_bytes} bytes of {budget}"))

    def _begin(self, job: Job) -> None:
        """Say once that the job has begun: if the process dies from now on, the job may be the cause."""
        if not job.has_begun:
            job.has_begun = True
            self._emit(Started(job.id))

    def _prepare(self, batch: list[Job]) -> None:
        for job in batch:
            job.is_admitted = True
            self._models.used(job.request.model, self._clock())
        self._has_changed = True
        with self._measured(batch):
            states = _family(batch).prepare([job.params for job in batch])
        for job, state in zip(batch, states, strict=True):
            job.state = state

    def _denoise(self, batch: list[Job]) -> None:
        stuck: dict[int, Exception] = {}
        with self._measured(batch):
            try:
                _family(batch).denoise_step(_states(batch))
            except StepFaults as faults:
                stuck = faults.errors
        for place, (job, state) in enumerate(zip(batch, _states(batch), strict=True)):
            if place in stuck:
                self._fail(job, stuck[place])  # never again: its sampler may have moved on half-way
            else:
                self._show(job, state)

    def _show(self, job: Job, state: DenoiseState) -> None:
        """Tell whoever listens how far the job has come."""
        if job.request.wants_progress:
            self._emit(Progress(job.id, state.step, state.steps))
        # Nobody sees an unfinished picture of which the finished one must first be checked.
        if state.step in job.request.preview_steps and not state.is_done and not job.request.is_checked:
            self._preview(job, state)

    def _preview(self, job: Job, state: DenoiseState) -> None:
        try:
            pixels = _to_host(_family([job]).preview(state))[0]
        except Exception as error:
            self._blame([job], error)
            return
        self._encoders.submit(self._finish_preview, job, state.step, state.steps, pixels)

    def _decode(self, batch: list[Job]) -> None:
        with self._measured(batch):
            pictures = _to_host(_family(batch).decode(_states(batch), in_tiles=batch[0].in_tiles))
        for job, pixels in zip(batch, pictures, strict=True):
            # Now, as the model may be gone before the picture is written.
            output = self._output(job)
            self._remove(job)
            self._encoders.submit(self._finish, job, pixels, output)

    @contextmanager
    def _measured(self, batch: list[Job]) -> Iterator[None]:
        """Measure the work inside: share its time evenly, charge the callers, learn what so many rows cost."""
        shape, rows, phase = self._shape_of(batch), sum(job.rows for job in batch), batch[0].phase
        works = [job.next_work() for job in batch]
        started = self._clock()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ended = self._clock()
        seconds = ended - started
        self._tally.worked(batch[0].request.model, KINDS[phase], rows, seconds)
        self._row_caps.observe(shape, rows, seconds)
        for job, work in zip(batch, works, strict=True):
            job.device_seconds += seconds / len(batch)
            job.mark(phase, started, ended)
            self._pace.observe(job.request.model, work, seconds / len(batch))
            self._shares.charge(job.request.caller, work)

    def _finish(self, job: Job, pixels: Pixels, output: Output) -> None:
        """Check where that is wanted, encode and settle; runs in the encoding pool."""
        try:
            pixels = with_kept(pixels, job.params)
            check_ms, is_refused = self._checked(job, pixels)
            if check_ms is not None and is_refused:
                self._emit(Refused(job.id, job.device_seconds, check_ms, job.timeline(self._clock())))
                return
            file = encode(pixels, output)
            self._emit(Image(job.id, file, job.device_seconds, check_ms, job.timeline(self._clock())))
        except Exception as error:
            self._emit(to_failed(job.id, error))

    def _checked(self, job: Job, pixels: Pixels) -> tuple[int | None, bool]:
        """How many milliseconds the check took, and whether the picture must not pass; (None, False) where the job
        wants none. Raises CheckUnavailable where it wants one and there is none."""
        if not job.request.is_checked:
            return None, False
        if self._safety is None:
            raise CheckUnavailable("a check is wanted, and no safety checker is configured")
        began_seconds = self._clock()
        is_refused = self._safety.refuses(pixels)
        return round((self._clock() - began_seconds) * 1000), is_refused

    def _output(self, job: Job) -> Output:
        """How the picture is written; where its file tells how it was drawn, also with which weights."""
        output = job.request.output
        if not output.facts:
            return output
        facts = output.facts | {"weights_digest": self._models.digest(job.request.model)}
        return msgspec.structs.replace(output, facts=facts)

    def _finish_preview(self, job: Job, step: int, steps: int, pixels: Pixels) -> None:
        """Encode and show, unless the job has been settled meanwhile; runs in the encoding pool."""
        if job.id in self._jobs:
            output = msgspec.structs.replace(job.request.output, facts={})
            self._emit(Preview(job.id, step, steps, encode(with_kept(pixels, job.params), output)))

    def _blame(self, batch: list[Job], error: Exception) -> None:
        """Settle those who are guilty, and let the others go on."""
        match error:
            case NonFiniteResults():
                for place in error.places:
                    self._fail(batch[place], error)
            case _ if is_out_of_memory(error):
                self._relieve(batch, error)
            case _ if len(batch) > 1:
                _split(batch)
            case _:
                self._fail(batch[0], error)

    def _relieve(self, batch: list[Job], error: Exception) -> None:
        """Not enough memory: each alone, and smaller batches of this shape from now on. Alone: one more try."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._tally.ran_out_of_memory(batch[0].request.model)
        if len(batch) > 1:
            self._row_caps.forbid(self._shape_of(batch), sum(job.rows for job in batch))
            _split(batch)
            return
        (job,) = batch
        if job.has_retried:
            self._fail(job, error)
            return
        job.has_retried = True
        job.in_tiles = job.phase is Phase.DECODE

    def _fail(self, job: Job, error: Exception) -> None:
        self._remove(job)
        self._emit(to_failed(job.id, error))

    def _remove(self, job: Job) -> None:
        """The job holds nothing any more."""
        del self._jobs[job.id]
        self._candidates.pop(job.id, None)
        self._has_changed = True
        self._shares.leave(job.request.caller)


def _split(batch: list[Job]) -> None:
    """Let each do its next work item alone, so that the guilty one is found."""
    for job in batch:
        job.runs_alone = True


def _shape(candidate: Candidate) -> Hashable:
    """What the cost of a row depends on."""
    return (candidate.model, candidate.phase, candidate.key)


def _family(batch: list[Job]) -> Family:
    family = batch[0].family
    if family is None:
        raise RuntimeError("a job without a model was asked to work")
    return family


def _states(batch: list[Job]) -> list[DenoiseState]:
    return [job.state for job in batch if job.state is not None]


def _to_host(pictures: torch.Tensor) -> list[Pixels]:
    """Pixels (B, H, W, 3) in host memory."""
    return list(pictures.cpu().numpy())
