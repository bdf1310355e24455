"""What a router tells of its requests: who was asked and why, what became of the pictures, and a line for each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.backends.trouble import Trouble
from server.core import errors
from server.core.observer import Ended, Observer
from server.core.prompt_log import PromptLog
from server.core.providers import Target
from server.routing.choice import Prospect, Reason, Weights, reason_of
from server.routing.telling import Telling
from tests.server.routing.stage import BEDROCK, OPENAI, OURS, PRICE_USD, Scripted, Stage

WEIGHTS = Weights(100.0, 30.0)


@dataclass
class Ear(Observer):
    """Remembers what it was told."""

    tries: list[tuple[Target, str, float]] = field(default_factory=list)
    reasons: list[tuple[Target, str]] = field(default_factory=list)
    over: list[tuple[Target, str]] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)

    def tried(self, target: Target, cause: str, seconds: float, usd: float) -> None:
        assert seconds >= 0
        self.tries.append((target, cause, usd))

    def routed(self, target: Target, reason: str) -> None:
        self.reasons.append((target, reason))

    def passed_over(self, target: Target, cause: str) -> None:
        self.over.append((target, cause))

    def ended(self, ended: Ended) -> None:
        self.ends.append(ended)


def draw(stage: Stage, ear: Ear, count: int = 1, prompts: PromptLog | None = None) -> None:
    async def once() -> None:
        async with stage.router() as router:
            router.telling = Telling(ear, prompts or PromptLog())
            with contextlib.suppress(errors.SafelightError):
                await router.draw(stage.journey(count))

    asyncio.run(once())


def test_a_request_that_is_served_is_told_once_with_its_work_and_its_reason(tmp_path: Path) -> None:
    ear = Ear()
    draw(Stage(tmp_path, {"local": Scripted(), "openai": Scripted()}), ear, count=2)
    (end,) = ear.ends
    assert (end.target, end.operation, end.ending, end.count) == (OURS, "generation", "succeeded", 2)
    assert end.work_units == 2 * 64 * 64 * 4
    assert (ear.tries, ear.reasons, ear.over) == ([(OURS, "ok", 0.0)], [(OURS, "in_order")], [])


def test_a_failure_that_another_cures_is_two_tries_and_one_fallback(tmp_path: Path) -> None:
    ear = Ear()
    stage = Stage(tmp_path, {"local": Scripted([errors.worker_lost()]), "openai": Scripted()})
    draw(stage, ear)
    assert [(target, cause) for target, cause, _ in ear.tries] == [(OURS, "worker_lost"), (OPENAI, "ok")]
    assert ear.tries[-1][2] == PRICE_USD
    assert ear.reasons == [(OPENAI, "fallback")]
    assert [end.ending for end in ear.ends] == ["succeeded"]


def test_a_request_that_fails_everywhere_is_told_as_failed_and_has_no_reason(tmp_path: Path) -> None:
    ear = Ear()
    stage = Stage(tmp_path, {"local": Scripted([errors.worker_lost()]), "openai": Scripted([Trouble("failed")])})
    draw(stage, ear)
    (end,) = ear.ends
    assert (end.target, end.ending, end.work_units) == (OPENAI, "failed", 0.0)
    assert ear.reasons == []


def test_whoever_is_not_asked_is_told_as_passed_over(tmp_path: Path) -> None:
    ear = Ear()
    stage = Stage(tmp_path, {"openai": Scripted(), "bedrock": Scripted()}, (OPENAI, BEDROCK), {"openai": 0.0})
    draw(stage, ear)
    assert ear.over == [(OPENAI, "daily_limit")]
    assert ear.tries == [(BEDROCK, "ok", PRICE_USD)]


def test_a_caller_that_leaves_is_told_as_cancelled(tmp_path: Path) -> None:
    ear, local = Ear(), Scripted(takes_seconds=60.0)
    stage = Stage(tmp_path, {"local": local}, (OURS,))

    async def leave() -> None:
        async with stage.router() as router:
            router.telling = Telling(ear)
            task = asyncio.create_task(router.draw(stage.journey()))
            await local.begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert [end.ending for end in ear.ends] == ["cancelled"]
    assert [cause for _, cause, _ in ear.tries] == ["abandoned"]


def test_a_prompt_is_on_the_log_only_where_the_operator_wants_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stage = Stage(tmp_path, {"local": Scripted()}, (OURS,))
    draw(stage, Ear())
    closed = [record.__dict__ for record in caplog.records if record.message == "drawn"]
    caplog.clear()
    draw(stage, Ear(), prompts=PromptLog(is_open=True))
    opened = [record.__dict__ for record in caplog.records if record.message == "drawn"]
    assert [(one["prompt_characters"], "prompt" in one) for one in closed] == [(len("a circle"), False)]
    assert [one["prompt"] for one in opened] == ["a circle"]


def test_equal_prompts_share_a_mark_within_one_server_and_not_beyond_it() -> None:
    first, second = PromptLog(), PromptLog()
    assert first.fields("a") == first.fields("a")
    assert first.fields("a")["prompt_mark"] != first.fields("b")["prompt_mark"]
    assert first.fields("a")["prompt_mark"] != second.fields("a")["prompt_mark"]
    assert first.fields("\ud800")["prompt_characters"] == 1


def ranking(*prospects: Prospect) -> Sequence[Prospect]:
    return prospects


@pytest.mark.parametrize(
    ("served", "prospects", "reason"),
    [
        (OURS, ranking(Prospect(OURS, 0, 1.0, 0.0)), "only"),
        (OURS, ranking(Prospect(OURS, 0, 1.0, 0.0), Prospect(OPENAI, 1, 1.0, 0.0)), "in_order"),
        (OPENAI, ranking(Prospect(OPENAI, 1, 1.0, 0.1), Prospect(OURS, 0, 90.0, 0.0)), "faster"),
        (OPENAI, ranking(Prospect(OPENAI, 1, 5.0, 0.1), Prospect(OURS, 0, 1.0, 1.0)), "cheaper"),
        (
            OPENAI,
            ranking(Prospect(OPENAI, 1, 5.0, 0.1, preference_seconds=60.0), Prospect(OURS, 0, 1.0, 0.0)),
            "preferred",
        ),
        (OURS, ranking(Prospect(OPENAI, 1, 1.0, 0.1), Prospect(OURS, 0, 90.0, 0.0)), "fallback"),
    ],
)
def test_the_reason_is_what_told_most_against_the_first_in_the_route(
    served: Target, prospects: Sequence[Prospect], reason: Reason
) -> None:
    assert reason_of(served, prospects, WEIGHTS) == reason
