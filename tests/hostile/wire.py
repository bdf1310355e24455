"""Sends a case over a socket of its own, byte for byte, and reads what comes back as HTTP.

Knows sockets and http.client's reader; repairs nothing on the way out.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any

from tests.hostile.case import Case

ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """headers: by lower-case names. body: as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Reader(http.client.HTTPResponse):
    """Passes over `100 Continue` as its base does, and reads to the end."""


def answer_to(case: Case, port: int) -> Answer | None:
    """None: the connection was closed without an answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        with contextlib.suppress(ConnectionError):  # it was answered and closed before all was sent
            connection.sendall(case.content)
        if case.ends_early:
            connection.shutdown(socket.SHUT_WR)
        answer = _read(connection, "HEAD" if case.content.startswith(b"HEAD ") else None)
        if case.then:
            with contextlib.suppress(ConnectionError):
                connection.sendall(case.then)
                while connection.recv(65536):
                    pass
        return answer


def _read(connection: socket.socket, method: str | None) -> Answer | None:
    reader = _Reader(connection, method=method)
    try:
        reader.begin()
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return None
    headers = {name.lower(): value for name, value in reader.getheaders()}
    return Answer(reader.status, headers, reader.read())
