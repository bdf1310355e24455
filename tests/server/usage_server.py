"""The routes of usage over a real ledger, on a real socket; who asks is said by a header, as no key is tested here."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.envelope import Edge, install_handlers
from server.api.gate import CALLER
from server.api.routes import PREFIXED
from server.core.caller import ANYBODY, Caller
from server.ledger.ledger import Ledger
from tests.server.ledger.samples import entry, settlement

DAY = 86_400
# A midnight of UTC.
FIRST_DAY = round(datetime(2026, 9, 21, tzinfo=UTC).timestamp())
CALLERS = {
    "k1": Caller("k1", "one", frozenset({"usage"})),
    "k2": Caller("k2", "two", frozenset({"usage", "generate"})),
    "admin": Caller("k9", "nine", frozenset({"admin"})),
}


class _AsSaid:
    """In the place of a gate: the bearer's word is who it is."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        name = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        scope[CALLER] = CALLERS.get(name, ANYBODY)
        await self._inner(scope, receive, send)


def usage_app(ledger: Ledger) -> ASGIApp:
    app = FastAPI(openapi_url=None)
    app.state.services = SimpleNamespace(ledger=ledger)
    install_handlers(app)
    for route in PREFIXED:
        if route.need == "usage":
            app.add_api_route(f"/v1{route.path}", route.endpoint, response_model=None)
    return Edge(_AsSaid(app))


Fill = Callable[[Ledger], Coroutine[Any, Any, None]]


@contextmanager
def serving(folder: Path, fill: Fill) -> Iterator[str]:
    """The URL. The ledger lies in the folder, with what `fill` wrote, and lives in the server's own event loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
    server = uvicorn.Server(uvicorn.Config(usage_app(ledger), log_config=None, lifespan="off", access_log=False))

    async def serve() -> None:
        await ledger.open()
        try:
            await fill(ledger)
            await server.serve(sockets=[listener])
        finally:
            await ledger.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


async def three_days(ledger: Ledger) -> None:
    """Ten pictures of two keys and of none: on the first day and the third, nothing on the second."""
    for request_id, seconds, count, values, end in PAST:
        began = (FIRST_DAY + seconds) * 1000
        images = [entry(request_id, index, began_unix_ms=began, **values) for index in range(count)]
        await ledger.reserve(images)
        if end is not None:
            await ledger.settle([settlement(request_id, index, **end) for index in range(count)])


_HALF = {"size": "512x512", "work_units": 512.0}
_LOCAL = {"served_model": "demo-sdxl", "backend": "local"}
_PAID = {"served_model": "gpt-image-2", "backend": "openai", "seed": None, "steps": None, "device_ms": None}
_NOBODY = {"served_model": None, "backend": None, "seed": None, "steps": None}
PAST: tuple[tuple[str, int, int, dict[str, Any], dict[str, Any] | None], ...] = (
    ("req_a", 0, 2, {"key_id": "k1", "requested_model": "dall-e-3", **_HALF}, {**_LOCAL, "seed": 2**64 - 1}),
    (
        "req_b",
        3600,
        3,
        {"key_id": "k2", "requested_model": "dall-e-3", "work_units": 0},
        {**_PAID, "cost_microusd": 100_001},
    ),
    ("req_c", DAY - 1, 1, {"key_id": "k1", "operation": "edit", "requested_model": "demo-sdxl"}, _LOCAL),
    (
        *("req_d", 2 * DAY, 1, {"key_id": "k2", "requested_model": "dall-e-3"}),
        {**_NOBODY, "outcome": "failed", "error_code": "backend_failed", "cost_microusd": 1},
    ),
    ("req_e", 2 * DAY + 60, 1, {"key_id": None, "requested_model": "=1+1"}, {**_NOBODY, "outcome": "cancelled"}),
    ("req_f", 2 * DAY + 61, 1, {"key_id": "k1", "requested_model": 'a "b", c'}, None),
    ("req_g", 3 * DAY - 1, 1, {"key_id": "k1", "requested_model": "x"}, {**_NOBODY, "outcome": "interrupted"}),
)
