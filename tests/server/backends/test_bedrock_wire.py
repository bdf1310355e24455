"""Guards that a bad upstream can do nothing beyond a cap and a deadline, and that who gives up is free at once."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server.backends import bedrock_provider, bedrock_wire
from server.backends.capabilities import TITAN_SIZES
from server.backends.trouble import Trouble
from server.core.request import RemoteRequest
from tests.upstreams.bedrock_endpoint import (
    Answer,
    Endpoint,
    Line,
    Reply,
    endlessly,
    head,
    pictures,
    serving,
    until_closed,
)
from tests.upstreams.bedrock_requests import asked, provider_at

# A bound that is a promise, with room for a machine that has other work.
AT_ONCE_SECONDS, SOON_SECONDS = 1.0, 5.0
GOOD = pictures(b"picture" * 1000).body
WHOLE = head("200 OK", "content-type: application/json", f"content-length: {len(GOOD)}") + GOOD


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as one:
        yield one


def trouble_of(url: str, seconds: float = 10.0, request: RemoteRequest | None = None) -> tuple[Trouble, float]:
    """And how long it took."""

    async def ask() -> float:
        one = provider_at(url)
        began = time.monotonic()
        try:
            with pytest.raises(Trouble) as caught:
                await one.ask(request or asked(), 0, 1, seconds)
            found.append(caught.value)
            return time.monotonic() - began
        finally:
            await one.close()

    found: list[Trouble] = []
    took = asyncio.run(ask())
    return found[0], took


def sends(*pieces: bytes) -> Callable[[Line], None]:
    return lambda line: line.send(*pieces)


CHUNKED = head("200 OK", "transfer-encoding: chunked")
BOMB = gzip.compress(b'{"images": ["' + b"A" * 50_000_000 + b'"]}')
DEFLATED = zlib.compress(GOOD)


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("cut off in its body", sends(WHOLE[:-1])),
        ("cut off behind all that is needed", sends(head("200 OK", f"content-length: {len(GOOD) + 1}") + GOOD)),
        ("said to be gzip", sends(head("200 OK", "content-encoding: gzip", f"content-length: {len(GOOD)}") + GOOD)),
        ("cut off behind its head", sends(WHOLE[: -len(GOOD)])),
        ("cut off in its head", sends(WHOLE[:20])),
        ("nothing", sends()),
        ("cut off in a chunk", sends(CHUNKED, b"fff\r\n", GOOD[:100])),
        ("cut off behind a chunk", sends(CHUNKED, b"4\r\n{}  \r\n")),
        ("a chunk of no size", sends(CHUNKED, b"size\r\n")),
        ("a negative length", sends(head("200 OK", "content-length: -5"), b"{}")),
        ("two lengths", sends(head("200 OK", "content-length: 2", "content-length: 900"), b"{}")),
        ("no status", sends(b"hello\r\n\r\n")),
        ("another status", sends(head("99999 OK"))),
        ("another protocol", sends(b"\x15\x03\x01\x00\x02\x02\x28")),
        ("too many headers", sends(head("200 OK", *(f"x-{number}: y" for number in range(200))))),
        ("a header without end", endlessly(b"HTTP/1.1 200 OK\r\nx: ", b"y" * 65536)),
        ("a huge declared body", sends(head("200 OK", "content-length: 99999999999"), b"{")),
        ("gzip", sends(head("200 OK", "content-encoding: gzip", f"content-length: {len(BOMB)}"), BOMB)),
        ("deflate", sends(head("200 OK", "content-encoding: deflate", f"content-length: {len(DEFLATED)}"), DEFLATED)),
        ("gzip that is not said", Reply(200, BOMB)),
        ("text", Reply(200, b"hello")),
        ("a body in the wrong form", Reply(200, b'{"images": {"a": 1}}')),
        ("no content", sends(head("204 No Content"))),
        ("a page", Reply(200, b"<html></html>")),
    ],
)
def test_an_answer_that_is_none_is_broken_and_may_have_cost(endpoint: Endpoint, what: str, answer: Answer) -> None:
    endpoint.answers = [answer]
    trouble, _ = trouble_of(endpoint.url)
    assert (trouble.cause, trouble.facts.is_charged) == ("broken", True), what
    assert endpoint.connections == 1


def test_an_endless_body_ends_at_the_cap_and_takes_no_more_memory(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bedrock_wire, "MAX_REPLY_BYTES", 8 * 1024 * 1024)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for beginning, piece in ((CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"), (head("200 OK"), b" " * 65536)):
        endpoint.answers = [endlessly(beginning, piece)]
        endpoint.closed.clear()
        trouble, _ = trouble_of(endpoint.url, 60.0)
        assert trouble.cause == "broken"
        assert endpoint.closed.wait(SOON_SECONDS)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 64 * 1024


def test_the_cap_holds_the_pictures_that_titan_may_send() -> None:
    """Five of its largest, as PNG files that did not shrink at all."""
    pixels = max(size.width_px * size.height_px for size in TITAN_SIZES)
    assert 5 * pixels * 4 * 4 / 3 < bedrock_wire.MAX_REPLY_BYTES


def test_an_endless_error_is_told_by_its_beginning(endpoint: Endpoint) -> None:
    beginning = head("429 Too Many Requests", "x-amzn-errortype: ThrottlingException", "transfer-encoding: chunked")
    endpoint.answers = [endlessly(beginning, b"1000\r\n" + b"x" * 4096 + b"\r\n")]
    assert trouble_of(endpoint.url)[0].cause == "throttled"
    assert endpoint.closed.wait(SOON_SECONDS)


def test_an_error_that_breaks_off_is_told_by_its_head(endpoint: Endpoint) -> None:
    names = ("x-amzn-errortype: ResourceNotFoundException", "content-length: 500")
    endpoint.answers = [sends(head("404 Not Found", *names), b'{"message": "This model ver')]
    assert trouble_of(endpoint.url)[0].cause == "unknown_model"


STALLS = (0, 1, 15, 40, len(WHOLE) - len(GOOD), len(WHOLE) - len(GOOD) + 1, len(WHOLE) - 1)


@pytest.mark.parametrize("sent_bytes", STALLS)
def test_an_answer_that_stalls_ends_at_the_deadline_and_its_connection_too(endpoint: Endpoint, sent_bytes: int) -> None:
    endpoint.answers = [until_closed(endpoint, WHOLE[:sent_bytes])]
    trouble, took_seconds = trouble_of(endpoint.url, 0.5)
    assert (trouble.cause, trouble.facts.is_charged) == ("timeout", True)
    assert took_seconds < 0.5 + AT_ONCE_SECONDS
    assert endpoint.closed.wait(SOON_SECONDS)


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\nx-", CHUNKED, head("200 OK", "content-length: 60000")])
def test_an_answer_that_drips_ends_at_the_deadline(endpoint: Endpoint, beginning: bytes) -> None:
    """No single wait is long, and the whole is."""
    drop = b"1\r\n \r\n" if beginning is CHUNKED else b" "
    endpoint.answers = [endlessly(beginning, drop, pause_seconds=0.05)]
    trouble, took_seconds = trouble_of(endpoint.url, 0.7)
    assert trouble.cause == "timeout"
    assert took_seconds < 0.7 + AT_ONCE_SECONDS
    assert endpoint.closed.wait(SOON_SECONDS)


def test_a_server_that_reads_nothing_ends_at_the_deadline() -> None:
    """The picture is more than the buffers of both sides hold."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        trouble, took_seconds = trouble_of(url, 0.7, asked(image=b"\0" * 4_900_000))
    assert (trouble.cause, trouble.facts.is_charged) == ("timeout", False)
    assert took_seconds < 0.7 + AT_ONCE_SECONDS


@pytest.mark.parametrize("sent_bytes", [0, 40, len(WHOLE) - 1])
def test_who_gives_up_is_free_at_once_and_the_connection_closes_soon(endpoint: Endpoint, sent_bytes: int) -> None:
    endpoint.answers = [until_closed(endpoint, WHOLE[:sent_bytes])]

    async def give_up() -> float:
        one = provider_at(endpoint.url)
        asking = asyncio.create_task(one.ask(asked(), 0, 1, 60.0))
        assert await asyncio.to_thread(endpoint.answering.wait, 10.0)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        took_seconds = time.monotonic() - began
        assert await asyncio.to_thread(endpoint.closed.wait, SOON_SECONDS)
        await one.close()
        return took_seconds

    assert asyncio.run(give_up()) < AT_ONCE_SECONDS


def test_those_who_gave_up_keep_no_thread(endpoint: Endpoint) -> None:
    """Else a few clients that go away would leave nobody to serve the others."""
    count = bedrock_provider.MAX_CALLS
    endpoint.answers = [*[until_closed(endpoint, seconds=60.0)] * count, pictures(b"a")]

    async def give_up_and_ask() -> int:
        one = provider_at(endpoint.url)
        asking = [asyncio.create_task(one.ask(asked(), 0, 1, 60.0)) for _ in range(count)]
        while len(endpoint.received) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        answer = await one.ask(asked(), 0, 1, 20.0)
        await one.close()
        return len(answer.pictures)

    assert asyncio.run(give_up_and_ask()) == 1


def test_the_event_loop_is_free_while_bedrock_draws(endpoint: Endpoint) -> None:
    big = pictures(b"\0" * 20_000_000)
    endpoint.answers = [big]

    async def ask() -> float:
        one = provider_at(endpoint.url)
        asking = asyncio.create_task(one.ask(asked(), 0, 1, 60.0))
        longest = 0.0
        while not asking.done():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began)
        await one.close()
        assert len(asking.result().pictures[0].file) == 20_000_000
        return longest

    assert asyncio.run(ask()) < AT_ONCE_SECONDS


def test_json_of_any_shape_is_an_answer_or_trouble(endpoint: Endpoint) -> None:
    shapes: list[Any] = [None, 0, "", [], {"images": None}, {"images": [[]]}, {"images": {}}, {"error": []}]
    endpoint.answers = [Reply(200, json.dumps(shape).encode()) for shape in shapes]

    async def ask() -> set[str]:
        one = provider_at(endpoint.url)
        causes: set[str] = set()
        for _ in shapes:
            with pytest.raises(Trouble) as caught:
                await one.ask(asked(), 0, 1, 10.0)
            causes.add(caught.value.cause)
        await one.close()
        return causes

    assert asyncio.run(ask()) == {"broken"}
