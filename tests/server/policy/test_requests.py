"""What the policy refuses is not drawn, or does not leave, whatever way it was asked for; the books say so first."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import textwrap
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from sqlite3 import connect
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from pipelines.messages import Event, Image, Preview, Refused, Submit
from server.api.envelope import Edge
from server.api.parse import Reach
from server.api.services import Services
from server.app import counting
from server.backends.capabilities import CAPABILITIES
from server.backends.upstream import Upstream
from server.core.providers import LOCAL, Target
from server.ledger.decisions import Decision
from server.ledger.entries import Row
from server.ledger.ledger import Ledger
from server.ledger.question import Question
from server.metrics.metrics import Metrics
from server.policy.building import build_policy
from server.routing.accounts import Accounts
from server.routing.allowance import Allowance
from server.routing.choice import Weights
from server.routing.router import Router
from tests.server.parts import routes_over, services_in
from tests.server.routing.stage import PRICE_USD, Scripted
from tests.upstreams.scripted import Reply, ScriptedUpstream

MODELS = """\
default_model: tiny
models:
  tiny:
    family: sdxl
    source: weights/tiny
    price_usd: 0.01
    defaults: {size: 64x64, steps: 10}
    limits: {min_side_px: 64, max_side_px: 128, side_multiple_px: 16, max_pixels: 16384}
    presets: {style: {vivid: {prompt: "{prompt}, with blood"}}}
backends:
  away:
    kind: openai
    base_url: http://127.0.0.1:9
    models: {best: {form: compatible, prices: [{usd: 0.05}]}}
names:
  both: {route: ["local:tiny", "away:best"]}
  away-only: {route: ["away:best"]}
"""
WORDS = "  - {name: words, kind: words, file: words.txt}\n"
IMAGE = "  - {name: pictures, kind: image, source: checker}\n"
PRIVATE = "a blood-red moon over 'Wyoming'"
PICTURE = b"\x89PNG bytes"
AWAY = Target("away", "best")


@dataclass
class CheckingDispatcher:
    """Answers as a worker with a safety checker does, which refuses the seeds in `bad`."""

    bad: tuple[int, ...] = ()
    forgets_to_check: bool = False
    jobs: list[Submit] = field(default_factory=list)

    def own_seconds(self, _: object) -> None:
        return None

    def seconds_ahead(self, _: object) -> float:
        return 0.0

    def check_room(self, _: int) -> None: ...

    def place_of(self, _: str) -> int:
        return 0

    async def draw(self, submit: Submit, listen: Callable[[Event], None] | None = None) -> Image | Refused:
        self.jobs.append(submit)
        for step in submit.preview_steps:
            if listen is not None:
                listen(Preview(submit.job_id, step, 10, PICTURE))
        if not submit.is_checked or self.forgets_to_check:
            return Image(submit.job_id, PICTURE, 0.5)
        if submit.params.seed in self.bad:
            return Refused(submit.job_id, 0.5, 7)
        return Image(submit.job_id, PICTURE, 0.5, check_ms=7)


@dataclass
class House:
    """A server without a process: its books, its worker, its provider."""

    folder: Path
    app: FastAPI
    worker: CheckingDispatcher
    provider: Scripted

    def post(self, **body: Any) -> httpx.Response:
        async def exchange() -> httpx.Response:
            services: Services = self.app.state.services
            await services.decoder.start()
            await services.ledger.open()
            try:
                transport = httpx.ASGITransport(app=Edge(self.app))
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    asked = {"prompt": "a red circle", "response_format": "b64_json", "seed": 1} | body
                    return await client.post("/v1/images/generations", json=asked)
            finally:
                await services.policy.close()
                await services.decoder.stop()
                await services.router.finish()
                await services.ledger.close()

        return asyncio.run(exchange())

    def counted(self, labels: dict[str, str]) -> float | None:
        registry = self.app.state.services.metrics.registry
        return cast("float | None", registry.get_sample_value("safelight_policy_decisions_total", labels))

    def decisions(self, reply: httpx.Response) -> tuple[Decision, ...]:
        return cast("tuple[Decision, ...]", self._read(lambda books: books.decisions(reply.headers["x-request-id"])))

    def rows(self) -> list[Row]:
        asked = Question(0, 2**52)
        return list(cast(Any, self._read(lambda books: books.rows(asked, after=None, limit=100))).rows)

    def _read(self, look: Callable[[Ledger], Any]) -> object:
        async def read() -> object:
            books = Ledger(f"sqlite:///{self.folder / 'ledger.sqlite'}")
            await books.open()
            try:
                return await look(books)
            finally:
                await books.close()

        return asyncio.run(read())


def house(folder: Path, checks: str, *, more: str = "") -> House:
    (folder / "words.txt").write_text("blood\n")
    (folder / "checker").mkdir(exist_ok=True)
    (folder / "checker" / "config.json").write_text("{}")
    worker, provider, metrics = CheckingDispatcher(), Scripted(), Metrics()
    models = f"{MODELS}policy:\n{more}  checks:\n" + textwrap.indent(checks, "  ")
    services = services_in(folder, worker, models)
    catalogue, ledger = services.catalogue, services.ledger
    upstreams = {AWAY: Upstream(AWAY, "openai", catalogue.backends["away"].models["best"], CAPABILITIES["compatible"])}
    services = replace(
        services,
        reach=Reach(catalogue, upstreams),
        router=Router(
            {LOCAL: services.local, "away": provider},
            upstreams,
            Accounts(ledger, {}),
            Weights(100.0, 30.0),
            Allowance(0.2),
        ),
        metrics=metrics,
        policy=build_policy(services.settings, catalogue, ledger.decide, counting(metrics)),
    )
    return House(folder, routes_over(services), worker, provider)


def hook(moderator: ScriptedUpstream, **fields: Any) -> str:
    entry = {"name": "moderator", "kind": "hook", "url": moderator.url, "deadline_seconds": 1, **fields}
    return f"  - {json.dumps(entry)}\n"


def answers(*allowed: bool) -> list[Reply]:
    return [Reply(body=json.dumps({"allow": one}).encode()) for one in allowed]


def assert_refused(reply: httpx.Response) -> None:
    assert reply.status_code == 400
    assert reply.json()["error"] == {
        "message": "Your request was rejected by this server's content policy.",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "content_policy_violation",
    }
    assert reply.headers["x-should-retry"] == "false"


def told(decisions: tuple[Decision, ...]) -> list[tuple[str, str, str, int | None]]:
    return [(one.check_name, one.stage, one.decision, one.index) for one in decisions]


def test_a_refused_prompt_is_drawn_by_nobody_costs_nothing_and_its_word_is_not_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = house(tmp_path, WORDS)
    with caplog.at_level(logging.DEBUG):
        reply = one.post(prompt=PRIVATE, model="both")
    assert_refused(reply)
    assert (one.worker.jobs, one.provider.asked, one.rows()) == ([], 0, [])
    (decision,) = one.decisions(reply)
    assert told((decision,)) == [("words", "prompt", "refuse", None)]
    assert (decision.prompt_characters, decision.prompt, decision.level) == (len(PRIVATE), None, "auto")
    assert one.counted({"check": "words", "decision": "refuse"}) == 1
    assert "blood" not in caplog.text
    with closing(connect(tmp_path / "ledger.sqlite")) as books:
        assert "Wyoming" not in "\n".join(books.iterdump())


def test_what_is_allowed_is_drawn_and_the_books_say_that_it_was_judged(tmp_path: Path) -> None:
    one = house(tmp_path, WORDS)
    reply = one.post()
    assert reply.status_code == 200
    assert told(one.decisions(reply)) == [("words", "prompt", "allow", None)]
    assert len(one.worker.jobs) == 1


def test_without_a_policy_nothing_is_judged_and_nothing_written(tmp_path: Path) -> None:
    one = house(tmp_path, "  []\n")
    reply = one.post(prompt=PRIVATE)
    assert reply.status_code == 200
    assert one.decisions(reply) == ()


def test_the_prompts_text_is_in_the_books_only_where_the_operator_says_so(tmp_path: Path) -> None:
    one = house(tmp_path, WORDS, more="  keep_prompts: true\n")
    assert [decision.prompt for decision in one.decisions(one.post(prompt=PRIVATE))] == [PRIVATE]


def test_equal_prompts_have_equal_digests_that_say_nothing_to_who_has_the_books(tmp_path: Path) -> None:
    first, second = house(tmp_path, WORDS), house(tmp_path, WORDS)
    digests = [one.decisions(one.post(prompt=text))[0].prompt_digest for one, text in [(first, "x"), (first, "x")]]
    other = [one.decisions(one.post(prompt=text))[0].prompt_digest for one, text in [(first, "y"), (second, "x")]]
    assert len(set(digests)) == 1
    assert len({*digests, *other}) == 3


def test_a_word_that_a_style_adds_is_judged_too(tmp_path: Path) -> None:
    one = house(tmp_path, WORDS)
    assert one.post(style="natural").status_code == 200
    assert_refused(one.post(style="vivid"))


def test_a_negative_prompt_says_what_is_not_wanted_and_is_judged_only_where_that_is_said(tmp_path: Path) -> None:
    assert house(tmp_path, WORDS).post(negative_prompt="blood").status_code == 200
    strict = WORDS.replace("}", ", reads: [prompt, negative_prompt]}")
    assert_refused(house(tmp_path, strict).post(negative_prompt="blood"))


def test_moderation_low_skips_checks_that_are_for_auto_alone_and_then_is_no_ignored_parameter(tmp_path: Path) -> None:
    one = house(tmp_path, WORDS.replace("}", ", levels: [auto]}"))
    assert_refused(one.post(prompt=PRIVATE))
    assert_refused(one.post(prompt=PRIVATE, moderation="auto"))
    reply = one.post(prompt=PRIVATE, moderation="low")
    assert reply.status_code == 200
    assert "x-safelight-ignored" not in reply.headers
    reply = house(tmp_path, WORDS).post(moderation="low")
    assert reply.headers["x-safelight-ignored"] == "moderation"


def test_the_first_check_that_refuses_ends_it(tmp_path: Path) -> None:
    with ScriptedUpstream(*answers(True)) as moderator:
        one = house(tmp_path, WORDS + hook(moderator))
        assert_refused(one.post(prompt=PRIVATE))
        assert moderator.asked == []
        reply = one.post()
        assert told(one.decisions(reply)) == [
            ("words", "prompt", "allow", None),
            ("moderator", "prompt", "allow", None),
        ]


def test_a_moderator_that_refuses_refuses(tmp_path: Path) -> None:
    with ScriptedUpstream(*answers(False)) as moderator:
        one = house(tmp_path, hook(moderator))
        assert_refused(one.post())
        assert one.worker.jobs == []


@pytest.mark.parametrize(("on_failure", "status"), [("refuse", 503), ("allow", 200)])
def test_where_the_moderator_fails_the_operators_word_counts(tmp_path: Path, on_failure: str, status: int) -> None:
    with ScriptedUpstream(Reply(500)) as moderator:
        one = house(tmp_path, hook(moderator, on_failure=on_failure))
        reply = one.post()
        assert reply.status_code == status
        assert len(one.worker.jobs) == (status == 200)
        (decision,) = one.decisions(reply)
        assert (decision.problem, decision.decision) == ("status", "allow" if status == 200 else "refuse")
        if status == 503:
            assert reply.json()["error"]["code"] == "policy_unavailable"
            assert reply.headers["retry-after"] == "10"


def test_a_refused_picture_never_leaves_its_cost_stays_and_nobody_else_is_asked(tmp_path: Path) -> None:
    one = house(tmp_path, IMAGE.replace("}", ", providers: trust}"))
    one.worker.bad = (2,)
    reply = one.post(n=3, model="both")
    assert_refused(reply)
    assert one.provider.asked == 0
    assert base64.b64encode(PICTURE).decode() not in reply.text
    assert sorted(told(one.decisions(reply))) == [
        ("pictures", "result", "allow", 0),
        ("pictures", "result", "allow", 2),
        ("pictures", "result", "refuse", 1),
    ]
    assert {decision.ms for decision in one.decisions(reply)} == {7}
    ends = [row.settlement for row in one.rows()]
    assert [(end.outcome, end.error_code, end.cost_microusd) for end in ends if end is not None] == [
        ("failed", "content_policy_violation", 10_000)
    ] * 3


def test_a_stream_shows_no_picture_that_was_refused_and_none_before_it_was_judged(tmp_path: Path) -> None:
    one = house(tmp_path, IMAGE)
    one.worker.bad = (1,)
    reply = one.post(stream=True, partial_images=2)
    assert base64.b64encode(PICTURE).decode() not in reply.text
    assert '"code":"content_policy_violation"' in reply.text
    assert reply.headers["x-safelight-ignored"] == "partial_images"
    one.worker.bad = ()
    reply = one.post(stream=True, partial_images=2)
    assert reply.text.count(base64.b64encode(PICTURE).decode()) == 1
    assert "partial_image" not in reply.text


def test_a_picture_that_no_checker_saw_never_passes_for_checked(tmp_path: Path) -> None:
    one = house(tmp_path, IMAGE)
    one.worker.forgets_to_check = True
    reply = one.post()
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "policy_unavailable")
    assert reply.headers["x-should-retry"] == "false"
    assert [decision.problem for decision in one.decisions(reply)] == ["not_checked"]


def test_whose_pictures_no_checker_sees_is_left_out_or_trusted_as_the_operator_says(tmp_path: Path) -> None:
    one = house(tmp_path, IMAGE)
    assert one.post(model="both").headers["x-safelight-backend"] == "local"
    reply = one.post(model="away-only")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "backend_unavailable")
    assert one.provider.asked == 0
    trusting = house(tmp_path, IMAGE.replace("}", ", providers: trust}"))
    assert trusting.post(model="away-only").status_code == 200


def test_a_moderator_sees_the_pictures_of_everybody_before_they_leave(tmp_path: Path) -> None:
    with ScriptedUpstream(*answers(True, True, False)) as moderator:
        one = house(tmp_path, hook(moderator, reads=["prompt", "picture"]))
        assert one.post(model="both").status_code == 200
        reply = one.post(model="away-only")
        assert one.provider.asked == 0
        assert_refused(reply)
        moderator.script(*answers(True, False))
        reply = one.post(model="away-only")
        assert_refused(reply)
        assert one.provider.asked == 1
        shown = moderator.asked[-1].json
        assert (shown["stage"], shown["model"]) == ("result", "away-only")
        assert base64.b64decode(shown["input"][0]["image_url"]["url"].partition(",")[2]) == b"file"
    assert told(one.decisions(reply)) == [("moderator", "prompt", "allow", None), ("moderator", "result", "refuse", 0)]
    end = one.rows()[-1].settlement
    assert end is not None
    assert (end.error_code, end.cost_microusd) == ("content_policy_violation", round(PRICE_USD * 1e6))
    with closing(connect(tmp_path / "ledger.sqlite")) as books:
        attempts = books.execute("SELECT cause, cost_microusd FROM ledger_attempts").fetchall()
    assert attempts == [("own_policy", round(PRICE_USD * 1e6))]


def test_what_a_provider_drew_instead_is_judged_before_it_leaves(tmp_path: Path) -> None:
    one = house(tmp_path, WORDS)
    one.provider.revised_prompt = "a moon with blood"
    reply = one.post(model="away-only")
    assert_refused(reply)
    assert told(one.decisions(reply)) == [("words", "prompt", "allow", None), ("words", "result", "refuse", 0)]
    one.provider.revised_prompt = "a moon\0"
    assert house_with_prompts(one).post(model="away-only").status_code == 200


def house_with_prompts(one: House) -> House:
    """Another that keeps prompts, with the same provider."""
    other = house(one.folder, WORDS, more="  keep_prompts: true\n")
    other.provider.revised_prompt = one.provider.revised_prompt
    return other


def test_a_refusal_that_cannot_be_written_down_is_no_refusal_yet(tmp_path: Path) -> None:
    one = house(tmp_path, WORDS)
    one.post()
    services: Services = one.app.state.services
    impatient = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", deadline_seconds=1.0)
    policy = build_policy(services.settings, services.catalogue, impatient.decide)
    one.app.state.services = replace(services, policy=policy)  # whose books were never opened
    reply = one.post(prompt=PRIVATE)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "ledger_unavailable")


def test_the_longest_prompt_of_nothing_but_disguises_is_answered(tmp_path: Path) -> None:
    (tmp_path / "patterns.txt").write_text("(a+)+$x\n(.*a){20}b\n")
    one = house(tmp_path, WORDS + "  - {name: patterns, kind: patterns, file: patterns.txt}\n")
    assert one.post(prompt="a\u200b" * 16_000).status_code == 200
    assert_refused(one.post(prompt="a\u200b" * 15_000 + " b\u200bl\u00adood"))
