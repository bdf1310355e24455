"""uvicorn's HTTP/1.1 protocol, with OpenAI's envelope also for bytes that are no HTTP at all.

Knows h11; knows no application, as such bytes never reach one.
"""

from __future__ import annotations

import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.core import errors
from server.core.request_id import new_request_id


class EnvelopeProtocol(H11Protocol):
    """Answers what it cannot parse in the one shape that clients read."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's text would be told to the caller)
        error = errors.invalid_http()
        body = json.dumps(error.body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", new_request_id().encode()),
            (b"connection", b"close"),
        ]
        events = (h11.Response(status_code=error.status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
