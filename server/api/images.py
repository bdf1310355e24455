"""POST images/generations, images/edits and images/variations: from the body to the finished pictures.

Knows the order of the hops; decides nothing that a policy should.
Invariant: either every picture that was asked for is in the reply, or the reply is an error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.departure import unless_gone
from server.api.drawing import Drawing
from server.api.forms import values_of
from server.api.multipart import receive_form
from server.api.parse import Parsed, parse
from server.api.pictures import with_pictures
from server.api.receive import media_type_of, receive_json_object
from server.api.replies import Times, reply_of
from server.api.services import Services, services_of
from server.api.stream import EventStream, events_of
from server.core import errors
from server.core.request import ImageRequest, LocalRequest, Operation

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
    parsed = parse(operation, values, services.catalogue, services.settings.default_response_format)
    services.dispatcher.check_room(parsed.request.count)
    _check_storage(parsed.request, services)
    ready = await unless_gone(request, with_pictures(parsed, services))
    if ready is None:
        return JSONResponse(None, status_code=CLIENT_CLOSED_REQUEST)
    drawing = _drawing(ready, parsed, services, wants_progress=request.headers.get(PROGRESS_HEADER) == "true")
    headers = {"x-safelight-ignored": ", ".join(parsed.ignored)} if parsed.ignored else {}
    if parsed.is_stream:
        return EventStream(events_of(drawing, began, started_seconds), headers)
    _check_duration(drawing, services)
    pictures = await unless_gone(request, drawing.draw_all())
    if pictures is None:
        return JSONResponse(None, status_code=CLIENT_CLOSED_REQUEST)
    times = Times(began, round((time.perf_counter() - started_seconds) * 1000))
    return JSONResponse(await reply_of(ready, pictures, times, services), headers=headers)


def _drawing(ready: LocalRequest, parsed: Parsed, services: Services, *, wants_progress: bool) -> Drawing:
    return Drawing(
        request=ready,
        family=services.catalogue.models[ready.model].family,
        dispatcher=services.dispatcher,
        has_facts=services.settings.embed_facts,
        wants_progress=parsed.is_stream and wants_progress,
    )


def _check_storage(request: ImageRequest, services: Services) -> None:
    if request.response_format == "url" and not services.files.has_room():
        raise errors.storage_full()


def _check_duration(drawing: Drawing, services: Services) -> None:
    """Refuse at once what would end after the client has given up."""
    limit_seconds = services.settings.plain_answer_seconds
    jobs = drawing.jobs()
    own_seconds = services.dispatcher.own_seconds(jobs)
    if own_seconds is None:
        return
    if own_seconds > limit_seconds:
        raise errors.too_slow_for_a_plain_answer(own_seconds, limit_seconds)
    seconds = own_seconds + services.dispatcher.seconds_ahead(jobs)
    if seconds > limit_seconds:
        raise errors.queue_too_long(seconds, limit_seconds)
