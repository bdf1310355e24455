"""Guards what the ledger promises on both databases: all or none, once and never twice, exact sums, caps that hold."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.ledger.entries import Cursor, Quota, Row
from server.ledger.ledger import Ledger
from server.ledger.problem import (
    BEGUN_BEFORE,
    ENDED_BEFORE,
    NEVER_BEGUN,
    NEVER_RESERVED,
    NOT_OPEN,
    RESERVED_BEFORE,
    SETTLED_BEFORE,
    LedgerProblem,
    LedgerRefusal,
)
from server.ledger.question import Question
from tests.server.ledger.samples import (
    ALWAYS,
    NOW,
    all_rows,
    attempt,
    attempt_end,
    entry,
    locked,
    opened,
    played,
    settlement,
)


def test_what_was_reserved_is_read_back_as_it_was_and_open(url: str) -> None:
    entries = [entry(index=index, key_id=None, work_units=0.1 * index) for index in range(3)]

    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve(entries)
        return await all_rows(ledger)

    assert played(url, play) == [Row(one, None) for one in entries]


def test_what_was_settled_is_read_back_after_a_restart_as_it_was(url: str) -> None:
    ends = [
        settlement(index=0, seed=0, cost_microusd=10**15, size="512x512"),
        settlement(index=1, seed=2**63, queue_ms=None, device_ms=None, steps=None),
        settlement(index=2, seed=2**64 - 1, outcome="failed", error_code="out_of_memory", served_model=None),
        settlement(index=3, seed=None, outcome="cancelled", backend=None, attempts=0),
    ]

    async def write(ledger: Ledger) -> None:
        await ledger.reserve([entry(index=index) for index in range(4)])
        await ledger.settle(ends)

    played(url, write)
    assert [row.settlement for row in played(url, all_rows)] == ends


def test_what_a_crash_left_open_is_interrupted_at_the_next_start_and_counted(url: str) -> None:
    async def leave_open(ledger: Ledger) -> None:
        await ledger.reserve([entry(index=index) for index in range(3)])
        await ledger.settle([settlement(index=0)])
        await ledger.begin_attempt(attempt("att_1", reserved_microusd=40_000))
        await ledger.begin_attempt(attempt("att_2", reserved_microusd=30_000))
        await ledger.end_attempt(attempt_end("att_2", cost_microusd=10_000))

    async def start() -> tuple[int, int, list[Row], dict[str, int]]:
        ledger = Ledger(url)
        closed = await ledger.open()
        rows, spent = await all_rows(ledger), await ledger.spent_microusd(0)
        await ledger.close()
        again = await ledger.open()
        await ledger.close()
        return closed, again, rows, spent

    played(url, leave_open)
    closed, again, rows, spent = asyncio.run(start())
    assert (closed, again) == (2, 0)
    assert [row.settlement.outcome for row in rows if row.settlement] == ["succeeded", "interrupted", "interrupted"]
    assert spent == {"openai": 50_000}, "an attempt left open keeps its reservation, as it may have been spent"


def test_a_server_that_is_alive_settles_what_another_one_took_for_left_behind(url: str) -> None:
    async def play(first: Ledger) -> tuple[list[Row], dict[str, int]]:
        await first.reserve([entry()])
        await first.begin_attempt(attempt())
        async with opened(url):
            await first.settle([settlement(cost_microusd=5)])
            await first.end_attempt(attempt_end(cost_microusd=5))
            with pytest.raises(LedgerRefusal, match=SETTLED_BEFORE):
                await first.settle([settlement()])
            return await all_rows(first), await first.spent_microusd(0)

    assert played(url, play) == ([Row(entry(), settlement(cost_microusd=5))], {"openai": 5})


def test_a_reservation_is_all_or_none(url: str) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve([entry(index=1)])
        with pytest.raises(LedgerRefusal, match=RESERVED_BEFORE):
            await ledger.reserve([entry(index=index) for index in range(3)])
        return await all_rows(ledger)

    assert played(url, play) == [Row(entry(index=1), None)]


def test_a_second_settlement_is_refused_and_changes_nothing(url: str) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve([entry(index=0), entry(index=1)])
        await ledger.settle([settlement(index=0)])
        with pytest.raises(LedgerRefusal, match=SETTLED_BEFORE):
            await ledger.settle([settlement(index=1), settlement(index=0, outcome="failed")])
        with pytest.raises(LedgerRefusal, match=SETTLED_BEFORE):
            await ledger.settle([settlement(index=1), settlement(index=1)])
        return await all_rows(ledger)

    assert played(url, play) == [Row(entry(index=0), settlement(index=0)), Row(entry(index=1), None)]


def test_settling_what_was_never_reserved_is_refused(url: str) -> None:
    async def play(ledger: Ledger) -> None:
        await ledger.reserve([entry()])
        with pytest.raises(LedgerRefusal, match=NEVER_RESERVED):
            await ledger.settle([settlement(), settlement(index=1)])

    played(url, play)


def test_of_a_hundred_settlements_at_once_of_one_entry_one_is_taken(url: str) -> None:
    async def play(ledger: Ledger) -> list[BaseException | None]:
        await ledger.reserve([entry()])
        settling = (ledger.settle([settlement(cost_microusd=cost)]) for cost in range(100))
        return await asyncio.gather(*settling, return_exceptions=True)

    results = played(url, play)
    assert results.count(None) == 1
    assert {type(result) for result in results if result is not None} == {LedgerRefusal}


def test_nothing_to_write_is_no_error(url: str) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve([])
        await ledger.settle([])
        return await all_rows(ledger)

    assert played(url, play) == []


def test_an_attempt_counts_with_its_reservation_until_it_ends_and_with_its_cost_from_then_on(url: str) -> None:
    async def play(ledger: Ledger) -> list[dict[str, int]]:
        await ledger.begin_attempt(attempt("att_1", "openai", 40_000))
        await ledger.begin_attempt(attempt("att_2", "bedrock", 2**40))
        before = await ledger.spent_microusd(0)
        await ledger.end_attempt(attempt_end("att_1", 39_000))
        await ledger.end_attempt(attempt_end("att_2", 0, cause="timeout", status=None))
        return [before, await ledger.spent_microusd(0)]

    assert played(url, play) == [{"openai": 40_000, "bedrock": 2**40}, {"openai": 39_000, "bedrock": 0}]


def test_what_was_spent_counts_from_the_very_millisecond(url: str) -> None:
    async def play(ledger: Ledger) -> list[dict[str, int]]:
        for number in range(3):
            await ledger.begin_attempt(
                attempt(f"att_{number}", reserved_microusd=10**number, began_unix_ms=NOW + number)
            )
        return [await ledger.spent_microusd(NOW + late) for late in range(4)]

    assert played(url, play) == [{"openai": 111}, {"openai": 110}, {"openai": 100}, {}]


def test_an_attempt_begins_once_and_ends_once(url: str) -> None:
    async def play(ledger: Ledger) -> dict[str, int]:
        with pytest.raises(LedgerRefusal, match=NEVER_BEGUN):
            await ledger.end_attempt(attempt_end())
        await ledger.begin_attempt(attempt())
        with pytest.raises(LedgerRefusal, match=BEGUN_BEFORE):
            await ledger.begin_attempt(attempt(reserved_microusd=1))
        await ledger.end_attempt(attempt_end(cost_microusd=3))
        with pytest.raises(LedgerRefusal, match=ENDED_BEFORE):
            await ledger.end_attempt(attempt_end(cost_microusd=4))
        return await ledger.spent_microusd(0)

    assert played(url, play) == {"openai": 3}


@pytest.mark.parametrize(
    "values",
    [
        {"operation": "guess"},
        {"index": -1},
        {"requested_model": "m" * 101},
        {"requested_model": "\ud800"},
        {"requested_model": None},
        {"work_units": float("nan")},
        {"work_units": float("inf")},
        {"work_units": -0.1},
        {"began_unix_ms": 2**63},
        {"began_unix_ms": ()},
    ],
    ids=str,
)
def test_an_entry_outside_its_range_is_refused_alone(url: str, values: dict[str, Any]) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        good, bad = entry("good"), entry("bad", **values)
        results = await asyncio.gather(ledger.reserve([good]), ledger.reserve([bad]), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), LedgerRefusal]
        return await all_rows(ledger)

    assert played(url, play) == [Row(entry("good"), None)]


@pytest.mark.parametrize(
    "values",
    [{"seed": -1}, {"seed": 2**64}, {"cost_microusd": -1}, {"cost_microusd": None}, {"outcome": "lost"}],
    ids=str,
)
def test_a_settlement_outside_its_range_leaves_the_entry_open(url: str, values: dict[str, Any]) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve([entry()])
        with pytest.raises(LedgerRefusal):
            await ledger.settle([settlement(**values)])
        return await all_rows(ledger)

    assert played(url, play) == [Row(entry(), None)]


def test_one_bad_operation_of_a_group_fails_alone(url: str) -> None:
    async def play(ledger: Ledger) -> tuple[list[Any], list[Row], int]:
        await ledger.reserve([entry("taken")])
        before = ledger.commits
        names = [f"req_{number}" for number in range(30)]
        names[10] = "taken"
        results = await asyncio.gather(*(ledger.reserve([entry(name)]) for name in names), return_exceptions=True)
        return list(results), await all_rows(ledger), ledger.commits - before

    results, rows, commits = played(url, play)
    assert [index for index, result in enumerate(results) if result is not None] == [10]
    assert isinstance(results[10], LedgerRefusal)
    assert len(rows) == 30
    assert commits < 30, "there were no groups"


def test_a_thousand_callers_share_a_few_commits(url: str) -> None:
    async def play(ledger: Ledger) -> tuple[int, int]:
        before = ledger.commits
        await asyncio.gather(*(ledger.reserve([entry(f"req_{number}")]) for number in range(1000)))
        return ledger.commits - before, len(await all_rows(ledger))

    commits, rows = played(url, play)
    assert rows == 1000
    assert commits <= 20


def test_pages_follow_one_another_oldest_first_without_gap_or_repetition(url: str) -> None:
    async def play(ledger: Ledger) -> tuple[list[Row], list[Row]]:
        for number in range(25):
            await ledger.reserve([entry(f"req_{number}", index, began_unix_ms=NOW - number // 3) for index in range(2)])
        whole, pages, after = await all_rows(ledger), list[Row](), None
        while True:
            page = await ledger.rows(ALWAYS, after=after, limit=7)
            pages += page.rows
            after = page.after
            if after is None:
                return whole, pages

    whole, pages = played(url, play)
    assert len(whole) == 50
    assert pages == whole == sorted(whole, key=lambda row: row.entry.began_unix_ms)


def test_the_last_page_says_that_it_is_the_last_though_it_is_full(url: str) -> None:
    async def play(ledger: Ledger) -> list[Cursor | None]:
        await ledger.reserve([entry(index=index) for index in range(4)])
        first = await ledger.rows(ALWAYS, after=None, limit=2)
        return [first.after, (await ledger.rows(ALWAYS, after=first.after, limit=2)).after]

    first, second = played(url, play)
    assert first is not None
    assert second is None


def test_rows_are_narrowed_to_a_key_and_a_time(url: str) -> None:
    async def play(ledger: Ledger) -> list[list[str]]:
        for name, key, late in (("a", "k1", 0), ("b", "k2", 0), ("c", "k1", 5), ("d", None, 9)):
            await ledger.reserve([entry(name, key_id=key, began_unix_ms=NOW + late)])
        pages = [
            await ledger.rows(asked, after=None, limit=9)
            for asked in (
                Question(0, 2 * NOW, keys=frozenset({"k1"})),
                Question(NOW, NOW + 5),
                Question(NOW + 5, NOW + 10),
                Question(0, NOW),
            )
        ]
        return [[row.entry.request_id for row in page.rows] for page in pages]

    assert played(url, play) == [["a", "c"], ["a", "b"], ["c", "d"], []]


def test_only_what_is_old_and_over_is_forgotten(url: str) -> None:
    async def play(ledger: Ledger) -> tuple[int, int, list[str], dict[str, int]]:
        for name, early in (("old", 1), ("new", 0), ("open", 1)):
            await ledger.reserve([entry(name, began_unix_ms=NOW - early)])
            await ledger.begin_attempt(attempt(name, backend=name, began_unix_ms=NOW - early))
            if name != "open":
                await ledger.settle([settlement(name)])
                await ledger.end_attempt(attempt_end(name))
        forgotten, again = await ledger.forget_before(NOW), await ledger.forget_before(NOW)
        return (
            forgotten,
            again,
            [row.entry.request_id for row in await all_rows(ledger)],
            await ledger.spent_microusd(0),
        )

    assert played(url, play) == (2, 0, ["open", "new"], {"new": 39_000, "open": 40_000})


def test_more_is_forgotten_than_one_transaction_takes(url: str) -> None:
    async def play(ledger: Ledger) -> tuple[int, list[Row]]:
        for number in range(5):
            await ledger.reserve([entry(f"req_{number}", index) for index in range(500)])
            await ledger.settle([settlement(f"req_{number}", index) for index in range(500)])
        return await ledger.forget_before(NOW + 1), await all_rows(ledger)

    assert played(url, play) == (2500, [])


def test_fifty_attempts_at_once_from_two_servers_never_break_a_cap_together(url: str) -> None:
    async def play(first: Ledger) -> tuple[list[bool], list[bool], dict[str, int]]:
        async with opened(url) as second:
            servers = (first, second)

            async def tries(backend: str, caps: dict[str | None, int]) -> list[bool]:
                calls = [
                    servers[number % 2].try_attempt(attempt(f"{backend}_{number}", backend, 1000), caps, NOW)
                    for number in range(50)
                ]
                return await asyncio.gather(*calls)

            own = await tries("openai", {"openai": 17_999, None: 40_000})
            of_all = await tries("bedrock", {"bedrock": 30_000, None: 40_000})
            return own, of_all, await first.spent_microusd(0)

    own, of_all, spent = played(url, play)
    assert (sum(own), sum(of_all)) == (17, 23)
    assert spent == {"openai": 17_000, "bedrock": 23_000}


def test_a_cap_counts_what_was_spent_since_and_not_what_others_spent(url: str) -> None:
    async def play(ledger: Ledger) -> list[bool]:
        await ledger.begin_attempt(attempt("yesterday", reserved_microusd=900, began_unix_ms=NOW - 1))
        await ledger.begin_attempt(attempt("other", "bedrock", 900))
        fits = await ledger.try_attempt(attempt("a", reserved_microusd=1000), {"openai": 1000, "bedrock": 0}, NOW)
        more = await ledger.try_attempt(attempt("b", reserved_microusd=1), {"openai": 1000}, NOW)
        nothing = await ledger.try_attempt(attempt("c", reserved_microusd=0), {"openai": 1000, None: 1900}, NOW)
        await ledger.end_attempt(attempt_end("a", 400))
        after_its_end = await ledger.try_attempt(attempt("d", reserved_microusd=600), {"openai": 1000}, NOW)
        without_caps = await ledger.try_attempt(attempt("e", reserved_microusd=10**9), {}, NOW)
        return [fits, more, nothing, after_its_end, without_caps]

    assert played(url, play) == [True, False, True, True, True]


def test_a_reservation_is_raised_only_as_far_as_the_quotas_have_room_and_never_lowered(url: str) -> None:
    quotas = [Quota("key_1", work_units=0.0, microusd=100)]

    async def play(ledger: Ledger) -> tuple[list[bool], list[int]]:
        async def raised(*reserved: int) -> bool:
            entries = [entry("req", index=index, reserved_microusd=usd) for index, usd in enumerate(reserved)]
            return await ledger.try_raise(entries, quotas, NOW) is None

        await ledger.reserve([entry("req", index=index, reserved_microusd=30) for index in range(2)])
        with pytest.raises(LedgerRefusal, match=NEVER_RESERVED):
            await ledger.try_raise([entry("other", reserved_microusd=1)], quotas, NOW)
        ends = [await raised(51, 50), await raised(60, 40), await raised(10, 40), await raised(60, 41)]
        return ends, [row.entry.reserved_microusd for row in await all_rows(ledger)]

    assert played(url, play) == ([False, True, True, False], [60, 40])


def test_an_attempt_that_does_not_fit_is_not_written(url: str) -> None:
    async def play(ledger: Ledger) -> dict[str, int]:
        assert not await ledger.try_attempt(attempt(), {"openai": 1}, NOW)
        with pytest.raises(LedgerRefusal, match=NEVER_BEGUN):
            await ledger.end_attempt(attempt_end())
        return await ledger.spent_microusd(0)

    assert played(url, play) == {}


def test_a_call_outside_open_and_close_is_a_problem_and_closing_twice_is_none(url: str) -> None:
    async def play() -> None:
        ledger = Ledger(url)
        await ledger.close()
        with pytest.raises(LedgerProblem, match=NOT_OPEN):
            await ledger.reserve([entry()])
        await ledger.open()
        await ledger.close()
        await ledger.close()
        with pytest.raises(LedgerProblem, match=NOT_OPEN):
            await ledger.spent_microusd(0)

    asyncio.run(play())


def test_closing_waits_for_what_is_under_way(url: str) -> None:
    async def play(ledger: Ledger) -> None:
        calls = [asyncio.create_task(ledger.reserve([entry(f"req_{number}")])) for number in range(200)]
        await asyncio.sleep(0)
        await ledger.close()
        await asyncio.gather(*calls)

    played(url, play)
    assert len(played(url, all_rows)) == 200


def test_reading_goes_on_while_somebody_else_holds_the_lock_for_writing(url: str) -> None:
    async def play(ledger: Ledger) -> tuple[list[Row], dict[str, int]]:
        await ledger.reserve([entry()])
        with locked(url):
            return await all_rows(ledger), await ledger.spent_microusd(0)

    assert played(url, play) == ([Row(entry(), None)], {})


async def two_calls_behind_a_lock(ledger: Ledger) -> tuple[asyncio.Task[None], asyncio.Task[None]]:
    """The first is in its turn and waits for the database; the second waits for its turn."""
    first = asyncio.create_task(ledger.reserve([entry("first")]))
    await asyncio.sleep(0.2)
    second = asyncio.create_task(ledger.reserve([entry("second")]))
    await asyncio.sleep(0.1)
    return first, second


def test_a_caller_cancelled_before_its_turn_has_written_nothing(url: str) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        with locked(url):
            first, second = await two_calls_behind_a_lock(ledger)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
        await first
        await ledger.reserve([entry("third")])
        return await all_rows(ledger)

    assert [row.entry.request_id for row in played(url, play)] == ["first", "third"]


def test_a_caller_cancelled_in_its_turn_learns_of_it_after_it_knows_what_was_written(url: str) -> None:
    async def draw(ledger: Ledger) -> None:
        await ledger.reserve([entry()])
        try:
            await asyncio.sleep(60)
        finally:
            await ledger.settle([settlement(outcome="cancelled")])

    async def play(ledger: Ledger) -> list[Row]:
        with locked(url):
            drawing = asyncio.create_task(draw(ledger))
            await asyncio.sleep(0.2)
            drawing.cancel()
            await asyncio.sleep(0.1)
        with pytest.raises(asyncio.CancelledError):
            await drawing
        return await all_rows(ledger)

    assert played(url, play) == [Row(entry(), settlement(outcome="cancelled"))]


def test_a_timeout_in_its_turn_is_a_timeout_and_leaves_nothing_open(url: str) -> None:
    async def draw(ledger: Ledger) -> None:
        async with asyncio.timeout(0.2):
            await ledger.reserve([entry()])
            try:
                await asyncio.sleep(60)
            finally:
                await ledger.settle([settlement(outcome="cancelled")])

    async def play(ledger: Ledger) -> list[Row]:
        with locked(url):
            drawing = asyncio.create_task(draw(ledger))
            await asyncio.sleep(0.4)
        with pytest.raises(TimeoutError):
            await drawing
        return await all_rows(ledger)

    assert played(url, play) == [Row(entry(), settlement(outcome="cancelled"))]
