"""Guards limits that several servers keep together in a real Redis, and what holds while it is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import TypeVar

import pytest

from server.limits import shared as shared_module
from server.limits.rates import Rates, Window
from server.limits.shared import DEADLINE_SECONDS, Shared
from server.limits.slots import Bound, Lease, Slots
from tests.redis_server import RedisServer

Result = TypeVar("Result")
numbers = count()


@pytest.fixture
def owner() -> str:
    """Nobody else's in this Redis."""
    return f"key:{next(numbers)}"


@asynccontextmanager
async def servers(redis: RedisServer) -> AsyncIterator[tuple[Shared, Shared]]:
    """Two, each with its own connections."""
    first, second = Shared(redis.url), Shared(redis.url)
    try:
        yield first, second
    finally:
        await first.close()
        await second.close()


def played(redis: RedisServer, play: Callable[[Shared, Shared], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with servers(redis) as (first, second):
            return await play(first, second)

    return asyncio.run(run())


def test_two_servers_let_through_as_much_as_the_limit_together_and_not_one_more(redis: RedisServer, owner: str) -> None:
    window = Window("images", owner, 30)

    async def burst(first: Shared, second: Shared) -> list[int]:
        rates = [Rates(first), Rates(second)]
        answers = await asyncio.gather(*(rates[number % 2].take([window], 2) for number in range(1000)))
        remaining = [(await one.views([window]))[0].remaining for one in rates]
        return [answers.count(None), *remaining]

    assert played(redis, burst) == [15, 0, 0]


def test_whoever_waits_as_long_as_redis_says_is_let_through_and_not_before(
    redis: RedisServer, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    window, real = Window("images", owner, 4), time.time
    passed = 0.0
    monkeypatch.setattr(time, "time", lambda: real() + passed)

    async def play(first: Shared, second: Shared) -> None:
        nonlocal passed
        here, there = (Rates(one, clock=lambda: time.monotonic() + passed) for one in (first, second))
        for rates in (here, there, here, there):
            assert await rates.take([window], 1) is None
            passed += 9.4
        refusal = await here.take([window], 2)
        assert refusal is not None
        passed += refusal.wait_seconds - 1.5
        assert await there.take([window], 2) is not None
        passed += 1.5
        assert await there.take([window], 2) is None

    played(redis, play)


def test_two_servers_hand_out_as_many_slots_as_there_are_together(redis: RedisServer, owner: str) -> None:
    bound = Bound(owner, 7)

    async def burst(first: Shared, second: Shared) -> list[int]:
        slots = [Slots(first), Slots(second)]
        leases = [Lease((bound,)) for _ in range(40)]
        answers = await asyncio.gather(*(slots[number % 2].take(one, 1) for number, one in enumerate(leases)))
        held = [one.held(owner) for one in slots]
        for number, one in enumerate(leases):
            slots[number % 2].free(one)
        for server in slots:
            await server.stop()
        again = await slots[0].take(Lease((bound,)), 7)
        return [answers.count(None), sum(held), 0 if again is None else 1]

    assert played(redis, burst) == [7, 7, 0]


def test_what_a_server_held_that_died_comes_free_and_what_one_holds_that_lives_does_not(
    redis: RedisServer, owner: str
) -> None:
    bound = Bound(owner, 2)

    async def play(first: Shared, second: Shared) -> None:
        dead, alive = Slots(first, lease_seconds=1), Slots(second, lease_seconds=1)
        alive.start()
        mine = Lease((bound,))
        assert await dead.take(Lease((bound,)), 1) is None
        assert await alive.take(mine, 1) is None
        third = Slots(second, lease_seconds=1)
        assert await third.take(Lease((bound,)), 1) == bound
        await asyncio.sleep(1.6)
        assert await third.take(Lease((bound,)), 1) is None
        assert await third.take(Lease((bound,)), 1) == bound, "what is renewed stays held"
        alive.free(mine)
        await alive.stop()
        assert await third.take(Lease((bound,)), 1) is None

    played(redis, play)


def test_without_redis_each_server_keeps_the_limits_alone_and_knows_what_it_let_through(
    redis: RedisServer, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_module, "RETRY_SECONDS", 0.2)
    window, bound = Window("requests", owner, 5), Bound(owner, 2)

    async def play(first: Shared, _: Shared) -> None:
        rates, slots, lease = Rates(first), Slots(first), Lease((bound,))
        for _number in range(3):
            assert await rates.take([window], 1) is None
        assert await slots.take(lease, 2) is None
        redis.kill()
        answers = [await rates.take([window], 1) for _number in range(20)]
        assert answers.count(None) == 2, "three of five were let through before"
        assert await slots.take(Lease((bound,)), 1) == bound
        redis.start_again()
        await asyncio.sleep(0.3)
        await slots.renew()
        other = Slots(first)
        assert await other.take(Lease((bound,)), 1) == bound, "a Redis that forgot is told again what is held"
        slots.free(lease)
        await slots.stop()
        assert await other.take(Lease((bound,)), 2) is None

    played(redis, play)


def test_a_redis_that_is_silent_holds_nobody_up_for_long(redis: RedisServer, owner: str) -> None:
    window = Window("requests", owner, 1000)

    async def play(first: Shared, _: Shared) -> tuple[float, float]:
        rates = Rates(first)
        assert await rates.take([window], 1) is None
        with redis.silent():
            began = time.perf_counter()
            assert await rates.take([window], 1) is None
            found_out = time.perf_counter() - began
            began = time.perf_counter()
            for _number in range(100):
                assert await rates.take([window], 1) is None
            return found_out, time.perf_counter() - began

    found_out, later = played(redis, play)
    assert found_out < 2 * DEADLINE_SECONDS + 1
    assert later < 1, "whoever comes after does not wait again"
