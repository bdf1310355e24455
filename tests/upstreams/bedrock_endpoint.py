"""A Bedrock of the tests' own: a real HTTP server that knows one pair of keys, checks each signature by working it out
anew, and answers as a test says.

The signature is worked out from AWS's description ("Signature Version 4 signing process"), not by botocore's code.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import quote, unquote

ACCESS_KEY = "AKIACANARY7Q2EXAMPLE"
SECRET_KEY = "canary/Secret+Wd8Rk31uQ0zB5yT7nE2pL4x"  # noqa: S105
SESSION_TOKEN = "canaryToken//IQoJb3JpZ2luX2VjEHkaCXVzLXdlc3QtMiJHMEUCIQ=="  # noqa: S105
CANARIES = (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
REGION = "us-west-2"
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<scope>(?P<day>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)"
    r"/aws4_request), SignedHeaders=(?P<headers>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)
MUST_BE_SIGNED = {"host", "x-amz-date"}
SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Received:
    """A request whose signature was right."""

    model: str
    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Line:
    """The connection of one request, for answers that are no good HTTP."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._connection.sendall(piece)

    def wait_until_closed(self, seconds: float) -> bool:
        """Whether the other side closes within so many seconds."""
        ready, _, _ = select.select([self._connection], [], [], seconds)
        try:
            return bool(ready) and self._connection.recv(1) == b""
        except ConnectionError:
            return True


Answer = Reply | Callable[[Line], None]


def pictures(*files: bytes, **others: Any) -> Reply:
    """A reply of Titan's, and with the right others of Stability's."""
    return said({"images": [base64.b64encode(file).decode("ascii") for file in files]} | others)


def said(content: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(content).encode(), {"content-type": "application/json"})


def fault(code: str, status: int, message: str = "no", **headers: str) -> Reply:
    """As AWS sends its errors: the name in a header, with a namespace behind it, and the words in JSON."""
    names = {"x-amzn-errortype": f"{code}:http://internal.amazon.com/coral/com.amazon.bedrock/", **headers}
    return Reply(status, json.dumps({"message": message}).encode(), {"content-type": "application/json", **names})


def head(status: str, *headers: str) -> bytes:
    return ("\r\n".join([f"HTTP/1.1 {status}", *headers]) + "\r\n\r\n").encode("latin-1")


class Endpoint:
    """answers: in the order of the requests; the last one stands for all that follow. secret: what it signs with.
    answering: set when a request was read. closed: when the other side closed before it had a whole answer."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [pictures(b"picture")]
        self.received: list[Received] = []
        self.secret = SECRET_KEY
        self.session_token: str | None = SESSION_TOKEN
        self.refused: list[str] = []
        self.answering, self.closed = threading.Event(), threading.Event()
        self.connections = 0
        self.url = ""
        self.tls: ssl.SSLContext | None = None

    def wrap(self, tls: ssl.SSLContext) -> None:
        """From now on it speaks TLS."""
        self.tls, self.url = tls, self.url.replace("http://", "https://")

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False
    # As many may come at once as tests let ask.
    request_queue_size = 256

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = endpoint

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        tls = self.endpoint.tls
        if tls is None:
            return connection, address
        return tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_: Any) -> None:
        """A caller that closes early is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    def setup(self) -> None:
        super().setup()
        cast(_Server, self.server).endpoint.connections += 1

    def do_POST(self) -> None:
        endpoint = cast(_Server, self.server).endpoint
        content = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        problem = what_is_wrong(self.path, headers, content, endpoint.secret, endpoint.session_token)
        if problem is not None:
            endpoint.refused.append(problem)
            return self._reply(fault("InvalidSignatureException", 403, f"{problem}\n{headers}"))
        model = unquote(self.path.removeprefix("/model/").removesuffix("/invoke"))
        endpoint.received.append(Received(model, json.loads(content), headers))
        answer = endpoint.next_answer()
        endpoint.answering.set()
        return self._reply(answer) if isinstance(answer, Reply) else self._leave_to(answer)

    def _reply(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(reply.body)))
        self.send_header("x-amzn-requestid", "7c0e5f3a-0000-4000-8000-000000000001")
        self.end_headers()
        self.wfile.write(reply.body)

    def _leave_to(self, answer: Callable[[Line], None]) -> None:
        self.close_connection = True
        try:
            answer(Line(self.connection))
        except OSError:
            cast(_Server, self.server).endpoint.closed.set()

    def log_message(self, *_: Any) -> None:
        """Tests look at what is logged."""


def until_closed(endpoint: Endpoint, *pieces: bytes, seconds: float = 20.0) -> Callable[[Line], None]:
    """Send these, then nothing, and tell when the other side closes."""

    def answer(line: Line) -> None:
        line.send(*pieces)
        if line.wait_until_closed(seconds):
            endpoint.closed.set()

    return answer


def endlessly(beginning: bytes, piece: bytes, pause_seconds: float = 0.0) -> Callable[[Line], None]:
    """Send one piece after the other until the other side closes."""

    def answer(line: Line) -> None:
        line.send(beginning)
        while True:
            line.send(piece)
            time.sleep(pause_seconds)

    return answer


@contextmanager
def serving() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    server = _Server(endpoint)
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def what_is_wrong(path: str, headers: Mapping[str, str], content: bytes, secret: str, token: str | None) -> str | None:
    """None of a request that is signed with the secret, for Bedrock in our region, and now."""
    stated = AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if stated is None:
        return "no authorization of the form that there is"
    if (stated["key"], stated["region"], stated["service"]) != (ACCESS_KEY, REGION, "bedrock"):
        return "another key, region or service"
    moment = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs(datetime.now(UTC) - moment) > SKEW or stated["day"] != headers["x-amz-date"][:8]:
        return "another time"
    names = stated["headers"].split(";")
    wanted = MUST_BE_SIGNED | {name for name in headers if name.startswith("x-amz-")}
    if not wanted <= set(names) or headers.get("x-amz-security-token") != token:
        return "a header that is not signed, or another token"
    if not hmac.compare_digest(_signature(stated, names, path, headers, content, secret), stated["signature"]):
        return "The request signature we calculated does not match the signature you provided."
    return None


def _signature(
    stated: re.Match[str], names: list[str], path: str, headers: Mapping[str, str], content: bytes, secret: str
) -> str:
    """Task 1: the canonical request; 2: the string to sign; 3: the key and the signature."""
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
    address, _, query = path.partition("?")
    # Every service but S3 escapes the path as it was sent once more.
    parts = ["POST", quote(address, safe="/-_.~"), query, lines, ";".join(names), hashlib.sha256(content).hexdigest()]
    request = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], stated["scope"], request])
    key = f"AWS4{secret}".encode()
    for part in stated["scope"].split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()
