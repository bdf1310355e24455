"""Says when a work item hangs: it takes many times what such items took before, in a step that does not come back.

Knows shapes, rows and seconds; knows no tensors, and no clock but the times that it is told.
Invariant: what is not a work item (loading, compiling, waiting) is never said to hang; and no item that takes less than
the floor.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pipelines.messages import Hung

# Of the slowest row of this shape: a device that is shared, hot or short of memory is slower, but not so much.
MULTIPLE = 10.0
# Of the floor: what the first of a shape may take. Nobody knows it yet, and libraries choose their kernels with it.
FIRST_MULTIPLE = 10.0
MOST_SHAPES = 1000


@dataclass(frozen=True, slots=True)
class _Item:
    job_ids: tuple[str, ...]
    shape: Hashable
    rows: int
    began_seconds: float
    limit_seconds: float


class Watch:
    """One thread calls `begin`, `done` and `failed`; any thread may ask for `hung`. floor_seconds: the operator's."""

    def __init__(self, floor_seconds: float) -> None:
        self._floor_seconds = floor_seconds
        self._slowest_row_seconds: dict[Hashable, float] = {}
        # Exchanged whole, as another thread reads it.
        self._item: _Item | None = None

    def begin(self, job_ids: Sequence[str], shape: Hashable, rows: int, now_seconds: float) -> None:
        self._item = _Item(tuple(job_ids), shape, rows, now_seconds, self.limit_seconds(shape, rows))

    def done(self, now_seconds: float) -> None:
        """The item ended well: so long may such items take."""
        item, self._item = self._item, None
        if item is None:
            return
        seconds = (now_seconds - item.began_seconds) / item.rows
        self._slowest_row_seconds[item.shape] = max(seconds, self._slowest_row_seconds.pop(item.shape, 0.0))
        if len(self._slowest_row_seconds) > MOST_SHAPES:  # the one that was seen least lately
            del self._slowest_row_seconds[next(iter(self._slowest_row_seconds))]

    def failed(self) -> None:
        """The item ended: of how long it took nothing is to be learned."""
        self._item = None

    def limit_seconds(self, shape: Hashable, rows: int) -> float:
        slowest = self._slowest_row_seconds.get(shape)
        if slowest is None:
            return FIRST_MULTIPLE * self._floor_seconds
        return max(self._floor_seconds, MULTIPLE * slowest * rows)

    def hung(self, now_seconds: float) -> Hung | None:
        """What hangs now."""
        item = self._item
        if item is None or now_seconds - item.began_seconds <= item.limit_seconds:
            return None
        return Hung(item.job_ids, now_seconds - item.began_seconds, item.limit_seconds)
