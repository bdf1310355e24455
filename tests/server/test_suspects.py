"""Guards who is blamed for a worker's death: whoever it died of, twice, and nobody who was near."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import ClassVar

import pytest

from pipelines.messages import (
    Cancel,
    Command,
    DrawParams,
    EngineOptions,
    Event,
    Image,
    ModelReport,
    ModelSpec,
    Queued,
    Ready,
    Residency,
    Started,
    Submit,
    Working,
)
from server.core import errors
from server.dispatch import lane as lanes
from server.dispatch.dispatcher import Dispatcher
from server.dispatch.worker_process import WorkerSettings

MODELS = (ModelSpec("tiny", "sd21", "/models/tiny"), ModelSpec("other", "sd21", "/models/other"))
SETTINGS = WorkerSettings(MODELS, "cpu", 2, 10.0, EngineOptions())
LOST = "worker_lost, retry false"
PARAMS = DrawParams("x", None, 64, 64, 4, 1.0, "euler", 7)


class MortalWorker:
    """Obeys the protocol: begins with all that it has, shares its work items between those of a model that do not run
    alone, three for each picture; and ends where a work item holds a job that is deadly, or where a deadly model is
    loaded. alone: the jobs that were to run so."""

    pid = 1
    deadly: Collection[str] = ()
    deadly_models: Collection[str] = ()
    lives = 0
    is_second: asyncio.Event
    alone: ClassVar[set[str]]

    def __init__(self, _: WorkerSettings) -> None:
        self._jobs: list[Submit] = []
        self._has_jobs = asyncio.Event()
        type(self).lives += 1
        if self.lives > 1:
            self.is_second.set()

    async def start(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def send(self, command: Command) -> None:
        if isinstance(command, Submit):
            self._jobs.append(command)
            if command.runs_alone:
                self.alone.add(command.job_id)
            self._has_jobs.set()
        elif isinstance(command, Cancel):
            self._jobs = [job for job in self._jobs if job.job_id != command.job_id]

    async def events(self) -> AsyncIterator[Event]:
        reports = tuple(ModelReport(spec.id, None) for spec in MODELS)
        yield Ready("cpu", reports)
        while True:
            await self._has_jobs.wait()
            self._has_jobs.clear()
            await asyncio.sleep(0)  # the others of the same moment
            for job in self._jobs:
                yield Queued(job.job_id, 0)
                yield Started(job.job_id)
            if loading := [job.model for job in self._jobs if job.model in self.deadly_models]:
                yield Residency(
                    tuple(ModelReport(one.id, None, "loading" if one.id in loading else "device") for one in reports)
                )
                yield Working(tuple(job.job_id for job in self._jobs if job.model not in loading))
                return
            for batch in self._batches():
                for _ in range(3):
                    yield Working(tuple(job.job_id for job in batch))
                    if any(job.job_id in self.deadly for job in batch):
                        return
                for job in batch:
                    yield Image(job.job_id, job.job_id.encode(), 0.5)
                    self._jobs.remove(job)

    def _batches(self) -> list[list[Submit]]:
        shared = [[job for job in self._jobs if job.model == spec.id and not job.runs_alone] for spec in MODELS]
        return [batch for batch in (*shared, *([job] for job in self._jobs if job.runs_alone)) if batch]

    async def stop(self) -> None:
        pass


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[MortalWorker]:
    class Own(MortalWorker):
        lives = 0
        is_second = asyncio.Event()
        alone: ClassVar[set[str]] = set()

    monkeypatch.setattr(lanes, "WorkerProcess", Own)
    monkeypatch.setattr(lanes, "FIRST_PAUSE_SECONDS", 0.01)
    return Own


def drawn(jobs: Sequence[Submit]) -> dict[str, str]:
    """What becomes of jobs that come at once: "drawn", or the refusal's code."""

    async def draw_all() -> dict[str, str]:
        dispatcher = Dispatcher([SETTINGS], max_waiting=50, drain_seconds=1)
        dispatcher.start()
        try:
            async with asyncio.timeout(20):
                return dict(await asyncio.gather(*(end_of(dispatcher, job) for job in jobs)))
        finally:
            await dispatcher.stop()

    return asyncio.run(draw_all())


async def end_of(dispatcher: Dispatcher, job: Submit) -> tuple[str, str]:
    try:
        image = await dispatcher.draw(job)
    except errors.SafelightError as refusal:
        return job.job_id, f"{refusal.code}, retry {refusal.headers()['x-should-retry']}"
    assert isinstance(image, Image)
    return job.job_id, "drawn" if image.file == job.job_id.encode() else "drawn for another"


def jobs(*names: str, model: str = "tiny") -> list[Submit]:
    return [Submit(name, model, PARAMS) for name in names]


def test_of_a_batch_that_kills_its_worker_the_guilty_one_is_refused_and_its_mates_are_drawn(
    worker: type[MortalWorker],
) -> None:
    worker.deadly = {"poison"}
    ends = drawn(jobs("a", "b", "poison", "c"))
    assert ends == {"a": "drawn", "b": "drawn", "poison": LOST, "c": "drawn"}
    assert worker.lives == 3, "it kills twice, and no more"


def test_who_was_in_another_work_item_is_not_even_suspected(worker: type[MortalWorker]) -> None:
    worker.deadly = {"poison"}
    ends = drawn([*jobs("a", "poison"), *jobs("far", model="other")])
    assert ends == {"a": "drawn", "poison": LOST, "far": "drawn"}
    assert worker.alone == {"a", "poison"}


def test_of_several_guilty_ones_in_a_batch_each_is_found(worker: type[MortalWorker]) -> None:
    worker.deadly = {"first", "second"}
    ends = drawn(jobs("first", "a", "second", "b"))
    assert ends == {"first": LOST, "a": "drawn", "second": LOST, "b": "drawn"}
    assert worker.lives == 4


def test_a_model_whose_loading_kills_costs_those_who_ask_for_it_and_not_those_who_work_meanwhile(
    worker: type[MortalWorker],
) -> None:
    worker.deadly_models = {"other"}
    ends = drawn([*jobs("a", "b"), *jobs("heavy", model="other"), *jobs("c")])
    assert ends == {"a": "drawn", "b": "drawn", "heavy": LOST, "c": "drawn"}


def test_a_suspect_shares_no_work_item_with_a_deadly_one_that_comes_later(worker: type[MortalWorker]) -> None:
    worker.deadly = {"poison", "late"}

    async def come_later() -> list[tuple[str, str]]:
        dispatcher = Dispatcher([SETTINGS], max_waiting=50, drain_seconds=1)
        ends = [asyncio.create_task(end_of(dispatcher, job)) for job in jobs("a", "poison")]
        dispatcher.start()
        try:
            async with asyncio.timeout(20):
                await worker.is_second.wait()
                ends.append(asyncio.create_task(end_of(dispatcher, *jobs("late"))))
                return await asyncio.gather(*ends)
        finally:
            await dispatcher.stop()

    assert asyncio.run(come_later()) == [("a", "drawn"), ("poison", LOST), ("late", LOST)]


def test_a_suspect_whose_caller_leaves_makes_way_for_the_next(worker: type[MortalWorker]) -> None:
    worker.deadly = {"poison"}

    async def leave() -> str:
        dispatcher = Dispatcher([SETTINGS], max_waiting=50, drain_seconds=1)
        poison, mate = (Submit(name, "tiny", PARAMS) for name in ("poison", "mate"))
        leaving = asyncio.create_task(dispatcher.draw(poison))
        staying = asyncio.create_task(dispatcher.draw(mate))
        dispatcher.start()
        try:
            async with asyncio.timeout(20):
                await worker.is_second.wait()
                leaving.cancel()
                return (await staying).job_id
        finally:
            await dispatcher.stop()

    assert asyncio.run(leave()) == "mate"
