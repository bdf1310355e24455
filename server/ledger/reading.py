"""The statements that read, each a function of a connection.

Knows the tables; changes nothing.
Invariant: sums are whole numbers, exact on both databases.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, or_, select, tuple_

from server.ledger.decisions import Decision
from server.ledger.entries import Cursor, Entry, Page, Row, Settlement
from server.ledger.question import Group, Question, Sum
from server.ledger.tables import ATTEMPTS, DECISIONS, ENTRIES

_entry, _attempt = ENTRIES.c, ATTEMPTS.c
_ENTRY_FIELDS = tuple(field.name for field in fields(Entry))
_DECISION_FIELDS = tuple(field.name for field in fields(Decision))
_NAMES = ("request_id", "index")
_SETTLEMENT_FIELDS = tuple(field.name for field in fields(Settlement) if field.name not in _NAMES)
# By place, not by name: that takes a third of the time.
_ROW = (
    *(_entry[name] for name in _ENTRY_FIELDS),
    *(_entry["served_size" if name == "size" else name] for name in _SETTLEMENT_FIELDS),
)
_model = func.coalesce(_entry.served_model, _entry.requested_model)
_size = func.coalesce(_entry.served_size, _entry.size)
_outcome = func.coalesce(_entry.outcome, "open")
_GROUPS: Mapping[Group, ColumnElement[Any]] = {
    "key_id": _entry.key_id,
    "model": _model,
    "backend": _entry.backend,
    "size": _size,
    "operation": _entry.operation,
    "outcome": _outcome,
    "line_item": _model + ", " + func.coalesce(_entry.backend, "none"),
}


def spent(connection: Connection, since_unix_ms: int) -> dict[str, int]:
    """By backend, of the attempts that began since: what ended ones cost and what open ones may cost, in micro-USD."""
    amount = func.sum(func.coalesce(_attempt.cost_microusd, _attempt.reserved_microusd))
    query = select(_attempt.backend, amount).where(_attempt.began_unix_ms >= since_unix_ms).group_by(_attempt.backend)
    # PostgreSQL's sum of whole numbers is a decimal.
    return {backend: int(total) for backend, total in connection.execute(query)}


def page(connection: Connection, asked: Question, after: Cursor | None, limit: int) -> Page:
    """The images asked for, oldest first, at most `limit`."""
    if after is not None:
        # Of the two conditions on time a database may look the looser one up, and walk from there at every page.
        asked = replace(asked, since_unix_ms=max(asked.since_unix_ms, after.began_unix_ms))
    query = select(_entry.id, *_ROW).where(*_conditions(asked)).order_by(_entry.began_unix_ms, _entry.id)
    if after is not None:
        query = query.where(tuple_(_entry.began_unix_ms, _entry.id) > (after.began_unix_ms, after.id))
    found = connection.execute(query.limit(limit + 1)).all()
    rows = tuple(_row(values) for _, *values in found[:limit])
    return Page(rows, Cursor(rows[-1].entry.began_unix_ms, found[limit - 1][0]) if len(found) > limit else None)


def decisions(connection: Connection, request_id: str) -> tuple[Decision, ...]:
    """Of one request, in their order."""
    query = select(DECISIONS).where(DECISIONS.c.request_id == request_id).order_by(DECISIONS.c.number)
    found = connection.execute(query).mappings()
    return tuple(Decision(**{name: row[DECISIONS.c[name]] for name in _DECISION_FIELDS}) for row in found)


def sums(
    connection: Connection, asked: Question, stretch_ms: int, by: Collection[Group], most: int
) -> list[Sum] | None:
    """Of the images asked for, over stretches of time, counted from 1970, and by what they have in common; None if
    there are more than `most`."""
    names = sorted(by)
    found = connection.execute(_sums_query(asked, stretch_ms, names).limit(most + 1)).all()
    if len(found) > most:
        return None
    return sorted((_sum(names, row) for row in found), key=_place)


def _sums_query(asked: Question, stretch_ms: int, names: list[Group]) -> Select[Any]:
    drawn = _entry.outcome == "succeeded"
    # A table of its own: PostgreSQL takes one expression that is written twice, with a value in it, for two.
    image = (
        select(
            (_entry.began_unix_ms // stretch_ms).label("stretch"),
            *(_GROUPS[name].label(f"of_{name}") for name in names),
            _entry.request_id,
            case((drawn, 1), else_=0).label("is_drawn"),
            case((_entry.outcome.in_(("failed", "interrupted")), 1), else_=0).label("has_failed"),
            case((_entry.outcome == "cancelled", 1), else_=0).label("is_cancelled"),
            case((drawn, _entry.work_units), else_=0.0).label("work_units"),
            func.coalesce(_entry.cost_microusd, 0).label("cost_microusd"),
        )
        .where(*_conditions(asked))
        .subquery()
        .c
    )
    group = (image.stretch, *(image[f"of_{name}"] for name in names))
    added = (image.is_drawn, image.has_failed, image.is_cancelled, image.work_units, image.cost_microusd)
    counted = func.count(image.request_id.distinct())
    return select(*group, counted, *(func.sum(column) for column in added)).group_by(*group)


def _sum(names: list[Group], row: Any) -> Sum:
    stretch, *rest = row
    *values, requests, images, failures, cancelled, work_units, cost = rest
    of = dict(zip(names, values, strict=True))
    return Sum(stretch, of, requests, int(images), int(failures), int(cancelled), float(work_units), int(cost))


def _place(one: Sum) -> tuple[Any, ...]:
    """The order of sums, the same on both databases, whose own orders of text differ."""
    return one.stretch, [(value is not None, value or "") for value in one.of.values()]


def _conditions(asked: Question) -> Iterator[ColumnElement[bool]]:
    yield _entry.began_unix_ms >= asked.since_unix_ms
    yield _entry.began_unix_ms < asked.until_unix_ms
    if asked.models is not None:
        yield or_(_entry.served_model.in_(asked.models), _entry.requested_model.in_(asked.models))
    wanted: Mapping[Group, Collection[str] | None] = {
        "key_id": asked.keys,
        "backend": asked.backends,
        "size": asked.sizes,
        "operation": asked.operations,
        "outcome": asked.outcomes,
        "line_item": asked.line_items,
    }
    for name, values in wanted.items():
        if values is not None:
            yield _GROUPS[name].in_(values)


def _row(values: Sequence[Any]) -> Row:
    entry = Entry(*values[: len(_ENTRY_FIELDS)])
    end = dict(zip(_SETTLEMENT_FIELDS, values[len(_ENTRY_FIELDS) :], strict=True))
    return Row(entry, None if end["outcome"] is None else Settlement(entry.request_id, entry.index, **end))
