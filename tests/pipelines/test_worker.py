"""The worker process by itself: real process, real socket, no server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.framing import FRAME_HEADER, frame_length
from pipelines.messages import (
    Cancel,
    Cancelled,
    Command,
    DrawParams,
    EngineOptions,
    Event,
    Failed,
    Figures,
    Heartbeat,
    Hung,
    Image,
    ModelSpec,
    Progress,
    Ready,
    Shutdown,
    Start,
    Submit,
    to_event,
    to_frame,
)

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl"


class Worker:
    """A worker process and our end of its socket."""

    def __init__(self, **environment: str) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(120)
        with theirs:
            command = [sys.executable, "-m", "pipelines.worker", str(theirs.fileno())]
            self.process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), stderr=subprocess.DEVNULL, env={**os.environ, **environment}
            )

    def send(self, command: Command) -> None:
        self._ours.sendall(to_frame(command))

    def send_raw(self, content: bytes) -> None:
        self._ours.sendall(content)

    def receive(self, *, heartbeats: bool = False) -> Event:
        while True:
            event = to_event(self._exactly(frame_length(self._exactly(FRAME_HEADER.size))))
            if heartbeats or not isinstance(event, (Heartbeat, Figures)):
                return event

    def receive_until(self, kind: type[Event]) -> list[Event]:
        events = [self.receive()]
        while not isinstance(events[-1], kind):
            events.append(self.receive())
        return events

    def _exactly(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            part = self._ours.recv(count - len(received))
            assert part, "the worker ended"
            received += part
        return received

    def close(self) -> None:
        self._ours.close()


def started_worker() -> Iterator[Worker]:
    started = Worker()
    specs = (ModelSpec("demo", "sdxl", str(DEMO_FOLDER)), ModelSpec("absent", "sdxl", "/nowhere"))
    started.send(Start(specs, "cpu", 1, heartbeat_seconds=0.1))
    yield started
    started.close()
    started.process.kill()
    started.process.wait()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """For all tests that leave it at rest. Its first word is that it is ready."""
    yield from started_worker()


@pytest.fixture
def own_worker() -> Iterator[Worker]:
    yield from started_worker()


def job(job_id: str, *, model: str = "demo", steps: int = 2, size_px: int = 256) -> Submit:
    params = DrawParams("a red circle", None, size_px, size_px, steps, 1.0, "checkpoint", 5)
    return Submit(job_id, model, params, wants_progress=True)


def test_it_reports_its_models_then_draws(worker: Worker) -> None:
    ready = worker.receive()
    assert isinstance(ready, Ready)
    assert ready.device == "cpu"
    assert [(report.id, report.problem is None) for report in ready.models] == [("demo", True), ("absent", False)]
    worker.send(job("a"))
    events = worker.receive_until(Image)
    assert [(event.step, event.steps) for event in events if isinstance(event, Progress)] == [(1, 2), (2, 2)]


def test_a_step_that_does_not_come_back_is_told_while_the_process_lives() -> None:
    worker = Worker(SAFELIGHT_FAULTS='[{"kind": "hang", "seed": 5, "step": 2}]')
    options = EngineOptions(step_timeout_seconds=1.0)
    spec = ModelSpec("demo", "sdxl", str(DEMO_FOLDER))
    worker.send(Start((spec,), "cpu", 1, heartbeat_seconds=0.1, options=options))
    worker.send(job("quick"))
    worker.receive_until(Image)  # so that it is known how long such a step takes
    worker.send(job("stuck", steps=4))
    hung = worker.receive_until(Hung)[-1]
    assert isinstance(hung, Hung)
    assert hung.job_ids == ("stuck",)
    assert hung.limit_seconds < hung.seconds < hung.limit_seconds + 5
    assert worker.receive(heartbeats=True)
    worker.process.kill()
    worker.process.wait()
    worker.close()


def test_it_goes_on_after_a_job_that_fails(worker: Worker) -> None:
    worker.send(job("a", model="absent"))
    worker.send(job("b"))
    events = worker.receive_until(Image)
    assert [event.code for event in events if isinstance(event, Failed)] == ["model_unavailable"]


def test_a_cancelled_job_makes_room_at_the_next_step(worker: Worker) -> None:
    worker.send(job("long", steps=100, size_px=512))
    worker.receive_until(Progress)
    worker.send(Cancel("long"))
    assert [event for event in worker.receive_until(Cancelled) if isinstance(event, Image)] == []
    worker.send(job("next"))
    image = worker.receive_until(Image)[-1]
    assert isinstance(image, Image)
    assert image.job_id == "next"


def test_it_sends_heartbeats_while_it_draws(worker: Worker) -> None:
    worker.send(job("a", steps=30, size_px=512))
    worker.receive_until(Progress)
    kinds = {type(worker.receive(heartbeats=True)) for _ in range(30)}
    assert Heartbeat in kinds
    worker.receive_until(Image)


@pytest.mark.parametrize(
    "farewell", ["closed socket", *(pytest.param(one, marks=pytest.mark.whole) for one in ("shutdown", "garbage"))]
)
def test_it_ends_at_once_even_in_the_middle_of_a_picture(own_worker: Worker, farewell: str) -> None:
    own_worker.send(job("a", steps=100, size_px=1024))
    own_worker.receive_until(Progress)
    if farewell == "shutdown":
        own_worker.send(Shutdown())
    elif farewell == "garbage":
        own_worker.send_raw(b"\xff" * 64)
    else:
        own_worker.close()
    began = time.monotonic()
    own_worker.process.wait(5)
    assert time.monotonic() - began < 5
