"""Gives jobs to the workers, one for each device: each job ends exactly once, with a picture or with an error.

Knows jobs and lanes; knows no HTTP.
Invariant: a job leaves `_pending` at the moment its future is settled, and never otherwise. When a worker dies, those
whose work item was the last are suspected; they are drawn once more, with the same seed, one after the other and in
work items of their own, so that a second death has only one to blame: that one is refused. All others go on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from pipelines.messages import (
    Cancel,
    Cancelled,
    Event,
    Failed,
    Image,
    Load,
    ModelReport,
    ModelSpec,
    ModelState,
    Pin,
    Preview,
    Progress,
    Queued,
    Refused,
    Serve,
    Started,
    Submit,
    Unload,
)
from pipelines.pace import Pace
from pipelines.work import work_of
from server.core import errors
from server.core.current import CURRENT
from server.core.worker_names import id_of
from server.dispatch.lane import Lane
from server.dispatch.placement import Choice, choose
from server.dispatch.worker_process import WorkerSettings

log = logging.getLogger("safelight.dispatch")
MAX_DEATHS = 2
# Starts in a row without a Ready, after which waiting jobs are refused rather than kept for ever.
HOPELESS_STARTS = 3
# What a picture is taken to need of a model that has drawn nothing yet.
UNKNOWN_SECONDS = 2.0
# The sooner it could serve, the further in front.
STATES: tuple[ModelState, ...] = ("device", "loading", "host", "disk", "failed", "absent")


@dataclass(slots=True)
class _Pending:
    """A job whose caller waits, with about how much work it is. `listen` hears of its way. lane: whose worker has it;
    None while no worker is there, and while another suspect has its turn. deaths: of workers that it was part of.
    since_seconds: when it came, on the loop's clock. request_id: for log lines."""

    submit: Submit
    future: asyncio.Future[Image | Refused]
    work: float
    listen: Callable[[Event], None]
    lane: Lane | None = None
    has_begun: bool = False
    deaths: int = 0
    since_seconds: float = 0.0
    request_id: str | None = None


def _not_listening(_: Event) -> None:
    pass


class Dispatcher:
    """Call `start` once, `draw` for every picture, `stop` once. All in one event loop. One of the settings for each
    device; they have the same models."""

    def __init__(self, settings: Sequence[WorkerSettings], max_waiting: int, drain_seconds: float) -> None:
        self._max_waiting, self._drain_seconds = max_waiting, drain_seconds
        self._is_fifo = settings[0].options.policy == "fifo"
        self._families = {spec.id: spec.family for spec in settings[0].models}
        self.lanes = tuple(Lane(one, self) for one in settings)
        self._pending: dict[str, _Pending] = {}
        self._pace = Pace()
        self.is_draining = False
        self.is_ready = asyncio.Event()
        # Jobs that had begun when their worker died, and were given to another.
        self.redrawn = 0

    def start(self) -> None:
        """Begin to keep a worker alive on each device; returns at once."""
        for lane in self.lanes:
            lane.start()

    def drain(self) -> None:
        """Take no more jobs, refuse those that have not begun, and the rest when the drain time is over."""
        self.is_draining = True
        for job_id, pending in list(self._pending.items()):
            if not pending.has_begun:
                self._refuse(job_id, errors.shutting_down())
        asyncio.get_running_loop().call_later(self._drain_seconds, self._refuse_all, errors.shutting_down())

    async def stop(self) -> None:
        """End the workers; jobs that are still waiting are refused."""
        self.is_draining = True
        await asyncio.gather(*(lane.stop() for lane in self.lanes))
        self._refuse_all(errors.shutting_down())

    def kill(self) -> None:
        """End the workers without a word; returns at once."""
        for lane in self.lanes:
            lane.kill()

    def serve(
        self, models: tuple[ModelSpec, ...], leaving: tuple[ModelSpec, ...], never_together: tuple[tuple[str, ...], ...]
    ) -> None:
        """Other models from now on, in all workers. leaving: those that jobs may still ask for."""
        self._families |= {spec.id: spec.family for spec in (*models, *leaving)}
        for lane in self.lanes:
            lane.serve(Serve(models, leaving, never_together))

    def reports(self, model: str) -> list[ModelReport]:
        """What the workers say of the model, those first that could serve it soonest."""
        found = [lane.models[model] for lane in self.lanes if model in lane.models]
        return sorted(found, key=lambda report: STATES.index(report.state))

    def check_room(self, count: int) -> None:
        """Raises SafelightError when `count` more pictures would be too many to wait, or when the server stops."""
        if self.is_draining:
            raise errors.shutting_down()
        if len(self._pending) + count > self._max_waiting:
            raise errors.overloaded(len(self._pending))

    def own_seconds(self, jobs: Sequence[Submit]) -> float | None:
        """So long would these jobs take alone; None if nobody knows, as their model has drawn nothing yet."""
        own = [self._pace.seconds_for(job.model, self._work_of(job)) for job in jobs]
        return None if None in own else sum(filter(None, own)) / min(len(own), self._hands)

    def seconds_ahead(self, jobs: Sequence[Submit]) -> float:
        """So long will at least those take that the scheduler puts before these jobs, as far as anybody knows."""
        least = min(map(self._work_of, jobs))
        ahead = (
            self._pace.seconds_for(pending.submit.model, pending.work) or 0.0
            for pending in self._pending.values()
            if self._is_fifo or pending.work <= least
        )
        return sum(ahead) / self._hands

    @property
    def _hands(self) -> int:
        """How many devices work, or will."""
        return max(1, sum(lane.is_ready for lane in self.lanes))

    def place_of(self, job_id: str) -> int:
        """How many jobs that were accepted earlier have not begun either; 0 for one that has begun."""
        own = self._pending.get(job_id)
        if own is None or own.has_begun:
            return 0
        earlier = itertools.takewhile(lambda pending: pending is not own, self._pending.values())
        return sum(not pending.has_begun for pending in earlier)

    @property
    def max_waiting(self) -> int:
        return self._max_waiting

    def counts(self) -> Counter[tuple[str, bool]]:
        """How many jobs there are by model, and by whether a worker has begun with them."""
        return Counter((id_of(pending.submit.model), pending.has_begun) for pending in self._pending.values())

    def oldest_wait_seconds(self, now_seconds: float) -> float:
        """How long the job waits that has waited longest without a beginning; 0 if none does. now: on the loop's
        clock."""
        since = [pending.since_seconds for pending in self._pending.values() if not pending.has_begun]
        return max(0.0, now_seconds - min(since)) if since else 0.0

    def _work_of(self, submit: Submit) -> float:
        return work_of(self._families[submit.model], submit.params)

    async def draw(self, submit: Submit, listen: Callable[[Event], None] | None = None) -> Image | Refused:
        """Have one picture drawn; `listen` hears of its progress. Cancelling the awaiting task cancels the job. Raises
        SafelightError."""
        self.check_room(1)
        loop, current = asyncio.get_running_loop(), CURRENT.get()
        future: asyncio.Future[Image | Refused] = loop.create_future()
        pending = _Pending(submit, future, self._work_of(submit), listen or _not_listening)
        pending.since_seconds, pending.request_id = loop.time(), None if current is None else current.request_id
        self._pending[submit.job_id] = pending
        self._place(pending)
        try:
            return await future
        except asyncio.CancelledError:
            self._forget(submit.job_id)
            raise

    def load(self, model: str) -> None:
        """Bring the model to the device that would have it soonest. Raises SafelightError when no worker is there."""
        self._best_lane(model).send(Load(model))

    def unload(self, model: str) -> None:
        """Let the model go from every device, once no job works with it. Raises SafelightError when it is pinned."""
        if any(report.is_pinned for report in self.reports(model)):
            raise errors.model_pinned(id_of(model))
        for lane in self.lanes:
            lane.send(Unload(model))

    def pin(self, model: str) -> None:
        """Keep the model on the device that has it, or would have it soonest. Raises SafelightError when no worker is
        there."""
        self._best_lane(model).send(Pin(model, is_pinned=True))

    def unpin(self, model: str) -> None:
        """Let the model leave when others need the room."""
        for lane in self.lanes:
            lane.send(Pin(model, is_pinned=False))

    def _best_lane(self, model: str) -> Lane:
        lane = self._choose(model)
        if lane is None:
            raise errors.worker_unavailable()
        return lane

    def _choose(self, model: str) -> Lane | None:
        """The lane that would be done first with a job of this model; None while no worker is there."""
        there = [lane for lane in self.lanes if lane.is_ready]
        if not there:
            return None
        return there[choose([Choice(lane.models.get(model), self._busy_seconds(lane)) for lane in there])]

    def _busy_seconds(self, lane: Lane) -> float:
        mine = [pending for pending in self._pending.values() if pending.lane is lane]
        known = [self._pace.seconds_for(pending.submit.model, pending.work) for pending in mine]
        return sum(UNKNOWN_SECONDS if seconds is None else seconds for seconds in known)

    def _place(self, pending: _Pending) -> None:
        """Give the job to a worker; with none there, it waits for the next that is ready. Suspects take turns."""
        pending.lane = None
        lane = self._choose(pending.submit.model)
        if lane is None or (pending.deaths and self._has_suspect(lane)):
            return
        pending.lane = lane
        lane.send(msgspec.structs.replace(pending.submit, runs_alone=pending.deaths > 0))

    def _place_waiting(self) -> None:
        for pending in self._pending.values():
            if pending.lane is None:
                self._place(pending)

    def _has_suspect(self, lane: Lane) -> bool:
        return any(pending.deaths and pending.lane is lane for pending in self._pending.values())

    def _forget(self, job_id: str) -> None:
        """Drop a job whose caller has gone."""
        pending = self._pending.pop(job_id, None)
        if pending is not None and pending.lane is not None:
            pending.lane.send(Cancel(job_id))
        if pending is not None and pending.deaths:
            self._place_waiting()

    def on_ready(self, lane: Lane) -> None:
        log.info("worker ready", extra={"pid": lane.pid, "device": lane.device})
        self.is_ready.set()
        self._place_waiting()

    def on_end(self, lane: Lane, failed_starts: int) -> None:
        """Refuse the jobs that two workers have died of; the others go to another worker, or wait for the next."""
        if not any(one.is_ready for one in self.lanes):
            self.is_ready.clear()
            if failed_starts >= HOPELESS_STARTS:
                self._refuse_all(errors.worker_unavailable())
        bereft = [job_id for job_id, pending in self._pending.items() if pending.lane is lane]
        for job_id in bereft:
            self._pending[job_id].lane = None
        for job_id in self._suspects(lane, bereft):
            self._pending[job_id].deaths += 1
        for job_id in bereft:
            if self._pending[job_id].deaths >= MAX_DEATHS:
                log.error("job refused, as two workers died of it", extra={"job": job_id})
                self._end(job_id, errors.worker_lost())
        self.redrawn += sum(self._pending[job_id].has_begun for job_id in bereft if job_id in self._pending)
        self._place_waiting()

    def _suspects(self, lane: Lane, bereft: Sequence[str]) -> list[str]:
        """Of the jobs that lost this lane's worker: those in its last work item, and those that a model was loaded for
        just then."""
        loading = [
            job_id
            for job_id in bereft
            if self._pending[job_id].has_begun and self._pending[job_id].submit.model in lane.loading
        ]
        return [job_id for job_id in bereft if job_id in lane.in_work or job_id in loading]

    def on_event(self, event: Event) -> None:
        match event:
            case Started(job_id=job_id):
                if job_id in self._pending:
                    self._pending[job_id].has_begun = True
            case Queued(job_id=job_id) | Progress(job_id=job_id) | Preview(job_id=job_id):
                if job_id in self._pending:
                    self._pending[job_id].listen(event)
            case Image(job_id=job_id) | Refused(job_id=job_id):
                self._learn(event)
                self._settle(job_id, event)
            case Failed(job_id=job_id):
                whose = {"job": job_id, "request_id": self._request_of(job_id)}
                log.warning("job failed", extra={**whose, "code": event.code, "detail": event.detail})
                self._settle_failed(event)
            case Cancelled(job_id=job_id):
                log.debug("job cancelled", extra={"job": job_id})
            case _:
                pass  # a sign of life

    def _request_of(self, job_id: str) -> str | None:
        pending = self._pending.get(job_id)
        return None if pending is None else pending.request_id

    def _learn(self, image: Image | Refused) -> None:
        pending = self._pending.get(image.job_id)
        if pending is not None:
            self._pace.observe(pending.submit.model, pending.work, image.device_seconds)

    def _settle_failed(self, event: Failed) -> None:
        pending = self._pending.get(event.job_id)
        if pending is None:
            return
        if event.code == "model_unavailable":
            error = errors.model_unavailable(id_of(pending.submit.model))
        elif event.code == "adapter_unavailable":
            error = errors.adapter_unavailable(event.message)
        elif event.code == "control_unavailable":
            error = errors.control_unavailable(event.message)
        elif event.code == "check_unavailable":
            error = errors.policy_unavailable()
        elif event.code == "insufficient_memory":
            error = errors.insufficient_memory(event.message)
        else:
            error = errors.generation_failed(event.message)
        self._settle(event.job_id, error)

    def _settle(self, job_id: str, outcome: Image | Refused | errors.SafelightError) -> None:
        pending = self._end(job_id, outcome)
        if pending is not None and pending.deaths:  # another suspect's turn
            self._place_waiting()

    def _end(self, job_id: str, outcome: Image | Refused | errors.SafelightError) -> _Pending | None:
        pending = self._pending.pop(job_id, None)
        if pending is None or pending.future.done():
            return pending
        if isinstance(outcome, errors.SafelightError):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)
        return pending

    def _refuse_all(self, error: errors.SafelightError) -> None:
        for job_id in list(self._pending):
            self._refuse(job_id, error)

    def _refuse(self, job_id: str, error: errors.SafelightError) -> None:
        """End a job that a worker may still hold."""
        lane = self._pending[job_id].lane
        self._settle(job_id, error)
        if lane is not None:
            lane.send(Cancel(job_id))
