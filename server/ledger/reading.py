"""The statements that read, each a function of a connection.

Knows the tables; changes nothing.
Invariant: sums are whole numbers, exact on both databases.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, select, tuple_

from server.ledger.entries import Cursor, Entry, Page, Row, Settlement
from server.ledger.tables import ATTEMPTS, ENTRIES

_entry, _attempt = ENTRIES.c, ATTEMPTS.c
_ENTRY_FIELDS = tuple(field.name for field in fields(Entry))
_SETTLEMENT_FIELDS = tuple(field.name for field in fields(Settlement) if field.name != "size")


def spent(connection: Connection, since_unix_ms: int) -> dict[str, int]:
    """By backend, of the attempts that began since: what ended ones cost and what open ones may cost, in micro-USD."""
    amount = func.sum(func.coalesce(_attempt.cost_microusd, _attempt.reserved_microusd))
    query = select(_attempt.backend, amount).where(_attempt.began_unix_ms >= since_unix_ms).group_by(_attempt.backend)
    # PostgreSQL's sum of whole numbers is a decimal.
    return {backend: int(total) for backend, total in connection.execute(query)}


def page(
    connection: Connection, since_unix_ms: int, until_unix_ms: int, key_id: str | None, after: Cursor | None, limit: int
) -> Page:
    """Images that began in [since, until), oldest first, at most `limit`. key_id: whose; None for everybody's."""
    query = select(ENTRIES).where(_entry.began_unix_ms >= since_unix_ms, _entry.began_unix_ms < until_unix_ms)
    found = connection.execute(_narrowed(query, key_id, after).limit(limit + 1)).mappings().all()
    rows = found[:limit]
    last = rows[-1] if len(found) > limit else None
    behind = None if last is None else Cursor(last[_entry.began_unix_ms], last[_entry.id])
    return Page(tuple(_row(row) for row in rows), behind)


def _narrowed(query: Select[Any], key_id: str | None, after: Cursor | None) -> Select[Any]:
    if key_id is not None:
        query = query.where(_entry.key_id == key_id)
    if after is not None:
        query = query.where(tuple_(_entry.began_unix_ms, _entry.id) > (after.began_unix_ms, after.id))
    return query.order_by(_entry.began_unix_ms, _entry.id)


def _row(row: RowMapping) -> Row:
    entry = Entry(**{name: row[_entry[name]] for name in _ENTRY_FIELDS})
    if row[_entry.outcome] is None:
        return Row(entry, None)
    values = {name: row[_entry[name]] for name in _SETTLEMENT_FIELDS}
    return Row(entry, Settlement(**values, size=row[_entry.served_size]))
