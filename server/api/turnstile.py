"""In front of a route that draws: in by the limits, before a byte of the body is read, and out again whatever happens.

Knows headers and visits; knows no bodies.
Invariant: a request holds its slots until its work is over: until a plain answer begins, or a stream has ended. Work
that outlives its request holds them itself (`api.repeats`).
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import get_args

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.gate import caller_of
from server.api.services import Services, services_of
from server.core import errors
from server.core.caller import Caller
from server.core.request import Operation
from server.idempotency.claim import HEADER as KEY_HEADER
from server.limits.limiter import Limiter, Visit

VISIT, ARRIVED = "safelight.visit", "safelight.arrived_seconds"
TIMEOUT_HEADER = "x-safelight-timeout"
# What OpenAI's clients tell of their own patience: Python's until the next byte, Node's for the whole answer.
CLIENT_TIMEOUT_HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")
MAX_TIMEOUT_SECONDS = 86_400
MAX_NUMBER_CHARACTERS = 20


class Turnstile:
    """Inside a route's gate."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        services = services_of(connection)
        scope[ARRIVED] = asyncio.get_running_loop().time()
        asked_timeout_seconds(connection.headers)
        caller = caller_of(connection)
        visit = await services.limiter.enter(caller, is_back=_is_back(caller, connection.headers, services))
        scope[VISIT] = visit
        try:
            await self._inner(scope, receive, _telling(services.limiter, visit, send))
        finally:
            visit.leave()


def _is_back(caller: Caller, headers: Headers, services: Services) -> bool:
    """Whether it comes for work that is under way already, most likely as its connection broke."""
    key = headers.get(KEY_HEADER)
    return key is not None and services.desk.is_under_way(caller.key_id, get_args(Operation), key)


def visit_of(request: Request) -> Visit:
    """Only behind a turnstile."""
    visit: Visit = request.scope[VISIT]
    return visit


@dataclass(frozen=True, slots=True)
class Deadline:
    """at_seconds: on the loop's clock; None: there is none. is_asked: whether the caller set it itself."""

    at_seconds: float | None
    is_asked: bool


def deadline_of(request: Request, *, is_stream: bool, plain_seconds: float) -> Deadline:
    """Until when the answer is of use. A stream has no deadline but the one that its caller asks for; a plain answer
    also ends where its client would give up. Only behind a turnstile."""
    asked = asked_timeout_seconds(request.headers)
    asked_at = math.inf if asked is None else request.scope[ARRIVED] + asked
    patience = math.inf if is_stream else min(plain_seconds, _client_timeout_seconds(request.headers))
    plain_at = asyncio.get_running_loop().time() + patience
    earliest = min(asked_at, plain_at)
    return Deadline(None if earliest == math.inf else earliest, asked_at <= plain_at and asked is not None)


def asked_timeout_seconds(headers: Headers) -> float | None:
    """What the caller asks for. Raises SafelightError."""
    texts = headers.getlist(TIMEOUT_HEADER)
    if not texts:
        return None
    seconds = _number(texts[0]) if len(texts) == 1 else None
    if seconds is None or not 1 <= seconds <= MAX_TIMEOUT_SECONDS:
        raise errors.invalid_parameter(
            TIMEOUT_HEADER,
            f"The header '{TIMEOUT_HEADER}' must be one number of seconds, from 1 to {MAX_TIMEOUT_SECONDS}.",
        )
    return seconds


def _client_timeout_seconds(headers: Headers) -> float:
    """Its clients write it by themselves: what makes no sense is no caller's fault, and passed over."""
    told = (_number(headers.get(name, "")) for name in CLIENT_TIMEOUT_HEADERS)
    return min((seconds for seconds in told if seconds is not None and seconds > 0), default=math.inf)


def _number(text: str) -> float | None:
    """Digits with at most one point, and nothing else that Python would take for a number."""
    digits = text.replace(".", "", 1)
    is_number = digits.isascii() and digits.isdigit() and len(text) <= MAX_NUMBER_CHARACTERS
    return float(text) if is_number else None


def _telling(limiter: Limiter, visit: Visit, send: Send) -> Send:
    """Adds the limits' headers to the answer, and lets a plain one leave as it begins: the reader may be slow."""

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if not headers.get("content-type", "").startswith("text/event-stream"):
                visit.leave()
            headers.update(await limiter.headers(visit))
        await send(message)

    return tell
