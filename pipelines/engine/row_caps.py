"""How many rows a forward of each shape may fill before more of them stop paying.

Knows shapes, rows and seconds; knows no jobs, tensors or clocks.
Invariant: a cap only grows while the measured time per row still falls, and never past a limit that memory has set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

FIRST_ROWS = 2
# More rows must make each at least so much cheaper; less is noise, and everyone in a fuller batch waits longer.
LEAST_GAIN = 0.05
# The weight of the newest measurement in the running mean.
NEWEST_WEIGHT = 0.25
# After so many steps of a shape a fuller batch is tried again: the machine may have been busy when it was measured.
PROBE_EVERY_STEPS = 200


@dataclass(slots=True)
class _Shape:
    """seconds: running mean by rows; None after a first, cold measurement, which counts for nothing."""

    seconds: dict[int, float | None] = field(default_factory=dict)
    limit: int | None = None
    steps: int = 0


class RowCaps:
    """Measured step times by shape. max_rows: never more, whatever is measured."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._shapes: defaultdict[Hashable, _Shape] = defaultdict(_Shape)

    def observe(self, shape: Hashable, rows: int, seconds: float) -> None:
        """One forward of `rows` rows took `seconds`."""
        known = self._shapes[shape]
        known.steps += 1
        if rows not in known.seconds:
            known.seconds[rows] = None
            return
        mean = known.seconds[rows]
        known.seconds[rows] = seconds if mean is None else mean + NEWEST_WEIGHT * (seconds - mean)

    def forbid(self, shape: Hashable, rows: int) -> None:
        """So many rows did not fit into memory: from now on at most half of them."""
        known = self._shapes[shape]
        known.limit = max(1, min(rows // 2, known.limit or rows))

    def cap(self, shape: Hashable) -> int:
        """The most rows that the next forward of this shape should fill; at least 1."""
        known = self._shapes[shape]
        cap = self._paying(known)
        if known.steps and known.steps % PROBE_EVERY_STEPS == 0:
            cap *= 2
        ceiling = self._max_rows if known.limit is None else min(known.limit, self._max_rows)
        return max(1, min(cap, ceiling))

    def _paying(self, known: _Shape) -> int:
        """Twice the fullest batch measured while filling pays, else the smallest that is as good as the best."""
        per_row = {rows: seconds / rows for rows, seconds in known.seconds.items() if seconds is not None}
        fullest = max(known.seconds, default=FIRST_ROWS)
        if not per_row or max(per_row) < fullest:
            return max(FIRST_ROWS, fullest)
        best = min(per_row.values())
        enough = min(rows for rows, seconds in per_row.items() if seconds <= best * (1 + LEAST_GAIN))
        return fullest * 2 if enough == fullest else max(FIRST_ROWS, enough)
