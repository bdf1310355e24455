"""What is used up of a day's quota, without reading the whole day each time.

Knows the table of entries; changes nothing.
Invariant: the sums are those of all entries since the moment asked for, as if they were read one by one.

Entries are settled about in the order in which they came, so up to some entry all are final, and their sum need not be
read again: a mark keeps it. Quotas are taken under one lock, so that entries become visible in the order of their ids,
and nothing can come in before a mark. Marks move only when a reader looks, who sees nothing but what is committed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, case, func, not_, or_, select

from server.ledger.entries import Used
from server.ledger.tables import ENTRIES

# As settlements name our own devices.
OWN_DEVICES = "local"
# Entries behind a mark's that are read before it moves.
MOST_READ = 256
# How much later an entry may become visible than one with a later time: clocks of servers differ, and groups wait.
SLACK_MS = 600_000
# What a later start took for left behind may be settled after all by who is alive; not after so long.
PRESUMED_MS = 3_600_000

_entry = ENTRIES.c
# Work counts where our own devices did it, or still may. What was never drawn eats no quota.
_WORK = case(
    (
        or_(_entry.outcome.is_(None), and_(_entry.outcome == "succeeded", _entry.backend == OWN_DEVICES)),
        _entry.work_units,
    ),
    else_=0,
)
# Money counts wherever it went; what nobody was left to settle may have been spent.
_MONEY = case(
    (_entry.is_presumed, _entry.reserved_microusd),
    else_=func.coalesce(_entry.cost_microusd, _entry.reserved_microusd),
)


_IS_FINAL = and_(
    _entry.outcome.is_not(None), not_(and_(_entry.is_presumed, _entry.began_unix_ms >= bindparam("alive_since")))
)
# Made once: to make them anew takes longer than to run them.
_BEHIND = and_(_entry.began_unix_ms >= bindparam("earliest"), _entry.id > bindparam("after"))
_SUMS = select(func.sum(_WORK), func.sum(_MONEY))
_LOOK = _SUMS.add_columns(func.count(), func.min(case((not_(_IS_FINAL), _entry.id))), func.max(_entry.id)).where(
    _BEHIND
)
_MOVE = _SUMS.add_columns(func.max(_entry.began_unix_ms)).where(_BEHIND, _entry.id <= bindparam("up_to"))
_OF_ONE = _entry.key_id == bindparam("key")
_LOOKS: dict[bool, Select[Any]] = {True: _LOOK.where(_OF_ONE), False: _LOOK}
_MOVES: dict[bool, Select[Any]] = {True: _MOVE.where(_OF_ONE), False: _MOVE}
_NOTHING = Used(0.0, 0)


@dataclass(frozen=True, slots=True)
class _Mark:
    """used: by the entries since `since_unix_ms` up to `id`, which began at `began_unix_ms` at the latest."""

    since_unix_ms: int
    id: int = 0
    began_unix_ms: int = 0
    used: Used = _NOTHING

    @property
    def earliest_unix_ms(self) -> int:
        """Nothing behind the mark began before."""
        return max(self.since_unix_ms, self.began_unix_ms - SLACK_MS)


class Tally:
    """One ledger's, for both of its threads: marks are replaced as a whole, and only by the one that reads."""

    def __init__(self) -> None:
        self._marks: dict[str | None, _Mark] = {}

    def used(self, connection: Connection, since_unix_ms: int, key_id: str | None, *, may_move: bool = False) -> Used:
        """By the images that began since: of one key; None: of all. may_move: whether the connection sees nothing but
        what is committed."""
        mark = self._marks.get(key_id, _Mark(since_unix_ms))
        if mark.since_unix_ms != since_unix_ms:
            mark = _Mark(since_unix_ms)
        values: dict[str, Any] = {
            "earliest": mark.earliest_unix_ms,
            "after": mark.id,
            "alive_since": round(time.time() * 1000) - PRESUMED_MS,
        }
        if key_id is not None:
            values["key"] = key_id
        look = connection.execute(_LOOKS[key_id is not None], values)
        work_units, microusd, rows, open_id, last_id = look.one()
        if may_move and rows > MOST_READ:
            del values["alive_since"]
            values["up_to"] = last_id if open_id is None else open_id - 1
            self._marks[key_id] = _moved(connection, mark, _MOVES[key_id is not None], values)
        return _sum(mark.used, work_units, microusd)


def _moved(connection: Connection, mark: _Mark, query: Select[Any], values: dict[str, Any]) -> _Mark:
    work_units, microusd, began_unix_ms = connection.execute(query, values).one()
    if began_unix_ms is None:
        return mark
    return _Mark(mark.since_unix_ms, values["up_to"], began_unix_ms, _sum(mark.used, work_units, microusd))


def _sum(used: Used, work_units: float | None, microusd: int | None) -> Used:
    # PostgreSQL's sum of whole numbers is a decimal.
    return Used(used.work_units + float(work_units or 0), used.microusd + int(microusd or 0))
