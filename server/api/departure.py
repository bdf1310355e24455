"""Notices a client that goes away, and ends what was done for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

T = TypeVar("T")
# Nobody reads this status: the client has gone. nginx's name for it is "client closed request".
CLIENT_CLOSED_REQUEST = 499


def to_nobody() -> Response:
    """What ends the request of a client that has gone."""
    return JSONResponse(None, status_code=CLIENT_CLOSED_REQUEST)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result, or None when the client went away first; then the work is cancelled."""
    return await unless_disconnected(request.receive, work)


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The same, for who has no request at hand."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
