"""One signed request over one connection of its own, bounded in bytes and time, that another thread may cut off.

Knows sockets, TLS and HTTP/1.1; knows no AWS but the classes of botocore's request and response.
Why not botocore's own transport: no other thread can reach its connection while it waits for an answer, it takes
proxies from the environment, and it reads errors whole, however long they are.
Invariant: one connection, one request, no redirect, no proxy, nothing decompressed; when `send` ends, the connection is
closed.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from server.backends.trouble import Facts, Trouble

S = TypeVar("S", bound=socket.socket)
CONNECT_SECONDS = 10.0
# Five PNG files of a megapixel each that did not shrink at all are 20 MB in base64.
MAX_REPLY_BYTES = 64 * 1024 * 1024
# The status and a header tell most of an error; the rest of its body is left unread.
MAX_ERROR_BYTES = 64 * 1024
PIECE_BYTES = 64 * 1024
PORTS = {"http": 80, "https": 443}
ERRORS = 300


class Exchange:
    """deadline: by time.monotonic(); no wait for the other side outlives it. `cut` may be called by any thread, at any
    time and again; all else belongs to the thread that sends."""

    def __init__(self, deadline: float, tls: ssl.SSLContext) -> None:
        self._deadline, self._tls = deadline, tls
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False
        self.is_connected = self.is_sent = False
        self.status: int | None = None

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        """Raises Trouble."""
        place = urlsplit(request.url)
        try:
            connected = self._connect(place)
        except (OSError, ValueError) as error:  # a name that is none, nobody there, no TLS, or all that too late
            raise Trouble("unreachable", self._facts(error)) from None
        try:
            return self._ask(connected, place, request)
        except TimeoutError as error:
            raise Trouble("timeout", self._facts(error)) from None
        except (OSError, http.client.HTTPException) as error:
            raise Trouble("broken", self._facts(error)) from None
        finally:
            self._let_go(connected)

    def cut(self) -> None:
        """End whatever the sending thread waits for, and the connection with it."""
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                # Not the method of a TLS socket, which would change what the other thread works with.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def expired(self) -> Trouble:
        """What to say when there was no answer in time."""
        return Trouble("timeout" if self.is_connected else "unreachable", self._facts(TimeoutError()))

    def _facts(self, error: Exception) -> Facts:
        """What was sent whole may be drawn and billed, whoever listens."""
        return Facts(self.status, type(error).__name__, is_charged=self.is_sent)

    def _left_seconds(self) -> float:
        """Raises TimeoutError when nothing is left."""
        left_seconds = self._deadline - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError
        return left_seconds

    def _connect(self, place: SplitResult) -> socket.socket:
        port = place.port or PORTS[place.scheme]
        seconds = min(CONNECT_SECONDS, self._left_seconds())
        connected = self._hold(socket.create_connection((place.hostname or "", port), seconds))
        if place.scheme == "https":
            connected = self._hold(self._wrap(connected, place.hostname or ""))
            try:
                connected.do_handshake()
            except BaseException:
                self._let_go(connected)
                raise
        self.is_connected = True
        return connected

    def _wrap(self, plain: socket.socket, host: str) -> ssl.SSLSocket:
        return self._tls.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)

    def _hold(self, connected: S) -> S:
        """From here on it can be cut."""
        with self._lock:
            self._socket = connected
            is_cut = self._is_cut
        if is_cut:
            self._let_go(connected)
            raise ConnectionAbortedError
        return connected

    def _let_go(self, connected: socket.socket) -> None:
        with self._lock:
            self._socket = None
        connected.close()

    def _ask(self, connected: socket.socket, place: SplitResult, request: AWSPreparedRequest) -> AWSResponse:
        connected.settimeout(self._left_seconds())
        connection = http.client.HTTPConnection(_host(place))
        connection.sock = connected
        connection.putrequest(request.method, _target(place), skip_host=True, skip_accept_encoding=True)
        for name, value in _headers(place, request):
            connection.putheader(name, value)
        connection.endheaders(request.body)
        self.is_sent = True
        connected.settimeout(self._left_seconds())
        with contextlib.closing(connection.getresponse()) as response:
            self.status = response.status
            content = self._content(connected, response)
        return AWSResponse(request.url, response.status, dict(response.getheaders()), _Content(content))

    def _content(self, connected: socket.socket, response: http.client.HTTPResponse) -> bytes:
        if response.status >= ERRORS:
            return self._beginning(connected, response)
        if response.getheader("content-encoding", "identity").strip().lower() != "identity":
            raise _Unwanted
        if (response.length or 0) > MAX_REPLY_BYTES:
            raise _Unwanted
        content = bytearray()
        for piece in self._pieces(connected, response):
            content += piece
            if len(content) > MAX_REPLY_BYTES:
                raise _Unwanted
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return bytes(content)

    def _beginning(self, connected: socket.socket, response: http.client.HTTPResponse) -> bytes:
        """An error's body, which never makes an error of its own. In UTF-8, as botocore would fail at anything else."""
        content = bytearray()
        with contextlib.suppress(OSError, http.client.HTTPException):
            for piece in self._pieces(connected, response):
                content += piece
                if len(content) >= MAX_ERROR_BYTES:
                    break
        return content[:MAX_ERROR_BYTES].decode("utf-8", "replace").encode()

    def _pieces(self, connected: socket.socket, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while piece := response.read1(PIECE_BYTES):
            yield piece
            connected.settimeout(self._left_seconds())


class _Unwanted(http.client.HTTPException):
    """A reply that is too long, or encoded though nobody asked for that."""


class _Content:
    """What was read, as botocore wants to read it: all at once, or in a stream."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, amount: int | None = None) -> bytes:
        found = self._content[:amount]
        self._content = self._content[len(found) :]
        return found

    def stream(self) -> Iterator[bytes]:
        yield self.read()


def _host(place: SplitResult) -> str:
    """As it was signed: without the port that goes without saying."""
    name = place.hostname or ""
    name = f"[{name}]" if ":" in name else name
    return name if place.port in (None, PORTS[place.scheme]) else f"{name}:{place.port}"


def _target(place: SplitResult) -> str:
    return f"{place.path or '/'}?{place.query}" if place.query else place.path or "/"


def _headers(place: SplitResult, request: AWSPreparedRequest) -> Iterator[tuple[str, str]]:
    yield "Host", _host(place)
    yield "Accept-Encoding", "identity"
    yield "Connection", "close"
    for name, value in request.headers.items():
        yield name, value.decode("latin-1") if isinstance(value, bytes) else str(value)
