"""Whatever bytes come over a connection, what goes back is HTTP in our envelope or nothing; the next is served."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import logging

import pytest
import uvicorn
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from uvicorn.server import ServerState

from server.api.envelope import Edge
from server.protocol import EnvelopeProtocol
from tests.fuzz.budget import budget

PIECES = st.one_of(
    st.sampled_from(
        [
            *(
                b"GET / HTTP/1.1\r\n",
                b"POST / HTTP/1.1\r\n",
                b"HEAD / HTTP/1.0\r\n",
                b"Host: x\r\n",
                b"\r\n",
                b"\n",
                b"\r",
            ),
            *(
                b"Content-Length: 2\r\n",
                b"Content-Length: 0\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"{}",
                b"2\r\n{}\r\n",
            ),
            *(b"0\r\n\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n"),
            *(
                b"Upgrade: websocket\r\n",
                b"Cookie: a=b; c\r\n",
                b"A: \xff\r\n",
                b"A : b\r\n",
                b" folded\r\n",
                b"\0",
                b":",
            ),
            *(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"),
        ]
    ),
    st.binary(max_size=12),
)
GOOD = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class _Said(io.BytesIO):
    """What http.client reads a reply from."""

    def makefile(self, _: str) -> _Said:
        return self


async def _served(request: Request) -> JSONResponse:
    body = await request.body() if request.headers.get("x-read") else b""
    return JSONResponse({"read": len(body)})


APP = Edge(Starlette(routes=[Route("/{path:path}", _served, methods=["GET", "POST"])]))


def said(sent: list[bytes]) -> bytes:
    """All that comes back, while the pieces come one after the other and then no more."""

    async def play() -> bytes:
        config = uvicorn.Config(APP, log_config=None, lifespan="off")
        loop = asyncio.get_running_loop()
        state = ServerState()
        server = await loop.create_server(lambda: EnvelopeProtocol(config, state, {}), "127.0.0.1", 0)
        async with server:
            hostile = await exchanged(server.sockets[0].getsockname()[1], sent)
            assert b"200 OK" in await exchanged(server.sockets[0].getsockname()[1], [GOOD])
        return hostile

    return asyncio.run(play())


async def exchanged(port: int, sent: list[bytes]) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(OSError):  # it was answered and closed meanwhile
            for piece in sent:
                writer.write(piece)
                await asyncio.sleep(0)
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


@settings(budget(), suppress_health_check=(HealthCheck.function_scoped_fixture, HealthCheck.too_slow))
@given(st.lists(PIECES, max_size=12))
@example([b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"ZZ\r\n"])
@example([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
@example([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
@example([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\0\1\r\n\r\n"])
def test_any_bytes_are_answered_in_http_or_not_at_all(caplog: pytest.LogCaptureFixture, sent: list[bytes]) -> None:
    caplog.clear()
    answer = said(sent)
    if answer and b"HEAD" not in b"".join(sent):
        check_first_reply(answer)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def check_first_reply(text: bytes) -> None:
    """It is whole and has an id; a refusal is in the envelope."""
    reply = http.client.HTTPResponse(_Said(text))  # type: ignore[arg-type]
    reply.begin()
    assert (reply.getheader("x-request-id") or "").startswith("req_")
    content = reply.read()
    if reply.status == 400:
        assert json.loads(content)["error"]["code"] == "invalid_http"
