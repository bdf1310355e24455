"""Guards what is acknowledged against `kill -9` at any moment: nothing lost, nothing doubled, nothing left open."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
from collections import defaultdict
from pathlib import Path

import pytest

from server.ledger.entries import Settlement
from server.ledger.ledger import Ledger
from tests.server.ledger import busy_process
from tests.server.ledger.busy_process import RESERVED_MICROUSD
from tests.server.ledger.samples import NOW, all_rows, opened

ROUNDS = [20, pytest.param(1000, marks=[pytest.mark.whole, pytest.mark.timeout(3000)])]
START_SECONDS = 60.0


@pytest.mark.parametrize("rounds", ROUNDS)
def test_killed_at_any_moment_it_loses_nothing_and_doubles_nothing(url: str, tmp_path: Path, rounds: int) -> None:
    # Forked off a process that has imported everything already: starting Python anew would take most of the time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([busy_process.__name__])
    moments = random.Random(7)
    operations = 0
    for number in range(rounds):
        name, acknowledged = f"round{number}", tmp_path / f"round{number}"
        process = context.Process(target=busy_process.run, args=(url, acknowledged, name))
        process.start()
        wait_until_it_works(process, acknowledged)
        time.sleep(moments.uniform(0, 0.15))
        process.kill()
        process.join()
        operations += asyncio.run(check(url, name, acknowledged.read_text()))
    assert operations > 10 * rounds, "it was killed before it did much"


def wait_until_it_works(process: multiprocessing.process.BaseProcess, acknowledged: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not acknowledged.exists() or not acknowledged.read_text().startswith("opened\n"):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def check(url: str, name: str, text: str) -> int:
    """Compare what is in the ledger after the next start with what was acknowledged: how many operations these were."""
    said = defaultdict[str, dict[str, str]](dict)
    for line in text.splitlines()[1:]:
        act, subject, *value = line.split()
        said[act][subject] = value[0] if value else ""
    async with opened(url) as ledger:
        await check_entries(ledger, name, said)
        await check_money(ledger, name, said)
        # So that the next round's check reads its own alone.
        await ledger.forget_before(2 * NOW)
    return sum(len(subjects) for subjects in said.values())


async def check_entries(ledger: Ledger, name: str, said: dict[str, dict[str, str]]) -> None:
    ends: dict[tuple[str, int], Settlement | None] = {}
    rows = await all_rows(ledger)
    for row in rows:
        ends[row.entry.request_id, row.entry.index] = row.settlement
    assert len(ends) == len(rows), "an entry is there twice"
    assert all(request.startswith(f"{name}_") for request, _ in ends)
    assert all(end is not None for end in ends.values()), "an entry was left open"
    for request in said["reserved"]:
        assert {(request, 0), (request, 1)} <= ends.keys(), "a reservation was lost"
    for request, cost in said["settled"].items():
        for index in range(2):
            end = ends[request, index]
            assert end is not None
            assert (end.outcome, end.cost_microusd) == ("succeeded", int(cost)), "a settlement was lost"
    for (request, _), end in ends.items():
        assert end is not None
        assert end.outcome in ("succeeded", "interrupted")
        # One that was written and not yet acknowledged is no fault; there is one of each caller's at most.
        assert request in said["settled"] or end.outcome == "interrupted" or request in said["ended"]


async def check_money(ledger: Ledger, name: str, said: dict[str, dict[str, str]]) -> None:
    spent = (await ledger.spent_microusd(0)).get(name, 0)
    ended = sum(int(cost) for cost in said["ended"].values())
    left = len(said["begun"].keys() - said["ended"].keys())
    # Of each caller one call may have been written without being acknowledged: its begin, or its end.
    least = ended + left * 1
    most = ended + busy_process.CALLERS * RESERVED_MICROUSD
    assert least <= spent <= most, "an attempt was lost or doubled"
