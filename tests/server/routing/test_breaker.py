"""Guards who is not asked: breakers that open, cool down and probe, and the cap on requests that are asked again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.providers import Target
from server.routing.allowance import RESERVE, Allowance
from server.routing.breaker import (
    FAILURES_IN_A_ROW,
    FIRST_COOL_DOWN_SECONDS,
    LONGEST_COOL_DOWN_SECONDS,
    Breakers,
)

TARGET, OTHER = Target("openai", "gpt-image-2"), Target("openai", "gpt-image-2.5-flare")


def failing(times: int, now_seconds: float = 0.0) -> Breakers:
    breakers = Breakers()
    for _ in range(times):
        breakers.asked(TARGET)
        breakers.failed(TARGET, "some", now_seconds)
    return breakers


def test_failures_in_a_row_open_one_target_and_no_other() -> None:
    assert failing(FAILURES_IN_A_ROW - 1).is_closed(TARGET, 0.0)
    breakers = failing(FAILURES_IN_A_ROW)
    assert not breakers.is_closed(TARGET, FIRST_COOL_DOWN_SECONDS - 1)
    assert breakers.is_closed(OTHER, 0.0)


def test_a_success_in_between_starts_the_count_anew() -> None:
    breakers = failing(FAILURES_IN_A_ROW - 1)
    breakers.served(TARGET)
    breakers.failed(TARGET, "some", 0.0)
    assert breakers.is_closed(TARGET, 0.0)


def test_after_the_cool_down_one_request_at_a_time_is_let_through() -> None:
    breakers = failing(FAILURES_IN_A_ROW)
    now = FIRST_COOL_DOWN_SECONDS
    assert breakers.is_closed(TARGET, now)
    breakers.asked(TARGET)
    assert not breakers.is_closed(TARGET, now)
    breakers.abandoned(TARGET)
    assert breakers.is_closed(TARGET, now)
    breakers.asked(TARGET)
    breakers.served(TARGET)
    assert breakers.is_closed(TARGET, now)


def test_each_failed_probe_doubles_the_cool_down_up_to_the_longest() -> None:
    breakers, now = failing(FAILURES_IN_A_ROW), 0.0
    waits = []
    for _ in range(8):
        waits.append(next(wait for wait in range(10_000) if breakers.is_closed(TARGET, now + wait)))
        now += waits[-1]
        breakers.asked(TARGET)
        breakers.failed(TARGET, "some", now)
    assert waits[:4] == [30, 60, 120, 240]
    assert max(waits) == LONGEST_COOL_DOWN_SECONDS


def test_what_will_not_change_soon_opens_at_once_for_the_longest_time() -> None:
    breakers = Breakers()
    breakers.failed(TARGET, "lasting", 0.0)
    assert not breakers.is_closed(TARGET, LONGEST_COOL_DOWN_SECONDS - 1)
    assert breakers.is_closed(TARGET, LONGEST_COOL_DOWN_SECONDS)


def test_what_is_gone_for_good_is_never_asked_again() -> None:
    breakers = Breakers()
    breakers.failed(TARGET, "for_good", 0.0)
    assert breakers.is_gone(TARGET)
    assert not breakers.is_closed(TARGET, 1e12)
    breakers.abandoned(TARGET)
    assert not breakers.is_closed(TARGET, 1e12)


def test_a_refusal_that_is_the_requests_own_fault_counts_for_nothing() -> None:
    breakers = Breakers()
    for _ in range(100):
        breakers.asked(TARGET)
        breakers.failed(TARGET, "none", 0.0)
    assert breakers.is_closed(TARGET, 0.0)


@given(st.lists(st.sampled_from(["ask", "some", "lasting", "none", "abandoned", "wait"]), max_size=60))
def test_while_it_is_open_never_are_two_on_the_way(events: list[str]) -> None:
    breakers, now, on_the_way = failing(FAILURES_IN_A_ROW), 0.0, 0
    for event in events:
        if event == "wait":
            now += FIRST_COOL_DOWN_SECONDS
        elif event == "ask" and breakers.is_closed(TARGET, now):
            breakers.asked(TARGET)
            on_the_way += 1
        elif event != "ask" and on_the_way:
            on_the_way -= 1
            if event == "abandoned":
                breakers.abandoned(TARGET)
            else:
                breakers.failed(TARGET, event, now)  # type: ignore[arg-type]
        assert on_the_way <= 1


@given(st.floats(0, 1), st.lists(st.booleans(), max_size=300))
def test_no_more_are_asked_again_than_the_reserve_and_the_share(share: float, wishes: list[bool]) -> None:
    allowance, taken = Allowance(share), 0
    for number, wants in enumerate(wishes, start=1):
        allowance.earn()
        taken += wants and allowance.take()
        assert taken <= RESERVE + share * number + 1e-6


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.2, 10 + 198), (1.0, 1000)])
def test_when_all_fail_the_share_is_what_is_asked_again(share: float, expected: int) -> None:
    allowance, taken = Allowance(share), 0
    for _ in range(1000):
        allowance.earn()
        taken += allowance.take()
    assert taken == pytest.approx(expected, abs=2)
