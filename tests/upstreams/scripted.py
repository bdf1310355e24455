"""An upstream whose every answer a test writes beforehand: a real HTTP server on 127.0.0.1, in a thread of its own.

Knows HTTP/1.1 with a Content-Length; knows no provider. `openai_replies` has what OpenAI's kind answers.
Invariant: what it was asked is kept as it came; it answers in the order of its script, the last line again and again.

    with ScriptedUpstream(Reply(429, headers={"Retry-After": "7"}), pictures(PNG)) as upstream:
        ...  # talk to upstream.url
        assert upstream.asked[0].json["model"] == "gpt-image-2"
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from types import TracebackType
from typing import Any

START_SECONDS = STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request is answered with. body: sent with its length, unless declared_bytes says another.

    wait_seconds: before a byte is sent. stall_at: after so many bytes of the body nothing more comes, and the
    connection stays. close_at: after so many it is closed; with a status of None at once, without an answer.
    drip_seconds: between every two bytes. chunked: without a length, piece by piece. endless: the body comes again and
    again, chunked.
    """

    status: int | None = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    declared_bytes: int | None = None
    wait_seconds: float = 0.0
    stall_at: int | None = None
    close_at: int | None = None
    drip_seconds: float = 0.0
    chunked: bool = False
    endless: bool = False

    @property
    def head(self) -> bytes:
        headers = {"Content-Type": "application/json", **self.headers}
        if self.chunked or self.endless:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(self.body) if self.declared_bytes is None else self.declared_bytes)
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode("latin-1")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form."""

    content: bytes
    filename: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came. headers: by lower-case names. is_over: set if the client leaves in the midst of it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    is_over: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, Part]:
        """The parts of a multipart body, by name; none comes twice."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode("latin-1")
        found: dict[str, Part] = {}
        for part in BytesParser(policy=HTTP).parsebytes(head + self.body).iter_parts():
            name = part.get_param("name", header="content-disposition")
            assert isinstance(name, str)
            assert name not in found, f"{name} came twice"
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found[name] = Part(content, part.get_filename(), part.get_content_type() if part.get_filename() else None)
        return found

    @property
    def words(self) -> dict[str, str]:
        """The parts that are no files, as text."""
        return {name: part.content.decode() for name, part in self.form.items() if part.filename is None}


class ScriptedUpstream:
    """Serves while its `with` block lasts."""

    def __init__(self, *script: Reply) -> None:
        self._script = list(script)
        self.asked: list[Asked] = []
        self.connections = 0
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._serving: set[asyncio.Task[None]] = set()

    def __enter__(self) -> ScriptedUpstream:
        self._thread.start()
        opening = asyncio.run_coroutine_threadsafe(self._open(), self._loop)
        self._server = opening.result(START_SECONDS)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    def script(self, *replies: Reply) -> None:
        """From the next request on, these."""
        self._script = list(replies)

    def wait_for(self, count: int, timeout_seconds: float = 10.0) -> list[Asked]:
        """What it was asked, once there are so many requests."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.asked) >= count, timeout_seconds), "no such request came"
            return list(self.asked)

    async def _open(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = self._loop.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _close(self) -> None:
        self._server.close()
        for task in (serving := list(self._serving)):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in the turn after

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (asked := await _read(reader)) is not None:
                if not await self._answer(self._next(asked), asked, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            writer.close()

    def _next(self, asked: Asked) -> Reply:
        with self._arrived:
            self.asked.append(asked)
            self._arrived.notify_all()
        return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    async def _answer(
        self, reply: Reply, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection lives on. A client that goes ends the sending, whatever the script says."""
        sending = self._loop.create_task(_send(reply, writer))
        leaving = self._loop.create_task(_has_left(reader))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and sending.exception() is None:
                return sending.result()
            asked.is_over.set()
            return False
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)


async def _has_left(reader: asyncio.StreamReader) -> None:
    """Reads nothing: a next request may come on the same connection."""
    while not reader.at_eof():  # noqa: ASYNC110 (the reader tells of its end in no other way)
        await asyncio.sleep(0.005)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body)


async def _send(reply: Reply, writer: asyncio.StreamWriter) -> bool:
    """Whether the connection may live on."""
    await asyncio.sleep(reply.wait_seconds)
    if reply.status is None:
        return False
    writer.write(reply.head)
    end = min([len(reply.body), *(at for at in (reply.stall_at, reply.close_at) if at is not None)])
    await _send_body(reply, reply.body[:end], writer)
    await writer.drain()
    if reply.stall_at is not None:
        await asyncio.Event().wait()
    return reply.close_at is None and reply.declared_bytes is None


async def _send_body(reply: Reply, body: bytes, writer: asyncio.StreamWriter) -> None:
    pieces = [body] if not reply.drip_seconds else [body[at : at + 1] for at in range(len(body))]
    while True:
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if reply.chunked or reply.endless else piece)
            await writer.drain()
            await asyncio.sleep(reply.drip_seconds)
        if not reply.endless:
            break
    if reply.chunked and reply.close_at is None and reply.stall_at is None:
        writer.write(b"0\r\n\r\n")
