"""What a caller gets for finished pictures: the JSON reply, and the fields that it shares with streamed events.

Knows the wire and the result store; knows no jobs.
Invariant: every field is one that strict clients accept; a picture comes as a URL or as base64, never both.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
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
class Arrival:
    """When a request arrived. seconds: on a clock that nobody can set."""

    unix_seconds: int = field(default_factory=lambda: int(time.time()))
    seconds: float = field(default_factory=time.perf_counter)

    @property
    def latency_ms(self) -> int:
        """Since then."""
        return round((time.perf_counter() - self.seconds) * 1000)


@dataclass(slots=True)
class Delivery:
    """The `data` of a plain answer, made before the books say that it was delivered. The files of an answer that does
    not come about are deleted."""

    services: Services
    data: list[dict[str, Any]] = field(default_factory=list)
    _savings: list[asyncio.Task[str]] = field(default_factory=list)

    async def make(self, served: Served) -> None:
        """Raises SafelightError when a file cannot be kept."""
        for picture in served.drawn.pictures:
            self.data.append(await self._item(picture, served.request))

    async def undo(self) -> None:
        """Nobody will be told of these pictures."""
        for name in await asyncio.gather(*self._savings, return_exceptions=True):
            if isinstance(name, str):
                with suppress(OSError):  # the sweeper tries again when its hour is over
                    await asyncio.to_thread(self.services.files.discard, name)

    async def _item(self, picture: Picture, request: ImageRequest) -> dict[str, Any]:
        item: dict[str, Any] = {} if picture.seed is None else {"seed": picture.seed}
        if request.response_format == "b64_json":
            item["b64_json"] = await in_base64(picture.file)
        else:
            # A thread that writes is not to be stopped; so the file is known even if the caller leaves meanwhile.
            self._savings.append(
                saving := asyncio.create_task(_kept(picture.file, request.output_format, self.services))
            )
            item["url"] = url_of(await asyncio.shield(saving), self.services)
        return item | revision(picture, request)


def reply_of(served: Served, data: list[dict[str, Any]], arrival: Arrival) -> dict[str, Any]:
    """The body of a plain answer."""
    request = served.request
    return {
        "created": arrival.unix_seconds,
        "data": data,
        **shared_fields(request),
        "usage": usage_of(request, len(data), arrival.latency_ms, served.cost_usd),
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


def revision(picture: Picture | None, request: ImageRequest) -> dict[str, str]:
    """The prompt that was drawn, where it is not the one that was sent."""
    drawn = request.prompt if picture is None or picture.revised_prompt is None else picture.revised_prompt
    return {} if drawn == request.sent_prompt else {"revised_prompt": drawn}


async def kept_url(file: bytes, output_format: OutputFormat, services: Services) -> str:
    """Where the file can be had for its hour. Raises SafelightError: 500 or 503."""
    return url_of(await _kept(file, output_format, services), services)


def url_of(name: str, services: Services) -> str:
    return f"{services.base_url}/files/{name}"


async def _kept(file: bytes, output_format: OutputFormat, services: Services) -> str:
    """The name of the file."""
    try:
        return await asyncio.to_thread(services.files.save, file, output_format)
    except FullStore:
        raise errors.storage_full() from None
    except OSError:
        raise errors.storage_failed() from None
