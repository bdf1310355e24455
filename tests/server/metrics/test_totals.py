"""Sums over the workers of one lane: they go on when a worker is replaced, and never fall."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.figures import SECONDS_BOUNDS, DeviceMemory, ModelFigures, WorkFigures
from pipelines.messages import Figures
from server.dispatch.totals import Totals

BUCKETS = len(SECONDS_BOUNDS) + 1


def told(items: int, loads: int = 0) -> Figures:
    """What one worker says: so many steps of two rows, all in the first bucket."""
    work = WorkFigures("m", "denoise", 1, items, 2 * items, 0.5 * items, (items, *[0] * (BUCKETS - 1)))
    return Figures((work,), (ModelFigures("m", loads=loads, prompt_cache_bytes=7),), DeviceMemory(10, 5))


def test_a_worker_that_is_replaced_takes_no_sum_with_it_but_what_it_held() -> None:
    totals = Totals()
    totals.take(told(3, loads=1))
    totals.take(told(5, loads=2))
    totals.end()
    (work,), (model,) = totals.work(), totals.models()
    assert (work.items, work.rows, work.seconds, work.buckets[0]) == (5, 10, 2.5, 5)
    assert (model.loads, model.prompt_cache_bytes, totals.memory) == (2, 0, None)
    totals.take(told(1, loads=1))
    (work,), (model,) = totals.work(), totals.models()
    assert (work.items, work.buckets[0], model.loads, model.prompt_cache_bytes) == (6, 6, 3, 7)
    assert totals.memory == DeviceMemory(10, 5)


def test_what_was_frozen_does_not_change() -> None:
    totals = Totals()
    totals.take(told(3))
    frozen = totals.frozen()
    totals.end()
    totals.take(told(4))
    assert [one.items for one in frozen.work()] == [3]


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.lists(st.integers(0, 50), max_size=5), max_size=5))
def test_no_sum_ever_falls_whatever_workers_come_and_go(lives: list[list[int]]) -> None:
    totals, seen, expected = Totals(), 0, 0
    for life in lives:
        for items in sorted(life):
            totals.take(told(items))
            now = sum(one.items for one in totals.work())
            assert now >= seen
            seen = now
        totals.end()
        expected += max(life, default=0)
        assert sum(one.items for one in totals.work()) == expected
        seen = expected


def test_two_kinds_of_work_are_kept_apart() -> None:
    totals = Totals()
    totals.take(told(3))
    totals.end()
    totals.take(Figures((WorkFigures("m", "decode", 0, 1, 1, 0.1, (1, *[0] * (BUCKETS - 1))),)))
    assert {(one.kind, one.items) for one in totals.work()} == {("denoise", 3), ("decode", 1)}
    assert sum(one.seconds for one in totals.work()) == pytest.approx(1.6)
