"""Counts the engine's work items: how many, with how many rows, in how many seconds, by model.

Knows models' names and numbers; knows no clock, no jobs and no tensors.
Invariant: counting takes the same few additions however much was counted before.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from pipelines.figures import ROWS_BOUNDS, SECONDS_BOUNDS, WorkFigures, WorkKind


@dataclass(slots=True)
class _Sums:
    items: int = 0
    rows: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS_BOUNDS) + 1))


@dataclass(slots=True)
class Tally:
    """One worker's. Used by the engine's thread alone."""

    out_of_memory: dict[str, int] = field(default_factory=dict)
    _sums: dict[tuple[str, WorkKind, int], _Sums] = field(default_factory=dict)

    def worked(self, model: str, kind: WorkKind, rows: int, seconds: float) -> None:
        """One work item is done."""
        key = (model, kind, bisect_left(ROWS_BOUNDS, rows))
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = _Sums()
        sums.items += 1
        sums.rows += rows
        sums.seconds += seconds
        sums.buckets[bisect_left(SECONDS_BOUNDS, seconds)] += 1

    def ran_out_of_memory(self, model: str) -> None:
        self.out_of_memory[model] = self.out_of_memory.get(model, 0) + 1

    def figures(self) -> tuple[WorkFigures, ...]:
        return tuple(
            WorkFigures(*key, sums.items, sums.rows, sums.seconds, tuple(sums.buckets))
            for key, sums in self._sums.items()
        )
