"""Decides whether a figure grows, from samples taken while a server worked: the judgement of the soak.

Knows numbers; knows no processes. A leak is steady: it shows in the median of the slopes between all pairs of samples
(Theil and Sen's), which no outlier moves, and again between each quarter's median and the next one's. What warms up is
in the first quarter, which does not count; what breathes, as an allocator does, has no slope; a single step, as of a
pool that gets its last thread, is between two quarters at most. Both must say so.
Invariant: pure; the order of samples is their place.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Growth:
    """How much the figure grew over the samples that count, in its own unit: by_slope, and by the least of the
    quarters, as if all had been like it."""

    by_slope: float
    by_least_quarter: float

    def is_more_than(self, allowed: float) -> bool:
        # Half, as a quarter's median is less sure than the slope of all.
        return self.by_slope > allowed and self.by_least_quarter > allowed / 2


def growth(samples: Sequence[float]) -> Growth:
    """Raises ValueError for fewer than LEAST_SAMPLES."""
    if len(samples) < LEAST_SAMPLES:
        raise ValueError(f"{len(samples)} samples tell nothing")
    quarter = len(samples) // 4
    counted = samples[quarter:]
    medians = [statistics.median(samples[place * quarter : (place + 1) * quarter]) for place in (1, 2, 3)]
    least = min(later - earlier for earlier, later in itertools.pairwise(medians))
    return Growth(_slope(counted) * (len(counted) - 1), least * 3)


def _slope(values: Sequence[float]) -> float:
    """Theil and Sen's."""
    pairs = itertools.combinations(enumerate(values), 2)
    return statistics.median((later - earlier) / (end - begin) for (begin, earlier), (end, later) in pairs)
