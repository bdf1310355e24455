"""An answer of many megabytes, sent in portions: as fast as its reader takes them, and with turns for others between.

Knows ASGI; knows no content.
"""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PORTION_BYTES = 256 * 1024


class LongBody(Response):
    """As Response, which hands all of its body over at once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= PORTION_BYTES:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        view, last = memoryview(self.body), len(self.body)
        for place in range(0, last, PORTION_BYTES):
            portion = bytes(view[place : place + PORTION_BYTES])
            is_last = place + PORTION_BYTES >= last
            await send({"type": "http.response.body", "body": portion, "more_body": not is_last})
