"""The statements that write, each a function of a connection inside a transaction.

Knows the tables; knows no threads and no transactions' ends.
Invariant: what contradicts the ledger raises LedgerRefusal; whoever calls undoes what was written before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, bindparam, delete, false, insert, select, text, true, update
from sqlalchemy.exc import IntegrityError

from server.ledger.decisions import Decision
from server.ledger.entries import INTERRUPTED, Attempt, AttemptEnd, Entry, Excess, Quota, Settlement, Used
from server.ledger.migrate import VERSION_TABLE
from server.ledger.problem import (
    BEGUN_BEFORE,
    DECIDED_BEFORE,
    ENDED_BEFORE,
    NEVER_BEGUN,
    NEVER_RESERVED,
    RESERVED_BEFORE,
    SETTLED_BEFORE,
    LedgerRefusal,
)
from server.ledger.reading import spent
from server.ledger.tables import ATTEMPTS, DECISIONS, ENTRIES
from server.ledger.tally import Tally

# Rows that one deletion takes, so that nobody waits long behind it.
FORGOTTEN_AT_ONCE = 2000

_entry, _attempt = ENTRIES.c, ATTEMPTS.c
# What a later start closed is closed by presumption only: who works on it after all knows better.
_IS_OPEN = _entry.outcome.is_(None) | _entry.is_presumed
_ATTEMPT_IS_OPEN = _attempt.cost_microusd.is_(None) | _attempt.is_presumed

# The one row that is always there.
_TOUCH = text(f"UPDATE {VERSION_TABLE} SET version_num = version_num")  # noqa: S608 (a constant of ours)
_RESERVE = insert(ENTRIES)
_SETTLE = (
    update(ENTRIES)
    .where(_entry.request_id == bindparam("of_request"), _entry["index"] == bindparam("of_index"), _IS_OPEN)
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                *("outcome", "error_code", "served_model", "backend", "attempts", "steps", "seed"),
                *("queue_ms", "device_ms", "latency_ms", "cost_microusd", "served_size"),
            )
        }
        | {"is_presumed": false()}
    )
)
_RAISE = (
    update(ENTRIES)
    .where(_entry.request_id == bindparam("of_request"), _entry["index"] == bindparam("of_index"))
    .values(reserved_microusd=_entry.reserved_microusd + bindparam("more"))
)
_BEGIN = insert(ATTEMPTS)
_DECIDE = insert(DECISIONS)
_END = (
    update(ATTEMPTS)
    .where(_attempt.attempt_id == bindparam("new_attempt_id"), _ATTEMPT_IS_OPEN)
    .values(
        {name: bindparam(f"new_{name}") for name in ("cause", "status", "latency_ms", "cost_microusd")}
        | {"is_presumed": false()}
    )
)


def _values(what: Entry | Settlement | Attempt | AttemptEnd | Decision) -> dict[str, Any]:
    """By column. What `asdict` gives, without its copies."""
    return {field.name: getattr(what, field.name) for field in fields(what)}


def touch(connection: Connection) -> None:
    """Write what is written already: as good a question as any whether the next entry could be."""
    connection.execute(_TOUCH)


def reserve(connection: Connection, entries: Sequence[Entry]) -> None:
    """Raises LedgerRefusal if one of them is there already."""
    try:
        connection.execute(_RESERVE, [_values(entry) for entry in entries])
    except IntegrityError as error:
        raise LedgerRefusal(RESERVED_BEFORE) from error


def try_reserve(
    connection: Connection, tally: Tally, entries: Sequence[Entry], quotas: Sequence[Quota], since_unix_ms: int
) -> Excess | None:
    """Write them if they fit into all of the quotas; else the first that they do not fit into. Nobody else may try so
    until the commit."""
    used = {quota.key_id: tally.used(connection, since_unix_ms, quota.key_id) for quota in quotas}
    excess = first_excess(entries, quotas, used)
    if excess is None:
        reserve(connection, entries)
    return excess


def try_raise(
    connection: Connection, tally: Tally, entries: Sequence[Entry], quotas: Sequence[Quota], since_unix_ms: int
) -> Excess | None:
    """Reserve the money that open entries lack to what they now say, if it fits into all of the quotas; else the first
    that it does not fit into. Nobody else may try so until the commit. Raises LedgerRefusal if one is not there."""
    request_id = entries[0].request_id
    rows = connection.execute(select(_entry["index"], _entry.reserved_microusd).where(_entry.request_id == request_id))
    held = {int(index): int(reserved) for index, reserved in rows}
    if not {entry.index for entry in entries} <= held.keys():
        raise LedgerRefusal(NEVER_RESERVED)
    lacks = [max(0, entry.reserved_microusd - held[entry.index]) for entry in entries]
    more = [replace(entry, work_units=0.0, reserved_microusd=lack) for entry, lack in zip(entries, lacks, strict=True)]
    used = {quota.key_id: tally.used(connection, since_unix_ms, quota.key_id) for quota in quotas}
    excess = first_excess(more, quotas, used)
    if excess is None:
        connection.execute(
            _RAISE,
            [{"of_request": request_id, "of_index": one.index, "more": one.reserved_microusd} for one in more],
        )
    return excess


def first_excess(entries: Sequence[Entry], quotas: Sequence[Quota], used: Mapping[str | None, Used]) -> Excess | None:
    """The first of the quotas that these entries do not fit into beside what is used up, by its key."""
    work_units = sum(entry.work_units for entry in entries)
    microusd = sum(entry.reserved_microusd for entry in entries)
    for quota in quotas:
        so_far = used[quota.key_id]
        if _exceeds(so_far.work_units, work_units, quota.work_units):
            return Excess(quota, so_far, is_of_money=False)
        if _exceeds(so_far.microusd, microusd, quota.microusd):
            return Excess(quota, so_far, is_of_money=True)
    return None


def _exceeds(used_up: float, more: float, limit: float | None) -> bool:
    """Who asks for nothing more is not refused for what is gone."""
    return limit is not None and more > 0 and used_up + more > limit


def settle(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Raises LedgerRefusal if one of them was never reserved, or is settled already, maybe earlier in the sequence."""
    rows = [_parameters(_values(settlement)) for settlement in settlements]
    if connection.execute(_SETTLE, rows).rowcount != len(rows):
        raise LedgerRefusal(SETTLED_BEFORE if _are_all_there(connection, settlements) else NEVER_RESERVED)


def _parameters(values: dict[str, Any]) -> dict[str, Any]:
    request_id, index, size = (values.pop(name) for name in ("request_id", "index", "size"))
    names = {f"new_{name}": value for name, value in values.items()}
    return names | {"of_request": request_id, "of_index": index, "new_served_size": size}


def _are_all_there(connection: Connection, settlements: Sequence[Settlement]) -> bool:
    wanted = {(settlement.request_id, settlement.index) for settlement in settlements}
    query = select(_entry.request_id, _entry["index"]).where(_entry.request_id.in_({name for name, _ in wanted}))
    return wanted <= {(request_id, index) for request_id, index in connection.execute(query)}


def begin_attempts(connection: Connection, attempts: Sequence[Attempt]) -> None:
    """Raises LedgerRefusal if one of them was begun before."""
    try:
        connection.execute(_BEGIN, [_values(attempt) for attempt in attempts])
    except IntegrityError as error:
        raise LedgerRefusal(BEGUN_BEFORE) from error


def try_attempt(connection: Connection, attempt: Attempt, caps: Mapping[str | None, int], since_unix_ms: int) -> bool:
    """Whether it fits into the caps and was written. Nobody else may try so until the commit."""
    by_backend = spent(connection, since_unix_ms) if caps else {}
    so_far = {attempt.backend: by_backend.get(attempt.backend, 0), None: sum(by_backend.values())}
    if any(so_far[name] + attempt.reserved_microusd > cap for name, cap in caps.items() if name in so_far):
        return False
    begin_attempts(connection, [attempt])
    return True


def end_attempts(connection: Connection, ends: Sequence[AttemptEnd]) -> None:
    """Raises LedgerRefusal if one of them was never begun, or has ended already."""
    rows = [{f"new_{name}": value for name, value in _values(end).items()} for end in ends]
    if connection.execute(_END, rows).rowcount != len(rows):
        names = {end.attempt_id for end in ends}
        there = connection.execute(select(_attempt.attempt_id).where(_attempt.attempt_id.in_(names))).scalars()
        raise LedgerRefusal(ENDED_BEFORE if names <= set(there) else NEVER_BEGUN)


def decide(connection: Connection, decisions: Sequence[Decision]) -> None:
    """Raises LedgerRefusal if one of them is there already."""
    try:
        connection.execute(_DECIDE, [_values(decision) for decision in decisions])
    except IntegrityError as error:
        raise LedgerRefusal(DECIDED_BEFORE) from error


def close_what_is_open(connection: Connection) -> int:
    """As nobody is left who could: how many entries. A reservation becomes the cost, as it may have been spent."""
    attempts = update(ATTEMPTS).where(_attempt.cost_microusd.is_(None))
    connection.execute(
        attempts.values(cost_microusd=_attempt.reserved_microusd, cause=INTERRUPTED, latency_ms=0, is_presumed=true())
    )
    entries = update(ENTRIES).where(_entry.outcome.is_(None))
    unknown = dict.fromkeys(("attempts", "latency_ms", "cost_microusd"), 0)
    return connection.execute(entries.values(outcome=INTERRUPTED, is_presumed=true(), **unknown)).rowcount


def forget(connection: Connection, unix_ms: int) -> int:
    """Delete settled entries, ended attempts and decisions that began before: how many, no more than 3 *
    FORGOTTEN_AT_ONCE."""
    decisions = _delete_some(connection, DECISIONS, DECISIONS.c.id, unix_ms, true())
    entries = _delete_some(connection, ENTRIES, _entry.id, unix_ms, _entry.outcome.is_not(None))
    return (
        decisions
        + entries
        + _delete_some(connection, ATTEMPTS, _attempt.attempt_id, unix_ms, _attempt.cost_microusd.is_not(None))
    )


def _delete_some(
    connection: Connection, table: Table, name: ColumnElement[Any], unix_ms: int, is_over: ColumnElement[bool]
) -> int:
    old = select(name).where(table.c.began_unix_ms < unix_ms, is_over).limit(FORGOTTEN_AT_ONCE)
    return connection.execute(delete(table).where(name.in_(old))).rowcount
