"""Guards the day's quotas of a key and of the server: what is open counts, what was not drawn does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.backends.trouble import Trouble
from server.core import errors
from server.core.caller import Caller, Limits
from server.core.errors import SafelightError
from server.ledger.entries import Quota, Used
from server.ledger.ledger import Ledger
from server.routing.accounts import Accounts, work_units
from server.routing.journey import Journey
from server.routing.router import Router
from tests.server.ledger.samples import NOW, entry, opened, played, settlement
from tests.server.routing.stage import BEDROCK, OPENAI, OURS, PRICE_USD, Scripted, Stage, request_for

# Of one picture of the stage: one row, 64 x 64 pixels, four steps.
WORK = 64 * 64 * 4


def stage(folder: Path, *targets: Any) -> Stage:
    return Stage(folder, {name: Scripted() for name in ("local", "openai", "bedrock")}, targets or (OURS,))


def journey(one: Stage, key_id: str = "a", count: int = 1, **limits: float) -> Journey:
    caller = Caller(key_id, key_id, frozenset({"generate"}), limits=Limits(**limits))  # type: ignore[arg-type]
    return replace(one.journey(count), caller=caller)


def outcomes(one: Stage, play: Callable[[Router], Awaitable[list[Any]]]) -> list[str]:
    """Of each request: drawn, or the code of its error."""

    async def run() -> list[Any]:
        async with one.router() as router:
            return await play(router)

    return [end.code if isinstance(end, SafelightError) else drawn_or_raised(end) for end in asyncio.run(run())]


def drawn_or_raised(end: Any) -> str:
    if isinstance(end, BaseException):
        raise end
    return "drawn"


async def drawn(router: Router, *journeys: Journey) -> list[Any]:
    return await asyncio.gather(*(router.draw(one) for one in journeys), return_exceptions=True)


def test_requests_at_once_get_as_much_work_as_the_day_has_and_no_more(tmp_path: Path) -> None:
    one = stage(tmp_path)
    wanted = [journey(one, count=2, work_units_per_day=7 * WORK) for _ in range(10)]
    ends = outcomes(one, lambda router: drawn(router, *wanted))
    assert sorted(ends) == ["drawn"] * 3 + ["insufficient_quota"] * 7


def test_the_refusal_says_what_is_used_up_and_keeps_clients_from_repeating(tmp_path: Path) -> None:
    one = stage(tmp_path)

    async def beyond() -> SafelightError:
        async with one.router() as router:
            with pytest.raises(SafelightError) as caught:
                await router.draw(journey(one, count=3, work_units_per_day=2 * WORK))
            with pytest.raises(SafelightError, match="work units of this key"):
                await router.check_quotas(journey(one, count=3, work_units_per_day=2 * WORK))
            await router.check_quotas(journey(one, count=2, work_units_per_day=2 * WORK))
            return caught.value

    error = asyncio.run(beyond())
    assert (error.status, error.code, error.headers()) == (429, "insufficient_quota", {"x-should-retry": "false"})
    assert "0 of 32,768 are spent or reserved, and this request needs 49,152" in error.message
    assert one.rows() == []


@pytest.mark.parametrize(
    ("asked", "row_steps"),
    [
        ({"steps": 10}, 10),
        ({"steps": 10, "guidance_scale": 5.0}, 20),
        ({"steps": 10, "guidance_scale": 5.0, "family": "flux"}, 10),
        ({"steps": 10, "guidance_scale": 5.0, "strength": 0.4}, 8),
        ({"steps": 10, "strength": 0.45, "family": "flux"}, 5),
        ({"steps": 10, "sampler": "heun"}, 19),
        ({"steps": 10, "sampler": "heun", "strength": 0.4}, 7),
    ],
)
def test_work_units_are_of_the_steps_that_are_done(asked: dict[str, Any], row_steps: int) -> None:
    request = replace(request_for(OURS, 1), **asked)
    assert work_units(request) == 64 * 64 * row_steps


def test_what_was_used_up_stays_so_over_a_restart_and_another_key_has_its_own(tmp_path: Path) -> None:
    one = stage(tmp_path)
    mine = journey(one, count=2, work_units_per_day=3 * WORK)
    assert outcomes(one, lambda router: drawn(router, mine)) == ["drawn"]
    after = [journey(one, count=2, work_units_per_day=3 * WORK), journey(one, "b", 2, work_units_per_day=3 * WORK)]
    assert outcomes(one, lambda router: drawn(router, *after)) == ["insufficient_quota", "drawn"]


def test_what_failed_or_was_cancelled_or_drawn_by_a_provider_eats_no_work_of_the_day(tmp_path: Path) -> None:
    one = stage(tmp_path, OURS, OPENAI)

    def asked(count: int = 2) -> Journey:
        return journey(one, count=count, work_units_per_day=2 * WORK)

    async def play(router: Router) -> list[Any]:
        local = one.backends["local"]
        local.script = [errors.generation_failed("It failed."), errors.worker_lost()]
        ends = await drawn(router, asked())
        ends += await drawn(router, asked())
        local.takes_seconds, local.begun = 30.0, asyncio.Event()
        leaving = asyncio.create_task(router.draw(asked()))
        await local.begun.wait()
        ends += await drawn(router, asked(1))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await router.finish()
        local.takes_seconds = 0.0
        return ends + await drawn(router, asked()) + await drawn(router, asked(1))

    assert outcomes(one, play) == ["generation_failed", "drawn", "insufficient_quota", "drawn", "insufficient_quota"]


def test_what_a_key_may_spend_counts_what_is_open_at_its_reservation_and_what_ended_at_its_cost(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI)
    wanted = [journey(one, usd_per_day=3.5 * PRICE_USD) for _ in range(6)]
    ends = outcomes(one, lambda router: drawn(router, *wanted))
    assert sorted(ends) == ["drawn"] * 3 + ["insufficient_quota"] * 3
    again = [journey(one, usd_per_day=3.5 * PRICE_USD), journey(one, "b", usd_per_day=3.5 * PRICE_USD)]
    assert outcomes(one, lambda router: drawn(router, *again)) == ["insufficient_quota", "drawn"]


def test_the_dearest_who_could_serve_is_reserved_and_only_what_it_cost_is_kept(tmp_path: Path) -> None:
    one = stage(tmp_path, OURS, BEDROCK)
    wanted = [journey(one, usd_per_day=1.5 * PRICE_USD) for _ in range(2)]
    ends = outcomes(one, lambda router: drawn(router, *wanted))
    assert sorted(ends) == ["drawn", "insufficient_quota"], "either might have gone to the provider"
    later = journey(one, usd_per_day=1.5 * PRICE_USD)
    assert outcomes(one, lambda router: drawn(router, later)) == ["drawn"], "our own device had cost nothing"


def paid_for_nothing() -> Trouble:
    trouble = Trouble("timeout")
    trouble.cost_usd = PRICE_USD
    return trouble


def test_a_fallback_is_asked_only_if_the_day_has_room_for_it_beside_what_the_first_one_cost(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI, BEDROCK)

    async def play(router: Router) -> list[Any]:
        one.backends["openai"].script = [paid_for_nothing(), paid_for_nothing()]
        return await drawn(
            router, journey(one, usd_per_day=1.5 * PRICE_USD), journey(one, "b", usd_per_day=2 * PRICE_USD)
        )

    assert outcomes(one, play) == ["backend_timeout", "drawn"]
    assert one.backends["bedrock"].asked == 1
    spent = {row.entry.key_id: row.settlement.cost_microusd for row in one.rows() if row.settlement is not None}
    assert spent == {"a": 50_000, "b": 100_000}


def test_whom_the_day_has_no_room_for_is_passed_over_for_one_that_costs_less(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI, BEDROCK, OURS)
    one.backends["openai"].script = [paid_for_nothing()]
    wanted = journey(one, usd_per_day=1.5 * PRICE_USD)
    assert outcomes(one, lambda router: drawn(router, wanted)) == ["drawn"]
    assert (one.backends["bedrock"].asked, one.backends["local"].asked) == (0, 1)
    assert [row.settlement.cost_microusd for row in one.rows() if row.settlement is not None] == [50_000]


def test_fallbacks_at_once_do_not_spend_the_same_rest_of_the_day(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI, BEDROCK)

    async def play(router: Router) -> list[Any]:
        one.backends["openai"].script = [paid_for_nothing() for _ in range(4)]
        return await drawn(router, *(journey(one, usd_per_day=5 * PRICE_USD) for _ in range(4)))

    assert sorted(outcomes(one, play)) == ["backend_timeout"] * 3 + ["drawn"]
    assert sum(row.settlement.cost_microusd for row in one.rows() if row.settlement is not None) == 250_000


def test_the_servers_own_quota_holds_for_all_keys_together(tmp_path: Path) -> None:
    one = stage(tmp_path)

    async def play(router: Router) -> list[Any]:
        router.accounts = Accounts(router.accounts._ledger, {}, work_units_per_day=4 * WORK)
        return await drawn(router, *(journey(one, name, 1) for name in "abcdef"))

    assert sorted(outcomes(one, play)) == ["drawn"] * 4 + ["insufficient_quota"] * 2


def test_servers_that_share_a_database_keep_one_quota(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    async def play() -> list[bool]:
        async with opened(url) as first, opened(url) as second:
            quota = Quota("key_1", work_units=7.0)
            ledgers = (first, second)
            asked = (
                ledgers[number % 2].try_reserve([entry(f"req_{number}", work_units=2.0)], [quota], NOW)
                for number in range(20)
            )
            return [excess is None for excess in await asyncio.gather(*asked)]

    assert asyncio.run(play()).count(True) == 3


def test_yesterdays_work_is_not_todays(tmp_path: Path) -> None:
    async def play(ledger: Ledger) -> list[bool]:
        quota = Quota("key_1", work_units=2.0, microusd=100)
        await ledger.reserve([entry("old", work_units=2.0, reserved_microusd=100, began_unix_ms=NOW - 1)])
        new = entry("new", work_units=2.0, reserved_microusd=100)
        excesses = [await ledger.try_reserve([one], [quota], NOW) for one in (new, replace(new, request_id="newer"))]
        return [excess is None for excess in excesses]

    assert played(f"sqlite:///{tmp_path / 'ledger.db'}", play) == [True, False]


def test_what_a_crash_left_open_eats_no_work_but_its_money_as_it_may_have_been_spent(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    async def left(ledger: Ledger) -> Used:
        await ledger.reserve([entry(index=index, work_units=5.0, reserved_microusd=40) for index in range(3)])
        await ledger.settle([settlement(index=0, cost_microusd=30)])
        return await ledger.used("key_1", NOW)

    async def later(ledger: Ledger) -> list[Used]:
        used = [await ledger.used("key_1", NOW), await ledger.used("key_2", NOW), await ledger.used(None, NOW)]
        # It was alive after all, and knows better.
        await ledger.settle([settlement(index=1, cost_microusd=20)])
        return [*used, await ledger.used("key_1", NOW)]

    assert played(url, left) == Used(15.0, 110)
    assert played(url, later) == [Used(5.0, 110), Used(0.0, 0), Used(5.0, 110), Used(10.0, 90)]


def test_who_asks_for_no_work_is_not_refused_for_work_that_is_gone(tmp_path: Path) -> None:
    one = stage(tmp_path)
    assert outcomes(one, lambda router: drawn(router, journey(one, work_units_per_day=WORK))) == ["drawn"]
    abroad = stage(tmp_path, OPENAI)
    assert outcomes(abroad, lambda router: drawn(router, journey(abroad, work_units_per_day=WORK))) == ["drawn"]
