"""The streamed answer: server-sent events with partial images, then every picture, or the error.

Knows events and the wire; decides nothing.
Invariant: what was begun ends with a `completed` event for every picture, or with one `error` event.
Source: WHATWG HTML, server-sent events; OpenAI's image stream events.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipelines.messages import Event, Preview, Progress
from server.api.departure import unless_disconnected
from server.api.long_texts import as_json, in_base64
from server.api.replies import Arrival, revision, shared_fields
from server.core import errors
from server.core.current import note_error
from server.core.request import ImageRequest, Operation, Picture
from server.core.usage import usage_of
from server.routing.journey import Journey
from server.routing.router import Router

log = logging.getLogger("safelight.http")
KEEP_ALIVE_SECONDS, PROGRESS_SECONDS = 10.0, 1.0
KEEP_ALIVE = b": keep-alive\n\n"
# Ours alone, and only for those who ask: OpenAI's clients know no other types than their own.
PROGRESS = "safelight.progress"
EVENT_PREFIXES: dict[Operation, str] = {"generation": "image_generation", "edit": "image_edit"}
Told = dict[str, Any]


def unmoved() -> None:
    """Nobody waits for the end of the work."""


@dataclass(slots=True)
class _Teller:
    """Turns what happens to one request's pictures into events, and queues them."""

    journey: Journey
    place_of: Callable[[str, int], int]
    arrival: Arrival
    queue: asyncio.Queue[Told | None] = field(default_factory=asyncio.Queue)
    shown: dict[int, int] = field(default_factory=dict)
    partials: dict[int, itertools.count[int]] = field(default_factory=dict)

    def listener(self, index: int) -> Callable[[Event], None]:
        return lambda event: self.hear(index, event)

    def hear(self, index: int, event: Event) -> None:
        """A sign of picture `index`. After a lost worker steps come again: none is shown twice."""
        request = self.journey.local_request or self.journey.request
        match event:
            case Preview(step=step, file=file) if step > self.shown.get(index, 0):
                self.shown[index] = step
                number = next(self.partials.setdefault(index, itertools.count()))
                self.tell("partial_image", file, index, request, partial_image_index=number)
            case Progress(step=step, steps=steps) if self.journey.wants_progress:
                told = {"type": PROGRESS, "index": index, "step": step, "steps": steps}
                self.queue.put_nowait(told)
            case _:
                pass

    def places(self) -> list[Told]:
        """Where in the queue the pictures are that have not begun, for those who want to know."""
        request = self.journey.local_request
        if request is None or not self.journey.wants_progress:
            return []
        waiting = ((index, self.place_of(self.journey.request_id, index)) for index in range(request.count))
        return [
            {"type": PROGRESS, "index": index, "step": 0, "steps": request.steps, "queue_place": place}
            for index, place in waiting
            if place
        ]

    def completed(self, index: int, picture: Picture, request: ImageRequest) -> None:
        more = {} if picture.seed is None else {"seed": picture.seed}
        usage = usage_of(request, 1, self.arrival.latency_ms, picture.cost_usd)
        self.tell("completed", picture.file, index, request, usage=usage, **more, **revision(picture, request))

    def tell(self, kind: str, file: bytes, index: int, request: ImageRequest, **more: Any) -> None:
        told = {
            "type": f"{EVENT_PREFIXES[request.operation]}.{kind}",
            "b64_json": file,
            "created_at": self.arrival.unix_seconds,
            "quality": "auto",
            **shared_fields(request),
            "index": index,
            **revision(None, request),
        }
        self.queue.put_nowait({**told, **more})


async def events_of(
    journey: Journey,
    router: Router,
    place_of: Callable[[str, int], int],
    arrival: Arrival,
    on_end: Callable[[], None] = unmoved,
) -> AsyncGenerator[bytes, None]:
    """The events of a request, as they happen, with a sign of life whenever nothing does for long. place_of: how many
    pictures are in front of picture i of a request. on_end: called as soon as nothing is drawn any more, however slowly
    the events are read."""
    teller = _Teller(journey, place_of, arrival)
    working = asyncio.create_task(_work(journey, router, teller, on_end))
    pause_seconds = PROGRESS_SECONDS if journey.wants_progress else KEEP_ALIVE_SECONDS
    try:
        while True:
            try:
                async with asyncio.timeout(pause_seconds):
                    told = await teller.queue.get()
            except TimeoutError:
                yield b"".join([await encoded(place) for place in teller.places()]) or KEEP_ALIVE
                continue
            if told is None:
                return
            yield await encoded(told)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def failure(error: errors.SafelightError) -> dict[str, Any]:
    """The event that ends a stream in the place of its pictures, noted for the log and the metrics."""
    note_error(error.code)
    return {"type": "error", **error.body()}


async def _work(journey: Journey, router: Router, teller: _Teller, on_end: Callable[[], None]) -> None:
    """Draw all, and tell the end, whatever it is."""
    try:
        await router.draw(journey, teller.listener, teller.completed)
    except errors.SafelightError as error:
        teller.queue.put_nowait(failure(error))
    except Exception:
        log.exception("stream crashed")
        teller.queue.put_nowait(failure(errors.internal_error()))
    finally:
        on_end()
        teller.queue.put_nowait(None)


class EventStream(Response):
    """Sends events until they end or the client goes away; then their iterator is closed."""

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        self._events = events
        super().__init__(
            headers={**headers, "cache-control": "no-store", "x-accel-buffering": "no"}, media_type="text/event-stream"
        )
        del self.headers["content-length"]

    @property
    def events(self) -> AsyncGenerator[bytes, None]:
        return self._events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await unless_disconnected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def lasts(event: bytes) -> bool:
    """Whether it is a picture as it stays: what a stream comes to, in which all else is on the way."""
    return event.partition(b"\n")[0].endswith(b".completed")


def is_failure(event: bytes) -> bool:
    return event.startswith(b"event: error\n")


async def encoded(told: Told) -> bytes:
    """One event; a picture's file becomes base64. JSON holds no line breaks of its own."""
    file = told.get("b64_json")
    told = told if file is None else {**told, "b64_json": await in_base64(file)}
    return b"".join((f"event: {told['type']}\ndata: ".encode(), await as_json(told, ensure_ascii=True), b"\n\n"))
