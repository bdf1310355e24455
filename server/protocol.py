"""uvicorn's HTTP/1.1 protocol, with an end to everything that a client may draw out, and OpenAI's envelope for no HTTP.

Knows h11, connections and time; knows no application, as what is refused here never reaches one.
Invariant: no connection is held for a client that sends its head too slowly, sends on long after it was answered, or
does not take what it asked for; and what two parsers could read in two ways is read by none.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, ClassVar

import h11
from h11._connection import DEFAULT_MAX_INCOMPLETE_EVENT_SIZE
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.core import errors
from server.core.request_id import new_request_id

HTTP_VERSIONS = (b"1.0", b"1.1")


class _ReceiveBuffer(ReceiveBuffer):
    """h11's, which copies twice what it gives away; of a body that is nearly always all that has arrived."""

    def maybe_extract_at_most(self, count: int) -> bytearray | None:
        if len(self) > count or not len(self):
            return super().maybe_extract_at_most(count)
        taken, self._data = self._data, bytearray()
        self._next_line_search = self._multiple_lines_search = 0
        return taken


class _Connection(h11.Connection):
    """h11's state machine, stricter: it takes any version's number for its own, and overlooks a length beside chunks.

    on_request: called with every request, as one piece of data may end one and begin the next.
    """

    def __init__(self, max_incomplete_event_size: int, on_request: Callable[[], None]) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size)
        self._receive_buffer = _ReceiveBuffer()
        self._on_request = on_request

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._on_request()
            names = {name for name, _ in event.headers}
            # RFC 9112, 6.1: the old way to smuggle a request past a proxy.
            if {b"content-length", b"transfer-encoding"} <= names or event.http_version not in HTTP_VERSIONS:
                raise h11.RemoteProtocolError("not to be read in one way only")
        return event


class _Timer:
    """One thing to do later, at most."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float, act: Callable[..., None], *arguments: object) -> None:
        self.stop()
        self._handle = self._loop.call_later(seconds, self._ring, act, arguments)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self, act: Callable[..., None], arguments: tuple[object, ...]) -> None:
        self._handle = None
        act(*arguments)


class EnvelopeProtocol(H11Protocol):
    """One connection.

    head_seconds: how long a request's first line and headers may take, from the connection or their first byte on.
    linger_seconds, linger_bytes: who is answered before the body has ended may still send so long, and so much of the
    whole request, as most clients read only then. stall_seconds, least_bytes: who takes less of an answer in this time
    is gone.
    """

    head_seconds: ClassVar[float] = 30.0
    linger_seconds: ClassVar[float] = 5.0
    linger_bytes: ClassVar[int] = 64 * 1024 * 1024
    stall_seconds: ClassVar[float] = 60.0
    least_bytes: ClassVar[int] = 16 * 1024

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.conn = _Connection(DEFAULT_MAX_INCOMPLETE_EVENT_SIZE, self._begin_request)
        self._head, self._linger, self._stall = _Timer(self.loop), _Timer(self.loop), _Timer(self.loop)
        self._request_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._linger, self._stall):
            timer.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._request_bytes += len(data)
        if self._linger.is_running and self._request_bytes > self.linger_bytes:
            self.transport.pause_reading()  # until the connection is cut
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._linger.stop()
            self._await_head()

    def _begin_request(self) -> None:
        self._head.stop()
        self._linger.stop()
        self._request_bytes = 0

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._linger.start(self.linger_seconds, self._cut)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._judge_reader()

    def resume_writing(self) -> None:
        self._stall.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's text would be told to the caller)
        self._refuse(errors.invalid_http())

    def _await_head(self) -> None:
        if not self._head.is_running and not self.transport.is_closing():
            self._head.start(self.head_seconds, self._give_up_on_head)

    def _give_up_on_head(self) -> None:
        """A browser opens connections in reserve; nobody reads what is told on them."""
        if self.conn.trailing_data[0]:
            self._refuse(errors.receive_timeout(self.head_seconds))
        else:
            self.transport.close()

    def _judge_reader(self, before_bytes: int | None = None) -> None:
        """Look again and again whether the answer is being taken, as long as there is more of it than is sent ahead."""
        now_bytes = self.transport.get_write_buffer_size()
        if before_bytes is not None and before_bytes - now_bytes < self.least_bytes:
            self._cut()
        else:
            self._stall.start(self.stall_seconds, self._judge_reader, now_bytes)

    def _cut(self) -> None:
        self.transport.abort()

    def _refuse(self, error: errors.SafelightError) -> None:
        """The last words on this connection; none, where an answer was given or begun already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error.body()).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"x-request-id", new_request_id().encode()),
                (b"connection", b"close"),
                *((name.encode(), value.encode()) for name, value in error.headers().items()),
            ]
            response = h11.Response(status_code=error.status, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self._leave_request()
        self.transport.close()

    def _leave_request(self) -> None:
        """What was begun before the rest turned out to be no HTTP has nobody to answer any more."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
