"""Guards the minute: never one more than a limit, whoever comes at once, and a wait that is as long as told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.limits.memory import MemoryStorage
from server.limits.rates import WINDOW_SECONDS, Rates, View, Window
from server.limits.words import duration, headers_of
from tests.server.parts import Clock

KEY, SERVER = Window("images", "key:a", 6), Window("images", "server", 8)


@dataclass(slots=True)
class Model:
    """The window as anybody would write it down: all that was let through, and a look at the last minute."""

    let_through: list[tuple[float, int]] = field(default_factory=list)

    def within(self, now: float) -> int:
        return sum(cost for at, cost in self.let_through if at >= now - WINDOW_SECONDS)

    def take(self, limit: int, cost: int, now: float) -> bool:
        is_let = self.within(now) + cost <= limit
        if is_let:
            self.let_through.append((now, cost))
        return is_let

    def wait(self, limit: int, cost: int, now: float) -> float:
        """Until the earliest moment at which so much would be let through."""
        ends = (at + WINDOW_SECONDS for at, _ in self.let_through)
        return min((end for end in ends if end >= now and self.within(end + 1e-6) + cost <= limit), default=now) - now


def taken(rates: Rates, cost: int = 1, *windows: Window) -> bool:
    return asyncio.run(rates.take(windows or (KEY,), cost)) is None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 70_000), st.integers(1, 6), st.sampled_from("ab")), max_size=40))
def test_the_window_lets_through_what_the_plainest_account_of_it_would(turns: list[tuple[int, int, str]]) -> None:
    """turns: milliseconds since the last one, how much, and who."""
    clock, models = Clock(1_000.0), {"a": Model(), "b": Model()}
    rates = Rates(clock=clock)

    async def play() -> None:
        for pause_ms, cost, owner in turns:
            clock.now += pause_ms / 1000
            window, model = Window("images", owner, 6), models[owner]
            wait = model.wait(6, cost, clock.now)
            refusal = await rates.take([window], cost)
            assert (refusal is None) == model.take(6, cost, clock.now)
            if refusal is not None:
                assert wait - 1e-6 <= refusal.wait_seconds <= wait + 1.01
            (view,) = await rates.views([window])
            assert view.remaining == 6 - model.within(clock.now)
            newest = max((at for at, _ in model.let_through), default=clock.now - WINDOW_SECONDS)
            assert view.reset_seconds == pytest.approx(max(0.0, newest + WINDOW_SECONDS - clock.now), abs=0.05)

    asyncio.run(play())


@pytest.mark.parametrize("cost", [1, 2, 3])
def test_whoever_waits_as_long_as_told_is_let_through_and_not_before(cost: int) -> None:
    clock = Clock(1_000.0)
    rates = Rates(clock=clock)
    for _ in range(6):
        assert taken(rates)
        clock.now += 7.3
    refusal = asyncio.run(rates.take([KEY], cost))
    assert refusal is not None
    clock.now += refusal.wait_seconds - 1
    assert not taken(rates, cost)
    clock.now += 1
    assert taken(rates, cost)


def test_a_burst_gets_as_much_as_the_limit_and_not_one_more() -> None:
    async def burst() -> int:
        rates = Rates()
        answers = await asyncio.gather(*(rates.take([Window("requests", "a", 60)], 1) for _ in range(1000)))
        return answers.count(None)

    assert asyncio.run(burst()) == 60


def test_whoever_is_beyond_its_own_limit_takes_nothing_from_the_others() -> None:
    rates = Rates()
    for _ in range(50):
        taken(rates, 1, KEY, SERVER)
    views = {view.window: view.remaining for view in asyncio.run(rates.views([KEY, SERVER]))}
    assert views == {KEY: 0, SERVER: 2}


def test_what_the_whole_server_refuses_costs_the_key_nothing() -> None:
    rates = Rates()
    assert taken(rates, 6, Window("images", "key:b", 6), SERVER)
    assert not taken(rates, 3, KEY, SERVER)
    assert taken(rates, 2, KEY, SERVER)
    assert [view.remaining for view in asyncio.run(rates.views([KEY]))] == [4]


def test_ten_thousand_keys_that_are_used_no_more_are_forgotten() -> None:
    clock = Clock(1_000.0)
    storage = MemoryStorage(clock)

    async def play() -> None:
        for number in range(10_000):
            assert await storage.acquire_entry(f"key:{number}", 5, 60)
        assert len(storage) == 10_000
        clock.now += 61
        assert await storage.acquire_entry("key:0", 5, 60)
        assert len(storage) == 1

    asyncio.run(play())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (0.0061, "7ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.01, "1.1s"),
        (59.99, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (83.25, "1m23.3s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_of_two_windows_the_one_with_less_left_is_told() -> None:
    views = [View(KEY, 3, 12.0), View(SERVER, 1, 60.0), View(Window("requests", "key:a", 9), 8, 0.5)]
    assert headers_of(views) == {
        "x-ratelimit-limit-images": "8",
        "x-ratelimit-remaining-images": "1",
        "x-ratelimit-reset-images": "1m0s",
        "x-ratelimit-limit-requests": "9",
        "x-ratelimit-remaining-requests": "8",
        "x-ratelimit-reset-requests": "500ms",
    }
