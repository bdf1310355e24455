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
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.leaks import Leaks, Planted
from pipelines.messages import EngineOptions
from server import __version__
from server.access.door import door_of
from server.api.description import describe
from server.api.editions import Tenancy
from server.api.envelope import Edge, install_handlers
from server.api.gate import needs_of
from server.api.origins import METHODS, Origins
from server.api.parse import Reach
from server.api.repeats import REPEAT_HEADERS
from server.api.routes import add_routes
from server.api.services import Services
from server.backends.local import LocalBackend
from server.core.caller import Limits
from server.core.catalogue import Catalogue
from server.core.loop_lag import LagListener, LoopLag
from server.core.observer import DEAF, Observer
from server.core.prompt_log import PromptLog
from server.core.providers import LOCAL
from server.core.settings import Settings
from server.dispatch.dispatcher import Dispatcher
from server.dispatch.worker_process import WorkerSettings
from server.idempotency.desk import Desk
from server.idempotency.shelf import Shelf
from server.images.decoder import Decoder
from server.images.fetch import FetchPolicy, trusted_authorities
from server.images.networks import is_near
from server.images.store import FileStore, ResultStore
from server.ledger.ledger import Ledger
from server.ledger.retention import forget_old
from server.limits.limiter import Limiter
from server.limits.shared import Shared
from server.metrics.metrics import Metrics
from server.metrics.traces import Traces
from server.policy.building import build_policy
from server.policy.policy import OnDecision
from server.reload import Reloader
from server.remotes import Remotes, remote_backends
from server.routing.accounts import Accounts, caps_usd
from server.routing.allowance import Allowance
from server.routing.choice import Weights
from server.routing.router import Router
from server.routing.telling import Telling

log = logging.getLogger("safelight.app")
SUMMARY = (
    "OpenAI's image API, on your own hardware. Every route is also served under /api and without a prefix. "
    "Requests for pictures may carry an Idempotency-Key of 1 to 255 visible ASCII characters: then they are drawn once."
)
SWEEP_SECONDS = 30.0
# FastAPI would send traces, metrics and logs of its own wherever OTEL_* in the environment says.
NO_TELEMETRY: TelemetryConfig = {"auto_configure": False, "tracing": False, "metrics": False, "logs": False}
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
    *REPEAT_HEADERS,
    *(f"x-ratelimit-{part}-{what}" for what in ("requests", "images") for part in ("limit", "remaining", "reset")),
)


def build_services(settings: Settings, catalogue: Catalogue, base_url: str, own_folder: Path) -> Services:
    """The parts of one server, built but not started. base_url: what result URLs start with. own_folder: for what the
    settings give no other place; it may go with the server. Raises KeysProblem when there are no keys where there must
    be, and PolicyProblem for checks that cannot be used."""
    metrics = Metrics()
    workers, decoder = worker_settings(settings, catalogue), Decoder(observer=metrics)
    dispatcher = Dispatcher(workers, settings.max_waiting_images, settings.drain_seconds)
    local = LocalBackend(
        dispatcher,
        has_facts=settings.embed_facts,
        usd_per_device_hour=settings.device_usd_per_hour,
        observer=metrics,
    )
    ledger = Ledger(settings.ledger or f"sqlite:///{own_folder / 'ledger.sqlite'}")
    remotes = remote_backends(settings, catalogue, decoder)
    files_folder = settings.files_folder or own_folder / "files"
    answers_folder = settings.idempotency_folder or own_folder / "answers"
    return Services(
        settings=settings,
        door=door_of(settings),
        catalogue=catalogue,
        dispatcher=dispatcher,
        files=FileStore(files_folder, settings.file_lifetime_seconds, settings.files_quota_bytes),
        decoder=decoder,
        fetch_policy=fetch_policy(settings),
        reach=Reach(catalogue, remotes.upstreams, settings.default_response_format),
        local=local,
        router=build_router(settings, catalogue, local, remotes, ledger, metrics),
        ledger=ledger,
        metrics=metrics,
        traces=build_traces(settings, metrics),
        remotes=tuple(remotes.backends.values()),
        base_url=base_url.rstrip("/"),
        started_unix_seconds=int(time.time()),
        desk=Desk(Shelf(answers_folder, settings.idempotency_quota_bytes)),
        policy=build_policy(settings, catalogue, ledger.decide, counting(metrics)),
        limiter=build_limiter(settings),
        specs={spec.id: spec for spec in catalogue.specs()},
    )


def counting(observer: Observer) -> OnDecision:
    """What the content checks decide, told to an observer."""
    return lambda decision: observer.judged(decision.check_name, decision.decision)


def build_limiter(settings: Settings) -> Limiter:
    """What the server as a whole takes in a minute and at one time; the day's work is kept in the books."""
    own = Limits(settings.requests_per_minute, settings.images_per_minute, settings.concurrent_images)
    in_memory = settings.limits_storage.startswith("memory:")
    return Limiter(own, None if in_memory else Shared(settings.limits_storage))


def build_router(
    settings: Settings,
    catalogue: Catalogue,
    local: LocalBackend,
    remotes: Remotes,
    ledger: Ledger,
    observer: Observer = DEAF,
) -> Router:
    """Who may be asked, and by what rule."""
    return Router(
        backends={LOCAL: local, **remotes.backends},
        upstreams=remotes.upstreams,
        accounts=Accounts(
            ledger, caps_usd(catalogue.backends, settings.daily_usd), settings.work_units_per_day, observer
        ),
        weights=Weights(settings.route_seconds_per_usd, settings.route_seconds_per_place),
        allowance=Allowance(settings.fallback_share),
        telling=Telling(observer, PromptLog(settings.log_prompts)),
    )


def build_traces(settings: Settings, metrics: Metrics) -> Traces | None:
    """None where nobody traces. Offline, spans go no further than an address of a private network."""
    if settings.otlp_endpoint is None:
        return None
    if settings.offline and not is_near(settings.otlp_endpoint):
        log.warning("offline: no traces are sent, as the collector's host is no private address")
        return None
    return Traces(settings.otlp_endpoint, lambda spans, is_lost: metrics.exported(spans, is_lost=is_lost))


def worker_settings(settings: Settings, catalogue: Catalogue) -> tuple[WorkerSettings, ...]:
    """For the worker of each device; they share the CPU's threads."""
    cache = settings.compile_cache_folder
    return tuple(
        WorkerSettings(
            models=catalogue.specs(),
            device=device,
            threads=max(1, settings.threads // len(settings.devices)),
            silence_seconds=settings.worker_silence_seconds,
            options=engine_options(settings, catalogue.never_together, catalogue.safety_checker),
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


def engine_options(
    settings: Settings, never_together: tuple[tuple[str, ...], ...] = (), safety_checker: str | None = None
) -> EngineOptions:
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
        safety_checker=safety_checker,
        step_timeout_seconds=settings.step_timeout_seconds,
    )


def build_app(services: Services, reloader: Reloader | None = None, on_lag: LagListener | None = None) -> ASGIApp:
    """The whole server as one ASGI application; its lifespan starts and ends the worker. reloader: holds the services
    as its first edition. on_lag: hears how late the event loop is, in seconds, in the place of the metrics."""
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
        telemetry=NO_TELEMETRY,
    )
    app.state = reloader.editions.state
    app.state.reload = reloader.reload
    install_handlers(app)
    add_routes(app)
    describe(app, needs_of(app) if services.door.asks_for_keys else {})
    if services.settings.cors_origins:
        allow_origins(app, services.settings.cors_origins)
    traces = services.traces
    own = leaking(Tenancy(app, reloader.editions), Planted.in_environment())
    return Edge(own, services.metrics, None if traces is None else traces.take)


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
    """Let the pages of these origins call the server, with the headers that the official clients send. A server is
    most often in a private network; pages of all the world are not let into it, only those of named origins."""
    app.add_middleware(
        Origins,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=["*"],
        allow_private_network="*" not in origins,
        expose_headers=EXPOSED_HEADERS,
    )


@contextlib.asynccontextmanager
async def _running(services: Services, reloader: Reloader, on_lag: LagListener | None) -> AsyncIterator[None]:
    if services.fetch_policy is not None and services.fetch_policy.mode != "off":
        await asyncio.to_thread(trusted_authorities)  # else the first fetch would hold the loop for as long
    if services.traces is not None:
        services.traces.start()
    services.dispatcher.start()
    services.limiter.start()
    await services.decoder.start()
    chores = (
        asyncio.create_task(_sweep(services.files, services.desk), name="file-sweeper"),
        asyncio.create_task(services.door.watch(), name="doorkeeper"),
        asyncio.create_task(forget_old(services.ledger, services.settings.ledger_keep_days), name="ledger-retention"),
        asyncio.create_task(LoopLag(on_lag or services.metrics.lagged).run(), name="loop-lag"),
    )
    _spare_what_stays()
    try:
        yield
    finally:
        for chore in chores:
            chore.cancel()
        await services.desk.close()
        await services.dispatcher.stop()
        await services.decoder.stop()
        await services.router.finish()
        await services.limiter.stop()
        await reloader.close()
        await asyncio.to_thread(services.files.close)
        if services.traces is not None:
            await services.traces.stop()


def _spare_what_stays() -> None:
    """Modules, routes and schemas are there for ever: a collection that looked at them all would hold the loop for as
    long as a tenth of a second, again and again."""
    gc.collect()
    gc.freeze()


async def _sweep(store: ResultStore, desk: Desk) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await asyncio.to_thread(store.sweep)
            await desk.sweep()
        except OSError:
            log.exception("expired files could not be deleted; trying again")
