"""Keeps one worker alive on one device: started, followed to its end, and started again.

Knows one worker's life and what it says of its models; knows no jobs.
Invariant: while a lane runs, either a worker is there or the next one is about to be started.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Literal, Protocol

import msgspec

from pipelines.messages import Command, Event, Figures, ModelReport, Ready, Residency, Serve, Working
from server.dispatch.totals import Totals
from server.dispatch.worker_process import WorkerProcess, WorkerSettings

log = logging.getLogger("safelight.dispatch")
# A worker gives a sign of life twice a second. One that does not for so long cannot be counted on.
QUIET_SECONDS = 4.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 30.0


class Listener(Protocol):
    """Who is told what becomes of a lane."""

    def on_ready(self, lane: Lane) -> None: ...
    def on_event(self, event: Event) -> None: ...
    def on_end(self, lane: Lane, failed_starts: int) -> None: ...


class Lane:
    """Call `start` once, `stop` once. models: the last reports, by id; empty until a worker was ready for the first
    time. restarts: how many workers were replaced. device: as the worker calls it. totals: what all its workers have
    counted. in_work: the jobs whose work item was the last that was begun."""

    def __init__(self, settings: WorkerSettings, listener: Listener) -> None:
        self._settings, self._listener = settings, listener
        self._worker: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._serve: Serve | None = None
        self._heard_seconds = 0.0
        self.is_ready = False
        self.device: str | None = None
        self.pid: int | None = None
        self.restarts = 0
        self.models: dict[str, ModelReport] = {}
        self.totals = Totals()
        self.in_work: tuple[str, ...] = ()

    @property
    def asked_device(self) -> str:
        """As the settings call it."""
        return self._settings.device

    @property
    def state(self) -> Literal["ready", "silent", "starting"]:
        """silent: it was ready, and has given no sign of life for long; it may come back, or be replaced."""
        if not self.is_ready:
            return "starting"
        return "ready" if time.monotonic() - self._heard_seconds < QUIET_SECONDS else "silent"

    @property
    def loading(self) -> frozenset[str]:
        """The models that are on their way to the device."""
        return frozenset(model for model, report in self.models.items() if report.state == "loading")

    def start(self) -> None:
        """Begin to keep a worker alive; returns at once."""
        self._keeper = asyncio.create_task(self._keep_alive(), name="worker-keeper")

    async def stop(self) -> None:
        self._is_stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._worker is not None:
            await self._worker.stop()

    def send(self, command: Command) -> None:
        """To the worker, if one is there."""
        if self._worker is not None and self.is_ready:
            self._worker.send(command)

    def serve(self, command: Serve) -> None:
        """Other models from now on, for this worker and for those that follow it."""
        options = msgspec.structs.replace(self._settings.options, never_together=command.never_together)
        models = (*command.models, *command.leaving)
        self._settings, self._serve = replace(self._settings, models=models, options=options), command
        self.send(command)

    def kill(self) -> None:
        """End the worker without a word; returns at once. The next one is not started."""
        self._is_stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
        if self._worker is not None:
            self._worker.kill()

    async def _keep_alive(self) -> None:
        """Start a worker, follow it to its end, and start the next, more slowly the more often none gets ready."""
        failed_starts = 0
        while True:
            was_ready = await self._one_life()
            failed_starts = 0 if was_ready else failed_starts + 1
            self.restarts += 1
            self._listener.on_end(self, failed_starts)
            await asyncio.sleep(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 4**failed_starts))

    async def _one_life(self) -> bool:
        """One worker from start to end; whether it ever was ready."""
        worker = WorkerProcess(self._settings)
        was_ready = False
        try:
            self._worker, self.in_work = worker, ()
            await worker.start()
            self.pid = worker.pid
            async for event in worker.events():
                self._heard_seconds = time.monotonic()
                was_ready = was_ready or isinstance(event, Ready)
                self._take(event)
        except Exception:  # whatever one worker's life ends with, the next one must begin
            log.exception("worker could not be kept")
        finally:
            self.is_ready = False
            self.totals.end()
            if not self._is_stopping:
                await worker.stop()
        return was_ready

    def _take(self, event: Event) -> None:
        match event:
            case Ready(device=device, models=models):
                self.is_ready, self.device = True, device
                if self._serve is not None:  # it may have been started before that was said
                    self.send(self._serve)
                self._hear(models)
                self._listener.on_ready(self)
            case Residency(models=models):
                self._hear(models)
            case Figures():
                self.totals.take(event)
            case Working(job_ids=job_ids):
                self.in_work = job_ids
            case _:
                self._listener.on_event(event)

    def _hear(self, reports: tuple[ModelReport, ...]) -> None:
        known, self.models = self.models, {report.id: report for report in reports}
        for report in reports:
            before = known.get(report.id)
            if report.problem and (before is None or before.problem != report.problem):
                extra = {"model": report.id, "device": self.device, "problem": report.problem}
                log.error("model unavailable", extra=extra)
            elif before is not None and before.state != report.state:
                extra = {"model": report.id, "device": self.device, "state": report.state}
                log.info("model moved", extra=extra)
