"""Guards the one shape of all failures: four keys always, known statuses, ASCII and short where a caller is quoted."""

from __future__ import annotations

import inspect
import json

import pytest

from server.core import error_table, errors
from server.core.error_table import ErrorRow
from server.core.errors import SafelightError, did_you_mean, quoted

HOSTILE = "\ud800\0\x1b[31m\r\nset-cookie: x\u202e'\"" + "k" * 10_000
EVERY_ERROR = {
    "invalid_parameter": errors.invalid_parameter("n", "Invalid."),
    "missing_parameter": errors.missing_parameter("prompt"),
    "unknown_parameter": errors.unknown_parameter(HOSTILE, ["prompt", "seed"]),
    "invalid_http": errors.invalid_http(),
    "idempotency_key_reused": errors.idempotency_key_reused(),
    "invalid_json": errors.invalid_json("it is empty"),
    "unsupported_media_type": errors.unsupported_media_type("No."),
    "body_too_large": errors.body_too_large(1024),
    "receive_timeout": errors.receive_timeout(30.0),
    "model_not_found": errors.model_not_found(HOSTILE, ["demo-sdxl"]),
    "model_not_allowed": errors.model_not_allowed(HOSTILE),
    "missing_key": errors.missing_key(),
    "invalid_key": errors.invalid_key(),
    "insufficient_permissions": errors.insufficient_permissions("admin"),
    "model_unavailable": errors.model_unavailable("demo-sdxl"),
    "model_pinned": errors.model_pinned("demo-sdxl"),
    "catalogue_refused": errors.catalogue_refused(["models.yaml:1: models: unknown key."]),
    "forbidden_origin": errors.forbidden_origin(HOSTILE),
    "foreign_usage": errors.foreign_usage(),
    "adapter_unavailable": errors.adapter_unavailable("The adapter 'brush' cannot be used: it is damaged."),
    "control_unavailable": errors.control_unavailable("The control 'canny' cannot be used: it is damaged."),
    "ledger_unavailable": errors.ledger_unavailable(),
    "model_retired": errors.model_retired("dall-e-3", "gpt-image-2"),
    "content_policy_violation": errors.content_policy_violation(),
    "request_against_policy": errors.request_against_policy(),
    "policy_unavailable": errors.policy_unavailable(),
    "backend_refused": errors.backend_refused(),
    "backend_busy": errors.backend_busy(),
    "insufficient_quota": errors.insufficient_quota(),
    "rate_limited": errors.rate_limited("this key", 60, "requests", 17),
    "too_many_at_once": errors.too_many_at_once("this server", 8),
    "quota_used_up": errors.quota_used_up("this key", "USD", "4.9", "5", "0.2"),
    "deadline_exceeded": errors.deadline_exceeded(),
    "joined_too_long": errors.joined_too_long(),
    "deadline_too_short": errors.deadline_too_short(30.0, 10.0),
    "queue_beyond_deadline": errors.queue_beyond_deadline(30.0, 10.0),
    "backend_failed": errors.backend_failed(),
    "backend_timeout": errors.backend_timeout(),
    "backend_unavailable": errors.backend_unavailable(),
    "unknown_route": errors.unknown_route("GET", HOSTILE),
    "method_not_allowed": errors.method_not_allowed(HOSTILE, "GET"),
    "file_not_found": errors.file_not_found(),
    "file_expired": errors.file_expired(),
    "overloaded": errors.overloaded(200),
    "worker_unavailable": errors.worker_unavailable(),
    "shutting_down": errors.shutting_down(),
    "worker_lost": errors.worker_lost(),
    "generation_failed": errors.generation_failed("It failed."),
    "insufficient_memory": errors.insufficient_memory("Too large."),
    "invalid_form": errors.invalid_form("it is empty"),
    "too_slow_for_a_plain_answer": errors.too_slow_for_a_plain_answer(300.0, 280.0),
    "queue_too_long": errors.queue_too_long(300.0, 280.0),
    "storage_full": errors.storage_full(),
    "storage_failed": errors.storage_failed(),
    "internal_error": errors.internal_error(),
}
each_error = pytest.mark.parametrize("error", EVERY_ERROR.values(), ids=EVERY_ERROR.keys())


def test_every_error_of_the_table_is_tested_here() -> None:
    functions = inspect.getmembers(errors, inspect.isfunction)
    makers = {
        name
        for name, function in functions
        if function.__annotations__.get("return") == "SafelightError" and not name.startswith("_")
    }
    assert makers == set(EVERY_ERROR)


def test_every_row_of_the_table_is_raised_by_someone() -> None:
    assert {error.row for error in EVERY_ERROR.values()} == set(error_table.TABLE)


@each_error
def test_the_envelope_always_has_its_four_keys(error: SafelightError) -> None:
    body = error.body()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert isinstance(body["error"]["code"], str)
    assert body["error"]["param"] is None or isinstance(body["error"]["param"], str)


@each_error
def test_the_envelope_can_always_be_sent(error: SafelightError) -> None:
    sent = json.dumps(error.body(), ensure_ascii=False, allow_nan=False).encode("utf-8")
    assert len(sent) < 1_000


@each_error
def test_messages_are_ascii_without_control_characters(error: SafelightError) -> None:
    assert error.message.isascii()
    assert error.message.isprintable()
    assert str(error) == error.message


@each_error
def test_the_type_fits_the_status(error: SafelightError) -> None:
    if error.status == 429:  # OpenAI's types for it are as many as its reasons
        assert error.row.kind in ("rate_limit_error", "insufficient_quota")
        return
    kinds = {400: error_table.INVALID_REQUEST, 503: error_table.UNAVAILABLE}
    assert error.row.kind == kinds.get(error.status if error.status >= 500 else 400, error_table.SERVER_ERROR)
    assert error.status in {400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 500, 502, 503, 504}


@each_error
def test_headers_are_plain_and_never_contradict_each_other(error: SafelightError) -> None:
    headers = error.headers()
    assert headers.pop("www-authenticate", None) == ("Bearer" if error.status == 401 else None)
    assert set(headers) <= {"retry-after", "x-should-retry"}
    if "retry-after" in headers:
        assert 1 <= int(headers["retry-after"]) <= 60
        assert headers.get("x-should-retry") != "false"


def test_an_error_without_advice_has_no_headers() -> None:
    assert errors.invalid_json("it is empty").headers() == {}


@pytest.mark.parametrize(("should_retry", "text"), [(True, "true"), (False, "false")])
def test_the_advice_to_retry_becomes_a_header(should_retry: bool, text: str) -> None:
    row = ErrorRow(503, error_table.UNAVAILABLE, "x", "x", "x", retry_after_seconds=3, should_retry=should_retry)
    assert SafelightError(row).headers() == {"retry-after": "3", "x-should-retry": text}


@pytest.mark.parametrize("name", ["worker_lost", "generation_failed", "insufficient_memory", "model_unavailable"])
def test_what_repeating_cannot_help_says_so(name: str) -> None:
    assert EVERY_ERROR[name].headers()["x-should-retry"] == "false"


@pytest.mark.parametrize("name", ["overloaded", "worker_unavailable", "shutting_down"])
def test_what_waiting_can_help_says_how_long(name: str) -> None:
    assert EVERY_ERROR[name].status == 503
    assert "retry-after" in EVERY_ERROR[name].headers()


@pytest.mark.parametrize("text", ["", "plain", "it's", 'a "b"', HOSTILE, "\u00e9" * 100, "\U0001f600" * 32_000])
def test_a_quote_is_ascii_printable_and_short(text: str) -> None:
    quote = quoted(text)
    assert quote.isascii()
    assert quote.isprintable()
    assert len(quote) <= 64 * len("\\U0001f600") + len("'...'")


def test_a_short_plain_text_is_quoted_whole() -> None:
    assert quoted("1024x1024") == "'1024x1024'"
    assert quoted("x" * 64) == "'" + "x" * 64 + "'"


def test_a_long_text_is_quoted_with_a_sign_that_it_was_cut() -> None:
    assert quoted("x" * 65) == "'" + "x" * 64 + "...'"


def test_the_nearest_known_word_is_suggested() -> None:
    assert did_you_mean("promt", ["prompt", "seed"]) == " Did you mean 'prompt'?"


@pytest.mark.parametrize("word", ["", "zzzzzz", "x" * 1_000_000, "\ud800"])
def test_a_word_that_is_near_to_nothing_gets_no_suggestion(word: str) -> None:
    assert did_you_mean(word, ["prompt", "seed"]) == ""


def test_an_unknown_parameter_is_named_and_a_near_one_suggested() -> None:
    error = errors.unknown_parameter("promt", ["prompt", "seed"])
    assert error.param == "promt"
    assert error.message == "Unknown parameter: 'promt'. Did you mean 'prompt'?"


@pytest.mark.parametrize("name", ["\ud800", "a\0", "a\nb", "\u202e"])
def test_a_parameter_name_that_is_no_text_is_not_repeated_in_param(name: str) -> None:
    assert errors.unknown_parameter(name, ["prompt"]).param is None


def test_a_giant_parameter_name_is_not_repeated_in_full() -> None:
    assert len(json.dumps(errors.unknown_parameter("k" * 1_000_000, ["prompt"]).body())) < 1_000
