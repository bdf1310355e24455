"""POST images/generations, images/edits and images/variations: from the body to the finished pictures.

Knows the order of the hops; decides nothing that a policy should.
Invariant: either every picture that was asked for is in the reply, or the reply is an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.departure import unless_gone
from server.api.forms import values_of
from server.api.gate import caller_of
from server.api.multipart import receive_form
from server.api.parse import parse
from server.api.parsed import Parsed
from server.api.pictures import Pictures
from server.api.receive import media_type_of, receive_json_object
from server.api.replies import Delivery, Times, headers_of, reply_of
from server.api.services import Services, services_of
from server.api.stream import EventStream, events_of
from server.core import errors
from server.core.providers import LOCAL
from server.core.request import ImageRequest, Operation
from server.core.request_id import REQUEST_ID
from server.routing.journey import Candidate, Journey, Served
from server.routing.router import Router

# Nobody reads this status: the client has gone. nginx's name for it is "client closed request".
CLIENT_CLOSED_REQUEST = 499
PROGRESS_HEADER = "x-safelight-progress"


async def generate(request: Request) -> Response:
    """Draw pictures from a prompt, or from a prompt and a picture."""
    return await _answer(request, "generation", await _json(request))


async def edit(request: Request) -> Response:
    """Change a picture, all of it or where the mask allows."""
    return await _answer(request, "edit", await _form_or_json(request))


async def vary(request: Request) -> Response:
    """Draw pictures like another one."""
    return await _answer(request, "variation", await _form_or_json(request))


async def _json(request: Request) -> Mapping[str, Any]:
    settings = services_of(request).settings
    return await receive_json_object(request, settings.max_body_bytes, settings.receive_timeout_seconds)


async def _form_or_json(request: Request) -> Mapping[str, Any]:
    if media_type_of(request) != "multipart/form-data":
        return await _json(request)
    settings = services_of(request).settings
    return values_of(await receive_form(request, settings.max_body_bytes, settings.receive_timeout_seconds))


async def _answer(request: Request, operation: Operation, values: Mapping[str, Any]) -> Response:
    began, started_seconds = int(time.time()), time.perf_counter()
    services = services_of(request)
    parsed = parse(operation, values, services.reach)
    _check_room(parsed, services)
    _check_storage(parsed[0].request, services)
    pictures = Pictures(parsed[0].asked, services)
    # A picture that is none is refused before anything else is done for the request.
    if await unless_gone(request, pictures.first_ready(parsed)) is None:
        return JSONResponse(None, status_code=CLIENT_CLOSED_REQUEST)
    journey = _journey(request, parsed, pictures, services)
    if parsed[0].asked.is_stream:
        events = events_of(journey, services.router, services.local.place, began, started_seconds)
        return EventStream(events, _ignored(parsed[0]))
    delivery = Delivery(services)
    served = await unless_gone(request, _delivered(journey, delivery, services.router))
    if served is None:
        return JSONResponse(None, status_code=CLIENT_CLOSED_REQUEST)
    times = Times(began, round((time.perf_counter() - started_seconds) * 1000))
    own = next(one for one in parsed if one.target == served.target)
    return JSONResponse(reply_of(served, delivery.data, times), headers=_ignored(own) | headers_of(served))


async def _delivered(journey: Journey, delivery: Delivery, router: Router) -> Served:
    """Drawn, and ready to be sent; or as if nothing of it had been. Raises SafelightError."""
    try:
        return await router.draw(journey, deliver=delivery.make)
    except BaseException:
        await asyncio.shield(delivery.undo())
        raise


def _journey(
    request: Request, parsed: tuple[Parsed[ImageRequest], ...], pictures: Pictures, services: Services
) -> Journey:
    asked = parsed[0].asked
    patience_seconds = None if asked.is_stream else services.settings.plain_answer_seconds
    return Journey(
        candidates=tuple(Candidate(one.target, one.request, partial(pictures.ready, one)) for one in parsed),
        named=asked.body.model or services.catalogue.default_model,
        deadline_seconds=None if patience_seconds is None else asyncio.get_running_loop().time() + patience_seconds,
        wants_progress=asked.is_stream and request.headers.get(PROGRESS_HEADER) == "true",
        request_id=request.scope[REQUEST_ID],
        caller=caller_of(request),
    )


def _ignored(parsed: Parsed[ImageRequest]) -> dict[str, str]:
    return {"x-safelight-ignored": ", ".join(parsed.ignored)} if parsed.ignored else {}


def _check_room(parsed: tuple[Parsed[ImageRequest], ...], services: Services) -> None:
    """Where nobody else could serve, a full server says so before it does anything."""
    if all(one.target.backend == LOCAL for one in parsed):
        services.local.check_room(parsed[0].request.count)


def _check_storage(request: ImageRequest, services: Services) -> None:
    if request.response_format == "url" and not services.files.has_room():
        raise errors.storage_full()
