"""Guards the OpenAI adapter over real sockets and the real SDK: what leaves, what comes back, and what goes wrong.

The upstream is scripted; a picture that it answers by a URL lies on a real TLS server of the tests.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import socket
import time
import traceback
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from server.backends.openai_provider import ERROR_CAP_BYTES, LEAST_CAP_BYTES, OpenAiProvider, own_host_only
from server.backends.provider import Answer, Provider, RawPicture, Tokens
from server.backends.trouble import Cause, Trouble
from server.core.providers import Form
from server.core.request import RemoteRequest, Size
from server.images.fetch import FetchPolicy
from tests.server.test_fetch import World, make_authority, ok
from tests.upstreams.openai_replies import USAGE, error, pictures, redirect, said, urls
from tests.upstreams.openai_requests import MODELS, PNG, PNG_RGBA, remote_request
from tests.upstreams.scripted import Asked, Reply, ScriptedUpstream

T = TypeVar("T")
KEY = "sk-proj-CANARY0key0CANARY0key0CANARY"
PROMPT = "a CANARY prompt that nobody may log"
WHOLE = pictures(PNG).body
FORMS: dict[str, Form] = {model: form for form, model in MODELS.items()}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(pictures(PNG)) as serving:
        yield serving


def act(url: str, what: Callable[[OpenAiProvider], Awaitable[T]], key: str | None = KEY, **how: Any) -> T:
    """With a provider of that upstream."""

    async def run() -> T:
        provider = OpenAiProvider(f"{url}/v1", key, FORMS, **how)
        try:
            return await what(provider)
        finally:
            await provider.close()

    return asyncio.run(run())


def ask(
    upstream: ScriptedUpstream,
    request: RemoteRequest | None = None,
    count: int = 1,
    seconds: float = 10.0,
    key: str | None = KEY,
) -> Answer:
    asked = request or remote_request(prompt=PROMPT)
    return act(upstream.url, lambda provider: provider.ask(asked, 0, count, seconds), key)


def trouble(upstream: ScriptedUpstream, *replies: Reply, seconds: float = 10.0, **changes: Any) -> Trouble:
    if replies:
        upstream.script(*replies)
    with pytest.raises(Trouble) as caught:
        ask(upstream, remote_request(**{"prompt": PROMPT, **changes}), seconds=seconds)
    return caught.value


# What leaves


def test_a_generation_is_one_json_object_with_the_key_and_nothing_of_this_machine(upstream: ScriptedUpstream) -> None:
    ask(upstream, remote_request("gpt-image", asked_quality="hd"))
    [asked] = upstream.asked
    assert (asked.method, asked.path) == ("POST", "/v1/images/generations")
    assert asked.json == {
        "model": "gpt-image-2.5-flare",
        "prompt": "a red circle",
        "n": 1,
        "size": "1024x1024",
        "quality": "high",
        "output_format": "png",
    }
    assert asked.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": "safelight",
        "accept-encoding": "identity",
        "authorization": f"Bearer {KEY}",
        "connection": "close",
        "content-length": str(len(asked.body)),
    }


def test_the_environment_puts_nothing_into_a_request(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedUpstream(Reply(500)) as elsewhere:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere.url)
        for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
            monkeypatch.setenv(f"OPENAI_{name}", f"FOREIGN-{name}")
        monkeypatch.setenv("OPENAI_BASE_URL", elsewhere.url)
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: FOREIGN\nAuthorization: FOREIGN\nHost: FOREIGN")
        ask(upstream)
        ask(upstream, key=None)
        assert elsewhere.connections == 0
    first, second = upstream.asked
    assert "FOREIGN" not in str(first.headers) + str(second.headers)
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in second.headers


def test_an_edit_is_a_form_with_the_picture_and_the_mask_as_png_files(upstream: ScriptedUpstream) -> None:
    ask(upstream, remote_request("gpt-image", operation="edit", image=PNG, mask=PNG_RGBA))
    [asked] = upstream.asked
    assert (asked.method, asked.path) == ("POST", "/v1/images/edits")
    form = asked.form
    assert (form["image"].content, form["image"].filename, form["image"].content_type) == (
        PNG,
        "image.png",
        "image/png",
    )
    assert (form["mask"].content, form["mask"].filename, form["mask"].content_type) == (
        PNG_RGBA,
        "mask.png",
        "image/png",
    )
    assert asked.words == {
        "model": "gpt-image-2.5-flare",
        "prompt": "a red circle",
        "n": "1",
        "size": "1024x1024",
        "output_format": "png",
    }


def test_a_variation_is_a_form_with_the_picture_and_without_a_prompt(upstream: ScriptedUpstream) -> None:
    ask(upstream, remote_request("compatible", operation="variation", prompt="", image=PNG, seed=5, strength=0.25))
    [asked] = upstream.asked
    assert (asked.method, asked.path) == ("POST", "/v1/images/variations")
    assert asked.form["image"].content == PNG
    assert asked.words == {
        "model": "sdxl",
        "n": "1",
        "size": "1024x1024",
        "response_format": "b64_json",
        "seed": "5",
        "strength": "0.25",
    }


def test_our_own_knobs_lie_beside_openais_fields_for_a_compatible_server(upstream: ScriptedUpstream) -> None:
    request = remote_request("compatible", seed=2**64 - 1, steps=8, guidance_scale=2.5, sampler="euler")
    act(upstream.url, lambda provider: provider.ask(request, 1, 2, 10.0))
    assert upstream.asked[0].json == {
        "model": "sdxl",
        "prompt": "a red circle",
        "n": 2,
        "size": "1024x1024",
        "response_format": "b64_json",
        "seed": 0,
        "num_inference_steps": 8,
        "guidance_scale": 2.5,
        "sampler": "euler",
    }


def test_a_request_that_the_form_has_no_words_for_is_refused_without_a_call(upstream: ScriptedUpstream) -> None:
    assert trouble(upstream, operation="variation", image=PNG).cause == "refused"
    assert trouble(upstream, model="nobody-knows-it").cause == "refused"
    assert upstream.connections == 0


def test_every_call_has_a_connection_of_its_own(upstream: ScriptedUpstream) -> None:
    async def thrice(provider: OpenAiProvider) -> None:
        for _ in range(3):
            await provider.ask(remote_request(), 0, 1, 10.0)

    act(upstream.url, thrice)
    assert upstream.connections == len(upstream.asked) == 3


# What comes back


def test_the_pictures_the_revised_prompt_the_seed_and_the_tokens_come_back(upstream: ScriptedUpstream) -> None:
    upstream.script(pictures(PNG, PNG_RGBA, usage=USAGE, revised_prompt="a red disc", seed=9))
    revised = [RawPicture(file, "a red disc", 9) for file in (PNG, PNG_RGBA)]
    assert ask(upstream, count=2) == Answer(tuple(revised), Tokens(text_in=10, image_in=40, image_out=4160))


def test_fewer_pictures_than_asked_for_are_what_there_is(upstream: ScriptedUpstream) -> None:
    assert len(ask(upstream, count=3).pictures) == 1


def test_an_answer_may_come_in_chunks_and_slowly(upstream: ScriptedUpstream) -> None:
    small = pictures(b"hi").body
    upstream.script(Reply(body=small, chunked=True, drip_seconds=0.001))
    assert ask(upstream).pictures == (RawPicture(b"hi"),)


def test_a_whole_answer_of_many_megabytes_is_read(upstream: ScriptedUpstream) -> None:
    file = bytes(20_000_000)
    upstream.script(pictures(file))
    assert ask(upstream, seconds=60).pictures[0].file == file


def test_the_cap_grows_with_what_was_asked_for(upstream: ScriptedUpstream) -> None:
    large, declared = Size(3840, 2160), LEAST_CAP_BYTES + 1
    refused = trouble(upstream, Reply(body=WHOLE, declared_bytes=declared, close_at=len(WHOLE)))
    assert refused.facts.detail == f"an answer of more than {LEAST_CAP_BYTES} bytes"
    cut_off = ask_for(upstream, large, count=4)
    assert cut_off.facts.detail == "RemoteProtocolError"


def ask_for(upstream: ScriptedUpstream, size: Size, count: int) -> Trouble:
    with pytest.raises(Trouble) as caught:
        ask(upstream, remote_request(drawn_size=size), count)
    return caught.value


# What goes wrong


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (error(400, "invalid_request_error", "unknown_parameter", "style"), "refused"),
        (error(400, "image_generation_user_error", "moderation_blocked"), "policy"),
        (error(400, "invalid_request_error", "content_policy_violation"), "policy"),
        (
            error(400, "image_generation_user_error", "invalid_value", "model", "The model 'x' does not exist."),
            "unknown_model",
        ),
        (error(401, "invalid_request_error", "invalid_api_key", None, f"Incorrect API key: {KEY}"), "unauthorised"),
        (error(403, "invalid_request_error", "unsupported_country_region_territory"), "unauthorised"),
        (error(404, "invalid_request_error", "model_not_found"), "unknown_model"),
        (error(404, "invalid_request_error", "model_not_found", None, "It has been deprecated."), "retired"),
        (Reply(404, b"<html>"), "broken"),
        (error(408), "failed"),
        (error(409), "failed"),
        (Reply(413, b"too large"), "refused"),
        (error(422), "refused"),
        (error(429, "requests", "rate_limit_exceeded"), "throttled"),
        (error(429, "insufficient_quota", "insufficient_quota"), "no_quota"),
        (error(500, "server_error"), "failed"),
        (Reply(502, b"<html>"), "failed"),
        (error(503, "service_unavailable_error", "server_is_overloaded"), "overloaded"),
        (Reply(504), "failed"),
        (said({"error": {"message": "out of memory", "type": "server_error"}}), "failed"),
    ],
)
def test_a_failure_is_its_cause_after_one_request(upstream: ScriptedUpstream, reply: Reply, cause: Cause) -> None:
    found = trouble(upstream, reply)
    assert found.cause == cause
    assert found.facts.status == reply.status
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("wish", ["true", "false"])
def test_the_sdk_never_asks_again_on_its_own(upstream: ScriptedUpstream, wish: str) -> None:
    headers = {"Retry-After": "1", "x-should-retry": wish, "x-request-id": "req_1"}
    found = trouble(upstream, error(429, "requests", "slow_down", headers=headers))
    assert found.facts.retry_after_seconds == 1.0
    assert found.facts.detail == "type=requests code=slow_down id=req_1"
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(upstream: ScriptedUpstream, status: int) -> None:
    with ScriptedUpstream(pictures(PNG)) as elsewhere:
        found = trouble(upstream, redirect(f"{elsewhere.url}/v1/images/generations", status))
        assert (found.cause, found.facts.status) == ("broken", status)
        assert elsewhere.connections == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_an_upstream_that_is_not_there_is_unreachable_and_costs_nothing(host: str) -> None:
    with pytest.raises(Trouble) as caught:
        act(f"http://{host}:{free_port()}", lambda provider: provider.ask(remote_request(), 0, 1, 10.0))
    assert caught.value.cause == "unreachable"
    assert not caught.value.facts.is_charged


def test_an_upstream_that_accepts_no_connection_in_time_is_unreachable() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), pytest.raises(Trouble) as caught:
            act(f"http://127.0.0.1:{port}", lambda provider: provider.ask(remote_request(), 0, 1, 0.5))
    assert caught.value.cause == "unreachable"
    assert not caught.value.facts.is_charged


@pytest.mark.parametrize(
    "reply",
    [
        Reply(wait_seconds=30),
        Reply(body=WHOLE, stall_at=0),
        Reply(body=WHOLE, stall_at=1),
        Reply(body=WHOLE, stall_at=len(WHOLE) // 2),
        Reply(body=WHOLE, stall_at=len(WHOLE) - 1),
        Reply(body=WHOLE, drip_seconds=0.05),
        Reply(body=WHOLE, drip_seconds=0.05, chunked=True),
        Reply(body=b" ", endless=True, drip_seconds=0.01),
    ],
)
def test_whatever_is_slow_ends_at_the_deadline_and_may_have_cost_money(
    upstream: ScriptedUpstream, reply: Reply
) -> None:
    began = time.monotonic()
    found = trouble(upstream, reply, seconds=1.5)
    assert time.monotonic() - began < 10
    assert found.cause == "timeout"
    assert found.facts.is_charged
    assert upstream.asked[0].is_over.wait(5)


def test_an_upstream_that_reads_nothing_has_drawn_nothing() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        large = remote_request(operation="edit", image=PNG + bytes(40_000_000))
        with pytest.raises(Trouble) as caught:
            act(url, lambda provider: provider.ask(large, 0, 1, 2.0))
    assert caught.value.cause == "timeout"
    assert not caught.value.facts.is_charged


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=None),
        Reply(body=WHOLE, close_at=0),
        Reply(body=WHOLE, close_at=1),
        Reply(body=WHOLE, close_at=len(WHOLE) - 1),
        Reply(body=WHOLE, chunked=True, close_at=len(WHOLE) - 1),
        Reply(body=WHOLE[:-1]),
        Reply(body=b""),
        Reply(204),
        Reply(body=b"<html>"),
        Reply(body=b"[]"),
        Reply(body=b'{"data": []}'),
        Reply(body=b'{"data": [{"b64_json": "!"}]}'),
        Reply(body=b'{"data": [{"b64_json": ""}]}'),
        Reply(body=b"[" * 100_000),
        Reply(body=gzip.compress(WHOLE), headers={"Content-Encoding": "gzip"}),
        Reply(body=gzip.compress(bytes(300_000_000), 1), headers={"Content-Encoding": "gzip"}),
        Reply(body=WHOLE, headers={"Content-Encoding": "br"}),
        Reply(body=WHOLE, declared_bytes=10**15, stall_at=0),
        Reply(body=b" " * 1_000_000, endless=True),
    ],
    ids=lambda reply: f"{reply.status}-{len(reply.body)}",
)
def test_whatever_is_no_answer_is_broken_and_may_have_cost_money(upstream: ScriptedUpstream, reply: Reply) -> None:
    found = trouble(upstream, reply, seconds=60)
    assert found.cause == "broken"
    assert found.facts.is_charged
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(503, b"x" * 1_000_000, endless=True),
        Reply(503, b"x" * ERROR_CAP_BYTES * 3),
        Reply(503, gzip.compress(bytes(300_000_000), 1), headers={"Content-Encoding": "gzip"}),
        Reply(503, b'{"error": ' * 50_000),
        Reply(503, b"\xff\xfe", headers={"Content-Type": "text/html; charset=nonsense"}),
    ],
    ids=lambda reply: f"{len(reply.body)}",
)
def test_an_errors_body_is_read_a_little_and_never_worsens_the_error(upstream: ScriptedUpstream, reply: Reply) -> None:
    began = time.monotonic()
    found = trouble(upstream, reply, seconds=40)
    assert (found.cause, found.facts.status) == ("overloaded", 503)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("end", [{"close_at": 10}, {"stall_at": 10}], ids=str)
def test_an_error_whose_words_do_not_come_is_known_by_its_status(upstream: ScriptedUpstream, end: Any) -> None:
    reply = Reply(429, b'{"error": {"code": "x"', {"Retry-After": "9"}, **end)
    found = trouble(upstream, reply, seconds=2)
    assert (found.cause, found.facts.status, found.facts.retry_after_seconds) == ("throttled", 429, 9.0)
    assert not found.facts.is_charged


def test_what_is_refused_at_sight_takes_no_memory(upstream: ScriptedUpstream) -> None:
    upstream.script(Reply(body=gzip.compress(bytes(300_000_000), 1), headers={"Content-Encoding": "gzip"}))
    tracemalloc.start()
    try:
        trouble(upstream)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("scheme", "cause"), [("http", "broken"), ("https", "unreachable")])
def test_what_speaks_another_language_is_broken_and_without_tls_not_even_reached(scheme: str, cause: Cause) -> None:
    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    async def run() -> Trouble:
        async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
            provider = OpenAiProvider(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", KEY, FORMS)
            with pytest.raises(Trouble) as caught:
                await provider.ask(remote_request(), 0, 1, 10.0)
            await provider.close()
            return caught.value

    assert asyncio.run(run()).cause == cause


@pytest.mark.parametrize("reply", [Reply(wait_seconds=60), Reply(body=WHOLE, stall_at=20)])
def test_a_call_that_is_cancelled_ends_upstream_at_once(upstream: ScriptedUpstream, reply: Reply) -> None:
    upstream.script(reply)

    async def give_up(provider: OpenAiProvider) -> tuple[Asked, float]:
        asking = asyncio.create_task(provider.ask(remote_request(), 0, 1, 60.0))
        [asked] = await asyncio.to_thread(upstream.wait_for, 1)
        await asyncio.sleep(0.1)
        assert not asked.is_over.is_set()
        began = time.monotonic()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await asyncio.to_thread(asked.is_over.wait, 5)
        return asked, time.monotonic() - began

    _, seconds = act(upstream.url, give_up)
    assert seconds < 2


def test_one_slow_call_holds_up_no_other(upstream: ScriptedUpstream) -> None:
    upstream.script(Reply(wait_seconds=60), pictures(PNG))

    async def both(provider: OpenAiProvider) -> Answer:
        slow = asyncio.create_task(provider.ask(remote_request(), 0, 1, 60.0))
        await asyncio.to_thread(upstream.wait_for, 1)
        answer = await provider.ask(remote_request(), 0, 1, 10.0)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return answer

    assert act(upstream.url, both).pictures == (RawPicture(PNG),)


# Pictures by URL

SECURE = "https://pictures.example/a.png"


@pytest.fixture(scope="module")
def world_of_pictures(tmp_path_factory: pytest.TempPathFactory) -> World:
    authority = make_authority(tmp_path_factory.mktemp("authority"))
    answers: dict[str, bytes | Callable[..., Awaitable[None]]] = {"pictures.example/a.png": ok(PNG)}
    return World(certificates=authority.server([]), trusted=authority.trusted(), answers=answers)


def ask_with_world(upstream: ScriptedUpstream, world: World, policy: FetchPolicy) -> Answer:
    world.requests.clear()
    world.dialled.clear()

    async def run() -> Answer:
        async with world.opened() as network:
            provider = OpenAiProvider(f"{upstream.url}/v1", KEY, FORMS, pictures=policy, network=network)
            try:
                return await provider.ask(remote_request("compatible"), 0, 1, 10.0)
            finally:
                await provider.close()

    return asyncio.run(run())


LISTED = FetchPolicy("listed", ("pictures.example",))


def test_a_picture_at_a_url_is_fetched_from_a_listed_host_without_the_key(
    upstream: ScriptedUpstream, world_of_pictures: World
) -> None:
    upstream.script(urls(SECURE))
    assert ask_with_world(upstream, world_of_pictures, LISTED).pictures == (RawPicture(PNG),)
    [request] = world_of_pictures.requests
    assert "authorization" not in request.lower()
    assert KEY not in request


@pytest.mark.parametrize(
    ("place", "policy"),
    [
        (SECURE, FetchPolicy("off")),
        (SECURE, FetchPolicy("listed", ("127.0.0.1",))),
        ("http://pictures.example/a.png", LISTED),
        ("https://elsewhere.example/a.png", LISTED),
        ("https://169.254.169.254/latest/meta-data", FetchPolicy("open")),
        ("https://127.0.0.1/a.png", FetchPolicy("listed", ("127.0.0.1",))),
        ("https://pictures.example:8443/a.png", LISTED),
        ("file:///etc/passwd", FetchPolicy("open")),
        ("data:image/png;base64,aGk=", FetchPolicy("open")),
        ("https://pictures.example/none.png", LISTED),
        ("x" * 5000, FetchPolicy("open")),
    ],
)
def test_a_picture_that_may_not_be_fetched_is_broken(
    upstream: ScriptedUpstream, world_of_pictures: World, place: str, policy: FetchPolicy
) -> None:
    upstream.script(urls(place))
    with pytest.raises(Trouble) as caught:
        ask_with_world(upstream, world_of_pictures, policy)
    assert caught.value.cause == "broken"
    assert caught.value.facts.is_charged
    assert place not in caught.value.facts.detail
    if not place.endswith("none.png"):
        assert world_of_pictures.dialled == []


def test_a_picture_is_fetched_from_the_upstreams_own_host_unless_another_is_listed() -> None:
    assert own_host_only("https://Images.Example:443/v1") == FetchPolicy("listed", ("images.example",))
    assert own_host_only("http://[::1]:8000/v1").mode == "listed"
    assert own_host_only("http://a_b-.example/v1").mode == "off"


# What is told


FAULTS = [
    pictures(PNG),
    error(401, "invalid_request_error", "invalid_api_key", None, f"Incorrect API key provided: {KEY}"),
    error(400, KEY, KEY, KEY, f"{PROMPT} {KEY}", headers={"x-request-id": KEY, "retry-after": KEY}),
    error(500, "server_error", None, None, PROMPT),
    redirect(f"https://example.com/{KEY}"),
    said({"error": {"message": f"{KEY} {PROMPT}", "code": KEY}}),
    urls(f"https://127.0.0.1/{KEY}"),
    Reply(status=None),
    Reply(body=WHOLE, stall_at=3),
    Reply(body=b" " * 10_000_000, endless=True),
    Reply(400, b"{" * 1000, headers={"Content-Encoding": "gzip"}),
]


@pytest.mark.parametrize("reply", FAULTS, ids=range(len(FAULTS)))
def test_no_log_no_repr_and_no_trouble_holds_a_secret(
    upstream: ScriptedUpstream, reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    # httpcore2, which shows all that it reads, is kept from it by server.images.fetch.
    for name in ("openai", "httpx2", "asyncio", None):
        caplog.set_level(logging.DEBUG, logger=name)
    upstream.script(reply)
    seen: list[str] = []

    async def look(provider: OpenAiProvider) -> None:
        seen.append(repr(provider))
        seen.append(str(provider))
        [found] = await asyncio.gather(provider.ask(remote_request(prompt=PROMPT), 0, 1, 1.0), return_exceptions=True)
        if isinstance(found, BaseException):
            seen.extend([repr(found), str(found), repr(found.args), *traceback.format_exception(found)])
            assert isinstance(found, Trouble)
            seen.append(repr(found.facts))
            assert found.__context__ is None
            assert found.__cause__ is None

    act(upstream.url, look)
    assert caplog.records
    told = caplog.text + "".join(str(record.__dict__) for record in caplog.records) + "".join(seen)
    for secret in (KEY, KEY[8:20], "CANARY", PROMPT, base64.b64encode(PNG).decode()[:40]):
        assert secret not in told


def test_the_adapter_is_a_provider() -> None:
    provider: Provider = OpenAiProvider("https://api.openai.com/v1", KEY, FORMS)
    asyncio.run(provider.close())
