"""The pictures that a request starts from: obtained in whatever form they were named, and fitted to what is drawn.

Knows the wire's forms, the fetcher and the decoder; decodes nothing itself.
Invariant: nothing is decoded in this process, and nothing is fetched that the settings do not allow.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from server.api.parse import Parsed
from server.api.services import Services
from server.api.sources import MAX_FILE_BYTES, Source, content_of, is_web_url, too_large
from server.core.request import ImageRequest
from server.images.fetch import UnfetchableUrl, fetch_picture
from server.images.inputs import refusal


async def with_pictures(parsed: Parsed, services: Services) -> ImageRequest:
    """The complete request. Raises SafelightError: 400 for the image or the mask."""
    if parsed.image is None:
        return parsed.request
    image = await _obtained("image", parsed.image, services)
    mask = None if parsed.mask is None else await _obtained("mask", parsed.mask, services)
    inputs = await services.decoder.fit(image, mask, parsed.asked_size, parsed.limits)
    return replace(parsed.request, size=inputs.size, image=inputs.image, mask=inputs.mask)


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
