"""How many rows a forward of each shape may fill before more of them stop paying.

Knows shapes, rows and seconds; knows no jobs, tensors or clocks.
Invariant: a cap only grows while the measured time per row still falls, and never past a limit that memory has set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from statistics import median

FIRST_ROWS = 2
# More rows must make each at least so much cheaper; less is noise, and everyone in a fuller batch waits longer.
LEAST_GAIN = 0.05
# A step's time is the median of so many: two slow ones, when the machine was busy elsewhere, change nothing.
REMEMBERED = 5
# After so many steps of a shape a fuller batch is tried again, a few times: the machine may have been busy for long.
PROBE_EVERY_STEPS, PROBES = 200, 3
# Shapes that are remembered. Sizes are the callers' choice, and there are thousands of them.
MOST_SHAPES = 1000


@dataclass(slots=True)
class _Shape:
    """seconds: the last measurements by rows, without the first, cold one, which counts for nothing."""

    seconds: dict[int, deque[float]] = field(default_factory=dict)
    limit: int | None = None
    steps: int = 0


class RowCaps:
    """Measured step times by shape. max_rows: never more, whatever is measured."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._shapes: dict[Hashable, _Shape] = {}

    def observe(self, shape: Hashable, rows: int, seconds: float) -> None:
        """One forward of `rows` rows took `seconds`."""
        known = self._known(shape)
        known.steps += 1
        if rows in known.seconds:
            known.seconds[rows].append(seconds)
        else:
            known.seconds[rows] = deque(maxlen=REMEMBERED)

    def forbid(self, shape: Hashable, rows: int) -> None:
        """So many rows did not fit into memory: from now on at most half of them."""
        known = self._known(shape)
        known.limit = max(1, min(rows // 2, known.limit or rows))

    def cap(self, shape: Hashable) -> int:
        """The most rows that the next forward of this shape should fill; at least 1."""
        known = self._shapes.get(shape, _Shape())
        cap = self._paying(known)
        if known.steps >= PROBE_EVERY_STEPS and known.steps % PROBE_EVERY_STEPS < PROBES:
            cap *= 2
        ceiling = self._max_rows if known.limit is None else min(known.limit, self._max_rows)
        return max(1, min(cap, ceiling))

    def _known(self, shape: Hashable) -> _Shape:
        """What is known of the shape, which becomes the last to be forgotten."""
        known = self._shapes.pop(shape, None) or _Shape()
        self._shapes[shape] = known
        if len(self._shapes) > MOST_SHAPES:
            del self._shapes[next(iter(self._shapes))]
        return known

    def _paying(self, known: _Shape) -> int:
        """Twice the fullest batch measured while filling pays, else the smallest that is as good as the best."""
        per_row = {rows: median(seconds) / rows for rows, seconds in known.seconds.items() if seconds}
        fullest = max(known.seconds, default=FIRST_ROWS)
        if not per_row or max(per_row) < fullest:
            return max(FIRST_ROWS, fullest)
        best = min(per_row.values())
        enough = min(rows for rows, seconds in per_row.items() if seconds <= best * (1 + LEAST_GAIN))
        return fullest * 2 if enough == fullest else enough
