"""One image on its way, and what the policies may know of it.

Knows a request, its family and its state; knows no other job.
Invariant: the candidate that the policies see is that of the job's next work item.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from pipelines.denoise.state import DenoiseState
from pipelines.engine.candidate import Candidate, Phase
from pipelines.families.contract import Family
from pipelines.figures import Timeline
from pipelines.messages import DrawParams, Submit
from pipelines.work import SECOND_ORDER

# What decoding costs beside a denoise step of one row, by the operations of SDXL's parts (10.5 and 6.8 TFLOP).
DECODE_STEPS = 1.5
# What preparing costs: encoding a prompt next to nothing, encoding a picture about half of decoding it.
PREPARE_STEPS, PREPARE_PICTURE_STEPS = 0.05, 0.75


@dataclass(slots=True)
class Job:
    """family is None until its model is loaded, state until it is prepared. runs_alone: it shares its next work item
    with nobody, as one of its last batch is guilty of a failure. has_retried: one failure for want of memory is
    forgiven; decoding is then done in_tiles. began, prepared, decoding, decoded: when its work got so far."""

    request: Submit
    arrived_seconds: float
    family: Family | None = None
    state: DenoiseState | None = None
    has_begun: bool = False
    is_admitted: bool = False
    runs_alone: bool = False
    has_retried: bool = False
    in_tiles: bool = False
    device_seconds: float = 0.0
    began_seconds: float | None = None
    prepared_seconds: float = 0.0
    decoding_seconds: float = 0.0
    decoded_seconds: float = 0.0

    @property
    def id(self) -> str:
        return self.request.job_id

    @property
    def params(self) -> DrawParams:
        return self.request.params

    @property
    def phase(self) -> Phase:
        if self.state is None:
            return Phase.PREPARE
        return Phase.DECODE if self.state.is_done else Phase.DENOISE

    @property
    def rows(self) -> int:
        """How many rows the next work item fills: those of a forward in denoising, one picture else."""
        return self.state.rows if self.state is not None and not self.state.is_done else 1

    @property
    def footprint_bytes(self) -> int:
        return 0 if self.family is None else self.family.footprint(self.params)

    def candidate(self) -> Candidate:
        return Candidate(
            job_id=self.id,
            caller=self.request.caller,
            model=self.request.model,
            phase=self.phase,
            key=self._key(),
            rows=self.rows,
            work_left=self.work_left(),
            arrived_seconds=self.arrived_seconds,
            size=(self.params.width_px, self.params.height_px),
            denoise_rows=1 if self.family is None else self.family.rows(self.params),
            footprint_bytes=self.footprint_bytes,
            request_key=_request_key(self.params),
            priority=self.request.priority,
            is_admitted=self.is_admitted,
            runs_alone=self.runs_alone or self.in_tiles or self.request.runs_alone,
        )

    def mark(self, phase: Phase, began_seconds: float, ended_seconds: float) -> None:
        """A work item of this phase is done."""
        if phase is Phase.PREPARE:
            self.began_seconds = began_seconds if self.began_seconds is None else self.began_seconds
            self.prepared_seconds = ended_seconds
        elif phase is Phase.DECODE:
            self.decoding_seconds, self.decoded_seconds = began_seconds, ended_seconds

    def timeline(self, now_seconds: float) -> Timeline | None:
        """Of a job that is decoded and written now."""
        if self.began_seconds is None:
            return None
        return Timeline(
            self.prepared_seconds - self.began_seconds,
            self.decoding_seconds - self.prepared_seconds,
            self.decoded_seconds - self.decoding_seconds,
            now_seconds - self.decoded_seconds,
        )

    def work_left(self) -> float:
        """Work units (rows x pixels x steps) until the picture is there."""
        if self.family is None or self.state is None:
            rows = 1 if self.family is None else self.family.rows(self.params)
            return self._pixels * (rows * _forwards(self.params) + _prepare_steps(self.params) + DECODE_STEPS)
        return self._pixels * (self.state.rows * (self.state.steps - self.state.step) + DECODE_STEPS)

    def next_work(self) -> float:
        """Work units of the next work item alone."""
        steps = {
            Phase.PREPARE: _prepare_steps(self.params),
            Phase.DENOISE: float(self.rows),
            Phase.DECODE: DECODE_STEPS,
        }
        return self._pixels * steps[self.phase]

    @property
    def _pixels(self) -> int:
        return self.params.width_px * self.params.height_px

    def _key(self) -> Hashable:
        if self.family is None:
            return None
        if self.state is None:
            return (self.params.width_px, self.params.height_px)
        return self.family.batch_key(self.state)


def _prepare_steps(params: DrawParams) -> float:
    return PREPARE_STEPS if params.image is None else PREPARE_PICTURE_STEPS


def _forwards(params: DrawParams) -> float:
    """About how many forwards a job not yet begun will do."""
    steps = params.steps if params.image is None else max(1.0, params.steps * params.strength)
    return steps * (2 if params.sampler in SECOND_ORDER else 1)


def _request_key(params: DrawParams) -> Hashable:
    """Equal for requests that differ in nothing but their prompt, their pictures and their seed."""
    tasks = (params.image is not None, params.mask is not None, params.strength, params.control is not None)
    sizes = (params.width_px, params.height_px)
    ways = (params.steps, params.guidance_scale, params.sampler, params.negative_prompt, params.loras)
    return (*ways, *tasks, *sizes)
