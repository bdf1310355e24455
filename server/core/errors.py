"""All errors that a caller can meet, in one table, and the one shape that they travel in.

Knows status codes, types and texts; knows no framework.
Invariant: messages are built from constants and from what the caller sent, never from an exception's text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
UNAVAILABLE = "service_unavailable_error"


class SafelightError(Exception):
    """An answer other than success.

    status: HTTP. kind, code, param: OpenAI's `type`, `code` and `param`. retry_after_seconds: 1 to 60, where
    repeating may help. should_retry: False where the official clients must not repeat by themselves.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        code: str | None,
        message: str,
        param: str | None = None,
        *,
        retry_after_seconds: int | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.message, self.param = status, kind, code, message, param
        self.retry_after_seconds, self.should_retry = retry_after_seconds, should_retry

    def body(self) -> dict[str, Any]:
        """OpenAI's envelope: all four keys, always."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.retry_after_seconds is not None:
            headers["retry-after"] = str(self.retry_after_seconds)
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


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
    return SafelightError(400, INVALID_REQUEST, "invalid_parameter", message, param)


def missing_parameter(param: str) -> SafelightError:
    return SafelightError(
        400, INVALID_REQUEST, "missing_required_parameter", f"Missing required parameter: '{param}'.", param
    )


def unknown_parameter(name: str, known: Iterable[str]) -> SafelightError:
    message = f"Unknown parameter: {quoted(name)}.{did_you_mean(name, known)}"
    return SafelightError(400, INVALID_REQUEST, "unknown_parameter", message, name if is_showable(name) else None)


def invalid_json(reason: str) -> SafelightError:
    return SafelightError(400, INVALID_REQUEST, "invalid_json", f"The request body is not valid JSON: {reason}.")


def invalid_form(reason: str) -> SafelightError:
    return SafelightError(400, INVALID_REQUEST, "invalid_form", f"The request body is not a valid form: {reason}.")


def invalid_http() -> SafelightError:
    return SafelightError(400, INVALID_REQUEST, "invalid_http", "The request is not valid HTTP/1.1.")


def unsupported_media_type(message: str) -> SafelightError:
    return SafelightError(415, INVALID_REQUEST, "unsupported_media_type", message)


def body_too_large(limit_bytes: int) -> SafelightError:
    message = f"The request body is larger than the limit of {limit_bytes} bytes."
    return SafelightError(413, INVALID_REQUEST, "request_too_large", message)


def receive_timeout(seconds: float) -> SafelightError:
    message = f"The request body did not arrive within {seconds:g} seconds."
    return SafelightError(408, INVALID_REQUEST, "request_timeout", message, should_retry=False)


def model_not_found(name: str, known: Iterable[str]) -> SafelightError:
    names = sorted(known)
    message = (
        f"The model {quoted(name)} does not exist.{did_you_mean(name, names)} GET /v1/models lists the models served."
    )
    return SafelightError(404, INVALID_REQUEST, "model_not_found", message, "model")


def model_unavailable(model: str) -> SafelightError:
    message = (
        f"The model '{model}' cannot be served: its files are missing or damaged. Run `safelight check` on the server."
    )
    return SafelightError(503, UNAVAILABLE, "model_unavailable", message, "model", should_retry=False)


def unknown_route(method: str, path: str) -> SafelightError:
    return SafelightError(404, INVALID_REQUEST, "unknown_url", f"Unknown request URL: {method} {quoted(path)}.")


def method_not_allowed(method: str, allowed: str) -> SafelightError:
    message = f"The method {quoted(method)} is not allowed here; allowed: {allowed}."
    return SafelightError(405, INVALID_REQUEST, "method_not_allowed", message)


def file_not_found() -> SafelightError:
    return SafelightError(404, INVALID_REQUEST, "file_not_found", "There is no such file.")


def file_expired() -> SafelightError:
    return SafelightError(410, INVALID_REQUEST, "file_expired", "The file has expired; result URLs live for an hour.")


def overloaded(waiting: int) -> SafelightError:
    message = f"The server is busy: {waiting} pictures are waiting. Try again later."
    return SafelightError(503, UNAVAILABLE, "server_is_overloaded", message, retry_after_seconds=10)


def worker_unavailable() -> SafelightError:
    message = "No worker process can be started at the moment."
    return SafelightError(503, UNAVAILABLE, "server_is_overloaded", message, retry_after_seconds=30)


def shutting_down() -> SafelightError:
    return SafelightError(503, UNAVAILABLE, "server_is_overloaded", "The server is stopping.", retry_after_seconds=5)


def worker_lost() -> SafelightError:
    message = "The worker process ended twice while it drew this picture; it is not tried again."
    return SafelightError(500, SERVER_ERROR, "worker_lost", message, should_retry=False)


def generation_failed(message: str) -> SafelightError:
    return SafelightError(500, SERVER_ERROR, "generation_failed", message, should_retry=False)


def insufficient_memory(message: str) -> SafelightError:
    return SafelightError(500, SERVER_ERROR, "insufficient_memory", message, should_retry=False)


def too_slow_for_a_plain_answer(seconds: float, limit_seconds: float) -> SafelightError:
    message = (
        f"These pictures would take about {seconds:.0f} seconds, and a plain answer may take {limit_seconds:.0f}: many "
        "clients give up without a sign. Send 'stream': true, which has no such limit, or ask for less work."
    )
    return SafelightError(400, INVALID_REQUEST, "request_too_long", message, "stream")


def queue_too_long(seconds: float, limit_seconds: float) -> SafelightError:
    message = (
        f"The server is busy: these pictures would be there in about {seconds:.0f} seconds, and a plain answer may "
        f"take {limit_seconds:.0f}. Send 'stream': true, which has no such limit, or try again later."
    )
    return SafelightError(503, UNAVAILABLE, "server_is_overloaded", message, retry_after_seconds=30)


def storage_full() -> SafelightError:
    message = "The server's disk quota for result files is used up. Ask for 'b64_json', or try again later."
    return SafelightError(503, UNAVAILABLE, "storage_full", message, retry_after_seconds=60)


def storage_failed() -> SafelightError:
    message = "The picture was drawn but could not be stored on this server."
    return SafelightError(500, SERVER_ERROR, "storage_failed", message, should_retry=False)


def internal_error() -> SafelightError:
    return SafelightError(500, SERVER_ERROR, "internal_error", "The server failed to answer this request.")
