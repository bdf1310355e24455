"""Cuts a stretch of time into buckets, as OpenAI's pages of usage do: minutes, hours or days of UTC.

Pure: knows seconds since 1970; knows no clock and no rows.
Invariant: the buckets of all pages together cover [start, end) without gap or overlap, and none reaches beyond: the
first and the last may be shorter than their width, so that what stands in a bucket began within its times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DAY_SECONDS = 86_400
# What OpenAI calls them.
WIDTHS: Mapping[str, int] = {"1m": 60, "1h": 3600, "1d": DAY_SECONDS}


@dataclass(frozen=True, slots=True)
class Bucket:
    """[start, end) in Unix seconds. number: counted in widths from 1970."""

    number: int
    start: int
    end: int


def buckets(start: int, end: int, width_seconds: int, most: int) -> tuple[Bucket, ...]:
    """Of [start, end), the first ones, `most` at most."""
    first, behind = start // width_seconds, -(-end // width_seconds)
    return tuple(
        Bucket(number, max(start, number * width_seconds), min(end, (number + 1) * width_seconds))
        for number in range(first, min(behind, first + most))
    )
