"""A request with an Idempotency-Key is carried out once, however often it comes: joined while it is under way, replayed
for a day after that.

Knows the header, claims and what answers look like; knows nothing of how they come about.
Invariant: under one key a caller gets one answer, and it is drawn, booked and paid for once; only a complete 200 is
kept, so that what failed is tried again.
Source: the IETF's draft-ietf-httpapi-idempotency-key-header-07, and Stripe's rules (docs.stripe.com/api/
idempotent_requests), from where docs/adr/0016-the-same-request-twice.md says what was taken.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from server.api.departure import to_nobody, unless_gone
from server.api.gate import caller_of
from server.api.joining import begun_in_time, told_in_time
from server.api.long_body import LongBody
from server.api.replies import kept_url
from server.api.services import Services, services_of
from server.api.stream import EventStream, is_failure, lasts
from server.api.turnstile import VISIT, visit_of
from server.core import errors
from server.core.request import Operation
from server.core.request_id import REQUEST_ID
from server.idempotency.answer import Answer
from server.idempotency.claim import ALLOWED, HEADER, KEY, Claim, claim_of
from server.idempotency.desk import Opened, Work
from server.idempotency.shelf import Kept, Shelf
from server.images.store import FORMATS, ExpiredFile, UnknownFile

log = logging.getLogger("safelight.idempotency")
# Stripe's name for the first.
REPLAYED, ORIGINAL, STATE = "idempotent-replayed", "x-safelight-original-request", "x-safelight-idempotency"
REPEAT_HEADERS = (REPLAYED, ORIGINAL, STATE)
OK = 200
# How long an answer may wait for the disk that is to keep it.
KEEP_SECONDS = 10.0
# A URL is told again while there is so much time left to follow it.
LEAST_URL_SECONDS = 60.0
# What of an answer's headers is true of its repetitions too, beside our own.
LASTING_HEADERS = ("content-type", "cache-control", "x-accel-buffering")
Draw = Callable[[Request, Operation, Mapping[str, Any]], Awaitable[Response]]


async def once(request: Request, operation: Operation, values: Mapping[str, Any], draw: Draw) -> Response:
    """What `draw` answers; or, where the same was asked under the same key before, what it answered then. Raises
    SafelightError: 400 for a key that is none, or that another body came with; else what `draw` raises."""
    key = _key_of(request)
    if key is None:
        return await draw(request, operation, values)
    claim = await asyncio.to_thread(claim_of, caller_of(request).key_id, operation, key, values)
    desk = services_of(request).desk
    work = desk.under_way(claim)
    if work is None and (replayed := await _replayed(request, claim)) is not None:
        return replayed
    # Others may have come while a damaged answer was looked at.
    work = work or desk.under_way(claim)
    if work is not None:
        _check(work.claim, claim)
        return await _followed(request, work, is_first=False)
    visit = visit_of(request).handed_over()
    own = Request({**request.scope, VISIT: visit}, _silence)

    async def carry_out(work: Work) -> None:
        try:
            await _carry_out(work, own, operation, values, draw)
        finally:
            visit.leave()

    work = desk.begin(claim, request.scope[REQUEST_ID], carry_out)
    return await _followed(request, work, is_first=True)


def _key_of(request: Request) -> str | None:
    keys = request.headers.getlist(HEADER)
    if not keys:
        return None
    if len(keys) > 1:
        raise errors.invalid_parameter(HEADER, f"The header {HEADER} stands there {len(keys)} times; send it once.")
    if not KEY.fullmatch(keys[0]):
        raise errors.invalid_parameter(HEADER, f"The header {HEADER} must be {ALLOWED}.")
    return keys[0]


def _check(earlier: Claim, claim: Claim) -> None:
    if earlier.fingerprint != claim.fingerprint:
        raise errors.idempotency_key_reused()


async def _followed(request: Request, work: Work, *, is_first: bool) -> Response:
    """The work's answer, for one of those who wait for it."""
    with work.present():
        opened = await unless_gone(request, _begun(work) if is_first else begun_in_time(request, _begun(work)))
    if opened is None:
        return to_nobody()
    headers = opened.headers if is_first else _lasting(opened.headers) | _repeated(work.request_id)
    if not is_first:
        log.info("joined", extra={"request_id": request.scope[REQUEST_ID], "original": work.request_id})
    if opened.body is None:
        return EventStream(work.heard() if is_first else told_in_time(request, work.heard()), headers)
    return LongBody(opened.body, opened.status, headers if opened.is_kept else headers | {STATE: "not_kept"})


async def _begun(work: Work) -> Opened:
    """Shielded: whoever leaves must not take it from the others."""
    return await asyncio.shield(work.opened)


async def _carry_out(work: Work, request: Request, operation: Operation, values: Mapping[str, Any], draw: Draw) -> None:
    """Opens the work. In nobody's name: that its first client left is no reason to stop."""
    services = services_of(request)
    response = await draw(request, operation, values)
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    if isinstance(response, EventStream):
        work.opened.set_result(Opened(response.status_code, headers, None))
        body = await _told(work, response)
    else:
        body = bytes(response.body)
    work.is_done = True
    is_kept = response.status_code == OK and body is not None and await _keep(work, headers, body, services)
    if not work.opened.done():
        work.opened.set_result(Opened(response.status_code, headers, body, is_kept))


async def _silence() -> Message:
    """What a client says that is there and has said all."""
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


async def _told(work: Work, response: EventStream) -> bytes | None:
    """Tell the stream; what it comes to, None where that is no success."""
    await work.is_heard.wait()
    pictures: list[bytes] | None = []
    async with aclosing(response.events) as events:
        async for event in events:
            if is_failure(event):
                pictures = None
            elif lasts(event) and pictures is not None:
                pictures.append(event)
            work.tell(event, lasts=lasts(event) or is_failure(event))
    return b"".join(pictures) if pictures else None


async def _keep(work: Work, headers: Mapping[str, str], body: bytes, services: Services) -> bool:
    """Whether the answer can be had again. Never a reason for the answer to fail."""
    shelf = services.desk.shelf
    if shelf is None:
        return False
    try:
        async with asyncio.timeout(KEEP_SECONDS):
            return await asyncio.to_thread(_kept, shelf, work, _lasting(headers), body, services)
    except (TimeoutError, OSError, UnknownFile, ExpiredFile) as problem:
        log.warning("answer not kept", extra={"request_id": work.request_id, "cause": type(problem).__name__})
        return False


def _kept(shelf: Shelf, work: Work, headers: dict[str, str], body: bytes, services: Services) -> bool:
    """With the pictures, where the body only says where they are: they will be gone from there."""
    files = tuple(services.files.read(_name_in(url)) for url in _urls_in(headers, body))
    return shelf.save(work.claim, Answer(work.request_id, headers, body, files))


async def _replayed(request: Request, claim: Claim) -> Response | None:
    """None where nothing was kept, or nothing that can be read. Raises SafelightError where the key was another
    request's, or the pictures' files cannot be made anew."""
    services = services_of(request)
    shelf = services.desk.shelf
    kept = None if shelf is None else shelf.find(claim)
    if shelf is None or kept is None:
        return None
    _check(kept.claim, claim)
    answer = await asyncio.to_thread(shelf.read, kept)
    if answer is None:
        return None
    log.info("replayed", extra={"request_id": request.scope[REQUEST_ID], "original": answer.request_id})
    body = await _with_living_urls(kept, answer, services) if answer.files else answer.body
    return LongBody(body, OK, answer.headers | _repeated(answer.request_id))


async def _with_living_urls(kept: Kept, answer: Answer, services: Services) -> bytes:
    """The same body while its URLs work; after that with new ones, that the next who asks is told too."""
    told = _urls_in(answer.headers, answer.body)
    async with kept.renewing:
        urls = kept.urls or told
        if not all(_lives(url, services) for url in urls):
            pairs = zip(told, answer.files, strict=True)
            urls = kept.urls = tuple(
                [await kept_url(file, FORMATS[url.rpartition(".")[2]], services) for url, file in pairs]
            )
    if urls == told:
        return answer.body
    body = json.loads(answer.body)
    for item, url in zip(body["data"], urls, strict=True):
        item["url"] = url
    return bytes(JSONResponse(body).body)


def _lives(url: str, services: Services) -> bool:
    # After a restart the server may be found elsewhere.
    is_ours = url == f"{services.base_url}/files/{_name_in(url)}"
    return is_ours and services.files.seconds_left(_name_in(url)) >= LEAST_URL_SECONDS


def _urls_in(headers: Mapping[str, str], body: bytes) -> tuple[str, ...]:
    if headers.get("content-type") != "application/json":
        return ()
    return tuple(item["url"] for item in json.loads(body)["data"] if "url" in item)


def _name_in(url: str) -> str:
    return url.rpartition("/")[2]


def _lasting(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name in LASTING_HEADERS or name.startswith("x-safelight-")}


def _repeated(request_id: str) -> dict[str, str]:
    return {REPLAYED: "true", ORIGINAL: request_id}
