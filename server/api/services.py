"""What the routes work with, handed to them by the application: no globals."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request

from server.core.catalogue import Catalogue
from server.core.settings import Settings
from server.dispatch.dispatcher import Dispatcher
from server.images.store import FileStore

# A picture at the limit of pixels takes about a gigabyte while it is decoded.
DECODINGS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Services:
    """One server's parts. `base_url` is what result URLs start with, without a slash at the end. `decoding` is held by
    those who decode a caller's picture."""

    settings: Settings
    catalogue: Catalogue
    dispatcher: Dispatcher
    files: FileStore
    base_url: str
    started_unix_seconds: int
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DECODINGS_AT_ONCE))


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services
