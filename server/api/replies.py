"""What a caller gets for finished pictures: the JSON reply, and the fields that it shares with streamed events.

Knows the wire and the result store; knows no jobs.
Invariant: every field is one that strict clients accept; a picture comes as a URL or as base64, never both.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from pipelines.messages import OutputFormat
from server.api.long_texts import in_base64
from server.api.services import Services
from server.core import errors
from server.core.request import ImageRequest, Picture, RemoteRequest
from server.core.usage import usage_of
from server.images.store import FullStore
from server.routing.journey import Served


@dataclass(frozen=True, slots=True)
class Times:
    """began: when the request arrived, Unix seconds. latency_ms: since then."""

    began: int
    latency_ms: int


async def reply_of(served: Served, times: Times, services: Services) -> dict[str, Any]:
    """The body of a plain answer. Raises SafelightError when a file cannot be kept."""
    request = served.request
    data = [await item_of(picture, request, services) for picture in served.drawn.pictures]
    return {
        "created": times.began,
        "data": data,
        **shared_fields(request),
        "usage": usage_of(request, len(data), times.latency_ms, served.cost_usd),
    }


def headers_of(served: Served) -> dict[str, str]:
    """Who served, who was asked, why in this order; and what was drawn, where that was another size."""
    request, headers = served.request, served.course.headers()
    if isinstance(request, RemoteRequest) and request.drawn_size != request.size:
        headers["x-safelight-drawn-size"] = str(request.drawn_size)
    return headers


def shared_fields(request: ImageRequest) -> dict[str, Any]:
    """What is true of all pictures of a request. quality: only where it was asked for in OpenAI's newer words."""
    is_transparent = isinstance(request, RemoteRequest) and request.background == "transparent"
    fields: dict[str, Any] = {
        "size": str(request.size),
        "output_format": request.output_format,
        "background": "transparent" if is_transparent else "opaque",
    }
    return fields if request.quality is None else {**fields, "quality": request.quality}


async def item_of(picture: Picture, request: ImageRequest, services: Services) -> dict[str, Any]:
    """One entry of `data`."""
    item: dict[str, Any] = {} if picture.seed is None else {"seed": picture.seed}
    if request.response_format == "b64_json":
        item["b64_json"] = await in_base64(picture.file)
    else:
        item["url"] = await kept_url(picture.file, request.output_format, services)
    return item | revision(picture, request)


def revision(picture: Picture | None, request: ImageRequest) -> dict[str, str]:
    """The prompt that was drawn, where it is not the one that was sent."""
    drawn = request.prompt if picture is None or picture.revised_prompt is None else picture.revised_prompt
    return {} if drawn == request.sent_prompt else {"revised_prompt": drawn}


async def kept_url(file: bytes, output_format: OutputFormat, services: Services) -> str:
    """Where the file can be had for its hour. Raises SafelightError: 500 or 503."""
    try:
        name = await asyncio.to_thread(services.files.save, file, output_format)
    except FullStore:
        raise errors.storage_full() from None
    except OSError:
        raise errors.storage_failed() from None
    return f"{services.base_url}/files/{name}"
