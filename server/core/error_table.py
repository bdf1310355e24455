"""The one table of errors: status, type, code, words and advice to retry, a row for each way in which a request fails.

Knows constants only. `docs/errors.md` is this table as a page: `python -m server.core.error_table > docs/errors.md`.
Invariant: a message holds nothing but its row's words and what the caller sent or may know.
"""

from __future__ import annotations

from dataclasses import dataclass

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
UNAVAILABLE = "service_unavailable_error"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One error.

    status: HTTP. kind and code: OpenAI's `type` and `code`. words: the message, with its blanks in braces.
    retry_after_seconds: 1 to 60, where repeating may help. should_retry: False where the official clients must not
    repeat by themselves. when: the cause, for the page.
    """

    status: int
    kind: str
    code: str
    words: str
    when: str
    retry_after_seconds: int | None = None
    should_retry: bool | None = None


def _refused(status: int, code: str, words: str, when: str, should_retry: bool | None = None) -> ErrorRow:
    return ErrorRow(status, INVALID_REQUEST, code, words, when, should_retry=should_retry)


def _failed(code: str, words: str, when: str, should_retry: bool | None = False) -> ErrorRow:
    return ErrorRow(500, SERVER_ERROR, code, words, when, should_retry=should_retry)


def _busy(code: str, words: str, when: str, retry_after_seconds: int) -> ErrorRow:
    return ErrorRow(503, UNAVAILABLE, code, words, when, retry_after_seconds)


INVALID_PARAMETER = _refused(
    400, "invalid_parameter", "{reason}", "a value of the wrong type or out of range: `param` names it"
)
MISSING_PARAMETER = _refused(
    400, "missing_required_parameter", "Missing required parameter: '{name}'.", "no `prompt`, or no `image` for an edit"
)
UNKNOWN_PARAMETER = _refused(
    400, "unknown_parameter", "Unknown parameter: {name}.{suggestion}", "a parameter that does not exist"
)
INVALID_JSON = _refused(
    400, "invalid_json", "The request body is not valid JSON: {reason}.", "the body is not one JSON object"
)
INVALID_FORM = _refused(
    400, "invalid_form", "The request body is not a valid form: {reason}.", "the body is no whole multipart form"
)
IDEMPOTENCY_KEY_REUSED = _refused(
    400,
    "idempotency_key_reused",
    "This Idempotency-Key was used within the last day for another request: send a new key with every new request.",
    "the key of an earlier request came with another body",
    should_retry=False,
)
INVALID_HTTP = _refused(
    400, "invalid_http", "The request is not valid HTTP/1.1.", "what came over the connection is no HTTP"
)
TOO_SLOW_FOR_A_PLAIN_ANSWER = _refused(
    400,
    "request_too_long",
    "These pictures would take about {seconds:.0f} seconds, and a plain answer may take {limit_seconds:.0f}: many "
    "clients give up without a sign. Send 'stream': true, which has no such limit, or ask for less work.",
    "this much work would outlast the patience of plain clients, on an idle server too",
)
MODEL_NOT_FOUND = _refused(
    404,
    "model_not_found",
    "The model {name} does not exist.{suggestion} GET /v1/models lists the models served.",
    "neither a model's id nor an alias",
)
MODEL_NOT_ALLOWED = _refused(
    403,
    "model_not_found",
    "This key may not ask for the model {name}. GET /v1/models lists the models that it may ask for.",
    "the model is there, and not among those of the key; or others alone serve it, and the key is `local_only`",
)
MISSING_KEY = _refused(
    401,
    "invalid_api_key",
    "You did not provide an API key. Send it in the header 'Authorization: Bearer KEY', or in 'api-key: KEY'.",
    "the server asks for keys, and none came",
)
INVALID_KEY = _refused(
    401,
    "invalid_api_key",
    "Incorrect API key provided. Whoever runs this server makes the keys for it.",
    "a key that is unknown, expired, revoked or malformed; or several that differ",
)
INSUFFICIENT_PERMISSIONS = _refused(
    403,
    "insufficient_permissions",
    "This key may not do this: it does not have the scope '{scope}'.",
    "the key is good, and not for this",
)
FOREIGN_USAGE = _refused(
    403,
    "insufficient_permissions",
    "This key sees its own usage alone: leave 'api_key_ids' out, or ask with an admin key.",
    "the usage of another key was asked for, without an admin key",
)
UNKNOWN_ROUTE = _refused(404, "unknown_url", "Unknown request URL: {method} {path}.", "no such route")
FILE_NOT_FOUND = _refused(404, "file_not_found", "There is no such file.", "a result URL that was never given out")
METHOD_NOT_ALLOWED = _refused(
    405,
    "method_not_allowed",
    "The method {method} is not allowed here; allowed: {allowed}.",
    "the route exists for other methods",
)
FORBIDDEN_ORIGIN = _refused(
    403,
    "origin_not_allowed",
    "Pages of {origin} may not do this: list the origin in SAFELIGHT_CORS_ORIGINS.",
    "a web page of another origin asked for what changes the server, or whether it may call it (a preflight)",
)
MODEL_PINNED = _refused(
    409,
    "model_pinned",
    "The model '{model}' is pinned: unpin it first.",
    "a pinned model was to be unloaded",
    should_retry=False,
)
CATALOGUE_REFUSED = _refused(
    409,
    "catalogue_refused",
    "models.yaml is not taken over, and the one before stays in force: {problems}",
    "models.yaml was to be read again, and something in it is wrong",
    should_retry=False,
)
RECEIVE_TIMEOUT = _refused(
    408,
    "request_timeout",
    "The request did not arrive within {seconds:g} seconds.",
    "the head or the body came too slowly",
    should_retry=False,
)
FILE_EXPIRED = _refused(
    410, "file_expired", "The file has expired; result URLs live for an hour.", "a result URL after its hour"
)
BODY_TOO_LARGE = _refused(
    413,
    "request_too_large",
    "The request body is larger than the limit of {limit_bytes} bytes.",
    "the body is larger than the server takes",
)
UNSUPPORTED_MEDIA_TYPE = _refused(
    415, "unsupported_media_type", "{reason}", "neither JSON nor, where one is taken, a form; or a compressed body"
)

GENERATION_FAILED = _failed("generation_failed", "{reason}", "this picture could not be drawn")
INSUFFICIENT_MEMORY = _failed(
    "insufficient_memory", "{reason}", "this picture does not fit into the device's memory, not even alone"
)
WORKER_LOST = _failed(
    "worker_lost",
    "The worker process ended twice while it drew this picture; it is not tried again.",
    "this picture cost two worker processes",
)
STORAGE_FAILED = _failed(
    "storage_failed",
    "The picture was drawn but could not be stored on this server.",
    "the disk of the result files refused the file",
)
INTERNAL_ERROR = _failed(
    "internal_error",
    "The server failed to answer this request.",
    "a defect of the server; its log has the request id",
    should_retry=None,
)

OVERLOADED = _busy(
    "server_is_overloaded",
    "The server is busy: {waiting} pictures are waiting. Try again later.",
    "more pictures wait than may",
    10,
)
QUEUE_TOO_LONG = _busy(
    "server_is_overloaded",
    "The server is busy: these pictures would be there in about {seconds:.0f} seconds, and a plain answer may "
    "take {limit_seconds:.0f}. Send 'stream': true, which has no such limit, or try again later.",
    "the pictures before this one would outlast the patience of plain clients",
    30,
)
WORKER_UNAVAILABLE = _busy(
    "server_is_overloaded",
    "No worker process can be started at the moment.",
    "worker processes end as soon as they start",
    30,
)
SHUTTING_DOWN = _busy("server_is_overloaded", "The server is stopping.", "the server was told to stop", 5)
STORAGE_FULL = _busy(
    "storage_full",
    "The server's disk quota for result files is used up. Ask for 'b64_json', or try again later.",
    "the result files that wait for their hour fill the quota",
    60,
)
MODEL_UNAVAILABLE = ErrorRow(
    503,
    UNAVAILABLE,
    "model_unavailable",
    "The model '{model}' cannot be served: its files are missing or damaged, or it does not fit the device. Run "
    "`safelight check` on the server.",
    "this model's files are missing or damaged, or it does not fit the device; the other models are served",
    should_retry=False,
)

LEDGER_UNAVAILABLE = _busy(
    "ledger_unavailable",
    "The server cannot keep its books at the moment, and draws nothing without.",
    "the ledger's database is locked, full, read-only or not reached",
    10,
)
MODEL_RETIRED = _refused(
    404,
    "model_retired",
    "The model '{model}' was retired by its provider.{successor}",
    "the only backend that serves this name answers that the model is gone for good",
    should_retry=False,
)
CONTENT_POLICY = _refused(
    400,
    "content_policy_violation",
    "Your request was rejected by the safety system of the backend that was asked.",
    "a provider will not draw this; nobody else is asked",
)
AGAINST_POLICY = _refused(
    400,
    "content_policy_violation",
    "Your request was rejected by this server's content policy.",
    "a check of the operator's refused the prompt, or what was drawn for it; nobody else is asked",
    should_retry=False,
)
POLICY_UNAVAILABLE = _busy(
    "policy_unavailable",
    "A content check of this server cannot be made at the moment, and nothing leaves it without.",
    "the operator's moderator or the safety checker gave no answer, and the check is one that then refuses",
    10,
)
BACKEND_REFUSED = _refused(
    400,
    "backend_refused",
    "The backend that was asked refused this request as invalid.",
    "a provider found fault with a request that is good here; its log line has the request id",
)
BACKEND_BUSY = ErrorRow(
    429,
    "rate_limit_error",
    "rate_limit_exceeded",
    "The backend that was asked takes no more requests at the moment. Try again later.",
    "a provider's rate limit",
    10,
)
INSUFFICIENT_QUOTA = ErrorRow(
    429,
    "insufficient_quota",
    "insufficient_quota",
    "The quota of the backends that serve this model is used up, or what this server may spend on them today.",
    "a provider's quota, or the operator's daily limit in USD",
    should_retry=False,
)
RATE_LIMITED = ErrorRow(
    429,
    "rate_limit_error",
    "rate_limit_exceeded",
    "Rate limit reached: {whose} may ask for {limit} {what} per minute. Try again in {seconds} s.",
    "the key or the server takes no more requests or images within this minute; `Retry-After` says when it does",
    1,
)
TOO_MANY_AT_ONCE = ErrorRow(
    429,
    "rate_limit_error",
    "rate_limit_exceeded",
    "Too many pictures at one time: {whose} may have {limit} on their way. Try again when one is done.",
    "the key or the server has as many pictures on their way as it may",
    5,
)
QUOTA_USED_UP = ErrorRow(
    429,
    "insufficient_quota",
    "insufficient_quota",
    "The day's quota of {what} of {whose} does not suffice: {used} of {limit} are spent or reserved, and this request "
    "needs {needed}. The day ends at midnight UTC.",
    "the key's or the server's work units or USD of this day (UTC) do not suffice for this request",
    should_retry=False,
)
DEADLINE_EXCEEDED = ErrorRow(
    504,
    SERVER_ERROR,
    "deadline_exceeded",
    "The pictures were not there within the time that this request may take; they are not drawn any further.",
    "the deadline of `x-safelight-timeout`, of the client, or of plain answers passed while it was drawn",
    should_retry=False,
)
JOINED_TOO_LONG = ErrorRow(
    504,
    SERVER_ERROR,
    "deadline_exceeded",
    "The pictures were not there within the time that this request may take. They are drawn on for those who still "
    "wait for them under this Idempotency-Key.",
    "the same for a request that joined another under its `Idempotency-Key`, which goes on",
    should_retry=False,
)
DEADLINE_TOO_SHORT = _refused(
    400,
    "request_too_long",
    "These pictures would take about {seconds:.0f} seconds, and x-safelight-timeout leaves {limit_seconds:.0f}. Allow "
    "more time, or ask for less work.",
    "this much work would take longer than `x-safelight-timeout`, on an idle server too",
)
QUEUE_BEYOND_DEADLINE = _busy(
    "server_is_overloaded",
    "The server is busy: these pictures would be there in about {seconds:.0f} seconds, and x-safelight-timeout leaves "
    "{limit_seconds:.0f}. Allow more time, or try again later.",
    "the pictures before this one would outlast `x-safelight-timeout`",
    30,
)
BACKEND_FAILED = ErrorRow(
    502,
    SERVER_ERROR,
    "backend_failed",
    "The backend that was asked failed, or its answer was none.",
    "a provider is not reached, fails, or sends what is no picture",
    10,
)
BACKEND_TIMEOUT = ErrorRow(
    504,
    SERVER_ERROR,
    "backend_timeout",
    "The backend that was asked did not answer in time.",
    "a provider took longer than it or the request may",
    should_retry=False,
)
BACKEND_UNAVAILABLE = ErrorRow(
    503,
    UNAVAILABLE,
    "backend_unavailable",
    "No backend that serves this model is available on this server. Run `safelight check` on the server.",
    "the name is served by providers alone, and none is set up, allowed or in order",
    should_retry=False,
)

ADAPTER_UNAVAILABLE = ErrorRow(
    503,
    UNAVAILABLE,
    "adapter_unavailable",
    "{reason}",
    "the file of an adapter that `loras` names is missing, damaged or for another model; others are served",
    should_retry=False,
)

CONTROL_UNAVAILABLE = ErrorRow(
    503,
    UNAVAILABLE,
    "control_unavailable",
    "{reason}",
    "the files of the ControlNet that `control` names are missing, damaged or for another model; others are served",
    should_retry=False,
)

TABLE = tuple(row for row in globals().values() if isinstance(row, ErrorRow))


def page() -> str:
    """The table as Markdown."""
    lines = [
        "# Errors",
        "",
        'Every failure is `{"error": {"message", "type", "param", "code"}}` with an `x-request-id` header, whichever',
        "route, client or prefix. A stream that has begun carries the same object in an event `error`. Words in braces",
        "are filled in; `Retry-After` is in seconds, and `x-should-retry: false` keeps the official clients from",
        "repeating what cannot succeed.",
        "",
        "This page is printed by `python -m server.core.error_table`.",
        "",
        "| status | type | code | message | when | `Retry-After` | `x-should-retry` |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(row) for row in sorted(TABLE, key=lambda row: row.status))]) + "\n"


def _line(row: ErrorRow) -> str:
    advice = "" if row.should_retry is None else f"`{str(row.should_retry).lower()}`"
    kind, code = f"`{row.kind}`", f"`{row.code}`"
    cells = (str(row.status), kind, code, row.words, row.when, str(row.retry_after_seconds or ""), advice)
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
