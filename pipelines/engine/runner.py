"""Carries jobs through their life: prepared, denoised step by step, decoded, settled exactly once.

Knows families, states and the scheduler's choice; knows no sockets and no clocks but the one that it is given.
Invariant: every submitted job is settled by exactly one Image, Failed or Cancelled.
"""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage

from pipelines.denoise.state import DenoiseState
from pipelines.engine.models import Models
from pipelines.engine.scheduler import Candidate, next_batch
from pipelines.families.contract import NonFiniteResult
from pipelines.messages import Cancelled, Event, Failed, FailureCode, Image, Progress, Queued, Started, Submit
from pipelines.weights.verify import CheckpointProblem

# zlib's "Huffman only": on photographs several times quicker than Pillow's default, and no larger.
PNG_LEVEL, PNG_HUFFMAN_ONLY = 1, 2
Pixels = npt.NDArray[np.uint8]
PREPARE, DENOISE, DECODE = "prepare", "denoise", "decode"


@dataclass(slots=True)
class Job:
    """One image on its way. `state` is None until it is prepared."""

    request: Submit
    state: DenoiseState | None = None
    key: Hashable = None
    device_seconds: float = 0.0
    runs_alone: bool = False

    @property
    def phase(self) -> str:
        if self.state is None:
            return PREPARE
        return DECODE if self.state.is_done else DENOISE


class Runner:
    """Does one work item at a time: the caller decides when, and hands in commands between two items.

    emit: takes events, from this thread and from the encoding pool. encoders: where PNG files are made, off this
    thread. clock: seconds. job_limit: how many jobs may share one forward.
    """

    def __init__(
        self,
        models: Models,
        emit: Callable[[Event], None],
        encoders: Executor,
        clock: Callable[[], float],
        job_limit: int = 1,
    ) -> None:
        self._models, self._emit, self._encoders, self._clock = models, emit, encoders, clock
        self._job_limit = job_limit
        self._jobs: dict[str, Job] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    def submit(self, request: Submit) -> None:
        self._emit(Queued(request.job_id, ahead=len(self._jobs)))
        self._jobs[request.job_id] = Job(request)

    def cancel(self, job_id: str) -> None:
        if self._jobs.pop(job_id, None) is not None:
            self._emit(Cancelled(job_id))

    def work(self) -> None:
        """Do the next work item, if there is one. Failures settle the job that caused them, never raise."""
        batch = [self._jobs[job_id] for job_id in next_batch(self._candidates(), self._job_limit)]
        if not batch:
            return
        try:
            self._WORK[batch[0].phase](self, batch)
        except Exception as error:
            self._blame(batch, error)

    def _candidates(self) -> list[Candidate]:
        return [
            Candidate(job_id, job.request.model, job.phase, job.key, job.runs_alone)
            for job_id, job in self._jobs.items()
        ]

    def _prepare(self, batch: list[Job]) -> None:
        (job,) = batch
        self._emit(Started(job.request.job_id))
        family = self._models.family(job.request.model)
        with self._timed(batch):
            job.state = family.prepare(job.request.params)
        job.key = family.batch_key(job.state)

    def _denoise(self, batch: list[Job]) -> None:
        family = self._models.family(batch[0].request.model)
        states = [job.state for job in batch if job.state is not None]
        with self._timed(batch):
            family.denoise_step(states)
        for job, state in zip(batch, states, strict=True):
            if job.request.wants_progress:
                self._emit(Progress(job.request.job_id, state.step, state.steps))

    def _decode(self, batch: list[Job]) -> None:
        family = self._models.family(batch[0].request.model)
        with self._timed(batch):
            pictures = family.decode([job.state for job in batch if job.state is not None]).cpu().numpy()
        for job, pixels in zip(batch, pictures, strict=True):
            del self._jobs[job.request.job_id]
            self._encoders.submit(self._finish, job, pixels)

    _WORK: ClassVar[dict[str, Callable[[Runner, list[Job]], None]]] = {
        PREPARE: _prepare,
        DENOISE: _denoise,
        DECODE: _decode,
    }

    @contextmanager
    def _timed(self, batch: list[Job]) -> Iterator[None]:
        """Share the time of the work inside evenly among the jobs that it is done for."""
        started = self._clock()
        yield
        spent = (self._clock() - started) / len(batch)
        for job in batch:
            job.device_seconds += spent

    def _finish(self, job: Job, pixels: Pixels) -> None:
        """Encode and settle; runs in the encoding pool."""
        try:
            self._emit(Image(job.request.job_id, encode_png(pixels), job.device_seconds))
        except Exception as error:
            self._emit(_failure(job, error))

    def _blame(self, batch: list[Job], error: Exception) -> None:
        """Settle the one job that failed; of several, find the guilty one by running each alone."""
        if len(batch) > 1:
            for job in batch:
                job.runs_alone = True
            return
        (job,) = batch
        del self._jobs[job.request.job_id]
        self._emit(_failure(job, error))


def encode_png(pixels: Pixels) -> bytes:
    """PNG of uint8 pixels (H, W, 3)."""
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "PNG", compress_level=PNG_LEVEL, compress_type=PNG_HUFFMAN_ONLY)
    return file.getvalue()


def _failure(job: Job, error: Exception) -> Failed:
    code, message = _explain(error)
    return Failed(job.request.job_id, code, message, detail="".join(traceback.format_exception(error)))


def _explain(error: Exception) -> tuple[FailureCode, str]:
    """What the caller may know: constant texts, never the exception's own."""
    if isinstance(error, CheckpointProblem):
        return "model_unavailable", "The model's files are missing or damaged on this server."
    if _is_out_of_memory(error):
        return "insufficient_memory", "The device has not enough memory for a picture of this size."
    if isinstance(error, NonFiniteResult):
        return "generation_failed", "The model produced no valid picture for this request."
    return "generation_failed", "The picture could not be drawn."


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
