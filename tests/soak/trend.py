"""Decides whether a figure grows, from samples taken while a server worked: the judgement of the soak.

Knows numbers; knows no processes. A leak is steady: it shows in the median of the slopes between all pairs of samples
(Theil and Sen's), which a step or an outlier hardly moves, and in the last quarter's median beside the second's. What
warms up is in the first quarter, which does not count; what breathes, as an allocator does, has no slope. Both must say
so: a single step moves the quarters and not the slope, a slow wave the slope and not always the quarters.
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
    """by_slope, by_quarters: how much the figure grew over the samples that count, in its own unit."""

    by_slope: float
    by_quarters: float

    def is_more_than(self, allowed: float) -> bool:
        return self.by_slope > allowed and self.by_quarters > allowed * QUARTERS_SHARE


# From the middle of the second quarter to that of the last it is two thirds of the way that counts.
QUARTERS_SHARE = 2 / 3


def growth(samples: Sequence[float]) -> Growth:
    """Raises ValueError for fewer than LEAST_SAMPLES."""
    if len(samples) < LEAST_SAMPLES:
        raise ValueError(f"{len(samples)} samples tell nothing")
    quarter = len(samples) // 4
    counted = samples[quarter:]
    slopes = [
        (later - earlier) / (at_later - at_earlier)
        for (at_earlier, earlier), (at_later, later) in itertools.combinations(enumerate(counted), 2)
    ]
    by_quarters = statistics.median(samples[-quarter:]) - statistics.median(samples[quarter : 2 * quarter])
    return Growth(statistics.median(slopes) * (len(counted) - 1), by_quarters)
