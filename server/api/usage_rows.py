"""GET usage: the books row by row, a picture each, as pages of JSON or as one CSV file.

Knows the wire's form of a row and how pages follow; sums nothing.
Invariant: a row holds what was measured and what it cost, and no word of what was drawn.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from server.api.cursor import cursor_of, place_of
from server.api.gate import caller_of
from server.api.query import number, values_of, word
from server.api.services import services_of
from server.api.stream import EventStream
from server.api.usage_query import CURSOR, END, MAX_UNIX_SECONDS, OWN_FILTERS, START, question_of
from server.api.usage_replies import answered, reply, usd
from server.core import errors
from server.ledger.entries import Cursor, Page, Row
from server.ledger.ledger import Ledger
from server.ledger.question import Question

DEFAULT_ROWS, MOST_ROWS = 100, 1000
# Of a file, at a time: so many are written while the event loop waits.
ROWS_AT_ONCE = 500
CSV = "text/csv"
PARAMS = (
    START,
    END,
    *OWN_FILTERS,
    number("limit", 1, MOST_ROWS, f"Rows on a page; {DEFAULT_ROWS} if absent."),
    CURSOR,
    word("format", ("json", "csv"), "`csv`: all rows as one file; also by `Accept: text/csv`."),
)
_NAME = "usage"
# What a spreadsheet would take for the begin of a formula. Source: OWASP, "CSV Injection".
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


async def list_rows(request: Request) -> Response:
    """The pictures of the books, oldest first."""
    values = values_of(request.query_params, PARAMS)
    ledger, is_csv = services_of(request).ledger, _wants_csv(request, values)
    start, end = values.get("start_time", 0), values.get("end_time", MAX_UNIX_SECONDS)
    asked = question_of(values, caller_of(request), start * 1000, end * 1000)
    if is_csv:
        return await _file(ledger, asked, values)
    limit = values.get("limit", DEFAULT_ROWS)
    after = Cursor(*place_of(values["page"], _NAME, values)) if "page" in values else None
    page = await answered(ledger.rows(asked, after=after, limit=limit))
    return reply(
        {
            "object": "page",
            "data": [described(row) for row in page.rows],
            "has_more": page.after is not None,
            "next_page": None if page.after is None else cursor_of(_place(page.after), _NAME, values),
        }
    )


def described(row: Row) -> dict[str, Any]:
    """A row as it goes out. outcome: open while it is under way; what nobody knows is null."""
    entry, end = row.entry, row.settlement
    return {
        "object": "usage.image",
        "request_id": entry.request_id,
        "index": entry.index,
        "began_unix_ms": entry.began_unix_ms,
        "api_key_id": entry.key_id,
        "source": f"image.{entry.operation}",
        "requested_model": entry.requested_model,
        "model": end and end.served_model,
        "backend": end and end.backend,
        "size": (end and end.size) or entry.size,
        "outcome": end.outcome if end else "open",
        "error_code": end and end.error_code,
        "work_units": entry.work_units,
        "attempts": end and end.attempts,
        "steps": end and end.steps,
        "seed": end and end.seed,
        "queue_ms": end and end.queue_ms,
        "device_ms": end and end.device_ms,
        "latency_ms": end and end.latency_ms,
        "cost_usd": end and usd(end.cost_microusd),
    }


def _place(cursor: Cursor) -> tuple[int, int]:
    return cursor.began_unix_ms, cursor.id


def _wants_csv(request: Request, values: Mapping[str, Any]) -> bool:
    accepted = {one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "").split(",")}
    is_csv = bool(values.get("format", "csv" if CSV in accepted else "json") == "csv")
    for name in ("limit", "page"):
        if is_csv and name in values:
            raise errors.invalid_parameter(name, f"A CSV file holds all rows: leave '{name}' out.")
    return is_csv


async def _file(ledger: Ledger, asked: Question, values: Mapping[str, Any]) -> Response:
    """What is there now: a file that took in what comes meanwhile might never end."""
    if "end_time" not in values:
        asked = replace(asked, until_unix_ms=time.time_ns() // 1_000_000 + 1)
    # Before the answer begins, so that books that cannot be read are an error, and not a broken file.
    first = await answered(ledger.rows(asked, after=None, limit=ROWS_AT_ONCE))
    return CsvStream(_lines(ledger, asked, first))


async def _lines(ledger: Ledger, asked: Question, page: Page) -> AsyncGenerator[bytes, None]:
    """Raises LedgerProblem on the way, which breaks the connection off: half a file must not look like a whole one."""
    yield csv_of([COLUMNS])
    while True:
        yield csv_of([_cells(row) for row in page.rows])
        if page.after is None:
            return
        page = await ledger.rows(asked, after=page.after, limit=ROWS_AT_ONCE)


class CsvStream(EventStream):
    """Sends as a stream of events does, until the rows end or the client goes away."""

    def __init__(self, lines: AsyncGenerator[bytes, None]) -> None:
        super().__init__(lines, {})
        self.headers["content-type"] = f"{CSV}; charset=utf-8; header=present"
        self.headers["content-disposition"] = 'attachment; filename="usage.csv"'


def csv_of(rows: Sequence[Sequence[Any]]) -> bytes:
    """As RFC 4180 has it. Text that a spreadsheet would run as a formula gets an apostrophe before it."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\r\n").writerows([_harmless(cell) for cell in row] for row in rows)
    return file.getvalue().encode()


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell


def _cells(row: Row) -> list[Any]:
    told = described(row)
    return [told[name] for name in COLUMNS]


COLUMNS = (
    *("request_id", "index", "began_unix_ms", "api_key_id", "source", "requested_model", "model", "backend", "size"),
    *("outcome", "error_code", "work_units", "attempts", "steps", "seed", "queue_ms", "device_ms", "latency_ms"),
    "cost_usd",
)
