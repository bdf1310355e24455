"""POST images/generations, images/edits and images/variations: from the body to the finished pictures.

Knows the order of the hops; decides nothing that a policy should.
Invariant: either every picture that was asked for is in the reply, or the reply is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from server.api.asked import PICTURES
from server.api.departure import to_nobody, unless_gone
from server.api.forms import values_of
from server.api.gate import caller_of
from server.api.judging import Candidates, judging_of
from server.api.long_body import LongBody
from server.api.long_texts import as_json
from server.api.multipart import receive_form
from server.api.parse import parse
from server.api.parsed import Parsed
from server.api.pictures import Pictures
from server.api.receive import media_type_of, receive_json_object
from server.api.repeats import once
from server.api.replies import Arrival, Delivery, headers_of, reply_of
from server.api.services import Services, services_of
from server.api.stream import EventStream, events_of
from server.api.turnstile import deadline_of, visit_of
from server.core import errors
from server.core.providers import LOCAL
from server.core.request import ImageRequest, Operation
from server.core.request_id import REQUEST_ID
from server.core.tracing import hop
from server.routing.journey import Candidate, Journey, Served
from server.routing.judged import Examine
from server.routing.router import Router

PROGRESS_HEADER = "x-safelight-progress"


async def generate(request: Request) -> Response:
    """Draw pictures from a prompt, or from a prompt and a picture."""
    return await once(request, "generation", _named(request, await _json(request)), _answer)


async def edit(request: Request) -> Response:
    """Change a picture, all of it or where the mask allows."""
    return await once(request, "edit", _named(request, await _form_or_json(request)), _answer)


async def vary(request: Request) -> Response:
    """Draw pictures like another one."""
    return await once(request, "variation", _named(request, await _form_or_json(request)), _answer)


def _named(request: Request, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the model of an Azure client's path, where the body names none."""
    deployment = request.path_params.get("deployment")
    return values if deployment is None or values.get("model") is not None else {**values, "model": deployment}


async def _json(request: Request) -> Mapping[str, Any]:
    settings = services_of(request).settings
    with hop("receive"):
        return await receive_json_object(request, settings.max_body_bytes, settings.receive_timeout_seconds, PICTURES)


async def _form_or_json(request: Request) -> Mapping[str, Any]:
    if media_type_of(request) != "multipart/form-data":
        return await _json(request)
    settings = services_of(request).settings
    with hop("receive"):
        return values_of(await receive_form(request, settings.max_body_bytes, settings.receive_timeout_seconds))


async def _answer(request: Request, operation: Operation, values: Mapping[str, Any]) -> Response:
    arrival, services = Arrival(), services_of(request)
    with hop("parse"):
        parsed = parse(operation, values, services.reach, caller_of(request))
    judging = judging_of(request, parsed[0].asked, services)
    parsed = judging.candidates(parsed)
    _check_room(parsed, services)
    _check_storage(parsed[0].request, services)
    if judging.has_checks and await unless_gone(request, judging.prompt(parsed)) is None:
        return to_nobody()
    await services.limiter.add_pictures(visit_of(request), parsed[0].request.count)
    pictures = Pictures(parsed[0].asked, services)
    journey = _journey(request, parsed, pictures, judging.examine, services)
    await services.router.check_quotas(journey)
    if not await _are_sound(request, parsed, pictures):
        return to_nobody()
    journey = _with_sizes(journey, parsed, pictures)
    if parsed[0].asked.is_stream:
        events = events_of(journey, services.router, services.local.place, arrival, visit_of(request).leave)
        return EventStream(events, _ignored(parsed[0]))
    return await _drawn(request, journey, parsed, arrival)


async def _are_sound(request: Request, parsed: Candidates, pictures: Pictures) -> bool:
    """A picture that is none is refused before anything else is done for the request; and nothing is for who has gone
    meanwhile. Raises SafelightError."""
    with hop("pictures"):
        return await unless_gone(request, pictures.first_ready(parsed)) is not None


async def _drawn(request: Request, journey: Journey, parsed: Candidates, arrival: Arrival) -> Response:
    """The plain answer."""
    services = services_of(request)
    delivery = Delivery(services)
    served = await unless_gone(request, _delivered(journey, delivery, services.router))
    if served is None:
        return to_nobody()
    own = next(one for one in parsed if one.target == served.target)
    with hop("reply"):
        body = await as_json(reply_of(served, delivery.data, arrival))
    return LongBody(body, headers=_ignored(own) | headers_of(served), media_type="application/json")


async def _delivered(journey: Journey, delivery: Delivery, router: Router) -> Served:
    """Drawn, and ready to be sent; or as if nothing of it had been. Raises SafelightError."""
    try:
        return await router.draw(journey, deliver=delivery.make)
    except BaseException:
        await asyncio.shield(delivery.undo())
        raise


def _journey(
    request: Request, parsed: Candidates, pictures: Pictures, examine: Examine | None, services: Services
) -> Journey:
    asked = parsed[0].asked
    plain_seconds = services.settings.plain_answer_seconds
    deadline = deadline_of(request, is_stream=asked.is_stream, plain_seconds=plain_seconds)
    return Journey(
        candidates=tuple(Candidate(one.target, one.request, partial(pictures.ready, one)) for one in parsed),
        named=asked.body.model or services.catalogue.default_model,
        deadline_seconds=deadline.at_seconds,
        is_deadline_asked=deadline.is_asked,
        wants_progress=asked.is_stream and request.headers.get(PROGRESS_HEADER) == "true",
        request_id=request.scope[REQUEST_ID],
        caller=caller_of(request),
        examine=examine,
    )


def _with_sizes(journey: Journey, parsed: Candidates, pictures: Pictures) -> Journey:
    """Ranked and booked by the sizes that follow from the pictures, where they are known by now."""
    pairs = zip(journey.candidates, parsed, strict=True)
    return replace(
        journey, candidates=tuple(replace(candidate, request=pictures.known(one)) for candidate, one in pairs)
    )


def _ignored(parsed: Parsed[ImageRequest]) -> dict[str, str]:
    return {"x-safelight-ignored": ", ".join(parsed.ignored)} if parsed.ignored else {}


def _check_room(parsed: Candidates, services: Services) -> None:
    """Where nobody else could serve, a full server says so before it does anything."""
    if all(one.target.backend == LOCAL for one in parsed):
        services.local.check_room(parsed[0].request.count)


def _check_storage(request: ImageRequest, services: Services) -> None:
    if request.response_format == "url" and not services.files.has_room():
        raise errors.storage_full()
