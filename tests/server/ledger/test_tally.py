"""Guards that a quota is what all entries of the day say, however much of it was read before."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from server.ledger import tally
from server.ledger.entries import Entry, Outcome, Quota, Row, Used
from server.ledger.ledger import Ledger
from tests.server.ledger.samples import all_rows, entry, opened, played, settlement

SINCE = round(time.time() * 1000)
OUTCOMES: tuple[Outcome, ...] = ("succeeded", "succeeded", "failed", "cancelled", "interrupted")


def plainly(rows: list[Row], key_id: str | None) -> Used:
    """The sums, one by one."""
    work_units, microusd = 0.0, 0
    for row in rows:
        one, end = row.entry, row.settlement
        if one.began_unix_ms < SINCE or key_id not in (None, one.key_id):
            continue
        is_drawn_here = end is not None and end.outcome == "succeeded" and end.backend == "local"
        work_units += one.work_units if end is None or is_drawn_here else 0
        microusd += one.reserved_microusd if end is None else end.cost_microusd
    return Used(work_units, microusd)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.whole) for seed in range(1, 4))])
def test_what_is_used_up_is_what_a_plain_sum_says_whatever_was_read_before(
    url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MOST_READ", 3)
    chance = random.Random(seed)
    open_: list[Entry] = []

    async def settle_some(ledger: Ledger) -> None:
        chance.shuffle(open_)
        for _ in range(chance.randrange(len(open_) + 1)):
            one = open_.pop()
            end: dict[str, Any] = {"outcome": chance.choice(OUTCOMES), "backend": chance.choice(["local", "openai"])}
            await ledger.settle([settlement(one.request_id, cost_microusd=chance.randrange(90), **end)])

    async def play(ledger: Ledger) -> int:
        async with opened(url) as other:
            for number in range(40):
                one = entry(
                    f"req_{number}",
                    key_id=chance.choice("ab"),
                    work_units=float(chance.randrange(9)),
                    reserved_microusd=chance.randrange(90),
                    began_unix_ms=SINCE + number - 5,
                )
                asked = chance.choice([ledger, other])
                assert await asked.try_reserve([one], [Quota(None, work_units=1e9)], SINCE) is None
                open_.append(one)
                if number % 7 == 0:
                    await settle_some(chance.choice([ledger, other]))
                for key_id in (None, "a", "b"):
                    expected = plainly(await all_rows(ledger), key_id)
                    assert await ledger.used(key_id, SINCE) == expected
                    assert await other.used(key_id, SINCE) == expected
            await ledger.used(None, SINCE)
            return max(mark.id for mark in ledger._tally._marks.values())

    assert played(url, play) > 10, "something was kept"


def test_a_new_day_begins_with_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MOST_READ", 0)

    async def play(ledger: Ledger) -> list[Used]:
        await ledger.reserve([entry(str(number), began_unix_ms=SINCE + number) for number in range(5)])
        await ledger.settle([settlement(str(number), cost_microusd=1) for number in range(5)])
        return [await ledger.used("key_1", since) for since in (SINCE, SINCE, SINCE + 3, SINCE + 3, SINCE + 9)]

    day, next_day = Used(7.5, 5), Used(3.0, 2)
    assert played(url, play) == [day, day, next_day, next_day, Used(0.0, 0)]
