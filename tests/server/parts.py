"""Parts of a server joined for tests: the parse for our own models, a router over a dispatcher, and all that routes
work with, without a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI

from server.access.door import OPEN_DOOR
from server.api.envelope import install_handlers
from server.api.parse import Reach, parse
from server.api.parsed import Parsed
from server.api.routes import add_routes
from server.api.services import Services
from server.backends.local import LocalBackend
from server.core.catalogue import Catalogue
from server.core.catalogue_file import load_catalogue
from server.core.providers import LOCAL
from server.core.request import LocalRequest, Operation, ResponseFormat
from server.core.settings import load_settings
from server.dispatch.dispatcher import Dispatcher
from server.images.decoder import Decoder
from server.images.fetch import FetchPolicy
from server.images.store import FileStore
from server.ledger.ledger import Ledger
from server.routing.accounts import Accounts
from server.routing.allowance import Allowance
from server.routing.choice import Weights
from server.routing.router import Router

TINY = """\
default_model: tiny
models:
  tiny:
    family: sdxl
    source: weights/tiny
    defaults: {size: 64x64, steps: 10}
    limits: {min_side_px: 64, max_side_px: 128, side_multiple_px: 16, max_pixels: 16384}
"""


def parse_locally(
    operation: Operation, values: Mapping[str, Any], catalogue: Catalogue, local_format: ResponseFormat = "url"
) -> Parsed[LocalRequest]:
    """What the only candidate would draw."""
    (candidate,) = parse(operation, values, Reach(catalogue, local_format=local_format))
    return cast("Parsed[LocalRequest]", candidate)


def local_backend(dispatcher: object, *, usd_per_device_hour: float = 0.0) -> LocalBackend:
    """dispatcher: anything that draws as the real one does."""
    fake = cast(Dispatcher, dispatcher)
    return LocalBackend(fake, has_facts=True, usd_per_device_hour=usd_per_device_hour)


def local_router(local: LocalBackend, ledger: Ledger) -> Router:
    """Nobody else is asked."""
    return Router({LOCAL: local}, {}, Accounts(ledger, {}), Weights(100.0, 30.0), Allowance(0.2))


def services_in(folder: Path, dispatcher: object, models: str = TINY) -> Services:
    """Open to all, with books and files in the folder; nothing of it is started. dispatcher: draws for `tiny`. models:
    the text of models.yaml."""
    (folder / "models.yaml").write_text(models)
    catalogue = load_catalogue(folder / "models.yaml")
    local = local_backend(dispatcher)
    ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
    return Services(
        settings=load_settings({}),
        door=OPEN_DOOR,
        catalogue=catalogue,
        dispatcher=cast(Dispatcher, dispatcher),
        files=FileStore(folder, 60, 10**9),
        decoder=Decoder(),
        fetch_policy=FetchPolicy("off"),
        reach=Reach(catalogue),
        local=local,
        router=local_router(local, ledger),
        ledger=ledger,
        remotes=(),
        base_url="http://test",
        started_unix_seconds=0,
    )


def routes_over(services: Services) -> FastAPI:
    """The routes and their gates, without an edge."""
    app = FastAPI(openapi_url=None)
    app.state.services = services
    install_handlers(app)
    add_routes(app)
    return app


@dataclass(slots=True)
class Clock:
    """Shows what it is set to: seconds."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now
