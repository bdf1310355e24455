"""The composition root: the only place where the server's parts are built and joined.

Knows every part; decides nothing. Importing it imports no torch and starts nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.datastructures import State
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from pipelines.messages import EngineOptions
from server import __version__
from server.api.description import describe
from server.api.editions import Tenancy
from server.api.envelope import Edge, install_handlers
from server.api.parse import Reach
from server.api.routes import add_routes
from server.api.services import Services
from server.backends.local import LocalBackend
from server.core.catalogue import Catalogue
from server.core.loop_lag import LagListener, LoopLag, unheard
from server.core.providers import LOCAL
from server.core.settings import Settings
from server.dispatch.dispatcher import Dispatcher
from server.dispatch.worker_process import WorkerSettings
from server.images.decoder import Decoder
from server.images.fetch import FetchPolicy, trusted_authorities
from server.images.store import FileStore, ResultStore
from server.ledger.ledger import Ledger
from server.reload import Reloader
from server.remotes import Remotes, remote_backends
from server.routing.accounts import Accounts, caps_usd
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
        specs={spec.id: spec for spec in catalogue.specs()},
    )


def build_router(
    settings: Settings, catalogue: Catalogue, local: LocalBackend, remotes: Remotes, ledger: Ledger
) -> Router:
    """Who may be asked, and by what rule."""
    return Router(
        backends={LOCAL: local, **remotes.backends},
        upstreams=remotes.upstreams,
        accounts=Accounts(ledger, caps_usd(catalogue.backends, settings.daily_usd)),
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
        step_timeout_seconds=settings.step_timeout_seconds,
    )


def build_app(services: Services, reloader: Reloader | None = None, on_lag: LagListener = unheard) -> ASGIApp:
    """The whole server as one ASGI application; its lifespan starts and ends the worker. reloader: holds the services
    as its first edition. on_lag: hears how late the event loop is, in seconds, all the time."""
    reloader = reloader or Reloader(State({"services": services}))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(services.files.open)
        async with _running(services, reloader, on_lag):
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
    app.state = reloader.editions.state
    app.state.reload = reloader.reload
    install_handlers(app)
    add_routes(app)
    describe(app)
    if services.settings.cors_origins:
        allow_origins(app, services.settings.cors_origins)
    return Edge(Tenancy(app, reloader.editions))


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
async def _running(services: Services, reloader: Reloader, on_lag: LagListener) -> AsyncIterator[None]:
    if services.fetch_policy is not None and services.fetch_policy.mode != "off":
        await asyncio.to_thread(trusted_authorities)  # else the first fetch would hold the loop for as long
    services.dispatcher.start()
    await services.decoder.start()
    beside = (
        asyncio.create_task(_sweep(services.files), name="file-sweeper"),
        asyncio.create_task(LoopLag(on_lag).run(), name="loop-lag"),
    )
    _spare_what_stays()
    try:
        yield
    finally:
        for task in beside:
            task.cancel()
        await services.dispatcher.stop()
        await services.decoder.stop()
        await services.router.finish()
        await reloader.close()
        await asyncio.to_thread(services.files.close)


def _spare_what_stays() -> None:
    """Modules, routes and schemas are there for ever: a collection that looked at them all would hold the loop for as
    long as a tenth of a second, again and again."""
    gc.collect()
    gc.freeze()


async def _sweep(store: ResultStore) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await asyncio.to_thread(store.sweep)
        except OSError:
            log.exception("expired files could not be deleted; trying again")
