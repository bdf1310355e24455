"""Guards the way into the routes that draw: judged before the body, told in headers, out again whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import pytest
from starlette.types import ASGIApp, Message

from pipelines.messages import Event, Image, Submit
from server.api.envelope import Edge
from server.core.caller import Limits
from server.core.policy_entry import CheckEntry
from server.idempotency import desk as desk_module
from server.ledger.entries import Row
from server.ledger.ledger import Ledger
from server.ledger.question import Question
from server.limits.limiter import Limiter
from server.policy.policy import Check, Policy
from server.policy.question import Question as Asked
from tests.server.parts import routes_over, services_in

Result = TypeVar("Result")


@dataclass(slots=True)
class Easel:
    """Draws once it may. seconds, ahead: what it says of its pace. gone: the jobs that were cancelled."""

    may_draw: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    gone: list[str] = field(default_factory=list)
    seconds: float | None = None
    ahead: float = 0.0

    def own_seconds(self, _: Sequence[Submit]) -> float | None:
        return self.seconds

    def seconds_ahead(self, _: Sequence[Submit]) -> float:
        return self.ahead

    def check_room(self, _: int) -> None:
        pass

    def place_of(self, _: str) -> int:
        return 0

    async def draw(self, submit: Submit, _: Callable[[Event], None] | None = None) -> Image:
        self.begun.set()
        try:
            await self.may_draw.wait()
        except asyncio.CancelledError:
            self.gone.append(submit.job_id)
            raise
        return Image(submit.job_id, b"png", 0.1)


@dataclass(frozen=True, slots=True)
class House:
    app: ASGIApp
    limiter: Limiter
    easel: Easel
    ledger: Ledger

    async def post(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            wanted = {"prompt": "x", "response_format": "b64_json"} | body
            return await client.post("/v1/images/generations", json=wanted)

    @property
    def held(self) -> int:
        return self.limiter.slots.held("server")

    async def rows(self) -> list[Row]:
        page = await self.ledger.rows(Question(0, 2**52), after=None, limit=100)
        return list(page.rows)


@asynccontextmanager
async def house(folder: Path, policy: Policy | None = None, **limits: int) -> AsyncIterator[House]:
    """With these limits for the whole server."""
    easel, limiter = Easel(), Limiter(Limits(**limits))
    services = replace(services_in(folder, easel), limiter=limiter, policy=policy or Policy())
    await services.ledger.open()
    try:
        yield House(Edge(routes_over(services)), limiter, easel, services.ledger)
        await services.router.finish()
    finally:
        await services.ledger.close()


def played(
    folder: Path, play: Callable[[House], Awaitable[Result]], policy: Policy | None = None, **limits: int
) -> Result:
    async def run() -> Result:
        async with house(folder, policy, **limits) as one:
            return await play(one)

    return asyncio.run(run())


@pytest.fixture
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "LINGER_SECONDS", 0.1)


def test_success_and_refusal_tell_the_same_headers(tmp_path: Path) -> None:
    async def play(one: House) -> list[httpx.Response]:
        one.easel.may_draw.set()
        return [await one.post(n=2) for _ in range(3)]

    first, second, third = played(tmp_path, play, requests_per_minute=2, images_per_minute=20)
    assert [reply.status_code for reply in (first, second, third)] == [200, 200, 429]
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    told = [
        {name: value for name, value in reply.headers.items() if name.startswith("x-ratelimit") and "reset" not in name}
        for reply in (first, second, third)
    ]
    names = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"]
    names += [name.replace("requests", "images") for name in names]
    expected = [("2", "1", "20", "18"), ("2", "0", "20", "16"), ("2", "0", "20", "16")]
    assert told == [dict(zip(names, values, strict=True)) for values in expected]
    reset = first.headers["x-ratelimit-reset-requests"]
    assert reset == "1m0s" or reset.startswith("59")


def test_without_limits_no_header_speaks_of_any(tmp_path: Path) -> None:
    async def play(one: House) -> httpx.Response:
        one.easel.may_draw.set()
        return await one.post()

    assert not [name for name in played(tmp_path, play).headers if name.startswith("x-ratelimit")]


async def _ask(app: ASGIApp, receive: Callable[[], Awaitable[Message]], headers: dict[str, str]) -> list[Message]:
    """One request for pictures, byte by byte as a server hands it on: what was sent back."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/images/generations", "headers": given, "query_string": b""}
    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ("limits", "headers", "status"),
    [
        ({"requests_per_minute": 1}, {}, 429),
        ({"concurrent_images": 1}, {}, 429),
        ({}, {"x-safelight-timeout": "soon"}, 400),
    ],
)
def test_who_is_refused_is_refused_before_a_byte_of_the_body_is_read(
    tmp_path: Path, limits: dict[str, int], headers: dict[str, str], status: int
) -> None:
    async def unread() -> Message:
        raise AssertionError("the body was asked for")

    async def play(one: House) -> list[Message]:
        first = asyncio.create_task(one.post())
        await one.easel.begun.wait()
        sent = await _ask(one.app, unread, {"content-type": "application/json", **headers})
        one.easel.may_draw.set()
        await first
        return sent

    assert played(tmp_path, play, None, **limits)[0]["status"] == status


def test_pictures_on_their_way_hold_their_slots_and_the_last_one_out_leaves_none(tmp_path: Path) -> None:
    async def play(one: House) -> None:
        first = asyncio.create_task(one.post(n=3))
        await one.easel.begun.wait()
        assert one.held == 3
        full = await one.post(n=2)
        assert (full.status_code, full.headers["retry-after"], one.held) == (429, "5", 3)
        one.easel.may_draw.set()
        assert (await first).status_code == 200
        assert one.held == 0

    played(tmp_path, play, concurrent_images=4)


@pytest.mark.parametrize("body", [{"prompt": ""}, {"n": 11}, {"model": "unknown"}, {"n": 5}, {"steps": "x"}])
def test_a_wrong_request_gives_its_slot_back(tmp_path: Path, body: dict[str, Any]) -> None:
    async def play(one: House) -> None:
        assert (await one.post(**body)).status_code in {400, 404}
        assert one.held == 0

    played(tmp_path, play, concurrent_images=4)


def test_a_request_that_meets_a_defect_gives_its_slots_back(tmp_path: Path) -> None:
    async def play(one: House) -> None:
        one.easel.seconds = cast(float, "no number")
        with suppress(TypeError):
            await one.post(n=2)
        assert one.held == 0

    played(tmp_path, play, concurrent_images=4)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_goes_away_gives_its_slots_back_and_its_rows(tmp_path: Path, is_stream: bool) -> None:
    async def play(one: House) -> None:
        body = json.dumps({"prompt": "x", "n": 2, "stream": is_stream, "response_format": "b64_json"}).encode()
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await one.easel.begun.wait()
            assert one.held == 2
            return {"type": "http.disconnect"}

        await _ask(one.app, receive, {"content-type": "application/json"})
        assert one.held == 0
        assert len(one.easel.gone) == 2

    played(tmp_path, play, concurrent_images=2)


async def _leaves_once(one: House, has_seen: Awaitable[Any], **body: Any) -> None:
    """A client with an Idempotency-Key that goes away, and whose work goes on for a while."""
    content = json.dumps({"prompt": "x", "response_format": "b64_json"} | body).encode()
    messages: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await has_seen
        return {"type": "http.disconnect"}

    await _ask(one.app, receive, {"content-type": "application/json", "idempotency-key": "k"})


@pytest.mark.usefixtures("short_linger")
@pytest.mark.parametrize("is_stream", [False, True])
def test_work_that_outlives_its_request_holds_its_slots_until_it_is_over(tmp_path: Path, is_stream: bool) -> None:
    async def play(one: House) -> None:
        await _leaves_once(one, one.easel.begun.wait(), n=2, stream=is_stream)
        assert (one.held, one.easel.gone) == (2, [])
        assert (await one.post()).status_code == 429
        await asyncio.sleep(0.3)
        assert (one.held, len(one.easel.gone)) == (0, 2)

    played(tmp_path, play, concurrent_images=2)


@pytest.mark.usefixtures("short_linger")
def test_who_leaves_while_its_prompt_is_judged_leaves_no_slot_behind(tmp_path: Path) -> None:
    async def play(one: House) -> None:
        one.easel.may_draw.set()
        await _leaves_once(one, asked.wait(), n=3)
        assert one.held == 1
        may_pass.set()
        await one.easel.begun.wait()
        assert one.held == 3
        await asyncio.sleep(0.3)
        assert one.held == 0
        assert (await one.post(n=4)).status_code == 200

    asked, may_pass = asyncio.Event(), asyncio.Event()

    async def ask(_: Asked) -> bool:
        asked.set()
        return await may_pass.wait()

    policy = Policy([Check(CheckEntry(name="slow", kind="hook", url="http://127.0.0.1/"), ask)])
    played(tmp_path, play, policy, concurrent_images=4)


def test_who_comes_back_joins_its_own_work_although_that_holds_all_slots(tmp_path: Path) -> None:
    async def play(one: House) -> None:
        await _leaves_once(one, one.easel.begun.wait())
        again = asyncio.create_task(one.post({"idempotency-key": "k"}))
        await asyncio.sleep(0.05)
        assert (await one.post({"idempotency-key": "k"})).status_code == 429  # one of them, and not any number
        assert (await one.post({"idempotency-key": "another"})).status_code == 429
        one.easel.may_draw.set()
        reply = await again
        assert (reply.status_code, reply.headers["idempotent-replayed"], one.held) == (200, "true", 0)
        assert len(await one.rows()) == 1

    played(tmp_path, play, concurrent_images=1)


def test_a_key_whose_work_is_under_way_draws_nothing_beyond_the_limits(tmp_path: Path) -> None:
    async def play(one: House) -> None:
        first = asyncio.create_task(one.post({"idempotency-key": "k"}))
        await one.easel.begun.wait()
        transport = httpx.ASGITransport(app=one.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            wanted = {"prompt": "x", "image": "AAAA"}
            beside = await client.post("/v1/images/edits", json=wanted, headers={"idempotency-key": "k"})
        assert (beside.status_code, one.held) == (429, 1)
        one.easel.may_draw.set()
        assert (await first).status_code == 200

    played(tmp_path, play, concurrent_images=1)


def test_a_stream_holds_its_slot_until_its_pictures_are_there(tmp_path: Path) -> None:
    async def play(one: House) -> None:
        streaming = asyncio.create_task(one.post(stream=True))
        await one.easel.begun.wait()
        await asyncio.sleep(0.05)
        assert one.held == 1
        one.easel.may_draw.set()
        assert "image_generation.completed" in (await streaming).text
        assert one.held == 0

    played(tmp_path, play, concurrent_images=1)


def test_the_health_and_the_models_are_not_counted(tmp_path: Path) -> None:
    async def play(one: House) -> list[int]:
        transport = httpx.ASGITransport(app=one.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [(await client.get("/health/live")).status_code for _ in range(5)]

    assert played(tmp_path, play, requests_per_minute=1) == [200] * 5


@pytest.mark.parametrize("value", ["", "0", "0.5", "-1", "1e3", "nan", "86401", "9" * 5000, "1.2.3", "\u0661"])
def test_a_timeout_that_is_none_is_refused_and_named(tmp_path: Path, value: str) -> None:
    async def play(one: House) -> httpx.Response:
        return await one.post(cast(dict[str, str], {"x-safelight-timeout": value.encode()}))

    error = played(tmp_path, play).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_parameter", "x-safelight-timeout")


@pytest.mark.parametrize(
    ("own", "ahead", "status", "code"), [(30.0, 0.0, 400, "request_too_long"), (5.0, 30.0, 503, "server_is_overloaded")]
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_what_cannot_be_done_in_time_is_refused_at_once(
    tmp_path: Path, own: float, ahead: float, status: int, code: str, is_stream: bool
) -> None:
    async def play(one: House) -> httpx.Response:
        one.easel.seconds, one.easel.ahead = own, ahead
        return await one.post({"x-safelight-timeout": "20"}, stream=is_stream)

    reply = played(tmp_path, play)
    text = reply.text
    assert code in text
    assert "x-safelight-timeout leaves 20" in text
    assert is_stream or reply.status_code == status


def test_what_is_not_there_in_time_ends_with_504_and_frees_its_rows(tmp_path: Path) -> None:
    async def play(one: House) -> tuple[httpx.Response, list[str], list[Row], int]:
        reply = await one.post({"x-safelight-timeout": "1"}, n=2)
        return reply, one.easel.gone, await one.rows(), one.held

    reply, gone, rows, held = played(tmp_path, play, concurrent_images=2)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert reply.headers["x-should-retry"] == "false"
    assert len(gone) == 2
    ends = [row.settlement for row in rows if row.settlement]
    assert [(end.outcome, end.error_code) for end in ends] == [("failed", "deadline_exceeded")] * 2
    assert held == 0


@pytest.mark.parametrize("name", ["x-stainless-read-timeout", "x-stainless-timeout"])
def test_a_plain_answer_does_not_outlive_its_clients_own_patience(tmp_path: Path, name: str) -> None:
    async def play(one: House) -> list[httpx.Response]:
        one.easel.seconds = 20.0
        one.easel.may_draw.set()
        return [
            await one.post({name: value}, stream=is_stream)
            for value, is_stream in (("10", False), ("10.0", True), ("600", False), ("never", False), ("0", False))
        ]

    replies = played(tmp_path, play)
    assert [reply.status_code for reply in replies] == [400, 200, 200, 200, 200]
    assert replies[0].json()["error"]["code"] == "request_too_long"
