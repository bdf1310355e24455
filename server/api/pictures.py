"""The pictures that a request starts from: obtained once, in whatever form they were named, and fitted to what each of
those who could serve draws.

Knows the wire's forms, the fetcher and the decoder; decodes nothing itself.
Invariant: nothing is decoded in this process, nothing is fetched that the settings do not allow, and nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from server.api.asked import Asked
from server.api.control import CONTROL_IMAGE
from server.api.parse_remote import drawn_size, price_usd
from server.api.parsed import Parsed
from server.api.services import Services
from server.api.sources import MAX_FILE_BYTES, Source, content_of, is_web_url, too_large
from server.core import errors
from server.core.providers import LOCAL, Target
from server.core.request import ImageRequest, LocalRequest, RemoteRequest
from server.images.decode import UnusablePicture
from server.images.fetch import UnfetchableUrl, fetch_picture
from server.images.inputs import ImageInputs, refusal
from server.images.pack import NOTHING_MAY_CHANGE


@dataclass(slots=True)
class Pictures:
    """Of one request. Files are kept as they came until the request has ended."""

    asked: Asked
    services: Services
    _files: dict[str, bytes] = field(default_factory=dict)
    _ready: dict[Target, ImageRequest] = field(default_factory=dict)

    async def first_ready(self, candidates: Sequence[Parsed[ImageRequest]]) -> ImageRequest:
        """Of the first that can draw from these pictures; ours is made ready too, as quotas count its pixels, whoever
        is asked first. Raises SafelightError where none can: the first one's."""
        for param, source in (("image", self.asked.image), ("mask", self.asked.mask), (CONTROL_IMAGE, self.asked.hint)):
            if source is not None:
                await self._obtained(param, source)
        found: ImageRequest | None = None
        refusals: list[errors.SafelightError] = []
        for parsed in candidates:
            if found is not None and parsed.target.backend != LOCAL:
                continue
            try:
                ready = await self.ready(parsed)
            except errors.SafelightError as refusal:
                refusals.append(refusal)
            else:
                found = found or ready
        if found is None:
            raise refusals[0]
        return found

    def known(self, parsed: Parsed[ImageRequest]) -> ImageRequest:
        """The complete request, once it was made ready; what was parsed until then."""
        return self._ready.get(parsed.target, parsed.request)

    async def ready(self, parsed: Parsed[ImageRequest]) -> ImageRequest:
        """The complete request. Raises SafelightError: 400 for the image, the mask or the control picture."""
        if parsed.target not in self._ready:
            self._ready[parsed.target] = await self._completed(parsed)
        return self._ready[parsed.target]

    async def _completed(self, parsed: Parsed[ImageRequest]) -> ImageRequest:
        match parsed.request:
            case LocalRequest() as request:
                return await self._for_us(request, parsed)
            case RemoteRequest() as request:
                return await self._for_others(request, parsed)
            case request:
                return request

    async def _for_us(self, request: LocalRequest, parsed: Parsed[ImageRequest]) -> LocalRequest:
        asked_size = parsed.asked_size
        if self.asked.image is not None:
            inputs = await self._fitted(self.asked.image, parsed)
            request = replace(request, size=inputs.size, image=inputs.image, mask=inputs.mask)
            asked_size = inputs.size
        if self.asked.hint is None or request.control is None:
            return request
        # Placed as the image is; without an image and a size the hint's own shape is drawn.
        content = await self._obtained(CONTROL_IMAGE, self.asked.hint)
        inputs = await self.services.decoder.fit(content, None, asked_size, parsed.limits, CONTROL_IMAGE)
        return replace(request, size=inputs.size, control=msgspec.structs.replace(request.control, hint=inputs.image))

    async def _for_others(self, request: RemoteRequest, parsed: Parsed[ImageRequest]) -> RemoteRequest:
        """As the provider's model takes them: PNG files of the size that it draws."""
        if self.asked.image is None:
            return request
        upstream = self.services.reach.upstreams[parsed.target]
        can = upstream.can
        # Who draws a few sizes and no others cannot keep a picture's shape.
        is_bound = bool(can.sizes) and not can.fits_sizes
        asked_size = parsed.asked_size or (can.default_size if is_bound else None)
        inputs = await self._fitted(self.asked.image, replace(parsed, asked_size=asked_size))
        drawn = drawn_size(inputs.size, can)
        try:
            packed = await self.services.decoder.packed(inputs, drawn, can.mask_colours, can.max_image_bytes)
        except UnusablePicture as problem:
            param = "mask" if problem.reason == NOTHING_MAY_CHANGE else "image"
            raise refusal(param, f"the file {problem.reason}") from None
        return replace(
            request,
            size=inputs.size,
            drawn_size=drawn,
            image=packed.image,
            mask=packed.mask,
            price_usd=price_usd(drawn, self.asked, upstream),
        )

    async def _fitted(self, image: Source, parsed: Parsed[ImageRequest]) -> ImageInputs:
        file = await self._obtained("image", image)
        mask = None if self.asked.mask is None else await self._obtained("mask", self.asked.mask)
        return await self.services.decoder.fit(file, mask, parsed.asked_size, parsed.limits)

    async def _obtained(self, param: str, source: Source) -> bytes:
        """The file itself."""
        if param not in self._files:
            self._files[param] = await _file_of(param, source, self.services)
        return self._files[param]


async def _file_of(param: str, source: Source, services: Services) -> bytes:
    if isinstance(source, bytes):
        return _bounded(param, source)
    if is_web_url(source):
        return await _fetched(param, str(source), services)
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
