"""The client behind `safelight usage`: asks a running server what was drawn, day by day, and adds it up.

Knows GET /v1/usage/summary; knows no terminal and nothing of the server's inside.
Invariant: money is added as decimals, exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx2

from server.connection import ServerProblem, connected, message_of

TIMEOUT_SECONDS = 30.0
MOST_DAYS_AT_ONCE = 31


class NoUsage(ServerProblem):
    """The server did not say; the text is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Line:
    """One day's pictures of one key and model. day: of UTC; None, as key_id and model, in a sum over all of them."""

    day: date | None
    key_id: str | None
    model: str | None
    images: int
    work_units: float
    failures: int
    cancelled: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Wanted:
    """first, last: days of UTC, both included. key_ids: whose; empty: all that the key may see."""

    server: str
    key: str | None
    first: date
    last: date
    key_ids: Sequence[str] = ()


def lines(wanted: Wanted) -> list[Line]:
    """The oldest first. Raises ServerProblem."""
    query: dict[str, Any] = {
        "start_time": _midnight(wanted.first),
        "end_time": _midnight(wanted.last + timedelta(days=1)),
        "limit": MOST_DAYS_AT_ONCE,
        "group_by[]": ["api_key_id", "model"],
        "api_key_ids[]": list(wanted.key_ids),
    }
    with connected(wanted.server, wanted.key, TIMEOUT_SECONDS) as client:
        return [line for bucket in _buckets(client, query) for line in _lines(bucket)]


def total(of: Sequence[Line]) -> Line:
    """Over all of them."""
    return Line(
        day=None,
        key_id=None,
        model=None,
        images=sum(line.images for line in of),
        work_units=sum(line.work_units for line in of),
        failures=sum(line.failures for line in of),
        cancelled=sum(line.cancelled for line in of),
        cost_usd=sum((line.cost_usd for line in of), Decimal(0)),
    )


def _midnight(day: date) -> int:
    return round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _buckets(client: httpx2.Client, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    page: dict[str, Any] = {"next_page": None, "has_more": True}
    while page["has_more"]:
        more = {"page": page["next_page"]} if page["next_page"] else {}
        answer = client.get("/v1/usage/summary", params=query | more)
        if answer.status_code != httpx2.codes.OK:
            raise NoUsage(message_of(answer.content))
        page = _read(answer.content)
        yield from page["data"]


def _read(body: bytes) -> dict[str, Any]:
    try:
        page: dict[str, Any] = json.loads(body, parse_float=Decimal)
    except ValueError:
        raise NoUsage(message_of(body)) from None
    return page


def _lines(bucket: dict[str, Any]) -> Iterator[Line]:
    day = datetime.fromtimestamp(bucket["start_time"], UTC).date()
    for one in bucket["results"]:
        yield Line(
            day=day,
            key_id=one["api_key_id"],
            model=one["model"],
            images=one["images"],
            work_units=float(one["work_units"]),
            failures=one["failures"],
            cancelled=one["cancelled"],
            cost_usd=Decimal(one["cost_usd"]),
        )
