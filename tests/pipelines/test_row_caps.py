"""Guards the row caps: batches grow while more rows make each of them cheaper, and never past what memory allows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.engine.row_caps import FIRST_ROWS, LEAST_GAIN, MOST_SHAPES, PROBE_EVERY_STEPS, PROBES, RowCaps

SHAPE = ("sdxl", 1024, 1024)


def serve(caps: RowCaps, seconds: Callable[[int], float], steps: int = 50) -> None:
    """Steps that are as full as they may be, on a device that takes so many seconds for so many rows."""
    for _ in range(steps):
        rows = caps.cap(SHAPE)
        caps.observe(SHAPE, rows, seconds(rows))


def saturated_at(rows_at_once: int) -> Callable[[int], float]:
    """A device that does so many rows in the time of one, and more in as much more time."""
    return lambda rows: 0.1 * max(1.0, rows / rows_at_once)


def test_an_unknown_shape_begins_with_few_rows() -> None:
    assert RowCaps(64).cap(SHAPE) == FIRST_ROWS


def test_batches_grow_while_more_rows_cost_no_more_time() -> None:
    caps = RowCaps(64)
    serve(caps, lambda _: 0.1)
    assert caps.cap(SHAPE) == 64


@pytest.mark.parametrize("rows_at_once", [2, 4, 8, 16])
def test_batches_stop_growing_where_the_device_is_saturated(rows_at_once: int) -> None:
    caps = RowCaps(64)
    serve(caps, saturated_at(rows_at_once))
    assert caps.cap(SHAPE) == rows_at_once


def test_a_gain_that_is_too_small_does_not_count() -> None:
    def seconds(rows: int) -> float:
        return 0.1 * rows * (1.0 if rows <= 4 else 1 - 0.8 * LEAST_GAIN)

    caps = RowCaps(64)
    caps.observe(SHAPE, 4, seconds(4))
    caps.observe(SHAPE, 4, seconds(4))
    serve(caps, seconds)
    assert caps.cap(SHAPE) == 4


def test_a_gain_that_is_large_enough_counts() -> None:
    def seconds(rows: int) -> float:
        return 0.1 * rows * (1.0 if rows <= 4 else 1 - 2 * LEAST_GAIN)

    caps = RowCaps(8)
    caps.observe(SHAPE, 4, seconds(4))
    caps.observe(SHAPE, 4, seconds(4))
    serve(caps, seconds)
    assert caps.cap(SHAPE) == 8


def test_the_first_cold_measurement_of_a_size_counts_for_nothing() -> None:
    caps, seen = RowCaps(64), set[int]()

    def seconds(rows: int) -> float:
        is_cold = rows not in seen
        seen.add(rows)
        return 30.0 * rows if is_cold else 0.1

    serve(caps, seconds)
    assert caps.cap(SHAPE) == 64


def test_a_size_measured_only_cold_is_tried_again_before_it_grows() -> None:
    caps = RowCaps(64)
    caps.observe(SHAPE, 4, 0.1)
    assert caps.cap(SHAPE) == 4
    caps.observe(SHAPE, 4, 0.1)
    assert caps.cap(SHAPE) == 8


@pytest.mark.parametrize("slow_steps", [1, 2])
def test_a_very_slow_step_or_two_do_not_shrink_batches(slow_steps: int) -> None:
    caps = RowCaps(8)
    serve(caps, saturated_at(8))
    for _ in range(slow_steps):
        caps.observe(SHAPE, 8, 10.0)
    assert caps.cap(SHAPE) == 8


def test_a_slow_spell_does_not_shrink_batches_for_good() -> None:
    caps = RowCaps(8)
    serve(caps, saturated_at(8))
    for _ in range(10):
        caps.observe(SHAPE, 8, 1.0)
    assert caps.cap(SHAPE) == 4
    serve(caps, saturated_at(8), PROBE_EVERY_STEPS + PROBES)
    assert caps.cap(SHAPE) == 8


def test_rows_run_one_by_one_where_two_cost_twice_the_time() -> None:
    caps = RowCaps(8)
    caps.observe(SHAPE, 1, 0.1)
    caps.observe(SHAPE, 1, 0.1)
    serve(caps, saturated_at(1))
    assert caps.cap(SHAPE) == 1


def test_a_fuller_batch_is_tried_again_from_time_to_time() -> None:
    caps, rows_tried = RowCaps(64), list[int]()

    def seconds(rows: int) -> float:
        rows_tried.append(rows)
        return saturated_at(4)(rows)

    serve(caps, seconds)
    rows_tried.clear()
    serve(caps, seconds, 2 * PROBE_EVERY_STEPS)
    assert sorted(set(rows_tried)) == [4, 8]
    assert rows_tried.count(8) == 2 * PROBES


def test_batches_grow_again_when_a_probe_finds_the_device_faster() -> None:
    caps = RowCaps(64)
    serve(caps, saturated_at(4))
    assert caps.cap(SHAPE) == 4
    serve(caps, saturated_at(16), PROBE_EVERY_STEPS + PROBES)
    assert caps.cap(SHAPE) >= 8


def test_batches_shrink_when_the_device_gets_slower_with_many_rows() -> None:
    caps = RowCaps(16)
    serve(caps, saturated_at(16))
    assert caps.cap(SHAPE) == 16
    serve(caps, lambda rows: 0.1 * max(1.0, (rows / 4) ** 2))
    assert caps.cap(SHAPE) <= 8


def test_what_did_not_fit_into_memory_is_halved_for_good() -> None:
    caps = RowCaps(64)
    serve(caps, lambda _: 0.1)
    caps.forbid(SHAPE, 64)
    assert caps.cap(SHAPE) == 32
    serve(caps, lambda _: 0.1, 2 * PROBE_EVERY_STEPS)
    assert caps.cap(SHAPE) == 32


def test_what_does_not_fit_again_is_halved_again() -> None:
    caps = RowCaps(64)
    serve(caps, lambda _: 0.1)
    for rows in (64, 32, 16):
        caps.forbid(SHAPE, rows)
    assert caps.cap(SHAPE) == 8


def test_one_row_is_always_allowed() -> None:
    caps = RowCaps(64)
    caps.forbid(SHAPE, 1)
    assert caps.cap(SHAPE) == 1


def test_there_are_never_more_rows_than_the_most_allowed() -> None:
    caps = RowCaps(6)
    serve(caps, lambda _: 0.1)
    assert caps.cap(SHAPE) == 6
    assert RowCaps(1).cap(SHAPE) == 1


def test_shapes_know_nothing_of_each_other() -> None:
    caps = RowCaps(64)
    serve(caps, lambda _: 0.1)
    caps.forbid("large", 8)
    assert caps.cap(SHAPE) == 64
    assert caps.cap("large") == FIRST_ROWS
    assert caps.cap("new") == FIRST_ROWS


def test_the_shapes_unused_for_longest_are_forgotten() -> None:
    caps = RowCaps(64)
    for shape in ("old", "used", *range(MOST_SHAPES - 2)):
        caps.forbid(shape, 2)
    caps.observe("used", 1, 0.1)
    caps.observe("one too many", 1, 0.1)
    caps.observe("another", 1, 0.1)
    assert (caps.cap("old"), caps.cap("used")) == (FIRST_ROWS, 1)


MEASUREMENTS = st.lists(
    st.tuples(st.sampled_from("xy"), st.integers(1, 64), st.floats(1e-6, 1e3), st.sampled_from([False, False, True])),
    max_size=60,
)


@settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 32), MEASUREMENTS, st.sampled_from([0, PROBE_EVERY_STEPS - 20]))
def test_whatever_is_measured_a_cap_is_between_one_and_the_most_allowed(
    max_rows: int, measurements: list[tuple[str, int, float, bool]], steps_before: int
) -> None:
    caps = RowCaps(max_rows)
    for _ in range(steps_before):
        caps.observe("x", 2, 0.1)
    for shape, rows, seconds, did_not_fit in measurements:
        if did_not_fit:
            caps.forbid(shape, rows)
            assert caps.cap(shape) <= max(1, rows // 2)
        else:
            caps.observe(shape, rows, seconds)
        assert 1 <= caps.cap(shape) <= max_rows
