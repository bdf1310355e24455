"""GET organization/usage/images and organization/costs, in OpenAI's shapes, and GET usage/summary in ours.

Knows buckets, groups and the wire's form of a sum; knows no database.
Invariant: a page has a bucket for each stretch of its time, also where nothing was drawn, and a field that was not
grouped by is null.
Source: OpenAI's API reference, and openai-python's types/admin/organization.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from server.api.buckets import DAY_SECONDS, WIDTHS, Bucket, buckets
from server.api.cursor import cursor_of, place_of
from server.api.gate import caller_of
from server.api.query import Param, values_of
from server.api.services import services_of
from server.api.usage_query import (
    COSTS_FILTERS,
    IMAGES_FILTERS,
    OWN_FILTERS,
    bucket_params,
    question_of,
    width_seconds,
)
from server.api.usage_replies import answered, reply, usd
from server.core import errors
from server.ledger.question import Group, Standing, Sum

# On one page. More would hold the event loop, and nobody reads them.
MOST_RESULTS = 10_000
DRAWN: frozenset[Standing] = frozenset({"succeeded"})
# Buckets on a page, by their width: where nobody says, and at most.
USAGE_LIMITS = {60: (60, 1440), 3600: (24, 168), DAY_SECONDS: (7, 31)}
COSTS_LIMITS = {DAY_SECONDS: (7, 180)}
# Projects, users and sources of other products are OpenAI's: to group by them is allowed, and keeps nothing apart.
GROUPS: Mapping[str, Group] = {
    "api_key_id": "key_id",
    "model": "model",
    "backend": "backend",
    "size": "size",
    "source": "operation",
    "outcome": "outcome",
    "line_item": "line_item",
}


@dataclass(frozen=True, slots=True)
class Report:
    """One kind of page. limits: by the buckets' width. outcomes: what alone counts; None: all. told: a sum as it goes
    out, given what was grouped by."""

    name: str
    params: tuple[Param, ...]
    limits: Mapping[int, tuple[int, int]]
    outcomes: frozenset[Standing] | None
    told: Callable[[Sum, AbstractSet[str]], dict[str, Any]]


def images_result(one: Sum, _: AbstractSet[str]) -> dict[str, Any]:
    return {
        "object": "organization.usage.images.result",
        "images": one.images,
        "num_model_requests": one.requests,
        "size": one.of.get("size"),
        "source": _source(one),
        "project_id": None,
        "user_id": None,
        "api_key_id": one.of.get("key_id"),
        "model": one.of.get("model"),
    }


def costs_result(one: Sum, by: AbstractSet[str]) -> dict[str, Any]:
    is_itemised = "line_item" in by
    return {
        "object": "organization.costs.result",
        "amount": {"value": usd(one.cost_microusd), "currency": "usd"},
        "line_item": one.of.get("line_item"),
        "project_id": None,
        "user_id": None,
        "api_key_id": one.of.get("key_id"),
        "api_source": "unlabeled" if "api_source" in by else None,
        "quantity": one.images if is_itemised else None,
        "quantity_unit": "images" if is_itemised else None,
    }


def summary_result(one: Sum, _: AbstractSet[str]) -> dict[str, Any]:
    return {
        "object": "usage.summary.result",
        "images": one.images,
        "failures": one.failures,
        "cancelled": one.cancelled,
        "num_model_requests": one.requests,
        "work_units": one.work_units,
        "cost_usd": usd(one.cost_microusd),
        "api_key_id": one.of.get("key_id"),
        "model": one.of.get("model"),
        "backend": one.of.get("backend"),
        "size": one.of.get("size"),
        "source": _source(one),
        "outcome": one.of.get("outcome"),
    }


def _source(one: Sum) -> str | None:
    return f"image.{one.of['operation']}" if "operation" in one.of else None


_PLACES = ("project_id", "user_id", "api_key_id")
IMAGES = Report(
    "images",
    (*bucket_params(tuple(WIDTHS), 1440, (*_PLACES, "model", "size", "source")), *IMAGES_FILTERS),
    USAGE_LIMITS,
    DRAWN,
    images_result,
)
COSTS = Report(
    "costs",
    (*bucket_params(("1d",), 180, (*_PLACES, "line_item", "api_source")), *COSTS_FILTERS),
    COSTS_LIMITS,
    None,
    costs_result,
)
_OWN_GROUPS = ("api_key_id", "model", "backend", "size", "source", "outcome")
SUMMARY = Report(
    "summary",
    (*bucket_params(tuple(WIDTHS), 1440, _OWN_GROUPS), *OWN_FILTERS),
    USAGE_LIMITS,
    None,
    summary_result,
)


def route(report: Report) -> Callable[[Request], Awaitable[Response]]:
    """What answers with the report."""

    async def answer(request: Request) -> Response:
        values = values_of(request.query_params, report.params)
        pieces, has_more = _pieces(values, report, int(time.time()) + 1)
        sums = await _sums(request, values, report, pieces)
        by: AbstractSet[str] = values.get("group_by", frozenset())
        found: dict[int, list[dict[str, Any]]] = {}
        for one in sums:
            found.setdefault(one.stretch, []).append(report.told(one, by))
        next_page = cursor_of((pieces[-1].end, 0), report.name, values) if has_more else None
        data = [_told(piece, found.get(piece.number, [])) for piece in pieces]
        return reply({"object": "page", "data": data, "has_more": has_more, "next_page": next_page})

    answer.__doc__ = f"The {report.name} of a stretch of time, bucket by bucket."
    return answer


def _pieces(values: Mapping[str, Any], report: Report, now: int) -> tuple[tuple[Bucket, ...], bool]:
    """The page's buckets, and whether others follow. now: Unix seconds. Raises SafelightError."""
    start, end, width = values["start_time"], values.get("end_time", now), width_seconds(values)
    if "end_time" in values and end <= start:
        raise errors.invalid_parameter("end_time", "'end_time' must lie after 'start_time'.")
    usual, most = report.limits[width]
    limit = values.get("limit", usual)
    if limit > most:
        allowed = f"'limit' may be 1 to {most} with this 'bucket_width'."
        raise errors.invalid_parameter("limit", allowed)
    if "page" in values:
        start = max(start, place_of(values["page"], report.name, values)[0])
    found = buckets(start, end, width, limit)
    return found, bool(found) and found[-1].end < end


async def _sums(request: Request, values: Mapping[str, Any], report: Report, pieces: Sequence[Bucket]) -> Sequence[Sum]:
    """Raises SafelightError."""
    since, until = (pieces[0].start, pieces[-1].end) if pieces else (0, 0)
    asked = question_of(values, caller_of(request), since * 1000, until * 1000)
    if report.outcomes is not None:
        asked = replace(asked, outcomes=report.outcomes)
    by = {GROUPS[name] for name in values.get("group_by", ()) if name in GROUPS}
    ledger, stretch_ms = services_of(request).ledger, width_seconds(values) * 1000
    found = await answered(ledger.sums(asked, stretch_ms=stretch_ms, by=by, most=MOST_RESULTS))
    if found is None:
        message = f"These are more than {MOST_RESULTS} results: ask for fewer buckets with 'limit', or group by less."
        raise errors.invalid_parameter("limit", message)
    return found


def _told(piece: Bucket, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "bucket", "start_time": piece.start, "end_time": piece.end, "results": results}
