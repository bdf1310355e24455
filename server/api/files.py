"""GET files/<random>.<extension>: a result, for its hour, without a key."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from server.api.services import services_of
from server.core import errors
from server.images.store import FORMATS, ExpiredFile, UnknownFile

# The file is a picture and nothing else: no sniffing, no scripts, no embedding of anything.
SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, max-age=3600, immutable",
    "content-disposition": "inline",
}


async def get_file(request: Request) -> Response:
    """A result file, or its headers."""
    try:
        name = request.path_params["name"]
        content = await asyncio.to_thread(services_of(request).files.read, name)
    except UnknownFile:
        raise errors.file_not_found() from None
    except ExpiredFile:
        raise errors.file_expired() from None
    return Response(content, media_type=f"image/{FORMATS[name.rpartition('.')[2]]}", headers=SAFE_HEADERS)
