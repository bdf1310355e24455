"""POST images/generations: from the body to the finished pictures.

Knows the wire and the order of the hops; decides nothing that a policy should.
Invariant: either every picture that was asked for is in the reply, or the reply is an error.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse

from pipelines.messages import DrawParams, Submit
from server.api.receive import receive_json_object
from server.api.schemas import Parsed, parse_generation
from server.api.services import Services, services_of
from server.core import errors
from server.core.request import ImageRequest, Picture

T = TypeVar("T")
# Nobody reads this status: the client has gone. nginx's name for it is "client closed request".
CLIENT_CLOSED_REQUEST = 499


async def generate(request: Request) -> JSONResponse:
    """Draw pictures from a prompt."""
    services = services_of(request)
    settings = services.settings
    began = int(time.time())
    body = await receive_json_object(request, settings.max_body_bytes, settings.receive_timeout_seconds)
    parsed = await _parse(body, services)
    services.dispatcher.check_room(parsed.request.count)
    pictures = await _unless_gone(request, draw_all(parsed.request, services))
    if pictures is None:
        return JSONResponse(None, status_code=CLIENT_CLOSED_REQUEST)
    data = [await _as_item(picture, parsed.request, services) for picture in pictures]
    headers = {"x-safelight-ignored": ", ".join(parsed.ignored)} if parsed.ignored else {}
    return JSONResponse({"created": began, "data": data}, headers=headers)


async def _parse(body: dict[str, Any], services: Services) -> Parsed:
    """Here, or in a thread where there is a picture to decode; and that only while the server takes more work."""
    if body.get("image") is None:
        return parse_generation(body, services.catalogue)
    services.dispatcher.check_room(1)
    async with services.decoding:
        return await asyncio.to_thread(parse_generation, body, services.catalogue)


async def draw_all(request: ImageRequest, services: Services) -> list[Picture]:
    """One job per picture. The first failure cancels the others and is raised."""
    request_id = secrets.token_hex(8)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_draw_one(_job(request, request_id, index), services))
                for index in range(request.count)
            ]
    except ExceptionGroup as failures:
        raise _first(failures) from None
    return [task.result() for task in tasks]


async def _draw_one(job: Submit, services: Services) -> Picture:
    image = await services.dispatcher.draw(job)
    return Picture(image.png, job.params.seed, image.device_seconds)


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """The failure that the caller is told: a defect before the errors that we know, or it would stay unseen."""
    _, defects = failures.split(errors.SafelightError)
    return (defects or failures).exceptions[0]


def _job(request: ImageRequest, request_id: str, index: int) -> Submit:
    params = DrawParams(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width_px=request.size.width_px,
        height_px=request.size.height_px,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        sampler=request.sampler,
        seed=request.seed_of(index),
        image=request.image,
        mask=request.mask,
        strength=request.strength,
    )
    return Submit(f"{request_id}-{index}", request.model, params)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result, or None when the client went away first; then the work is cancelled."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _as_item(picture: Picture, request: ImageRequest, services: Services) -> dict[str, Any]:
    if request.response_format == "b64_json":
        return {"b64_json": base64.b64encode(picture.png).decode("ascii"), "seed": picture.seed}
    try:
        name = await asyncio.to_thread(services.files.save, picture.png)
    except OSError:
        raise errors.storage_failed() from None
    return {"url": f"{services.base_url}/files/{name}", "seed": picture.seed}
