"""A server's parts with far more models, workers and pictures than anybody has, for scrapes that have much to write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pipelines.figures import ROWS_BOUNDS, SECONDS_BOUNDS, DeviceMemory, ModelFigures, WorkFigures
from pipelines.messages import Figures, ModelReport
from server.app import build_services
from server.core.catalogue_file import load_catalogue
from server.core.observer import Answered, Ended
from server.core.providers import Target
from server.core.settings import Settings
from server.metrics.scrape import Scrape


def figures_of(models: int) -> Figures:
    """Of one worker that has drawn with each model in every number of rows."""
    buckets = tuple(range(len(SECONDS_BOUNDS) + 1))
    work = tuple(
        WorkFigures(f"model-{number}", "denoise", rows, sum(buckets), 100, 12.5, buckets)
        for number in range(models)
        for rows in range(len(ROWS_BOUNDS) + 1)
    )
    of_models = tuple(ModelFigures(f"model-{number}", 1, 2.0, 1, 0, 5, 6, 7, 8) for number in range(models))
    return Figures(work, of_models, DeviceMemory(1 << 37, 1 << 36))


@asynccontextmanager
async def crowded(folder: Path, *, workers: int, models: int) -> AsyncIterator[Scrape]:
    """A scrape of a server that never started, whose lanes and counters hold as much as was asked for."""
    settings = Settings(device=",".join(["cpu"] * workers))
    services = build_services(settings, load_catalogue(settings.models), "http://x", folder)
    for lane in services.dispatcher.lanes:
        lane.totals.take(figures_of(models))
        lane.models = {f"model-{number}": ModelReport(f"model-{number}", None) for number in range(models)}
    for number in range(models):
        target = Target("local", f"model-{number}")
        services.metrics.queued(target.model, 0.5)
        services.metrics.tried(target, "ok", 1.0, 0.01)
        services.metrics.routed(target, "only")
        services.metrics.ended(Ended(target, "generation", "succeeded", 1, 1e6, 1.0))
    services.metrics.arrived()
    services.metrics.answered(Answered("/v1/images/generations", "POST", 400, 0.1, "invalid_parameter"))
    yield Scrape(
        metrics=services.metrics,
        catalogue=services.catalogue,
        dispatcher=services.dispatcher,
        decoder=services.decoder,
        files=services.files,
        files_limit_bytes=settings.files_quota_bytes,
        ledger=services.ledger,
        router=services.router,
    )
