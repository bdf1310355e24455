"""Guards the streamed answer: its events in order, a sign of life when nothing happens, and how failures are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from pipelines.messages import Event, Image, Preview, Progress, Submit
from server.api import stream
from server.backends.drawing import Drawing
from server.api.stream import EventStream, events_of
from server.core import errors
from server.core.request import LocalRequest, Size
from server.dispatch.dispatcher import Dispatcher

REQUEST = LocalRequest(
    operation="generation",
    model="tiny",
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


def drawing(script: Script, *, wants_progress: bool = False) -> Drawing:
    dispatcher = cast(Dispatcher, ScriptedDispatcher(script))
    return Drawing(REQUEST, "sdxl", dispatcher, has_facts=True, wants_progress=wants_progress)


def parsed(content: bytes) -> list[dict[str, Any]]:
    events = []
    for block in content.decode().split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("event: "):
            data = json.loads(lines[1].removeprefix("data: "))
            assert data["type"] == lines[0].removeprefix("event: ")
            events.append(data)
    return events


def told(one: Drawing) -> list[dict[str, Any]]:
    async def read() -> bytes:
        return b"".join([event async for event in events_of(one, 1_700_000_000, 0.0)])

    return parsed(asyncio.run(read()))


def test_events_come_in_order_with_all_that_clients_read() -> None:
    events = told(drawing(at_once))
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_image"] * 3 + ["completed"]
    assert [event["partial_image_index"] for event in events[:-1]] == [0, 1, 2]
    for event in events:
        assert (event["size"], event["output_format"], event["background"]) == ("64x64", "png", "opaque")
        assert (event["created_at"], event["quality"], event["revised_prompt"]) == (1_700_000_000, "auto", "vivid x")
    assert events[-1]["usage"]["output_tokens"] == 4
    assert events[-1]["seed"] == 7


def test_progress_is_told_only_to_those_who_ask() -> None:
    assert not [event for event in told(drawing(at_once)) if event["type"] == "safelight.progress"]
    steps = [e["step"] for e in told(drawing(at_once, wants_progress=True)) if e["type"] == "safelight.progress"]
    assert steps == [1, 2, 3]


def test_steps_that_come_again_after_a_lost_worker_are_shown_once() -> None:
    async def twice(submit: Submit, listen: Callable[[Event], None]) -> None:
        await at_once(submit, listen)
        await at_once(submit, listen)

    indices = [event.get("partial_image_index") for event in told(drawing(twice))]
    assert indices == [0, 1, 2, None]


@pytest.mark.parametrize(
    ("failure", "code"),
    [(errors.generation_failed("It failed."), "generation_failed"), (RuntimeError("secret"), "internal_error")],
)
def test_a_failure_in_mid_stream_is_one_error_event_and_the_end(failure: Exception, code: str) -> None:
    async def failing(submit: Submit, listen: Callable[[Event], None]) -> None:
        listen(Preview(submit.job_id, 1, 4, b"part"))
        raise failure

    events = told(drawing(failing))
    assert [event["type"] for event in events] == ["image_generation.partial_image", "error"]
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert events[-1]["error"]["code"] == code
    assert "secret" not in json.dumps(events)


def test_when_nothing_happens_a_sign_of_life_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_SECONDS", 0.01)
    monkeypatch.setattr(stream, "PROGRESS_SECONDS", 0.01)

    async def slow(_: Submit, __: Callable[[Event], None]) -> None:
        await asyncio.sleep(0.1)

    async def first(one: Drawing) -> bytes:
        events = events_of(one, 0, 0.0)
        beginning = await anext(events)
        await events.aclose()
        return beginning

    assert asyncio.run(first(drawing(slow))) == b": keep-alive\n\n"
    (place,) = parsed(asyncio.run(first(drawing(slow, wants_progress=True))))
    assert (place["type"], place["queue_place"]) == ("safelight.progress", 3)


def test_a_client_that_leaves_cancels_its_pictures() -> None:
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

        await EventStream(events_of(one, 0, 0.0), {})({"type": "http"}, receive, send)
        return cast(ScriptedDispatcher, one.dispatcher).cancelled

    assert len(asyncio.run(leave())) == 1
