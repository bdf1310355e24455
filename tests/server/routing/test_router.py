"""Guards who gets a request after a failure, what it costs, and that the books say the same."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing as closed
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from server.backends.trouble import Facts, Trouble
from server.core import errors
from server.core.errors import SafelightError
from server.core.providers import RemoteModel, Target
from server.core.request import ImageRequest, Picture
from server.ledger.entries import Settlement
from server.routing import breaker, closing
from server.routing.breaker import FAILURES_IN_A_ROW
from server.routing.journey import Journey, Served
from tests.server.routing.fallback_table import page
from tests.server.routing.stage import BEDROCK, OPENAI, OURS, PRICE_USD, Scripted, Stage

FULL = errors.overloaded(200)
PRICE_MICROUSD = round(PRICE_USD * 1_000_000)


def stage(folder: Path, *targets: object, **options: object) -> Stage:
    backends = {"local": Scripted(), "openai": Scripted(), "bedrock": Scripted()}
    return Stage(folder, backends, targets or (OURS, OPENAI), **options)  # type: ignore[arg-type]


def settled(one: Stage) -> list[Settlement]:
    settlements = [row.settlement for row in one.rows()]
    assert None not in settlements
    return [settlement for settlement in settlements if settlement is not None]


@contextmanager
def locked_books(folder: Path) -> Iterator[None]:
    """Another program holds the database."""
    with closed(sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        yield
        blocker.execute("ROLLBACK")


def open_entries(folder: Path) -> int:
    with closed(sqlite3.connect(folder / "ledger.sqlite")) as books:
        (count,) = books.execute("SELECT count(*) FROM ledger_entries WHERE outcome IS NULL").fetchone()
    return int(count)


def test_the_page_of_failures_is_what_the_router_does() -> None:
    assert (Path(__file__).parents[3] / "docs" / "fallback.md").read_text() == page()


def test_our_own_device_serves_alone_where_it_can(tmp_path: Path) -> None:
    one = stage(tmp_path)
    served = one.draw(count=2)
    assert (served.target, one.backends["openai"].asked) == (OURS, 0)
    assert [(row.outcome, row.backend, row.cost_microusd) for row in settled(one)] == [("succeeded", "local", 0)] * 2


def test_two_are_asked_at_most_and_the_third_never(tmp_path: Path) -> None:
    one = stage(tmp_path, OURS, OPENAI, BEDROCK)
    one.backends["local"].script = [FULL]
    one.backends["openai"].script = [Trouble("failed")]
    with pytest.raises(SafelightError) as caught:
        one.draw()
    assert caught.value.code == "server_is_overloaded"  # this may pass; the other may too, but it was the first
    assert one.backends["bedrock"].asked == 0
    assert caught.value.headers()["x-safelight-attempts"] == (
        "local:sdxl=server_is_overloaded, openai:gpt-image-2=failed"
    )


@pytest.mark.parametrize("order", [(OURS, OPENAI), (OPENAI, OURS)])
def test_whoever_cost_workers_is_told_so_whatever_else_failed(tmp_path: Path, order: tuple[Target, ...]) -> None:
    one = stage(tmp_path, *order)
    one.backends["local"].script = [errors.worker_lost()]
    one.backends["openai"].script = [Trouble("failed")]
    with pytest.raises(SafelightError) as caught:
        one.draw()
    assert caught.value.code == "worker_lost"
    assert caught.value.headers()["x-should-retry"] == "false"


def test_whoever_may_not_be_asked_does_not_count_as_asked(tmp_path: Path) -> None:
    one = stage(tmp_path, OURS, OPENAI, BEDROCK, caps_usd={"openai": 0.01})
    one.backends["local"].script = [FULL]
    served = one.draw()
    assert served.target == BEDROCK
    assert [str(step) for step in served.course.tries] == [
        "local:sdxl=server_is_overloaded",
        "openai:gpt-image-2=daily_limit",
        "bedrock:stable-core=ok",
    ]


def test_the_books_hold_what_the_attempts_cost_to_the_last_millionth(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI, BEDROCK)
    charged = Trouble("broken", Facts(200, is_charged=True))
    charged.cost_usd = 0.100001
    one.backends["openai"].script = [charged]
    served = one.draw(count=3)
    assert served.cost_usd == pytest.approx(0.100001 + 3 * PRICE_USD)
    rows, spent = settled(one), one.spent_microusd()
    assert spent == {"openai": 100_001, "bedrock": 3 * PRICE_MICROUSD}
    assert sum(row.cost_microusd for row in rows) == sum(spent.values())
    assert {(row.attempts, row.backend, row.served_model) for row in rows} == {(2, "bedrock", "stable-core")}
    with closed(sqlite3.connect(tmp_path / "ledger.sqlite")) as books:
        told = books.execute("SELECT backend, cause, status FROM ledger_attempts ORDER BY number").fetchall()
    assert told == [("openai", "broken", 200), ("bedrock", None, 200)]


def test_what_a_failed_request_cost_stands_in_the_books_too(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI)
    charged = Trouble("timeout", Facts(is_charged=True))
    charged.cost_usd = 2 * PRICE_USD
    one.backends["openai"].script = [charged]
    with pytest.raises(SafelightError):
        one.draw(count=2)
    assert [(row.outcome, row.error_code) for row in settled(one)] == [("failed", "backend_timeout")] * 2
    assert sum(row.cost_microusd for row in settled(one)) == one.spent_microusd()["openai"] == 2 * PRICE_MICROUSD


def test_what_was_drawn_and_could_not_be_delivered_is_failed_in_the_books_with_what_it_cost(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI)

    async def to_a_full_disk(_: Served) -> None:
        raise errors.storage_failed()

    async def play() -> None:
        async with one.router() as router:
            await router.draw(one.journey(count=2), deliver=to_a_full_disk)

    with pytest.raises(SafelightError):
        asyncio.run(play())
    rows = settled(one)
    assert [(row.outcome, row.error_code) for row in rows] == [("failed", "storage_failed")] * 2
    assert sum(row.cost_microusd for row in rows) == one.spent_microusd()["openai"] == 2 * PRICE_MICROUSD


@pytest.mark.parametrize("cap", ["openai", None])
def test_the_days_limit_holds_over_restarts(tmp_path: Path, cap: str | None) -> None:
    for _ in range(2):
        stage(tmp_path, OPENAI, caps_usd={cap: 0.12}).draw()
    again = stage(tmp_path, OPENAI, caps_usd={cap: 0.12})
    with pytest.raises(SafelightError) as caught:
        again.draw()
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")
    assert caught.value.headers()["x-should-retry"] == "false"
    assert again.backends["openai"].asked == 0
    assert stage(tmp_path, OPENAI, caps_usd={cap: 0.16}).draw().target == OPENAI


def test_many_at_once_cannot_break_the_days_limit_together(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI, caps_usd={None: 10.5 * PRICE_USD})
    one.backends["openai"].takes_seconds = 0.05

    async def rush() -> int:
        async with one.router() as router:
            outcomes = await asyncio.gather(*(router.draw(one.journey()) for _ in range(40)), return_exceptions=True)
        return sum(not isinstance(outcome, BaseException) for outcome in outcomes)

    assert asyncio.run(rush()) == 10
    assert one.spent_microusd() == {"openai": 10 * PRICE_MICROUSD}


def test_pictures_that_somebody_has_seen_are_not_drawn_again_elsewhere(tmp_path: Path) -> None:
    class Halfway(Scripted):
        async def draw(self, order, ears):  # type: ignore[no-untyped-def]
            ears.on_picture(0, Picture(b"file", None))
            return await super().draw(order, ears)

    one = stage(tmp_path, OPENAI, BEDROCK)
    one.backends = {**one.backends, "openai": Halfway(script=[Trouble("failed")])}
    with pytest.raises(SafelightError):
        one.draw(count=2)
    assert one.backends["bedrock"].asked == 0


def test_when_too_many_fail_no_more_are_asked_again(tmp_path: Path) -> None:
    one = stage(tmp_path, fallback_share=0.0)
    one.backends["local"].script = [FULL]
    with pytest.raises(SafelightError):
        one.draw()
    assert one.backends["openai"].asked == 0


def test_a_provider_that_says_the_model_is_gone_is_not_asked_again(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI, models={OPENAI: RemoteModel(successor="gpt-image-3")})
    one.backends["openai"].script = [Trouble("retired", Facts(404))]

    async def twice() -> list[SafelightError]:
        async with one.router() as router:
            caught: list[SafelightError] = []
            for _ in range(2):
                with pytest.raises(SafelightError) as error:
                    await router.draw(one.journey())
                caught.append(error.value)
            assert router.is_retired(OPENAI)
            assert not router.is_retired(BEDROCK)
        return caught

    for error in asyncio.run(twice()):
        assert (error.status, error.code) == (404, "model_retired")
        assert "'gpt-image-3'" in error.message
    assert one.backends["openai"].asked == 1


def test_a_model_that_the_file_calls_retired_is_never_asked(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI, BEDROCK, models={OPENAI: RemoteModel(retired=date(2026, 5, 12))})
    assert one.draw().target == BEDROCK
    assert one.backends["openai"].asked == 0
    tomorrow = stage(tmp_path, OPENAI, models={OPENAI: RemoteModel(retired=date(9999, 1, 1))})
    assert tomorrow.draw().target == OPENAI


def test_a_target_that_keeps_failing_is_left_alone_for_a_while(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI)
    one.backends["openai"].script = [Trouble("unreachable")] * 100

    async def many() -> SafelightError:
        async with one.router() as router:
            for _ in range(FAILURES_IN_A_ROW + 3):
                with pytest.raises(SafelightError) as caught:
                    await router.draw(one.journey())
        return caught.value

    error = asyncio.run(many())
    assert one.backends["openai"].asked == FAILURES_IN_A_ROW
    assert error.headers()["x-safelight-attempts"] == "openai:gpt-image-2=cooling_down"


def test_the_second_backend_gets_what_the_first_left_of_the_deadline(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI, BEDROCK)
    one.backends["openai"].script, one.backends["openai"].takes_seconds = [Trouble("failed")], 0.3

    async def once() -> None:
        async with one.router() as router:
            await router.draw(one.journey(deadline_seconds=asyncio.get_running_loop().time() + 5))

    asyncio.run(once())
    (first,), (second,) = one.backends["openai"].patience, one.backends["bedrock"].patience
    assert first is not None
    assert second is not None
    assert 4.5 < first <= 5
    assert second <= first - 0.3


def test_nobody_is_asked_after_the_deadline(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI, BEDROCK)

    async def once() -> None:
        async with one.router() as router:
            await router.draw(one.journey(deadline_seconds=asyncio.get_running_loop().time() - 1))

    with pytest.raises(SafelightError) as caught:
        asyncio.run(once())
    assert caught.value.code == "backend_timeout"
    assert one.backends["openai"].asked == one.backends["bedrock"].asked == 0


def test_a_caller_who_leaves_is_settled_as_cancelled_and_may_have_cost_what_was_reserved(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI)
    one.backends["openai"].takes_seconds = 60

    async def leave() -> None:
        async with one.router() as router:
            drawing = asyncio.create_task(router.draw(one.journey(count=2)))
            await one.backends["openai"].begun.wait()
            drawing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await drawing

    asyncio.run(leave())
    assert [row.outcome for row in settled(one)] == ["cancelled"] * 2
    assert sum(row.cost_microusd for row in settled(one)) == one.spent_microusd()["openai"] == 2 * PRICE_MICROUSD


def test_a_defect_is_a_defect_and_is_settled_once(tmp_path: Path) -> None:
    one = stage(tmp_path)
    one.backends["local"].script = [RuntimeError("a defect")]
    with pytest.raises(RuntimeError, match="a defect"):
        one.draw()
    assert one.backends["openai"].asked == 0
    assert [(row.outcome, row.error_code) for row in settled(one)] == [("failed", "internal_error")]


def test_what_cannot_be_booked_is_not_drawn_and_the_next_request_is(tmp_path: Path) -> None:
    one = stage(tmp_path)

    async def locked_for_a_while() -> SafelightError:
        async with one.router() as router:
            blocker = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
            blocker.execute("BEGIN EXCLUSIVE")
            with pytest.raises(SafelightError) as caught:
                await router.draw(one.journey())
            blocker.execute("ROLLBACK")
            blocker.close()
            assert one.backends["local"].asked == 0
            await router.draw(one.journey())
        return caught.value

    error = asyncio.run(locked_for_a_while())
    assert (error.status, error.code) == (503, "ledger_unavailable")
    assert [row.outcome for row in settled(one)] == ["succeeded"]


def test_the_callers_picture_comes_with_the_request_that_drew_it(tmp_path: Path) -> None:
    heard: list[ImageRequest] = []
    one = stage(tmp_path)
    one.backends["local"].script = [FULL]

    async def once() -> None:
        async with one.router() as router:
            await router.draw(one.journey(), on_picture=lambda _, __, request: heard.append(request))

    asyncio.run(once())
    assert [request.model for request in heard] == ["gpt-image-2"]


def test_whom_the_pictures_do_not_suit_is_passed_over_and_what_it_says_counts_least(tmp_path: Path) -> None:
    async def too_small() -> ImageRequest:
        raise errors.invalid_parameter("image", "It is too small.")

    def without(journey: Journey, *unfit: Target) -> Journey:
        candidates = [replace(one, ready=too_small) if one.target in unfit else one for one in journey.candidates]
        return replace(journey, candidates=tuple(candidates))

    one = stage(tmp_path)

    async def both() -> tuple[Served, SafelightError, SafelightError]:
        async with one.router() as router:
            served = await router.draw(without(one.journey(), OURS))
            with pytest.raises(SafelightError) as nobody:
                await router.draw(without(one.journey(), OURS, OPENAI))
            one.backends["local"].script = [errors.worker_lost()]
            with pytest.raises(SafelightError) as after_a_failure:
                await router.draw(without(one.journey(), OPENAI))
        return served, nobody.value, after_a_failure.value

    served, nobody, after_a_failure = asyncio.run(both())
    assert list(map(str, served.course.tries)) == ["local:sdxl=invalid_parameter", "openai:gpt-image-2=ok"]
    assert (nobody.code, after_a_failure.code) == ("invalid_parameter", "worker_lost")
    assert after_a_failure.headers()["x-safelight-attempts"].endswith("openai:gpt-image-2=invalid_parameter")


def test_a_provider_that_was_not_asked_in_the_end_costs_nothing(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI)

    async def too_late() -> None:
        async with one.router() as router:
            await router.draw(one.journey(deadline_seconds=asyncio.get_running_loop().time() - 1))

    with pytest.raises(SafelightError):
        asyncio.run(too_late())
    assert one.spent_microusd() == {"openai": 0}


def test_a_caller_who_leaves_while_the_books_are_closed_does_not_leave_them_open(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI)
    one.backends["openai"].takes_seconds = 0.2

    async def leave_at_the_end() -> None:
        async with one.router() as router:
            drawing = asyncio.create_task(router.draw(one.journey()))
            await one.backends["openai"].begun.wait()
            with locked_books(tmp_path):
                # Another's reservation keeps the writer busy, so that this settlement is still in line.
                other = asyncio.create_task(router.draw(one.journey()))
                await asyncio.sleep(0.5)
                drawing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await drawing
            await other

    asyncio.run(leave_at_the_end())
    assert [row.outcome for row in settled(one)] == ["succeeded"] * 2
    assert one.spent_microusd() == {"openai": 2 * PRICE_MICROUSD}


def test_what_was_drawn_while_the_books_were_locked_is_booked_later_and_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "RETRY_SECONDS", 0.1)
    one = stage(tmp_path, OPENAI)
    one.backends["openai"].takes_seconds = 0.2

    async def locked_at_the_end() -> SafelightError:
        async with one.router() as router:
            drawing = asyncio.create_task(router.draw(one.journey()))
            await one.backends["openai"].begun.wait()
            with locked_books(tmp_path), pytest.raises(SafelightError) as caught:
                await drawing
            deadline = asyncio.get_running_loop().time() + 20
            while open_entries(tmp_path):  # the server goes on: nobody has to stop it for that
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)
        return caught.value

    error = asyncio.run(locked_at_the_end())
    assert (error.code, error.headers()["x-should-retry"]) == ("ledger_unavailable", "false")
    assert [(row.outcome, row.cost_microusd) for row in settled(one)] == [("succeeded", PRICE_MICROUSD)]


def test_after_a_cool_down_one_request_goes_first_however_many_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_COOL_DOWN_SECONDS", 0.05)
    one = stage(tmp_path, OPENAI)
    one.backends["openai"].script = [Trouble("failed")] * FAILURES_IN_A_ROW
    one.backends["openai"].takes_seconds = 0.05

    async def rush() -> int:
        async with one.router() as router:
            for _ in range(FAILURES_IN_A_ROW):
                with pytest.raises(SafelightError):
                    await router.draw(one.journey())
            await asyncio.sleep(0.1)
            leaver = asyncio.create_task(router.draw(one.journey()))
            rest = [asyncio.create_task(router.draw(one.journey())) for _ in range(5)]
            await asyncio.wait(rest)
            leaver.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaver
            assert {task.exception() is None for task in rest} == {False}
            asked = one.backends["openai"].asked
            await router.draw(one.journey())  # the one who left is no obstacle
        return asked

    one.backends["openai"].takes_seconds = 0.5
    assert asyncio.run(rush()) == FAILURES_IN_A_ROW + 1


def test_a_stop_refuses_what_providers_have_not_drawn_within_the_drain_time(tmp_path: Path) -> None:
    one = stage(tmp_path, OPENAI)
    one.backends["openai"].takes_seconds = 60

    async def stop() -> list[SafelightError]:
        async with one.router() as router:
            drawing = asyncio.create_task(router.draw(one.journey()))
            await one.backends["openai"].begun.wait()
            router.drain(0.1)
            caught: list[SafelightError] = []
            for work in (drawing, router.draw(one.journey())):
                with pytest.raises(SafelightError) as error:
                    await work
                caught.append(error.value)
        return caught

    assert [error.code for error in asyncio.run(stop())] == ["server_is_overloaded"] * 2
    assert [(row.outcome, row.cost_microusd) for row in settled(one)] == [("failed", PRICE_MICROUSD)]
    assert one.spent_microusd() == {"openai": PRICE_MICROUSD}


def test_whom_nobody_may_ask_does_not_use_up_the_allowance(tmp_path: Path) -> None:
    one = stage(tmp_path, OURS, OPENAI, BEDROCK, models={OPENAI: RemoteModel(retired=date(2026, 5, 12))})
    one.backends["local"].script = [FULL] * 9

    async def nine() -> None:
        async with one.router() as router:
            for _ in range(9):
                assert (await router.draw(one.journey())).target == BEDROCK

    asyncio.run(nine())
