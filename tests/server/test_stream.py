"""Guards the streamed answer: its events in order, a sign of life when nothing happens, and how failures are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.messages import Event, Image, Preview, Progress, Submit
from server.api import stream
from server.api.replies import Arrival
from server.api.stream import EventStream, events_of
from server.core import errors
from server.core.providers import LOCAL, Target
from server.core.request import ImageRequest, LocalRequest, Size
from server.ledger.ledger import Ledger
from server.routing.journey import Candidate, Journey
from tests.server.parts import local_backend, local_router

REQUEST = LocalRequest(
    operation="generation",
    model="tiny",
    family="sdxl",
    prompt="vivid x",
    sent_prompt="x",
    negative_prompt=None,
    count=1,
    size=Size(64, 64),
    steps=4,
    guidance_scale=1.0,
    sampler="euler",
    seed=7,
    response_format="b64_json",
    partial_images=2,
)
Script = Callable[[Submit, Callable[[Event], None]], Any]


class ScriptedDispatcher:
    """Plays a script for every job."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.cancelled: list[str] = []

    def own_seconds(self, _: Sequence[Submit]) -> float | None:
        return None

    def check_room(self, _: int) -> None:
        pass

    def place_of(self, _: str) -> int:
        return 3

    async def draw(self, submit: Submit, listen: Callable[[Event], None]) -> Image:
        try:
            await self._script(submit, listen)
        except asyncio.CancelledError:
            self.cancelled.append(submit.job_id)
            raise
        return Image(submit.job_id, b"whole", 0.5)


async def at_once(submit: Submit, listen: Callable[[Event], None]) -> None:
    for step in (1, 2, 3):
        listen(Progress(submit.job_id, step, 4))
        listen(Preview(submit.job_id, step, 4, b"part %d" % step))


@dataclass(frozen=True, slots=True)
class Stage:
    """A journey through a router whose dispatcher plays a script."""

    dispatcher: ScriptedDispatcher
    journey: Journey
    ledger: Ledger

    @asynccontextmanager
    async def events(self, began: int = 0) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        local = local_backend(self.dispatcher)
        router = local_router(local, self.ledger)
        await self.ledger.open()
        try:
            yield events_of(self.journey, router, local.place, Arrival(began, 0.0))
            await router.finish()
        finally:
            await self.ledger.close()


Drawing = Callable[..., Stage]


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    async def ready() -> ImageRequest:
        return REQUEST

    def build(script: Script, *, wants_progress: bool = False) -> Stage:
        candidate = Candidate(Target(LOCAL, "tiny"), REQUEST, ready)
        ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
        return Stage(ScriptedDispatcher(script), Journey((candidate,), "tiny", wants_progress=wants_progress), ledger)

    return build


def parsed(content: bytes) -> list[dict[str, Any]]:
    events = []
    for block in content.decode().split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("event: "):
            data = json.loads(lines[1].removeprefix("data: "))
            assert data["type"] == lines[0].removeprefix("event: ")
            events.append(data)
    return events


def told(one: Stage) -> list[dict[str, Any]]:
    async def read() -> bytes:
        async with one.events(1_700_000_000) as events:
            return b"".join([event async for event in events])

    return parsed(asyncio.run(read()))


def test_events_come_in_order_with_all_that_clients_read(drawing: Drawing) -> None:
    events = told(drawing(at_once))
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_image"] * 3 + ["completed"]
    assert [event["partial_image_index"] for event in events[:-1]] == [0, 1, 2]
    for event in events:
        assert (event["size"], event["output_format"], event["background"]) == ("64x64", "png", "opaque")
        assert (event["created_at"], event["quality"], event["revised_prompt"]) == (1_700_000_000, "auto", "vivid x")
    assert events[-1]["usage"]["output_tokens"] == 4
    assert events[-1]["seed"] == 7


def test_progress_is_told_only_to_those_who_ask(drawing: Drawing) -> None:
    assert not [event for event in told(drawing(at_once)) if event["type"] == "safelight.progress"]
    steps = [e["step"] for e in told(drawing(at_once, wants_progress=True)) if e["type"] == "safelight.progress"]
    assert steps == [1, 2, 3]


def test_steps_that_come_again_after_a_lost_worker_are_shown_once(drawing: Drawing) -> None:
    async def twice(submit: Submit, listen: Callable[[Event], None]) -> None:
        await at_once(submit, listen)
        await at_once(submit, listen)

    indices = [event.get("partial_image_index") for event in told(drawing(twice))]
    assert indices == [0, 1, 2, None]


@pytest.mark.parametrize(
    ("failure", "code"),
    [(errors.generation_failed("It failed."), "generation_failed"), (RuntimeError("secret"), "internal_error")],
)
def test_a_failure_in_mid_stream_is_one_error_event_and_the_end(
    failure: Exception, code: str, drawing: Drawing
) -> None:
    async def failing(submit: Submit, listen: Callable[[Event], None]) -> None:
        listen(Preview(submit.job_id, 1, 4, b"part"))
        raise failure

    events = told(drawing(failing))
    assert [event["type"] for event in events] == ["image_generation.partial_image", "error"]
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert events[-1]["error"]["code"] == code
    assert "secret" not in json.dumps(events)


def test_when_nothing_happens_a_sign_of_life_is_sent(monkeypatch: pytest.MonkeyPatch, drawing: Drawing) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.01)
    monkeypatch.setattr(stream, "PROGRESS_SECONDS", 0.01)

    async def slow(_: Submit, __: Callable[[Event], None]) -> None:
        await asyncio.sleep(0.1)

    async def first(one: Stage) -> bytes:
        async with one.events() as events:
            beginning = await anext(events)
            await events.aclose()
            return beginning

    assert asyncio.run(first(drawing(slow))) == b": keep-alive\n\n"
    (place,) = parsed(asyncio.run(first(drawing(slow, wants_progress=True))))
    assert (place["type"], place["queue_place"]) == ("safelight.progress", 3)


def test_a_client_that_leaves_cancels_its_pictures(drawing: Drawing) -> None:
    async def endless(submit: Submit, listen: Callable[[Event], None]) -> None:
        listen(Preview(submit.job_id, 1, 4, b"part"))
        await asyncio.Event().wait()

    async def leave() -> list[str]:
        one = drawing(endless)
        sent = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body" and b"partial_image" in message["body"]:
                sent.set()

        async with one.events() as events:
            await EventStream(events, {})({"type": "http"}, receive, send)
        return one.dispatcher.cancelled

    assert len(asyncio.run(leave())) == 1
