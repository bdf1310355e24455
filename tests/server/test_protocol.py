"""Guards connections: nobody holds one by sending a head byte by byte, a body without end, or by not reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server.protocol import EnvelopeProtocol, _ReceiveBuffer

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
BIG = bytes(32 * 1024 * 1024)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Hasty(EnvelopeProtocol):
    head_seconds: ClassVar[float] = 0.3
    linger_seconds: ClassVar[float] = 0.3
    linger_bytes: ClassVar[int] = 256 * 1024
    stall_seconds: ClassVar[float] = 0.3


async def answers_at_once(_: Scope, __: Receive, send: Send) -> None:
    """Without a look at the body, as a refusal does."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


async def answers_with_much(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(BIG))]})
    await send({"type": "http.response.body", "body": BIG})


@asynccontextmanager
async def connected(app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> AsyncIterator[tuple[Streams, Hasty]]:
    """A connection to a server of this application, and the server's end of it."""
    config, made = uvicorn.Config(app, log_config=None, lifespan="off"), list[Hasty]()

    def protocol() -> Hasty:
        made.append(Hasty(config, ServerState(), {}))
        return made[0]

    listening = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with listening:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname()[:2])
        await asyncio.sleep(0.05)
        try:
            yield (reader, writer), made[0]
        finally:
            writer.transport.abort()


async def until_closed(end: Hasty, within_seconds: float = 3.0) -> None:
    async with asyncio.timeout(within_seconds):
        while end in end.connections:  # noqa: ASYNC110 (uvicorn's own list)
            await asyncio.sleep(0.01)


async def pour(writer: asyncio.StreamWriter) -> None:
    """Send until the connection breaks."""
    for _ in range(10_000):
        writer.write(bytes(64 * 1024))
        await asyncio.wait_for(writer.drain(), 3)


def played(play: Callable[[Streams, Hasty], Awaitable[bytes]], app: object = answers_at_once) -> bytes:
    async def run() -> bytes:
        async with connected(app) as (streams, end):  # type: ignore[arg-type]
            return await play(streams, end)

    return asyncio.run(run())


def test_a_head_that_comes_byte_by_byte_is_answered_with_408_and_the_connection_closed() -> None:
    async def play(streams: Streams, end: Hasty) -> bytes:
        reader, writer = streams
        dripping = asyncio.create_task(drip(writer))
        try:
            return await asyncio.wait_for(reader.readuntil(b"}}"), 3)
        finally:
            dripping.cancel()
            await until_closed(end)

    async def drip(writer: asyncio.StreamWriter) -> None:
        for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    reply = played(play)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "request_timeout"' in reply
    assert b"x-request-id: req_" in reply


def test_a_connection_on_which_nothing_is_sent_is_closed_without_a_word() -> None:
    async def play(streams: Streams, end: Hasty) -> bytes:
        await until_closed(end)
        return await streams[0].read()

    assert played(play) == b""


def test_a_second_request_may_come_as_slowly_as_the_first_and_no_slower() -> None:
    async def play(streams: Streams, end: Hasty) -> bytes:
        reader, writer = streams
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
            await asyncio.sleep(0.15)
            writer.write(b"\r\n")
            await reader.readuntil(b"\r\n\r\nno")
        writer.write(b"GET / HTTP/1.1\r\n")
        await until_closed(end)
        return await reader.read()

    assert played(play).startswith(b"HTTP/1.1 408 ")


def test_who_is_answered_early_may_finish_and_ask_again_on_the_same_connection() -> None:
    async def play(streams: Streams, _end: Hasty) -> bytes:
        reader, writer = streams
        for _ in range(3):
            writer.write(POST + b"Content-Length: 200000\r\n\r\n" + bytes(100_000))
            await reader.readuntil(b"\r\n\r\nno")
            writer.write(bytes(100_000))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return await reader.readuntil(b"\r\n\r\nno")

    assert played(play).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 999999999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 7 + b"\r\n"]
)
def test_a_body_that_goes_on_after_its_answer_is_not_read_to_its_end(framing: bytes) -> None:
    async def play(streams: Streams, end: Hasty) -> bytes:
        reader, writer = streams
        writer.write(POST + framing)
        reply = await reader.readuntil(b"\r\n\r\nno")
        with pytest.raises(ConnectionError):
            await pour(writer)
        await until_closed(end)
        assert end._request_bytes < 1024 * 1024
        return reply

    assert played(play).startswith(b"HTTP/1.1 401 ")


def test_garbage_behind_an_early_answer_closes_the_connection_and_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(streams: Streams, end: Hasty) -> bytes:
        reader, writer = streams
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nno")
        writer.write(b"no chunk at all\r\n")
        await until_closed(end)
        return await reader.read()

    assert played(play) == b""
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_garbage_behind_a_head_is_refused_once_and_the_request_that_had_begun_answers_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(streams: Streams, end: Hasty) -> bytes:
        streams[1].write(POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n")
        reply = await streams[0].read()
        await until_closed(end)
        return reply

    reply = played(play)
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b'"code": "invalid_http"' in reply
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_who_takes_nothing_of_a_large_answer_is_gone_after_a_while() -> None:
    async def play(streams: Streams, end: Hasty) -> bytes:
        streams[1].transport.pause_reading()  # type: ignore[attr-defined]
        streams[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until_closed(end)
        return b""

    assert played(play, answers_with_much) == b""


def test_who_takes_a_large_answer_slowly_but_surely_gets_all_of_it() -> None:
    async def play(streams: Streams, _end: Hasty) -> bytes:
        reader, writer = streams
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        taken = 0
        while taken < len(BIG):
            taken += len(await reader.readexactly(1024 * 1024))
            await asyncio.sleep(0.03)
        return b"%d" % taken

    assert played(play, answers_with_much) == b"%d" % len(BIG)


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_closed(request_bytes: bytes) -> None:
    async def play(streams: Streams, end: Hasty) -> bytes:
        streams[1].write(request_bytes)
        reply = await streams[0].read()
        await until_closed(end)
        return reply

    reply = played(play)
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b'"code": "invalid_http"' in reply


def test_what_has_arrived_of_a_body_is_taken_as_it_is_and_what_follows_it_stays() -> None:
    buffer = _ReceiveBuffer()
    buffer.__iadd__(b"body")
    arrived = buffer._data
    assert buffer.maybe_extract_at_most(10) is arrived
    assert buffer.maybe_extract_at_most(6) is None
    buffer.__iadd__(b"and itGET / HTTP/1.1\r\n")
    assert buffer.maybe_extract_at_most(6) == bytearray(b"and it")
    assert buffer.maybe_extract_next_line() == bytearray(b"GET / HTTP/1.1\r\n")
