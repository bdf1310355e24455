"""Guards when a work item is said to hang: after many times what it took before, and never earlier than allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.watch import FIRST_MULTIPLE, MULTIPLE, Watch

SECONDS = st.floats(0.001, 1000)


def hangs_after(watch: Watch, seconds: float, rows: int = 1) -> bool:
    watch.begin(["a", "b"], "shape", rows, 100.0)
    hung = watch.hung(100.0 + seconds)
    watch.failed()
    return hung is not None


def learned(floor_seconds: float, *took: float, rows: int = 1) -> Watch:
    watch = Watch(floor_seconds)
    for seconds in took:
        watch.begin(["a"], "shape", rows, 0.0)
        watch.done(seconds)
    return watch


def test_the_first_of_a_shape_has_many_times_the_floor() -> None:
    assert not hangs_after(Watch(2.0), 2.0 * FIRST_MULTIPLE)
    assert hangs_after(Watch(2.0), 2.0 * FIRST_MULTIPLE + 1)


def test_what_is_known_to_be_quick_has_the_floor() -> None:
    assert not hangs_after(learned(2.0, 0.01), 2.0)
    assert hangs_after(learned(2.0, 0.01), 2.1)


def test_what_is_known_to_be_slow_has_a_multiple_of_its_slowest_for_each_row() -> None:
    watch = learned(2.0, 6.0, 3.0, rows=2)
    assert not hangs_after(watch, MULTIPLE * 9.0, rows=3)
    assert hangs_after(watch, MULTIPLE * 9.0 + 0.1, rows=3)


def test_nothing_hangs_between_work_items() -> None:
    watch = learned(2.0, 0.01)
    assert watch.hung(1e9) is None


def test_what_hangs_is_told_with_its_jobs_and_its_limit() -> None:
    watch = learned(2.0, 0.01)
    watch.begin(["a", "b"], "shape", 2, 50.0)
    hung = watch.hung(53.0)
    assert hung is not None
    assert (hung.job_ids, hung.seconds, hung.limit_seconds) == (("a", "b"), 3.0, 2.0)


def test_a_failure_teaches_nothing() -> None:
    watch = learned(2.0, 0.01)
    watch.begin(["a"], "shape", 1, 0.0)
    watch.failed()
    assert watch.limit_seconds("shape", 1) == 2.0


@given(floor=SECONDS, took=st.lists(SECONDS), rows=st.integers(1, 64))
def test_no_limit_is_below_the_floor_nor_below_what_was_normal(floor: float, took: list[float], rows: int) -> None:
    limit = learned(floor, *took).limit_seconds("shape", rows)
    assert limit >= floor
    assert all(limit >= seconds * rows for seconds in took)
