"""Guards how long the books are kept: whole days of UTC, never those that a day's limits are reckoned from."""

from __future__ import annotations

import asyncio

import pytest

from server.core.settings import SettingsProblem, load_settings
from server.ledger.ledger import Ledger
from server.ledger.retention import DAY_MS, forget_old, oldest_kept_unix_ms
from server.routing.accounts import day_began_unix_ms, unix_ms
from tests.server.ledger.samples import NOW, all_rows, attempt, attempt_end, entry, locked, opened, settlement

TODAY = NOW // DAY_MS * DAY_MS
PAUSE_SECONDS = 0.01


async def write_a_week(ledger: Ledger) -> None:
    """A settled picture and an ended call at the begin of each day, and one picture of the first day still open."""
    for day in range(7):
        began = TODAY - day * DAY_MS
        await ledger.reserve([entry(f"day_{day}", began_unix_ms=began)])
        await ledger.settle([settlement(f"day_{day}")])
        await ledger.begin_attempt(attempt(f"day_{day}", began_unix_ms=began))
        await ledger.end_attempt(attempt_end(f"day_{day}", cost_microusd=10**day))
    await ledger.reserve([entry("open", began_unix_ms=TODAY - 6 * DAY_MS)])


async def names(ledger: Ledger) -> set[str]:
    return {row.entry.request_id for row in await all_rows(ledger)}


async def until(ledger: Ledger, wanted: set[str]) -> None:
    async with asyncio.timeout(20):
        while await names(ledger) != wanted:  # noqa: ASYNC110 (a database offers no event to wait for)
            await asyncio.sleep(0.01)


def test_as_the_clock_goes_on_day_after_day_is_forgotten_but_for_what_is_open(url: str) -> None:
    now = TODAY

    async def play() -> None:
        nonlocal now
        async with opened(url) as ledger:
            await write_a_week(ledger)
            forgetting = asyncio.create_task(forget_old(ledger, 3, lambda: now, PAUSE_SECONDS))
            await until(ledger, {"day_0", "day_1", "day_2", "day_3", "open"})
            assert await ledger.spent_microusd(0) == {"openai": 1111}
            now = TODAY + DAY_MS - 1
            await asyncio.sleep(10 * PAUSE_SECONDS)
            await until(ledger, {"day_0", "day_1", "day_2", "day_3", "open"})
            now = TODAY + DAY_MS
            await until(ledger, {"day_0", "day_1", "day_2", "open"})
            now = TODAY + 100 * DAY_MS
            await until(ledger, {"open"})
            forgetting.cancel()

    asyncio.run(play())


def test_nothing_is_forgotten_where_the_books_are_kept_for_ever(sqlite_url: str) -> None:
    async def play() -> None:
        async with opened(sqlite_url) as ledger:
            await write_a_week(ledger)
            await forget_old(ledger, None, lambda: 10**15, PAUSE_SECONDS)
            assert len(await names(ledger)) == 8

    asyncio.run(play())


def test_a_locked_database_puts_it_off_and_does_not_end_it(sqlite_url: str) -> None:
    async def play() -> None:
        async with opened(sqlite_url, deadline_seconds=0.5) as ledger:
            await write_a_week(ledger)
            with locked(sqlite_url):
                forgetting = asyncio.create_task(forget_old(ledger, 1, lambda: TODAY, PAUSE_SECONDS))
                await asyncio.sleep(1)
                assert len(await names(ledger)) == 8
            await until(ledger, {"day_0", "day_1", "open"})
            forgetting.cancel()

    asyncio.run(play())


def test_the_least_that_may_be_kept_holds_all_that_a_days_limit_is_reckoned_from() -> None:
    assert oldest_kept_unix_ms(unix_ms(), 1) == day_began_unix_ms() - DAY_MS


@pytest.mark.parametrize("days", ["0", "-1", "36501", "1.5", "x"])
def test_days_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, days: str) -> None:
    monkeypatch.setenv("SAFELIGHT_LEDGER_KEEP_DAYS", days)
    with pytest.raises(SettingsProblem, match="SAFELIGHT_LEDGER_KEEP_DAYS"):
        load_settings({})
