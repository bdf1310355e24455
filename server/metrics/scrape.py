"""One answer to Prometheus: what was counted, and what is read from the server's parts at this moment.

Knows the parts that it reads; changes none of them, and asks no worker, no provider and no database.
Invariant: on the event loop only plain numbers are taken, and a dead worker keeps nobody waiting. The page is written
in a thread, which gives way after each millisecond or so.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from server import __version__
from server.core.catalogue import Catalogue
from server.dispatch.dispatcher import Dispatcher
from server.images.decoder import Decoder
from server.images.store import ResultStore
from server.ledger.ledger import Ledger
from server.metrics import engine, processes, table
from server.metrics.engine import LaneView, view_of
from server.metrics.family import counter, gauge
from server.metrics.metrics import Metrics
from server.routing.router import Router, TargetState

PLAIN_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
END = b"# EOF\n"
# So many are written in about a millisecond.
PIECE_SAMPLES = 50
TARGET_STATES: tuple[TargetState, ...] = get_args(TargetState)


@dataclass(frozen=True, slots=True)
class Page:
    content: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Scrape:
    """What is read of one server."""

    metrics: Metrics
    catalogue: Catalogue
    dispatcher: Dispatcher
    decoder: Decoder
    files: ResultStore
    files_limit_bytes: int
    ledger: Ledger
    router: Router

    async def page(self, accept: str) -> Page:
        """accept: the header that says which format is wanted."""
        taken = self._taken()
        return await asyncio.to_thread(_written, self.metrics.registry, taken, wants_openmetrics(accept))

    def _taken(self) -> _Taken:
        """As things are now: quick, as the loop waits."""
        dispatcher, now_seconds = self.dispatcher, asyncio.get_running_loop().time()
        lanes = tuple(view_of(place, lane) for place, lane in enumerate(dispatcher.lanes))
        workers = {f"worker-{place}": lane.pid for place, lane in enumerate(dispatcher.lanes) if lane.is_ready}
        pids = {"server": os.getpid(), **workers, "decoder": next(iter(self.decoder.pids), None)}
        return _Taken(
            lanes=lanes,
            pids={name: pid for name, pid in pids.items() if pid is not None},
            more=[*self._of_jobs(now_seconds), *self._of_backends(), *self._of_the_rest()],
        )

    def _of_jobs(self, now_seconds: float) -> Iterator[Metric]:
        counts, words = self.dispatcher.counts(), {False: "waiting", True: "working"}
        models = self.catalogue.models
        yield gauge(
            table.JOBS,
            [((model, word), counts[model, has_begun]) for model in models for has_begun, word in words.items()],
        )
        yield gauge(table.JOBS_LIMIT, [((), self.dispatcher.max_waiting)])
        yield gauge(table.OLDEST, [((), self.dispatcher.oldest_wait_seconds(now_seconds))])
        yield counter(table.REDRAWN, [((), self.dispatcher.redrawn)])

    def _of_backends(self) -> Iterator[Metric]:
        states = {target: self.router.state_of(target) for target in self.router.upstreams}
        yield gauge(
            table.BACKEND_STATE,
            [
                ((target.backend, target.model, word), word == state)
                for target, state in states.items()
                for word in TARGET_STATES
            ],
        )
        yield gauge(table.DAILY_LIMIT, [((name or "all",), usd) for name, usd in self.router.accounts.caps_usd.items()])

    def _of_the_rest(self) -> Iterator[Metric]:
        yield counter(table.COMMITS, [((), self.ledger.commits)])
        yield gauge(table.FILES_BYTES, [((), self.files.held_bytes)])
        yield gauge(table.FILES_LIMIT, [((), self.files_limit_bytes)])
        yield gauge(table.READY, [((), self._is_ready())])
        yield gauge(table.INFO, [((__version__,), 1)])

    def _is_ready(self) -> bool:
        lanes = [lane for lane in self.dispatcher.lanes if lane.is_ready]
        can_serve = any(report.problem is None for lane in lanes for report in lane.models.values())
        return can_serve and not self.dispatcher.is_draining


@dataclass(frozen=True, slots=True)
class _Taken:
    """What the loop has handed over. pids: of the processes, by name."""

    lanes: tuple[LaneView, ...]
    pids: Mapping[str, int]
    more: Sequence[Metric]


def wants_openmetrics(accept: str) -> bool:
    """Prometheus names both kinds, and the newer one where it can read it."""
    return any(part.partition(";")[0].strip() == "application/openmetrics-text" for part in accept.split(","))


class _Piece(Collector):
    """Some samples of one metric as a registry of their own, so that the page can be written in pieces."""

    def __init__(self, metric: Metric, first: int) -> None:
        self._piece = Metric(metric.name, metric.documentation, metric.type, metric.unit)
        self._piece.samples = metric.samples[first : first + PIECE_SAMPLES]

    def collect(self) -> Iterable[Metric]:
        return (self._piece,)


def _written(registry: CollectorRegistry, taken: _Taken, is_openmetrics: bool) -> Page:
    """Runs in a thread."""
    parts: list[bytes] = []
    write: Callable[[Collector], bytes] = openmetrics.generate_latest if is_openmetrics else generate_latest
    for metric in _all(registry, taken):
        for first in range(0, max(1, len(metric.samples)), PIECE_SAMPLES):
            piece = write(_Piece(metric, first)).removesuffix(END)
            parts.append(piece if first == 0 else _without_head(piece))
            time.sleep(0)  # the event loop's turn, if it has something to do
    if is_openmetrics:
        return Page(b"".join([*parts, END]), OPENMETRICS_TYPE)
    return Page(b"".join(parts), PLAIN_TYPE)


def _without_head(piece: bytes) -> bytes:
    """A metric has one head, whatever pieces it is written in."""
    return b"".join(line for line in piece.splitlines(keepends=True) if not line.startswith(b"# "))


def _all(registry: CollectorRegistry, taken: _Taken) -> Iterator[Metric]:
    yield from registry.collect()
    yield from taken.more
    yield from engine.families(taken.lanes)
    yield from processes.families(taken.pids)
