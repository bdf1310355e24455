"""Guards the server's half of the conversation with a worker: how it starts, and events that come too early."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from pipelines.framing import FRAME_HEADER, frame_length
from pipelines.messages import (
    Command,
    DrawParams,
    EngineOptions,
    Event,
    Heartbeat,
    Image,
    ModelReport,
    ModelSpec,
    Preview,
    Progress,
    Queued,
    Ready,
    Start,
    Started,
    Submit,
    to_command,
)
from pipelines.work import work_of
from server.dispatch import lane as lanes
from server.dispatch.dispatcher import Dispatcher
from server.dispatch.worker_process import WorkerProcess, WorkerSettings

OPTIONS = EngineOptions(policy="fifo", max_rows=3, exact_rows=4, memory_bytes=5, prompt_cache_bytes=6)
SETTINGS = WorkerSettings((ModelSpec("tiny", "sd21", "/models/tiny"),), "cpu", 2, 10.0, OPTIONS)
PARAMS = DrawParams("x", None, 64, 64, 4, 1.0, "euler", 7)


class FakeWorker:
    """Obeys the protocol: ready, then for each job every event that a worker may send, and its picture."""

    pid = 1

    def __init__(self, _: WorkerSettings) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def start(self) -> None:
        self._events.put_nowait(Ready("cpu", (ModelReport("tiny", None),)))

    def send(self, command: Command) -> None:
        if isinstance(command, Submit):
            job = command.job_id
            for event in (
                Queued(job, 0),
                Started(job),
                Progress(job, 1, 4),
                Preview(job, 1, 4, b"half"),
                Preview("nobody's", 1, 4, b"half"),
                Heartbeat(),
                Image(job, b"whole", 0.5),
                Preview(job, 4, 4, b"too late"),
            ):
                self._events.put_nowait(event)

    async def events(self) -> AsyncIterator[Event]:
        while True:
            yield await self._events.get()

    async def stop(self) -> None:
        pass


def test_previews_that_nobody_reads_disturb_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WorkerProcess", FakeWorker)

    async def draw_two() -> list[Image]:
        dispatcher = Dispatcher([SETTINGS], max_waiting=5, drain_seconds=1)
        dispatcher.start()
        try:
            async with asyncio.timeout(10):
                jobs = [Submit(name, "tiny", PARAMS, preview_steps=(1,)) for name in ("a", "b")]
                drawn = [await dispatcher.draw(job) for job in jobs]
                return [image for image in drawn if isinstance(image, Image)]
        finally:
            assert dispatcher.lanes[0].restarts == 0
            await dispatcher.stop()

    assert [image.file for image in asyncio.run(draw_two())] == [b"whole", b"whole"]


def test_who_listens_hears_of_the_jobs_way_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WorkerProcess", FakeWorker)
    heard: list[Event] = []

    async def draw() -> tuple[float | None, float | None]:
        dispatcher = Dispatcher([SETTINGS], max_waiting=5, drain_seconds=1)
        dispatcher.start()
        try:
            async with asyncio.timeout(10):
                job = Submit("a", "tiny", PARAMS)
                before = dispatcher.own_seconds([job])
                await dispatcher.draw(job, heard.append)
                return before, dispatcher.own_seconds([job, job])
        finally:
            await dispatcher.stop()

    before, after = asyncio.run(draw())
    assert before is None
    assert heard == [Queued("a", 0), Progress("a", 1, 4), Preview("a", 1, 4, b"half")]
    assert after == pytest.approx(1.0), "two pictures of half a second"


def test_a_waiting_job_knows_its_place_and_how_much_is_before_it() -> None:
    async def wait() -> tuple[list[int], float]:
        dispatcher = Dispatcher([SETTINGS], max_waiting=5, drain_seconds=1)
        dispatcher._pace.observe("tiny", work_of("sd21", PARAMS), 3.0)
        jobs = [Submit(name, "tiny", PARAMS) for name in ("a", "b", "c")]
        tasks = [asyncio.create_task(dispatcher.draw(job)) for job in jobs]
        await asyncio.sleep(0)
        dispatcher.on_event(Started("a"))
        places = [dispatcher.place_of(name) for name in ("a", "b", "c", "nobody's")]
        ahead = dispatcher.seconds_ahead([Submit("d", "tiny", PARAMS)])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return places, ahead

    places, ahead = asyncio.run(wait())
    assert places == [0, 0, 1, 0]
    assert ahead == pytest.approx(9.0)


class FakeProcess:
    """Ends as soon as it is asked."""

    pid, returncode = 1, 0

    async def wait(self) -> int:
        return 0


def test_a_worker_is_started_with_the_options_of_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the process stands a copy of its end of the socket."""
    ends: list[socket.socket] = []

    async def spawn(*_: object, pass_fds: tuple[int, ...], **__: object) -> FakeProcess:
        ends.append(socket.socket(fileno=os.dup(pass_fds[0])))
        return FakeProcess()

    async def first_command() -> Command:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)
        worker = WorkerProcess(SETTINGS)
        await worker.start()
        reader, writer = await asyncio.open_connection(sock=ends[0])
        async with asyncio.timeout(10):
            length = frame_length(await reader.readexactly(FRAME_HEADER.size))
            command = to_command(await reader.readexactly(length))
        writer.close()
        await worker.stop()
        return command

    command = asyncio.run(first_command())
    assert isinstance(command, Start)
    assert (command.models, command.device, command.threads) == (SETTINGS.models, "cpu", 2)
    assert command.options == OPTIONS
