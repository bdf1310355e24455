"""How long those wait who joined work that another request began: each as long as it may itself.

Knows deadlines and streams; knows no work.
Invariant: who has waited long enough is told so, and the work goes on for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import Request

from server.api.services import services_of
from server.api.stream import encoded, failure
from server.api.turnstile import deadline_of
from server.core import errors

T = TypeVar("T")


async def begun_in_time(request: Request, beginning: Awaitable[T]) -> T:
    """How the work's answer begins, which for a plain one is all of it. Raises SafelightError when the time is over."""
    plain_seconds = services_of(request).settings.plain_answer_seconds
    return await _in_time(beginning, deadline_of(request, is_stream=False, plain_seconds=plain_seconds).at_seconds)


async def told_in_time(request: Request, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events of a stream; in the place of those that come too late an error."""
    at_seconds = deadline_of(request, is_stream=True, plain_seconds=0.0).at_seconds
    async with aclosing(events):
        while True:
            try:
                event = await _in_time(anext(events, None), at_seconds)
            except errors.SafelightError as error:
                yield await encoded(failure(error))
                return
            if event is None:
                return
            yield event


async def _in_time(waiting: Awaitable[T], at_seconds: float | None) -> T:
    try:
        async with asyncio.timeout_at(at_seconds) as limit:
            return await waiting
    except TimeoutError:
        if not limit.expired():
            raise
        raise errors.joined_too_long() from None
