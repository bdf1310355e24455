"""Guards how many are on their way at once: never more than the bound, and every slot given back once."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from server.limits.slots import Bound, Lease, Slots

KEY, SERVER = Bound("key:a", 3), Bound("server", 4)


def lease(*bounds: Bound) -> Lease:
    return Lease(bounds or (KEY, SERVER))


def test_a_burst_gets_as_many_slots_as_there_are_and_not_one_more() -> None:
    async def burst() -> tuple[int, int]:
        slots = Slots()
        answers = await asyncio.gather(*(slots.take(lease(KEY), 1) for _ in range(500)))
        return answers.count(None), slots.held("key:a")

    assert asyncio.run(burst()) == (3, 3)


def test_a_lease_that_is_freed_twice_gives_back_once() -> None:
    async def play() -> int:
        slots, first, second = Slots(), lease(), lease()
        assert await slots.take(first, 2) is None
        assert await slots.take(second, 1) is None
        slots.free(first)
        slots.free(first)
        return slots.held("key:a")

    assert asyncio.run(play()) == 1


def test_the_bound_that_is_full_is_named_and_nothing_is_taken_of_either() -> None:
    async def play() -> None:
        slots, others = Slots(), lease(Bound("key:b", 3), SERVER)
        assert await slots.take(others, 3) is None
        mine = lease()
        assert await slots.take(mine, 2) == SERVER
        assert (slots.held("key:a"), slots.held("server"), mine.count) == (0, 3, 0)
        assert await slots.take(mine, 1) is None

    asyncio.run(play())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "free"]), st.integers(0, 4), st.integers(1, 3)), max_size=60))
def test_whatever_comes_and_goes_the_count_is_what_the_leases_hold(turns: list[tuple[str, int, int]]) -> None:
    async def play() -> None:
        slots, leases = Slots(), [lease() for _ in range(5)]
        for verb, number, count in turns:
            one = leases[number]
            if verb == "take":
                await slots.take(one, count)
            else:
                slots.free(one)
                leases[number] = lease()
            assert slots.held("key:a") == sum(each.count for each in leases) <= KEY.most
            assert slots.held("server") == slots.held("key:a")

    asyncio.run(play())
