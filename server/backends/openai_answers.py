"""Reads what an upstream answers in OpenAI's form: its pictures, or why there are none.

Knows JSON, statuses and headers; knows no wire. What it reads is untrusted.
Invariant: nothing that was read goes into a Trouble but single words of a few letters, and none that is part of a
secret; sentences stay out, as they quote prompts and keys.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from server.backends.provider import Tokens
from server.backends.trouble import Cause, Facts, Trouble
from server.core.request import SEED_LIMIT

MAX_REVISED_CHARACTERS = 32_000
MAX_TOKENS = 1_000_000_000
RETRY_SECONDS = (1.0, 60.0)
# How much of a secret makes a word one that is not told.
SECRET_RUN = 6

POLICY_CODES = frozenset({"content_policy_violation", "moderation_blocked", "content_filter", "safety_violation"})
QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "budget_exceeded"})
MODEL_CODES = frozenset({"model_not_found", "model_not_available", "unknown_model", "invalid_model"})
RETIRED_CODES = frozenset({"model_deprecated", "model_retired", "deprecated_model", "model_shut_down"})
END_OF_LIFE = re.compile(
    r"deprecated|retired|shut ?down|sunset|no longer|end[ -]of[ -](its |the )?life|discontinued|been removed", re.I
)
NO_SUCH_MODEL = re.compile(r"\bmodel\b.{0,200}\b(does not exist|not found|is not available|unknown)", re.I | re.DOTALL)
# LiteLLM's; anchored, as what follows in such a sentence may be a caller's own words.
LITELLM_NO_MODEL = re.compile(r"\A(400: )?(\{'error': ')?/?[\w/]{0,40}:? ?Invalid model name passed in", re.ASCII)
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.\[\]-]{0,59}", re.ASCII)

BAD_REQUEST, UNAUTHORISED, PAYMENT, FORBIDDEN, NOT_FOUND, METHOD, TIMEOUT, CONFLICT, GONE, EARLY, MANY = (
    *(400, 401, 402, 403, 404, 405, 408, 409, 410, 425, 429),
)
UNAVAILABLE, OVERLOADED = 503, 529
# A gateway waited in vain for a server that may have drawn all the same.
GATEWAY_TIMEOUTS = (504, 524)


class Refusal(msgspec.Struct, frozen=True):
    """An error's words, as far as they are words."""

    code: str = ""
    kind: str = ""
    param: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """One picture as an answer names it: base64, or where it lies."""

    base64: str | None
    url: str | None
    revised_prompt: str | None
    seed: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """A whole answer. Never without pictures."""

    pictures: tuple[Sent, ...]
    tokens: Tokens | None


class _Picture(msgspec.Struct):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    seed: Any = None


class _Answer(msgspec.Struct):
    data: list[_Picture] | None = None
    usage: Any = None
    error: Any = None


def read_answer(body: bytes, count: int, secret: str | None) -> Reading:
    """Of a 200. No more pictures than were asked for. Raises Trouble."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise broken("no JSON, or not of the form of an answer") from None
    if answer.error:
        raise judge(200, _refusal_of(answer.error), {}, secret)
    sent = tuple(_sent(one) for one in (answer.data or ())[:count])
    if not sent:
        raise broken("an answer without pictures")
    if not all(one.base64 or one.url for one in sent):
        raise broken("a picture without base64 and URL")
    return Reading(sent, _tokens(answer.usage))


def _sent(picture: _Picture) -> Sent:
    revised = picture.revised_prompt[:MAX_REVISED_CHARACTERS] if picture.revised_prompt else None
    seed = picture.seed if _is_whole(picture.seed, SEED_LIMIT) else None
    return Sent(picture.b64_json, picture.url, revised, seed)


def broken(what: str, *, status: int | None = 200, is_charged: bool = True) -> Trouble:
    """`what` is of our own words."""
    return Trouble("broken", Facts(status, what, is_charged=is_charged))


def file_of(text: str) -> bytes:
    """Raises Trouble for what is no base64, and for nothing at all."""
    try:
        file = base64.b64decode(text, validate=True)
    except ValueError:
        file = b""
    if not file:
        raise broken("a picture that is no base64")
    return file


def _tokens(usage: Any) -> Tokens | None:
    """What is odd about them must not cost the picture: then they are not known."""
    if not isinstance(usage, dict):
        return None
    details = usage.get("input_tokens_details")
    details = details if isinstance(details, dict) else {"text_tokens": usage.get("input_tokens")}
    text, image, out = details.get("text_tokens", 0), details.get("image_tokens", 0), usage.get("output_tokens", -1)
    return Tokens(text, image, out) if all(_is_whole(count, MAX_TOKENS) for count in (text, image, out)) else None


def _is_whole(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value < limit


# Failures


def failure(status: int, body: bytes, headers: Mapping[str, str], secret: str | None) -> Trouble:
    """What a status other than 2xx means. headers: by lower-case names."""
    return judge(status, read_refusal(body), headers, secret)


def read_refusal(body: bytes) -> Refusal:
    """OpenAI's envelope, or what else says `error`; empty where it is none of that."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Refusal()
    return _refusal_of(found.get("error", found) if isinstance(found, dict) else found)


def _refusal_of(error: Any) -> Refusal:
    if not isinstance(error, dict):
        return Refusal(message=error if isinstance(error, str) else "")
    code, kind, param, message = (_text(error.get(name)) for name in ("code", "type", "param", "message"))
    return Refusal(code, kind, param, message)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if type(value) is int else ""


def judge(status: int, refusal: Refusal, headers: Mapping[str, str], secret: str | None) -> Trouble:
    facts = Facts(
        status,
        _detail(refusal, headers.get("x-request-id", ""), secret),
        retry_after(headers, datetime.now(UTC)),
        is_charged=status in GATEWAY_TIMEOUTS,
    )
    return Trouble(cause_of(status, refusal), facts)


def cause_of(status: int, refusal: Refusal) -> Cause:
    codes = {refusal.code, refusal.kind}
    if codes & POLICY_CODES:
        return "policy"
    if codes & QUOTA_CODES or status == PAYMENT:
        return "no_quota"
    about_the_model = _about_the_model(status, refusal)
    if about_the_model is not None:
        return about_the_model
    return BY_STATUS.get(status) or _by_class(status)


def _about_the_model(status: int, refusal: Refusal) -> Cause | None:
    """Sentences are read only where nothing of a caller's could stand in them, or nothing else says what is meant: a
    prompt that is quoted must not take a model out of service."""
    if refusal.code in RETIRED_CODES:
        return "retired"
    is_named = refusal.code in MODEL_CODES and status in {BAD_REQUEST, FORBIDDEN, NOT_FOUND}
    is_meant = refusal.param == "model" and status in {BAD_REQUEST, NOT_FOUND}
    is_missing = status == NOT_FOUND and NO_SUCH_MODEL.search(refusal.message) is not None
    if is_named or is_meant or is_missing:
        return "retired" if END_OF_LIFE.search(refusal.message) else "unknown_model"
    if status == GONE and END_OF_LIFE.search(refusal.message):
        return "retired"
    is_litellms = status == BAD_REQUEST and LITELLM_NO_MODEL.match(refusal.message) is not None
    return "unknown_model" if is_litellms else None


BY_STATUS: dict[int, Cause] = {
    UNAUTHORISED: "unauthorised",
    FORBIDDEN: "unauthorised",
    # Not even a route of its: the base URL leads to something else.
    NOT_FOUND: "broken",
    METHOD: "broken",
    TIMEOUT: "failed",
    CONFLICT: "failed",
    GONE: "broken",
    EARLY: "failed",
    MANY: "throttled",
    UNAVAILABLE: "overloaded",
    OVERLOADED: "overloaded",
}


def _by_class(status: int) -> Cause:
    if 400 <= status < 500:  # noqa: PLR2004
        return "refused"
    # 200 comes here with an error in its body; redirects are never followed.
    return "broken" if 300 <= status < 400 else "failed"  # noqa: PLR2004


def _detail(refusal: Refusal, request_id: str, secret: str | None) -> str:
    """Such as "type=server_error code=x id=req_1". A sentence is not told: it may quote a prompt, or half of a key."""
    named = {"type": refusal.kind, "code": refusal.code, "param": refusal.param, "id": request_id}
    return " ".join(f"{name}={word}" for name, word in named.items() if _may_be_told(word, secret))


def _may_be_told(word: str, secret: str | None) -> bool:
    if WORD.fullmatch(word) is None:
        return word.isascii() and word.isdigit() and len(word) <= len("100")
    return not tells(word, secret)


def tells(text: str, secret: str | None) -> bool:
    """Whether some part of the secret stands in the text."""
    if secret is None:
        return False
    starts = range(max(1, len(secret) - SECRET_RUN + 1))
    return any(secret[start : start + SECRET_RUN] in text for start in starts)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long a provider wants to be left alone: 1 to 60 seconds; None where it says nothing that can be meant.
    headers: by lower-case names."""
    milliseconds = _number(headers.get("retry-after-ms"))
    wished = headers.get("retry-after")
    seconds = milliseconds / 1000 if milliseconds is not None else _number(wished)
    if seconds is None and wished is not None:
        seconds = _seconds_until(wished, now)
    return None if seconds is None else min(max(seconds, RETRY_SECONDS[0]), RETRY_SECONDS[1])


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(date: str, now: datetime) -> float | None:
    try:
        then = parsedate_to_datetime(date)
        return (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
