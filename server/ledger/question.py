"""What may be asked of the ledger: which images, and sums of them over time and by what.

Knows values; knows no database and no wire.
Invariant: a question is complete: whoever answers it adds no filter and leaves none out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.ledger.entries import Operation, Outcome

# open: still under way.
Standing = Outcome | Literal["open"]
# model: who drew, or, where nobody did, the name that was asked for. line_item: "MODEL, BACKEND".
Group = Literal["key_id", "model", "backend", "size", "operation", "outcome", "line_item"]


@dataclass(frozen=True, slots=True)
class Question:
    """Images that began in [since, until). A set that is given holds what may be; None: anything.

    keys: whose. models: who drew, or the name that was asked for. sizes: as served, or as asked where nothing was.
    """

    since_unix_ms: int
    until_unix_ms: int
    keys: frozenset[str] | None = None
    models: frozenset[str] | None = None
    backends: frozenset[str] | None = None
    outcomes: frozenset[Standing] | None = None
    operations: frozenset[Operation] | None = None
    sizes: frozenset[str] | None = None
    line_items: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """Over the images of one stretch of time, and of one group.

    stretch: which, counted from 1970. of: what the group's images have in common, by the names that were asked for.
    requests: how many the images belong to. images: those that were drawn, and work_units: of these, rows x pixels x
    steps. failures: those that failed or were interrupted. cost_microusd: of all.
    """

    stretch: int
    of: dict[Group, str | None]
    requests: int
    images: int
    failures: int
    cancelled: int
    work_units: float
    cost_microusd: int
