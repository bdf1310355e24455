"""Guards the intake of a body: bounded in bytes, time and depth, UTF-8 only, no key twice.

Whatever bytes arrive, the answer is an object or one of 400, 408, 413 and 415.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from server.api.receive import MAX_DEPTH, PARSE_INLINE_BYTES, parse_object, receive_json_object
from server.core.errors import SafelightError

MAX_BYTES = 200_000
DEADLINE_SECONDS = 0.1
JSON_HEADERS = {"content-type": "application/json"}


def refusal(body: bytes) -> SafelightError:
    with pytest.raises(SafelightError) as caught:
        parse_object(body)
    return caught.value


def nested(depth: int) -> bytes:
    """An object whose innermost array is `depth` levels deep."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


async def echo_keys(scope: Scope, receive: Receive, send: Send) -> None:
    """A server of its own: answers with the keys of the object it received."""
    try:
        value = await receive_json_object(Request(scope, receive), MAX_BYTES, DEADLINE_SECONDS)
    except SafelightError as error:
        response = JSONResponse(error.body(), error.status, error.headers())
    else:
        response = JSONResponse({"keys": list(value)})
    await response(scope, receive, send)


def post(content: bytes | AsyncIterator[bytes], headers: Mapping[str, str] = JSON_HEADERS) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=echo_keys)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/", content=content, headers=headers)

    return asyncio.run(exchange())


def receive_with(headers: list[tuple[bytes, bytes]], receive: Receive) -> dict[str, Any]:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    return asyncio.run(receive_json_object(Request(scope, receive), MAX_BYTES, DEADLINE_SECONDS))


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_a_plain_object_comes_out_as_it_was_written() -> None:
    body = '{"prompt": "een cirkel \u00e9 \U0001f534", "n": 2, "user": null, "x": [1.5, {"y": true}]}'.encode()
    assert parse_object(body) == {
        "prompt": "een cirkel \u00e9 \U0001f534",
        "n": 2,
        "user": None,
        "x": [1.5, {"y": True}],
    }


@pytest.mark.parametrize(
    ("written", "value"),
    [(b"Infinity", math.inf), (b"-Infinity", -math.inf), (b"1e999", math.inf), (b"-1e999", -math.inf)],
)
def test_infinities_come_out_as_floats(written: bytes, value: float) -> None:
    assert parse_object(b'{"seed":' + written + b"}") == {"seed": value}


def test_nan_comes_out_as_a_float() -> None:
    assert math.isnan(parse_object(b'{"seed": NaN}')["seed"])


def test_the_largest_seed_comes_out_exactly() -> None:
    assert parse_object(b'{"seed": 18446744073709551615}') == {"seed": 2**64 - 1}


@pytest.mark.parametrize("digits", [26, 5_000, 100_000])
def test_a_giant_integer_stays_an_integer_out_of_every_range(digits: int) -> None:
    values = parse_object(b'{"n": ' + b"9" * digits + b', "seed": -' + b"9" * digits + b"}")
    assert isinstance(values["n"], int)
    assert values["n"] > 2**64
    assert values["seed"] < -(2**64)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n\t",
        b"[]",
        b'"text"',
        b"null",
        b"1",
        b"NaN",
        b"{",
        b'{"a"',
        b'{"a":',
        b'{"a":1',
        b'{"a":1,}',
        b'{"a":1} x',
        b'{"a":1}{"b":2}',
        b'{"a":1}\x00',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":"\n"}',
        b'{"a":"\\x41"}',
        b'{"a":"\\ud8"}',
        b'{"a":"\\',
        b'{"a":"',
        b"\\",
        b"]}",
        b"//\n{}",
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\xed\xa0\x80"}',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-16-be"),
        '{"a":1}'.encode("utf-32"),
    ],
)
def test_what_is_no_json_object_in_utf8_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (error.status, error.code, error.param) == (400, "invalid_json", None)
    assert error.message.isascii()


@pytest.mark.parametrize(
    "body",
    [b'{"n":1,"n":1}', b'{"n":1,"\\u006e":2}', b'{"a":{"n":1,"n":2}}', b'{"a":[{"n":1,"m":3,"n":2}]}'],
)
def test_a_key_that_stands_there_twice_is_refused_by_name(body: bytes) -> None:
    error = refusal(body)
    assert (error.status, error.code) == (400, "invalid_json")
    assert "'n'" in error.message


def test_a_doubled_key_is_shown_back_short_and_in_ascii() -> None:
    key = "\\ud800" + "k" * 10_000
    error = refusal(f'{{"{key}":1,"{key}":2}}'.encode())
    assert error.message.isascii()
    assert len(error.message) < 200


def test_the_same_key_in_two_objects_is_no_doubled_key() -> None:
    assert parse_object(b'{"a":{"n":1},"b":{"n":2},"n":3}') == {"a": {"n": 1}, "b": {"n": 2}, "n": 3}


def test_thirty_two_levels_are_accepted() -> None:
    assert list(parse_object(nested(MAX_DEPTH))) == ["a"]


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1_000, 100_000])
def test_deeper_nesting_is_refused_before_it_is_parsed(depth: int) -> None:
    error = refusal(nested(depth))
    assert (error.status, error.code) == (400, "invalid_json")
    assert "32 levels" in error.message


@pytest.mark.parametrize("prefix", [b'{"x":"', b'{"x":"\\"', b'{"x":"\\\\","y":"', b'{"x":"\\\\\\"'])
def test_brackets_inside_texts_are_no_nesting(prefix: bytes) -> None:
    assert parse_object(prefix + b"[{" * 100 + b'"}')


def test_a_text_cannot_hide_nesting_from_the_check() -> None:
    assert "32 levels" in refusal(b'{"x":"\\\\","y":' + b"[" * 40 + b"]" * 40 + b',"z":"\\\\"}').message


def test_a_lone_surrogate_comes_out_for_its_parameter_to_refuse() -> None:
    assert parse_object(b'{"prompt":"\\ud800"}') == {"prompt": "\ud800"}


def test_a_surrogate_pair_comes_out_as_one_character() -> None:
    assert parse_object(b'{"prompt":"\\ud83d\\ude00"}') == {"prompt": "\U0001f600"}


def test_an_unended_text_full_of_escapes_is_refused_in_linear_time() -> None:
    body = b'{"a":"' + b'\\"' * 16_000
    started = time.process_time()
    assert refusal(body).code == "invalid_json"
    assert time.process_time() - started < 1.0


def test_checking_a_long_text_takes_memory_in_proportion_to_the_body() -> None:
    body = b'{"a":"' + b"x" * 1_000_000 + b'"}'
    tracemalloc.start()
    try:
        parse_object(body)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10 * len(body)


JSON_LETTERS = st.text(alphabet='{}[]",:\\ntrufalse0123456789.-+eEINny \ud800\u00e9', max_size=60).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)


@settings(max_examples=300, deadline=None, database=None)
@given(st.one_of(st.binary(max_size=60), JSON_LETTERS, JSON_LETTERS.map(lambda inner: b'{"a":' + inner + b"}")))
def test_any_bytes_give_an_object_or_a_refusal(body: bytes) -> None:
    try:
        value = parse_object(body)
    except SafelightError as error:
        assert (error.status, error.code) == (400, "invalid_json")  # noqa: PT017
    else:
        assert isinstance(value, dict)


SCALARS = st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-(10**20), 10**20) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


@settings(max_examples=100, deadline=None, database=None)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.booleans())
def test_every_object_within_the_bounds_survives(value: dict[str, Any], ensure_ascii: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ensure_ascii).encode()) == value


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        " application/json ;charset=utf-8",
        "application/json;",
    ],
)
def test_json_content_types_are_accepted(content_type: str) -> None:
    assert post(b'{"a":1}', {"content-type": content_type}).json() == {"keys": ["a"]}


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/jsonp",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "",
        ";application/json",
        "text/json, application/json",
        "x" * 10_000,
    ],
)
def test_another_content_type_is_refused(content_type: str) -> None:
    response = post(b'{"a":1}', {"content-type": content_type})
    assert error_of(response) == (415, "unsupported_media_type")
    assert len(response.content) < 500


def test_a_missing_content_type_is_refused() -> None:
    response = post(b'{"a":1}', {})
    assert error_of(response) == (415, "unsupported_media_type")
    assert "missing" in response.json()["error"]["message"]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "gzip, identity", "x"])
def test_an_encoded_body_is_refused(encoding: str) -> None:
    response = post(gzip.compress(b'{"a":1}'), JSON_HEADERS | {"content-encoding": encoding})
    assert error_of(response) == (415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
def test_the_identity_encoding_is_accepted(encoding: str) -> None:
    assert post(b'{"a":1}', JSON_HEADERS | {"content-encoding": encoding}).status_code == 200


def test_a_body_of_exactly_the_limit_is_accepted() -> None:
    body = b'{"a":"' + b"x" * (MAX_BYTES - 8) + b'"}'
    assert len(body) == MAX_BYTES
    assert post(body).json() == {"keys": ["a"]}


def test_a_body_one_byte_beyond_the_limit_is_refused() -> None:
    assert error_of(post(b'{"a":"' + b"x" * (MAX_BYTES - 7) + b'"}')) == (413, "request_too_large")


@pytest.mark.parametrize("declared", [str(MAX_BYTES + 1), "53477376", "9" * 20, "9" * 5_000])
def test_a_declared_oversize_is_refused_without_reading(declared: str) -> None:
    async def never() -> Message:
        raise AssertionError("the body was read")

    headers = [(b"content-type", b"application/json"), (b"content-length", declared.encode())]
    with pytest.raises(SafelightError) as caught:
        receive_with(headers, never)
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")


@pytest.mark.parametrize("declared", [b"-1", b"abc", b"1e9", b"\xb2", b""])
def test_an_absurd_declared_length_does_not_stop_a_good_body(declared: bytes) -> None:
    async def whole() -> Message:
        return {"type": "http.request", "body": b'{"a":1}', "more_body": False}

    headers = [(b"content-type", b"application/json"), (b"content-length", declared)]
    assert receive_with(headers, whole) == {"a": 1}


def test_a_streamed_oversize_is_refused_and_reading_stops_at_the_limit() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 50_000

    assert error_of(post(endless())) == (413, "request_too_large")
    assert taken == MAX_BYTES // 50_000 + 1


def test_a_length_that_understates_the_body_does_not_lift_the_limit() -> None:
    async def endless() -> Message:
        return {"type": "http.request", "body": b"x" * 50_000, "more_body": True}

    headers = [(b"content-type", b"application/json"), (b"content-length", b"7")]
    with pytest.raises(SafelightError) as caught:
        receive_with(headers, endless)
    assert caught.value.status == 413


async def stalled() -> AsyncIterator[bytes]:
    yield b'{"a":'
    await asyncio.Event().wait()


async def dripping() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("slow_body", [stalled, dripping])
def test_a_slow_body_ends_at_the_deadline(slow_body: Callable[[], AsyncIterator[bytes]]) -> None:
    started = time.monotonic()
    response = post(slow_body())
    assert error_of(response) == (408, "request_timeout")
    assert response.headers["x-should-retry"] == "false"
    assert DEADLINE_SECONDS <= time.monotonic() - started < 3.0


def test_a_body_in_many_chunks_is_put_together() -> None:
    async def letters() -> AsyncIterator[bytes]:
        for letter in b'{"prompt": "x", "n": 1}':
            yield bytes([letter])

    assert post(letters()).json() == {"keys": ["prompt", "n"]}


def test_a_client_that_leaves_in_the_middle_is_no_crash() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"a":', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def leaving() -> Message:
        return messages.pop(0)

    with pytest.raises(SafelightError) as caught:
        receive_with([(b"content-type", b"application/json")], leaving)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(("tail", "status"), [(b'"}', 200), (b'"', 400), (b'"} x', 400)])
def test_a_large_body_is_judged_like_a_small_one(tail: bytes, status: int) -> None:
    assert post(b'{"a":"' + b"x" * PARSE_INLINE_BYTES + tail).status_code == status


@pytest.mark.parametrize(("numbers", "is_parsed_at_once"), [(10, True), (90_000, False)])
def test_the_event_loop_runs_on_while_a_large_body_is_parsed(numbers: int, is_parsed_at_once: bool) -> None:
    async def whole() -> Message:
        return {"type": "http.request", "body": b'{"a":[' + b"1," * numbers + b"1]}", "more_body": False}

    async def turns_of_the_loop() -> int:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
        parsing = asyncio.create_task(receive_json_object(Request(scope, whole), MAX_BYTES, DEADLINE_SECONDS))
        turns = 0
        while not parsing.done():
            turns += 1
            await asyncio.sleep(0)
        assert len((await parsing)["a"]) == numbers + 1
        return turns

    assert (asyncio.run(turns_of_the_loop()) == 1) == is_parsed_at_once
