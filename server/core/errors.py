"""All errors that a caller can meet, as exceptions, and the one shape that they travel in.

Knows the table of errors and how to fill in a row's words; knows no framework.
Invariant: messages are built from constants and from what the caller sent, never from an exception's text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from server.core import error_table
from server.core.error_table import ErrorRow


class SafelightError(Exception):
    """An answer other than success: a row of the table, its words filled in, and the parameter that is to blame."""

    def __init__(self, row: ErrorRow, param: str | None = None, **words: object) -> None:
        self.row, self.param, self.message = row, param, row.words.format(**words)
        # Beside the row's own: what else the answer's headers say.
        self.more_headers: dict[str, str] = {}
        super().__init__(self.message)

    @property
    def status(self) -> int:
        return self.row.status

    @property
    def code(self) -> str:
        return self.row.code

    def body(self) -> dict[str, Any]:
        """OpenAI's envelope: all four keys, always."""
        row = self.row
        return {"error": {"message": self.message, "type": row.kind, "param": self.param, "code": row.code}}

    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.row.retry_after_seconds is not None:
            headers["retry-after"] = str(self.row.retry_after_seconds)
        if self.row.should_retry is not None:
            headers["x-should-retry"] = "true" if self.row.should_retry else "false"
        return headers | self.more_headers


SHOWN_CHARACTERS = 64


def is_showable(name: str) -> bool:
    return name.isprintable() and len(name) <= SHOWN_CHARACTERS


def quoted(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """What a caller sent, fit to be shown back: ASCII, short, in quotes."""
    return ascii(text if len(text) <= limit else text[:limit] + "...")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word[:SHOWN_CHARACTERS], list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def invalid_parameter(param: str | None, message: str) -> SafelightError:
    return SafelightError(error_table.INVALID_PARAMETER, param, reason=message)


def missing_parameter(param: str) -> SafelightError:
    return SafelightError(error_table.MISSING_PARAMETER, param, name=param)


def unknown_parameter(name: str, known: Iterable[str]) -> SafelightError:
    param = name if is_showable(name) else None
    suggestion = did_you_mean(name, known)
    return SafelightError(error_table.UNKNOWN_PARAMETER, param, name=quoted(name), suggestion=suggestion)


def invalid_json(reason: str) -> SafelightError:
    return SafelightError(error_table.INVALID_JSON, reason=reason)


def invalid_form(reason: str) -> SafelightError:
    return SafelightError(error_table.INVALID_FORM, reason=reason)


def idempotency_key_reused() -> SafelightError:
    return SafelightError(error_table.IDEMPOTENCY_KEY_REUSED, "Idempotency-Key")


def invalid_http() -> SafelightError:
    return SafelightError(error_table.INVALID_HTTP)


def unsupported_media_type(message: str) -> SafelightError:
    return SafelightError(error_table.UNSUPPORTED_MEDIA_TYPE, reason=message)


def body_too_large(limit_bytes: int) -> SafelightError:
    return SafelightError(error_table.BODY_TOO_LARGE, limit_bytes=limit_bytes)


def receive_timeout(seconds: float) -> SafelightError:
    return SafelightError(error_table.RECEIVE_TIMEOUT, seconds=seconds)


def model_not_found(name: str, known: Iterable[str]) -> SafelightError:
    suggestion = did_you_mean(name, sorted(known))
    return SafelightError(error_table.MODEL_NOT_FOUND, "model", name=quoted(name), suggestion=suggestion)


def model_not_allowed(name: str) -> SafelightError:
    return SafelightError(error_table.MODEL_NOT_ALLOWED, "model", name=quoted(name))


def missing_key() -> SafelightError:
    return _asking_for_a_key(SafelightError(error_table.MISSING_KEY))


def invalid_key() -> SafelightError:
    return _asking_for_a_key(SafelightError(error_table.INVALID_KEY))


def _asking_for_a_key(error: SafelightError) -> SafelightError:
    # RFC 9110, section 11.6.1: a 401 says what would be taken.
    error.more_headers["www-authenticate"] = "Bearer"
    return error


def insufficient_permissions(scope: str) -> SafelightError:
    return SafelightError(error_table.INSUFFICIENT_PERMISSIONS, scope=scope)


def model_unavailable(model: str) -> SafelightError:
    return SafelightError(error_table.MODEL_UNAVAILABLE, "model", model=model)


def model_pinned(model: str) -> SafelightError:
    return SafelightError(error_table.MODEL_PINNED, "model", model=model)


def catalogue_refused(problems: Iterable[str]) -> SafelightError:
    """problems: sentences that may hold a file's own words."""
    told = "; ".join(problem.encode("unicode_escape").decode("ascii") for problem in problems)
    return SafelightError(error_table.CATALOGUE_REFUSED, problems=told)


def forbidden_origin(origin: str) -> SafelightError:
    return SafelightError(error_table.FORBIDDEN_ORIGIN, origin=quoted(origin))


def foreign_usage() -> SafelightError:
    return SafelightError(error_table.FOREIGN_USAGE, "api_key_ids")


def adapter_unavailable(message: str) -> SafelightError:
    return SafelightError(error_table.ADAPTER_UNAVAILABLE, "loras", reason=message)


def control_unavailable(message: str) -> SafelightError:
    return SafelightError(error_table.CONTROL_UNAVAILABLE, "control", reason=message)


def ledger_unavailable() -> SafelightError:
    return SafelightError(error_table.LEDGER_UNAVAILABLE)


def model_retired(model: str, successor: str | None) -> SafelightError:
    told = f" Its successor is '{successor}'." if successor else ""
    return SafelightError(error_table.MODEL_RETIRED, "model", model=model, successor=told)


def content_policy_violation() -> SafelightError:
    return SafelightError(error_table.CONTENT_POLICY, "prompt")


def request_against_policy() -> SafelightError:
    return SafelightError(error_table.AGAINST_POLICY, "prompt")


def policy_unavailable() -> SafelightError:
    return SafelightError(error_table.POLICY_UNAVAILABLE)


def backend_refused() -> SafelightError:
    return SafelightError(error_table.BACKEND_REFUSED)


def backend_busy() -> SafelightError:
    return SafelightError(error_table.BACKEND_BUSY)


def insufficient_quota() -> SafelightError:
    return SafelightError(error_table.INSUFFICIENT_QUOTA)


def rate_limited(whose: str, limit: int, what: str, wait_seconds: int) -> SafelightError:
    """wait_seconds: 1 to 60, after which the same may be let through."""
    error = SafelightError(error_table.RATE_LIMITED, whose=whose, limit=limit, what=what, seconds=wait_seconds)
    error.more_headers["retry-after"] = str(wait_seconds)
    return error


def too_many_at_once(whose: str, limit: int) -> SafelightError:
    return SafelightError(error_table.TOO_MANY_AT_ONCE, whose=whose, limit=limit)


def quota_used_up(whose: str, what: str, used: str, limit: str, needed: str) -> SafelightError:
    row = error_table.QUOTA_USED_UP
    return SafelightError(row, whose=whose, what=what, used=used, limit=limit, needed=needed)


def deadline_exceeded() -> SafelightError:
    return SafelightError(error_table.DEADLINE_EXCEEDED)


def joined_too_long() -> SafelightError:
    return SafelightError(error_table.JOINED_TOO_LONG)


def deadline_too_short(seconds: float, limit_seconds: float) -> SafelightError:
    return SafelightError(error_table.DEADLINE_TOO_SHORT, seconds=seconds, limit_seconds=limit_seconds)


def queue_beyond_deadline(seconds: float, limit_seconds: float) -> SafelightError:
    return SafelightError(error_table.QUEUE_BEYOND_DEADLINE, seconds=seconds, limit_seconds=limit_seconds)


def backend_failed() -> SafelightError:
    return SafelightError(error_table.BACKEND_FAILED)


def backend_timeout() -> SafelightError:
    return SafelightError(error_table.BACKEND_TIMEOUT)


def backend_unavailable() -> SafelightError:
    return SafelightError(error_table.BACKEND_UNAVAILABLE)


def unknown_route(method: str, path: str) -> SafelightError:
    shown = method if is_showable(method) else quoted(method)
    return SafelightError(error_table.UNKNOWN_ROUTE, method=shown, path=quoted(path))


def method_not_allowed(method: str, allowed: str) -> SafelightError:
    return SafelightError(error_table.METHOD_NOT_ALLOWED, method=quoted(method), allowed=allowed)


def file_not_found() -> SafelightError:
    return SafelightError(error_table.FILE_NOT_FOUND)


def file_expired() -> SafelightError:
    return SafelightError(error_table.FILE_EXPIRED)


def overloaded(waiting: int) -> SafelightError:
    return SafelightError(error_table.OVERLOADED, waiting=waiting)


def worker_unavailable() -> SafelightError:
    return SafelightError(error_table.WORKER_UNAVAILABLE)


def shutting_down() -> SafelightError:
    return SafelightError(error_table.SHUTTING_DOWN)


def worker_lost() -> SafelightError:
    return SafelightError(error_table.WORKER_LOST)


def generation_failed(message: str) -> SafelightError:
    return SafelightError(error_table.GENERATION_FAILED, reason=message)


def insufficient_memory(message: str) -> SafelightError:
    return SafelightError(error_table.INSUFFICIENT_MEMORY, reason=message)


def too_slow_for_a_plain_answer(seconds: float, limit_seconds: float) -> SafelightError:
    row = error_table.TOO_SLOW_FOR_A_PLAIN_ANSWER
    return SafelightError(row, "stream", seconds=seconds, limit_seconds=limit_seconds)


def queue_too_long(seconds: float, limit_seconds: float) -> SafelightError:
    return SafelightError(error_table.QUEUE_TOO_LONG, seconds=seconds, limit_seconds=limit_seconds)


def storage_full() -> SafelightError:
    return SafelightError(error_table.STORAGE_FULL)


def storage_failed() -> SafelightError:
    return SafelightError(error_table.STORAGE_FAILED)


def internal_error() -> SafelightError:
    return SafelightError(error_table.INTERNAL_ERROR)
