"""Keeps a worker alive and gives it jobs: each job ends exactly once, with a picture or with an error.

Knows jobs and one worker; knows no HTTP.
Invariant: a job leaves `_pending` at the moment its future is settled, and never otherwise. A job that had begun when
its worker died is drawn once more, with the same seed; when that worker dies too, the job is refused.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipelines.messages import (
    Cancel,
    Cancelled,
    Event,
    Failed,
    Image,
    ModelReport,
    Preview,
    Progress,
    Queued,
    Ready,
    Started,
    Submit,
    work_of,
)
from server.core import errors
from server.dispatch.pace import Pace
from server.dispatch.worker_process import WorkerProcess, WorkerSettings

log = logging.getLogger("safelight.dispatch")
MAX_BEGINNINGS = 2
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 30.0
# Starts in a row without a Ready, after which waiting jobs are refused rather than kept for ever.
HOPELESS_STARTS = 3


@dataclass(slots=True)
class _Pending:
    """A job whose caller waits, with about how much work it is. `listen` hears of its way. `beginnings` counts the
    workers that have begun with it."""

    submit: Submit
    future: asyncio.Future[Image]
    work: float
    listen: Callable[[Event], None]
    beginnings: int = 0


@dataclass(slots=True)
class WorkerState:
    """What is known of the worker now; `models` is empty until the first one was ready."""

    is_ready: bool = False
    device: str | None = None
    pid: int | None = None
    restarts: int = 0
    models: dict[str, ModelReport] = field(default_factory=dict)


def _not_listening(_: Event) -> None:
    pass


class Dispatcher:
    """Call `start` once, `draw` for every picture, `stop` once. All in one event loop."""

    def __init__(self, settings: WorkerSettings, max_waiting: int, drain_seconds: float) -> None:
        self._settings, self._max_waiting, self._drain_seconds = settings, max_waiting, drain_seconds
        self._families = {spec.id: spec.family for spec in settings.models}
        self._pending: dict[str, _Pending] = {}
        self._pace = Pace()
        self._worker: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.is_draining = False
        self._is_stopping = False
        self.state = WorkerState()
        self.is_ready = asyncio.Event()

    def start(self) -> None:
        """Begin to keep a worker alive; returns at once."""
        self._keeper = asyncio.create_task(self._keep_alive(), name="worker-keeper")

    def drain(self) -> None:
        """Take no more jobs, refuse those that have not begun, and the rest when the drain time is over."""
        self.is_draining = True
        for job_id, pending in list(self._pending.items()):
            if pending.beginnings == 0:
                self._refuse(job_id, errors.shutting_down())
        asyncio.get_running_loop().call_later(self._drain_seconds, self._refuse_all, errors.shutting_down())

    async def stop(self) -> None:
        """End the worker; jobs that are still waiting are refused."""
        self.is_draining = self._is_stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._worker is not None:
            await self._worker.stop()
        self._refuse_all(errors.shutting_down())

    def check_room(self, count: int) -> None:
        """Raises SafelightError when `count` more pictures would be too many to wait, or when the server stops."""
        if self.is_draining:
            raise errors.shutting_down()
        if len(self._pending) + count > self._max_waiting:
            raise errors.overloaded(len(self._pending))

    def own_seconds(self, jobs: Sequence[Submit]) -> float | None:
        """So long would these jobs take alone; None if nobody knows, as their model has drawn nothing yet."""
        own = [self._pace.seconds_for(job.model, self._work_of(job)) for job in jobs]
        return None if None in own else sum(filter(None, own))

    def seconds_ahead(self, jobs: Sequence[Submit]) -> float:
        """So long will at least those take that the scheduler puts before these jobs, as far as anybody knows."""
        is_fifo = self._settings.options.policy == "fifo"
        least = min(map(self._work_of, jobs))
        return sum(
            self._pace.seconds_for(pending.submit.model, pending.work) or 0.0
            for pending in self._pending.values()
            if is_fifo or pending.work <= least
        )

    def place_of(self, job_id: str) -> int:
        """How many jobs that were accepted earlier have not begun either; 0 for one that has begun."""
        own = self._pending.get(job_id)
        if own is None or own.beginnings:
            return 0
        earlier = itertools.takewhile(lambda pending: pending is not own, self._pending.values())
        return sum(pending.beginnings == 0 for pending in earlier)

    def _work_of(self, submit: Submit) -> float:
        return work_of(self._families[submit.model], submit.params)

    async def draw(self, submit: Submit, listen: Callable[[Event], None] | None = None) -> Image:
        """Have one picture drawn; `listen` hears of its progress. Cancelling the awaiting task cancels the job. Raises
        SafelightError."""
        self.check_room(1)
        future: asyncio.Future[Image] = asyncio.get_running_loop().create_future()
        self._pending[submit.job_id] = _Pending(submit, future, self._work_of(submit), listen or _not_listening)
        self._send(submit)
        try:
            return await future
        except asyncio.CancelledError:
            self._forget(submit.job_id)
            raise

    def _send(self, submit: Submit) -> None:
        """To the worker that is ready; else it waits for the next Ready."""
        if self._worker is not None and self.state.is_ready:
            self._worker.send(submit)

    def _forget(self, job_id: str) -> None:
        """Drop a job whose caller has gone."""
        if self._pending.pop(job_id, None) is not None and self._worker is not None:
            self._worker.send(Cancel(job_id))

    async def _keep_alive(self) -> None:
        """Start a worker, follow it to its end, and start the next, more slowly the more often none gets ready."""
        failed_starts = 0
        while True:
            was_ready = await self._one_life()
            failed_starts = 0 if was_ready else failed_starts + 1
            if failed_starts >= HOPELESS_STARTS:
                self._refuse_all(errors.worker_unavailable())
            self.state.restarts += 1
            self._settle_lost()
            await asyncio.sleep(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 4**failed_starts))

    async def _one_life(self) -> bool:
        """One worker from start to end; whether it ever was ready."""
        worker = WorkerProcess(self._settings)
        was_ready = False
        try:
            self._worker = worker
            await worker.start()
            self.state.pid = worker.pid
            async for event in worker.events():
                was_ready = was_ready or isinstance(event, Ready)
                self._take(event)
        except Exception:  # whatever one worker's life ends with, the next one must begin
            log.exception("worker could not be kept")
        finally:
            self.state.is_ready = False
            self.is_ready.clear()
            if not self._is_stopping:
                await worker.stop()
        return was_ready

    def _take(self, event: Event) -> None:
        match event:
            case Ready():
                self._on_ready(event)
            case Started(job_id=job_id):
                if job_id in self._pending:
                    self._pending[job_id].beginnings += 1
            case Queued(job_id=job_id) | Progress(job_id=job_id) | Preview(job_id=job_id):
                if job_id in self._pending:
                    self._pending[job_id].listen(event)
            case Image(job_id=job_id):
                self._learn(event)
                self._settle(job_id, event)
            case Failed(job_id=job_id):
                log.warning("job failed", extra={"job": job_id, "code": event.code, "detail": event.detail})
                self._settle_failed(event)
            case Cancelled(job_id=job_id):
                log.debug("job cancelled", extra={"job": job_id})
            case _:
                pass  # a sign of life

    def _learn(self, image: Image) -> None:
        pending = self._pending.get(image.job_id)
        if pending is not None:
            self._pace.observe(pending.submit.model, pending.work, image.device_seconds)

    def _on_ready(self, event: Ready) -> None:
        self.state.is_ready, self.state.device = True, event.device
        self.state.models = {report.id: report for report in event.models}
        for report in event.models:
            if report.problem:
                log.error("model unavailable", extra={"model": report.id, "problem": report.problem})
        log.info("worker ready", extra={"pid": self.state.pid, "device": event.device})
        self.is_ready.set()
        for pending in self._pending.values():
            self._send(pending.submit)

    def _settle_failed(self, event: Failed) -> None:
        pending = self._pending.get(event.job_id)
        if pending is None:
            return
        if event.code == "model_unavailable":
            error = errors.model_unavailable(pending.submit.model)
        elif event.code == "adapter_unavailable":
            error = errors.adapter_unavailable(event.message)
        elif event.code == "insufficient_memory":
            error = errors.insufficient_memory(event.message)
        else:
            error = errors.generation_failed(event.message)
        self._settle(event.job_id, error)

    def _settle(self, job_id: str, outcome: Image | errors.SafelightError) -> None:
        pending = self._pending.pop(job_id, None)
        if pending is None or pending.future.done():
            return
        if isinstance(outcome, errors.SafelightError):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)

    def _settle_lost(self) -> None:
        """Refuse the jobs that two workers have died on; the others wait for the next worker."""
        for job_id, pending in list(self._pending.items()):
            if pending.beginnings >= MAX_BEGINNINGS:
                self._settle(job_id, errors.worker_lost())

    def _refuse_all(self, error: errors.SafelightError) -> None:
        for job_id in list(self._pending):
            self._refuse(job_id, error)

    def _refuse(self, job_id: str, error: errors.SafelightError) -> None:
        """End a job that the worker may still hold."""
        self._settle(job_id, error)
        if self._worker is not None:
            self._worker.send(Cancel(job_id))
