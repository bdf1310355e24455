"""The composition root: the only place where the server's parts are built and joined.

Knows every part; decides nothing. Importing it imports no torch and starts nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.leaks import Leaks, Planted
from pipelines.messages import EngineOptions
from server import __version__
from server.api.description import describe
from server.api.envelope import Edge, install_handlers
from server.api.parse import Reach
from server.api.routes import add_routes
from server.api.services import Services
from server.backends.local import LocalBackend
from server.core.catalogue import Catalogue
from server.core.providers import LOCAL
from server.core.settings import Settings
from server.dispatch.dispatcher import Dispatcher
from server.dispatch.worker_process import WorkerSettings
from server.images.decoder import Decoder
from server.images.fetch import FetchPolicy, trusted_authorities
from server.images.store import FileStore, ResultStore
from server.ledger.ledger import Ledger
from server.remotes import Remotes, remote_backends
from server.routing.accounts import Accounts
from server.routing.allowance import Allowance
from server.routing.choice import Weights
from server.routing.router import Router

log = logging.getLogger("safelight.app")
SUMMARY = "OpenAI's image API, on your own hardware. Every route is also served under /api and without a prefix."
SWEEP_SECONDS = 30.0
# Headers that pages of other origins may read.
EXPOSED_HEADERS = (
    "x-request-id",
    "openai-processing-ms",
    "retry-after",
    "x-should-retry",
    "x-safelight-ignored",
    "x-safelight-backend",
    "x-safelight-attempts",
    "x-safelight-route",
    "x-safelight-drawn-size",
)


def build_services(
    settings: Settings, catalogue: Catalogue, base_url: str, files_folder: Path, ledger_url: str
) -> Services:
    """The parts of one server, built but not started. base_url: what result URLs start with. ledger_url: where the
    books are kept."""
    workers, decoder = worker_settings(settings, catalogue), Decoder()
    dispatcher = Dispatcher(workers, settings.max_waiting_images, settings.drain_seconds)
    local = LocalBackend(
        dispatcher,
        {model: entry.family for model, entry in catalogue.models.items()},
        has_facts=settings.embed_facts,
        usd_per_device_hour=settings.device_usd_per_hour,
    )
    ledger, remotes = Ledger(ledger_url), remote_backends(settings, catalogue, decoder)
    return Services(
        settings=settings,
        catalogue=catalogue,
        dispatcher=dispatcher,
        files=FileStore(files_folder, settings.file_lifetime_seconds, settings.files_quota_bytes),
        decoder=decoder,
        fetch_policy=fetch_policy(settings),
        reach=Reach(catalogue, remotes.upstreams, settings.default_response_format),
        local=local,
        router=build_router(settings, catalogue, local, remotes, ledger),
        ledger=ledger,
        remotes=tuple(remotes.backends.values()),
        base_url=base_url.rstrip("/"),
        started_unix_seconds=int(time.time()),
    )


def build_router(
    settings: Settings, catalogue: Catalogue, local: LocalBackend, remotes: Remotes, ledger: Ledger
) -> Router:
    """Who may be asked, and by what rule."""
    caps_usd: dict[str | None, float] = {
        name: entry.daily_usd for name, entry in catalogue.backends.items() if entry.daily_usd is not None
    }
    if settings.daily_usd is not None:
        caps_usd[None] = settings.daily_usd
    return Router(
        backends={LOCAL: local, **remotes.backends},
        upstreams=remotes.upstreams,
        accounts=Accounts(ledger, caps_usd),
        weights=Weights(settings.route_seconds_per_usd, settings.route_seconds_per_place),
        allowance=Allowance(settings.fallback_share),
    )


def worker_settings(settings: Settings, catalogue: Catalogue) -> tuple[WorkerSettings, ...]:
    """For the worker of each device; they share the CPU's threads."""
    cache = settings.compile_cache_folder
    return tuple(
        WorkerSettings(
            models=catalogue.specs(),
            device=device,
            threads=max(1, settings.threads // len(settings.devices)),
            silence_seconds=settings.worker_silence_seconds,
            options=engine_options(settings, catalogue.never_together),
            compile_cache=None if cache is None else str(cache.resolve()),
        )
        for device in settings.devices
    )


def fetch_policy(settings: Settings) -> FetchPolicy | None:
    """None offline, whatever else is set: then nothing is there that could fetch."""
    if not settings.offline:
        return FetchPolicy(settings.image_urls, settings.image_url_hosts)
    if settings.image_urls != "off":
        log.warning("offline: no pictures are fetched", extra={"image_urls": settings.image_urls})
    return None


def engine_options(settings: Settings, never_together: tuple[tuple[str, ...], ...] = ()) -> EngineOptions:
    """What of the settings and the catalogue is the workers' business."""
    return EngineOptions(
        policy=settings.scheduling_policy,
        max_rows=settings.batch_max_rows,
        exact_rows=settings.batch_exact_rows,
        memory_bytes=settings.job_memory_bytes,
        prompt_cache_bytes=settings.prompt_cache_bytes,
        weights_memory=settings.weights_memory,
        host_memory=settings.host_memory,
        never_together=never_together,
    )


def build_app(services: Services) -> ASGIApp:
    """The whole server as one ASGI application; its lifespan starts and ends the worker."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(services.files.open)
        async with _running(services):
            yield

    # Its pages under /docs need nothing from the internet.
    app = FastAPIOffline(
        title="Safelight",
        version=__version__,
        description=SUMMARY,
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.services = services
    install_handlers(app)
    add_routes(app)
    describe(app)
    if services.settings.cors_origins:
        allow_origins(app, services.settings.cors_origins)
    return Edge(leaking(app, Planted.in_environment()))


def leaking(app: ASGIApp, planted: Planted) -> ASGIApp:
    """The application itself, but in tests of the soak."""
    if not planted.server:
        return app
    leaks = Leaks(planted.server)

    async def losing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            leaks.lose()
        await app(scope, receive, send)

    return losing


def allow_origins(app: FastAPI, origins: tuple[str, ...]) -> None:
    """Let the pages of these origins call the server, with the headers that the official clients send."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
    )


@contextlib.asynccontextmanager
async def _running(services: Services) -> AsyncIterator[None]:
    if services.fetch_policy is not None and services.fetch_policy.mode != "off":
        await asyncio.to_thread(trusted_authorities)  # else the first fetch would hold the loop for as long
    services.dispatcher.start()
    await services.decoder.start()
    sweeper = asyncio.create_task(_sweep(services.files), name="file-sweeper")
    try:
        yield
    finally:
        sweeper.cancel()
        await services.dispatcher.stop()
        await services.decoder.stop()
        await services.router.finish()
        await asyncio.gather(*(backend.close() for backend in services.remotes))
        await asyncio.to_thread(services.files.close)


async def _sweep(store: ResultStore) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await asyncio.to_thread(store.sweep)
        except OSError:
            log.exception("expired files could not be deleted; trying again")
