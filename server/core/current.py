"""Which request the code at hand works for, wherever it is: for log lines, and for what becomes of the request.

Knows ids and codes; knows no HTTP.
Invariant: set once, at the edge. The tasks and threads that are begun for a request inherit it; what outlives requests
is begun without one (`contextvars.Context()`).
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Current:
    """One request. trace_id: where the request is traced, here or by its caller. error_code: what it was answered with,
    in a reply or in a stream."""

    request_id: str
    trace_id: str | None = None
    error_code: str | None = None

    def fields(self) -> dict[str, str]:
        """For a log line."""
        ids = {"request_id": self.request_id}
        return ids if self.trace_id is None else {**ids, "trace_id": self.trace_id}


CURRENT: ContextVar[Current | None] = ContextVar("safelight_request", default=None)


def note_error(code: str) -> None:
    """The request at hand is answered with this error."""
    current = CURRENT.get()
    if current is not None:
        current.error_code = code
