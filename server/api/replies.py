"""What a caller gets for finished pictures: the JSON reply, and the fields that it shares with streamed events.

Knows the wire and the result store; knows no jobs.
Invariant: every field is one that strict clients accept; a picture comes as a URL or as base64, never both.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.api.services import Services
from server.core import errors
from server.core.request import ImageRequest, Picture
from server.core.usage import usage_of
from server.images.store import FullStore


@dataclass(frozen=True, slots=True)
class Times:
    """began: when the request arrived, Unix seconds. latency_ms: since then."""

    began: int
    latency_ms: int


async def reply_of(
    request: ImageRequest, pictures: Sequence[Picture], times: Times, services: Services
) -> dict[str, Any]:
    """The body of a plain answer. Raises SafelightError when a file cannot be kept."""
    data = [await item_of(picture, request, services) for picture in pictures]
    return {
        "created": times.began,
        "data": data,
        **shared_fields(request),
        "usage": usage_of(request, len(data), times.latency_ms),
    }


def shared_fields(request: ImageRequest) -> dict[str, Any]:
    """What is true of all pictures of a request. quality: only where it was asked for in OpenAI's newer words."""
    fields: dict[str, Any] = {
        "size": str(request.size),
        "output_format": request.output_format,
        "background": "opaque",
    }
    return fields if request.quality is None else {**fields, "quality": request.quality}


async def item_of(picture: Picture, request: ImageRequest, services: Services) -> dict[str, Any]:
    """One entry of `data`."""
    item: dict[str, Any] = {"seed": picture.seed}
    if request.response_format == "b64_json":
        item["b64_json"] = in_base64(picture.file)
    else:
        item["url"] = await _kept_url(picture, request, services)
    if request.prompt != request.sent_prompt:
        item["revised_prompt"] = request.prompt
    return item


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


async def _kept_url(picture: Picture, request: ImageRequest, services: Services) -> str:
    try:
        name = await asyncio.to_thread(services.files.save, picture.file, request.output_format)
    except FullStore:
        raise errors.storage_full() from None
    except OSError:
        raise errors.storage_failed() from None
    return f"{services.base_url}/files/{name}"
