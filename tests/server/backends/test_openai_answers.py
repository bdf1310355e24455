"""Guards what an upstream's answers are taken to mean: every status and body that is known, and whatever else comes."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.backends.openai_answers import Reading, failure, file_of, read_answer, retry_after
from server.backends.provider import Tokens
from server.backends.trouble import Cause, Trouble

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
KEY = "sk-proj-CANARY0key0CANARY0key"
ONE = {"b64_json": base64.b64encode(b"a picture").decode()}


def body(kind: str | None, code: object, param: str | None, message: str = "words") -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def told(status: int, content: bytes = b"", **headers: str) -> Trouble:
    return failure(status, content, {name.replace("_", "-"): value for name, value in headers.items()}, KEY)


def reading(answer: object, count: int = 1) -> Reading:
    return read_answer(json.dumps(answer).encode(), count, KEY)


def unreadable(content: bytes) -> Trouble:
    with pytest.raises(Trouble) as caught:
        read_answer(content, 1, KEY)
    return caught.value


USER, REQUEST = "image_generation_user_error", "invalid_request_error"
NO_MODEL = "The model 'gpt-image-2' does not exist."
SAFETY = "Your request was rejected as a result of our safety system."
# As the API, gateways and other servers are known to answer: status, body, cause.
KNOWN: list[tuple[int, bytes, Cause]] = [
    (401, body(REQUEST, "invalid_api_key", None, "Incorrect API key provided: sk-pr***KEY"), "unauthorised"),
    (401, body(None, None, None), "unauthorised"),
    (403, body(REQUEST, "unsupported_country_region_territory", None), "unauthorised"),
    (403, body(REQUEST, None, None, "Your organization must be verified to use the model"), "unauthorised"),
    (403, body(USER, "moderation_blocked", None), "policy"),
    (403, body(REQUEST, "model_not_found", None, "Project x does not have access to model y"), "unknown_model"),
    (400, body(REQUEST, "unknown_parameter", "style", "Unknown parameter: 'style'."), "refused"),
    (400, body(REQUEST, "invalid_value", "size", "Invalid value: 'x'. Supported values are: 'y'."), "refused"),
    (400, body(USER, "invalid_value", "model", NO_MODEL), "unknown_model"),
    (400, body(REQUEST, "invalid_value", "model", "The model `dall-e-3` has been retired."), "retired"),
    (400, body(REQUEST, "model_not_found", None, NO_MODEL), "unknown_model"),
    (400, body(REQUEST, "model_deprecated", None, "words"), "retired"),
    (400, body(USER, "moderation_blocked", None, SAFETY), "policy"),
    (400, body(REQUEST, "content_policy_violation", None, SAFETY), "policy"),
    (400, body(REQUEST, "billing_hard_limit_reached", None), "no_quota"),
    (400, body("budget_exceeded", "400", None, "Budget has been exceeded!"), "no_quota"),
    (400, body("None", "400", "None", "/images/generations: Invalid model name passed in model=x."), "unknown_model"),
    (400, body("None", 400, "None", "400: {'error': 'Invalid model name passed in model=x'}"), "unknown_model"),
    (402, b"", "no_quota"),
    (404, body(REQUEST, "model_not_found", None, "The model `x` does not exist"), "unknown_model"),
    (404, body(REQUEST, "model_not_found", None, "The model `dall-e-3` has been deprecated"), "retired"),
    (404, body("NotFoundError", 404, None, "The model `sdxl` does not exist."), "unknown_model"),
    (404, body(REQUEST, "model_not_found", "model", "The model 'y' does not exist."), "unknown_model"),
    (404, body(REQUEST, "unknown_url", None, "Unknown request URL: POST /v2/images."), "broken"),
    (404, b"<html>nginx</html>", "broken"),
    (405, b"", "broken"),
    (408, b"", "failed"),
    (409, b"", "failed"),
    (410, b"", "broken"),
    (410, body(REQUEST, None, None, "The endpoint is retired and no longer accepts requests."), "retired"),
    (413, b"", "refused"),
    (415, b"", "refused"),
    (422, json.dumps({"detail": [{"loc": ["body", "size"]}]}).encode(), "refused"),
    (425, b"", "failed"),
    (429, body("requests", "rate_limit_exceeded", None), "throttled"),
    (429, body("rate_limit_error", "slow_down", None), "throttled"),
    (429, body("insufficient_quota", "insufficient_quota", None), "no_quota"),
    (429, b"", "throttled"),
    (500, body("server_error", None, None), "failed"),
    (502, b"<html>bad gateway</html>", "failed"),
    (503, body("service_unavailable_error", "server_is_overloaded", None), "overloaded"),
    (503, b"", "overloaded"),
    (504, b"", "failed"),
    (524, b"", "failed"),
    (529, b"", "overloaded"),
    *((status, b"", "broken") for status in (300, 301, 302, 303, 304, 307, 308)),
]


@pytest.mark.parametrize(("status", "content", "cause"), KNOWN)
def test_what_is_known_of_failures_has_its_cause(status: int, content: bytes, cause: Cause) -> None:
    found = told(status, content)
    assert found.cause == cause
    assert found.facts.status == status


def test_a_failure_may_have_cost_money_only_where_a_gateway_gave_up_waiting() -> None:
    charged = {status for status in range(300, 600) if told(status).facts.is_charged}
    assert charged == {504, 524}


@pytest.mark.parametrize("status", [400, 500])
def test_a_prompt_that_is_quoted_takes_no_model_out_of_service(status: int) -> None:
    quoted = "Invalid prompt: 'the model does not exist, it is retired. Invalid model name passed in model=x'"
    assert told(status, body(REQUEST, "invalid_value", "prompt", quoted)).cause in {"refused", "failed"}
    assert told(status, body(None, None, None, quoted)).cause in {"refused", "failed"}


@given(st.integers(300, 599), st.binary(max_size=200))
def test_any_body_of_any_failure_is_one_trouble(status: int, content: bytes) -> None:
    assert told(status, content).facts.status == status


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "data", "b64_json", "url", "code", "type", "param", "message", "usage"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.integers(200, 599), json_values)
def test_any_json_is_an_answer_or_one_trouble(status: int, value: Any) -> None:
    content = json.dumps(value).encode()
    assert isinstance(failure(status, content, {}, KEY), Trouble)
    with contextlib.suppress(Trouble):
        assert read_answer(content, 1, KEY).pictures


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"usage":{"a":', b'{"error":['])
def test_json_without_bottom_is_one_trouble(opening: bytes) -> None:
    assert unreadable(opening * 100_000).cause == "broken"
    assert told(400, opening * 100_000).cause == "refused"


# What is told


def test_a_failures_words_are_told_and_its_sentences_are_not() -> None:
    found = told(400, body(USER, "invalid_value", "size", "a CANARY sentence"), x_request_id="req_12ab")
    assert found.facts.detail == "type=image_generation_user_error code=invalid_value param=size id=req_12ab"


@pytest.mark.parametrize("echo", [KEY, KEY[5:14], f"x{KEY}", KEY[:8]])
def test_no_part_of_the_key_is_told_wherever_it_comes_back(echo: str) -> None:
    found = told(401, body(echo, echo, echo, echo), x_request_id=echo)
    assert found.facts.detail == ""


@pytest.mark.parametrize("word", ["two words", "a\nline", "x" * 61, "<b>", "é", "", "{}"])
def test_what_is_no_word_is_not_told(word: str) -> None:
    assert told(500, body(word, word, word)).facts.detail == ""


# When to come back


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "2500"}, 2.5),
        ({"retry-after-ms": "2500", "retry-after": "9"}, 2.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "0"}, 1.0),
        ({"retry-after": "0.001"}, 1.0),
        ({"retry-after": "1e9"}, 60.0),
        ({"retry-after": "86400"}, 60.0),
        *(({"retry-after": odd}, None) for odd in ("-1", "NaN", "inf", "-inf", "", "soon", "1 2", "9, 9", "\x00")),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=30), usegmt=True)}, 30.0),
        ({"retry-after": format_datetime(NOW + timedelta(days=30), usegmt=True)}, 60.0),
        ({"retry-after": format_datetime(NOW - timedelta(days=30), usegmt=True)}, 1.0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:20"}, 20.0),
        ({"retry-after": "Sat, 99 Nov 2026 12:00:20 GMT"}, None),
        ({"retry-after": "Sat, 21 Nov 99999 12:00:20 GMT"}, None),
    ],
)
def test_a_provider_is_left_alone_for_a_minute_at_most(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(
    st.text(max_size=40)
    | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,6} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{0,9}( [A-Z+0-9-]{1,6})?")
)
def test_any_wish_to_be_left_alone_is_a_minute_at_most_or_none(text: str) -> None:
    seconds = retry_after({"retry-after": text, "retry-after-ms": text}, NOW)
    assert seconds is None or 1.0 <= seconds <= 60.0


# Pictures


def test_an_answer_has_its_pictures_and_what_each_was_drawn_from() -> None:
    found = reading(
        {"data": [ONE | {"revised_prompt": "a red disc", "seed": 7}, {"url": "https://x.example/a.png"}]}, 2
    )
    assert [(one.base64, one.url, one.revised_prompt, one.seed) for one in found.pictures] == [
        (ONE["b64_json"], None, "a red disc", 7),
        (None, "https://x.example/a.png", None, None),
    ]


def test_fewer_pictures_than_asked_for_are_an_answer_and_more_are_cut() -> None:
    assert len(reading({"data": [ONE]}, count=3).pictures) == 1
    assert len(reading({"data": [ONE] * 3}, count=2).pictures) == 2


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", True, None, []])
def test_an_odd_seed_is_no_seed(seed: object) -> None:
    assert reading({"data": [ONE | {"seed": seed}]}).pictures[0].seed is None


def test_a_revised_prompt_has_its_bounds() -> None:
    assert reading({"data": [ONE | {"revised_prompt": ""}]}).pictures[0].revised_prompt is None
    revised = reading({"data": [ONE | {"revised_prompt": "x" * 50_000}]}).pictures[0].revised_prompt
    assert revised is not None
    assert len(revised) == 32_000


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, None),
        (
            {
                "input_tokens": 50,
                "output_tokens": 4160,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
            },
            Tokens(10, 40, 4160),
        ),
        ({"input_tokens": 50, "output_tokens": 4160}, Tokens(50, 0, 4160)),
        ({"output_tokens": 4160, "input_tokens_details": {"text_tokens": 10}}, Tokens(10, 0, 4160)),
        ({"input_tokens": 50}, None),
        ({"input_tokens": 50, "output_tokens": -1}, None),
        ({"input_tokens": 50, "output_tokens": 1e3}, None),
        ({"input_tokens": 50, "output_tokens": True}, None),
        ({"input_tokens": 50, "output_tokens": 10**18}, None),
        ({"input_tokens": "50", "output_tokens": 1}, None),
        ([], None),
        ("free", None),
    ],
)
def test_tokens_are_known_only_where_all_of_them_are_numbers(usage: object, tokens: Tokens | None) -> None:
    assert reading({"data": [ONE], "usage": usage}).tokens == tokens


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b"not json",
        b'{"data": []}',
        b'{"data": null}',
        b'{"data": {}}',
        b'{"data": [{}]}',
        b'{"data": [{"b64_json": ""}]}',
        b'{"data": [{"b64_json": null, "url": ""}]}',
        b'{"data": [{"b64_json": 7}]}',
        b'{"data": [{"b64_json": "aGk="}, {"b64_json": ',
        b'\xff\xfe{"data": []}',
        b'{"data": [{"b64_json": "\xff"}]}',
        b'{"data": [{"b64_json": "aGk="}]} and more',
        b'{"data": [{"url": "\\ud800"}]}',
    ],
)
def test_an_answer_without_pictures_is_broken_and_may_have_cost_money(content: bytes) -> None:
    found = unreadable(content)
    assert found.cause == "broken"
    assert found.facts.is_charged


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ({"message": "words", "type": "server_error", "code": None}, "failed"),
        ({"message": "words", "code": "moderation_blocked"}, "policy"),
        ({"message": "words", "code": "insufficient_quota"}, "no_quota"),
        ("words", "failed"),
    ],
)
def test_an_error_in_a_200_is_a_failure(error: object, cause: Cause) -> None:
    found = unreadable(json.dumps({"error": error, "data": [ONE]}).encode())
    assert found.cause == cause
    assert not found.facts.is_charged


def test_an_error_that_is_null_is_none() -> None:
    assert reading({"error": None, "data": [ONE]}).pictures


@pytest.mark.parametrize("text", ["", "=", "aGk", "aGk=\n", "a Gk=", "_-8=", "data:image/png;base64,aGk=", "aGk=é"])
def test_what_is_no_base64_is_no_picture(text: str) -> None:
    with pytest.raises(Trouble) as caught:
        file_of(text)
    assert caught.value.cause == "broken"
    assert caught.value.facts.is_charged
    assert file_of("aGk=") == b"hi"
