"""The pictures that a request starts from: obtained in whatever form they were named, and fitted to what is drawn.

Knows the wire's forms, the fetcher and the decoder; decodes nothing itself.
Invariant: nothing is decoded in this process, and nothing is fetched that the settings do not allow.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec

from server.api.control import CONTROL_IMAGE
from server.api.parse import Parsed
from server.api.services import Services
from server.api.sources import MAX_FILE_BYTES, Source, content_of, is_web_url, too_large
from server.core.request import LocalRequest, Size
from server.images.fetch import UnfetchableUrl, fetch_picture
from server.images.inputs import refusal


async def with_pictures(parsed: Parsed, services: Services) -> LocalRequest:
    """The complete request. Raises SafelightError: 400 for the image, the mask or the control picture."""
    request, asked_size = parsed.request, parsed.asked_size
    if parsed.image is not None:
        request = await _with_image(request, parsed.image, parsed, services)
        asked_size = request.size
    if parsed.hint is not None:
        request = await _with_hint(request, parsed.hint, asked_size, parsed, services)
    return request


async def _with_image(request: LocalRequest, source: Source, parsed: Parsed, services: Services) -> LocalRequest:
    image = await _obtained("image", source, services)
    mask = None if parsed.mask is None else await _obtained("mask", parsed.mask, services)
    inputs = await services.decoder.fit(image, mask, parsed.asked_size, parsed.limits)
    return replace(request, size=inputs.size, image=inputs.image, mask=inputs.mask)


async def _with_hint(
    request: LocalRequest, source: Source, asked_size: Size | None, parsed: Parsed, services: Services
) -> LocalRequest:
    """Placed as the image is; without an image and a size the hint's own shape is drawn."""
    if request.control is None:
        return request
    content = await _obtained(CONTROL_IMAGE, source, services)
    inputs = await services.decoder.fit(content, None, asked_size, parsed.limits, CONTROL_IMAGE)
    return replace(request, size=inputs.size, control=msgspec.structs.replace(request.control, hint=inputs.image))


async def _obtained(param: str, source: Source, services: Services) -> bytes:
    """The file itself."""
    if isinstance(source, bytes):
        return _bounded(param, source)
    if is_web_url(source):
        return await _fetched(param, source, services)
    return await asyncio.to_thread(content_of, param, source)


def _bounded(param: str, content: bytes) -> bytes:
    if len(content) > MAX_FILE_BYTES:
        raise too_large(param)
    return content


async def _fetched(param: str, url: str, services: Services) -> bytes:
    if services.fetch_policy is None:
        raise refusal(param, "the URL is not fetched: this server is offline; send the picture itself")
    try:
        return await fetch_picture(url, services.fetch_policy)
    except UnfetchableUrl as problem:
        raise refusal(param, f"the URL {problem.reason}") from None
