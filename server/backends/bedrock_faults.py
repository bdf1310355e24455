"""What an exception of botocore means: AWS's names for what went wrong, as causes.

Knows AWS's error codes and a few of its sentences; knows no wire and no models' words.
Sources: botocore's description of InvokeModel, and AWS's reference, "Common error types".
Invariant: of what AWS wrote, a code and a request's id alone are kept: sentences quote prompts, and those about a wrong
signature quote what was signed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from server.backends.bedrock_replies import is_moderation
from server.backends.trouble import Cause, Facts, Trouble

CAUSES: dict[str, Cause] = {
    "ValidationException": "refused",
    "ServiceQuotaExceededException": "no_quota",
    "AccessDeniedException": "unauthorised",
    "UnrecognizedClientException": "unauthorised",
    "ExpiredTokenException": "unauthorised",
    "ExpiredToken": "unauthorised",
    "InvalidSignatureException": "unauthorised",
    "SignatureDoesNotMatch": "unauthorised",
    "IncompleteSignature": "unauthorised",
    "IncompleteSignatureException": "unauthorised",
    "InvalidClientTokenId": "unauthorised",
    "MissingAuthenticationToken": "unauthorised",
    "MissingAuthenticationTokenException": "unauthorised",
    "NotAuthorized": "unauthorised",
    "OptInRequired": "unauthorised",
    "RequestExpired": "unauthorised",
    "ResourceNotFoundException": "unknown_model",
    "ModelTimeoutException": "timeout",
    "ModelErrorException": "failed",
    "InternalServerException": "failed",
    "InternalFailure": "failed",
    "ThrottlingException": "throttled",
    "Throttling": "throttled",
    "TooManyRequestsException": "throttled",
    "ModelNotReadyException": "throttled",
    "ServiceUnavailableException": "overloaded",
    "ServiceUnavailable": "overloaded",
}
# Where another server than Bedrock answered, or without a code.
BY_STATUS: dict[int, Cause] = {
    401: "unauthorised",
    403: "unauthorised",
    404: "unknown_model",
    408: "timeout",
    429: "throttled",
    503: "overloaded",
    504: "timeout",
}
# Of InvokeModel itself; the common ones may come for other reasons.
MAY_BE_CHARGED = frozenset({"ModelTimeoutException"})
END_OF_LIFE = re.compile(r"end of (its|the) life|end[- ]of[- ]life|marked by (the )?provider as legacy", re.IGNORECASE)
# They begin so; further on a caller's own words may be quoted.
NO_SUCH_MODEL = re.compile(
    r"the provided model identifier is invalid|invocation of model id \S{1,200} with on-demand throughput",
    re.IGNORECASE,
)
WORD = re.compile(r"[A-Za-z0-9_.-]{1,80}", re.ASCII)
REDIRECTS, REFUSALS, FAILURES = 300, 400, 500
RETRY_SECONDS = (1.0, 60.0)


def trouble_of(error: ClientError) -> Trouble:
    told, meta = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code, message, status = str(told.get("Code", "")), str(told.get("Message", "")), meta.get("HTTPStatusCode")
    headers = meta.get("HTTPHeaders", {})
    words = f"{_word(code)} {_word(headers.get('x-amzn-requestid', ''))}".strip()
    after_seconds = retry_after(headers, datetime.now(UTC))
    return Trouble(cause_of(code, message, status or 0), Facts(status, words, after_seconds, code in MAY_BE_CHARGED))


def unread(error: Exception, status: int | None, is_sent: bool) -> Trouble:
    """Of what botocore could not read, or not send: the status tells, where there is one of an error."""
    cause: Cause = "broken" if status is None or status < REDIRECTS else cause_of("", "", status)
    return Trouble(cause, Facts(status, type(error).__name__, is_charged=is_sent and cause == "broken"))


def cause_of(code: str, message: str, status: int) -> Cause:
    cause = CAUSES.get(code) or BY_STATUS.get(status) or _by_class(status)
    if code in {"ResourceNotFoundException", "AccessDeniedException"} and END_OF_LIFE.search(message):
        return "retired"
    if code == "ValidationException":
        if NO_SUCH_MODEL.match(message):
            return "unknown_model"
        return "policy" if is_moderation(message) else "refused"
    return cause


def retry_after(headers: Mapping[str, Any], now: datetime) -> float | None:
    """1 to 60 seconds; None where nothing is said that can be meant. headers: by lower-case names."""
    wish = str(headers.get("retry-after", ""))
    try:
        seconds = float(wish)
    except ValueError:
        seconds = _seconds_until(wish, now)
    return min(max(seconds, RETRY_SECONDS[0]), RETRY_SECONDS[1]) if seconds >= 0 and math.isfinite(seconds) else None


def _seconds_until(date: str, now: datetime) -> float:
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return math.nan
    return (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds()


def _by_class(status: int) -> Cause:
    """A redirect is no answer: it is not followed."""
    return "failed" if status >= FAILURES else "refused" if status >= REFUSALS else "broken"


def _word(text: str) -> str:
    return text if WORD.fullmatch(text) else ""
