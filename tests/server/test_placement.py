"""A job goes where it would be done first: to its model, unless the wait there costs more than a load elsewhere."""

from __future__ import annotations

from pipelines.messages import ModelReport, ModelState
from server.dispatch.placement import Choice, choose


def device(state: ModelState, busy_seconds: float = 0.0, load_seconds: float | None = 4.0) -> Choice:
    problem = "damaged" if state == "failed" else None
    return Choice(ModelReport("m", problem, state, load_seconds=load_seconds), busy_seconds)


def test_the_device_that_has_the_model_wins_while_its_queue_is_shorter_than_a_load() -> None:
    assert choose([device("disk"), device("device", busy_seconds=3.9)]) == 1


def test_another_device_loads_the_model_when_the_queue_is_longer_than_that() -> None:
    assert choose([device("disk"), device("device", busy_seconds=4.1)]) == 0


def test_of_devices_that_have_the_model_the_less_busy_one_wins() -> None:
    assert choose([device("device", busy_seconds=2.0), device("device", busy_seconds=1.0)]) == 1


def test_of_equals_the_first_wins() -> None:
    assert choose([device("disk"), device("disk")]) == 0


def test_a_model_on_its_way_is_as_good_as_there_but_for_equals() -> None:
    assert choose([device("loading"), device("disk")]) == 0
    assert choose([device("loading"), device("device")]) == 1


def test_a_device_where_the_model_has_failed_is_the_last_choice() -> None:
    assert choose([device("failed"), device("disk", busy_seconds=1000.0)]) == 1
    assert choose([device("failed")]) == 0


def test_a_load_that_nobody_has_measured_counts_as_a_long_one() -> None:
    assert choose([device("disk", load_seconds=None), device("device", busy_seconds=9.0)]) == 1
    assert choose([device("disk", load_seconds=None), device("device", busy_seconds=11.0)]) == 0
