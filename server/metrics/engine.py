"""The workers as metrics: what they have counted, how they are, and where their models are.

Knows figures and the table; knows no process and asks no worker: a dead one's figures are there as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import msgspec
from prometheus_client.metrics_core import Metric

from pipelines.figures import ROWS_BOUNDS, WorkFigures, WorkKind
from pipelines.messages import ModelReport, ModelState
from server.core.worker_names import id_of
from server.dispatch.lane import Lane
from server.dispatch.totals import Totals
from server.metrics import table
from server.metrics.family import counter, gauge, histogram

MORE = "more"


MODEL_STATES: tuple[ModelState, ...] = get_args(ModelState)


@dataclass(frozen=True, slots=True)
class LaneView:
    """One lane at one moment: nothing here changes any more. worker: its place, from "0"."""

    worker: str
    device: str
    is_ready: bool
    restarts: int
    totals: Totals
    reports: Mapping[str, ModelReport]

    def work(self, kind: WorkKind | None = None) -> list[WorkFigures]:
        return [one for one in self.totals.work() if kind in (None, one.kind)]


def view_of(place: int, lane: Lane) -> LaneView:
    """Quick: only references are taken."""
    device = lane.device or lane.asked_device
    return LaneView(str(place), device, lane.is_ready, lane.restarts, lane.totals.frozen(), _by_id(lane.models))


def _by_id(reports: Mapping[str, ModelReport]) -> dict[str, ModelReport]:
    """Under the ids of models.yaml. Of a model that was changed, and whose older form still leaves, the newest."""
    return {id_of(name): msgspec.structs.replace(reports[name], id=id_of(name)) for name in sorted(reports, key=_age)}


def _age(worker_name: str) -> tuple[int, str]:
    """Newer names sort behind older ones of the same model: their numbers are larger."""
    return len(worker_name), worker_name


def families(lanes: Sequence[LaneView]) -> list[Metric]:
    reports = [(lane.worker, report) for lane in lanes for report in lane.reports.values()]
    memory = [(lane.worker, lane.totals.memory) for lane in lanes if lane.totals.memory is not None]
    return [
        gauge(table.WORKER_UP, [((lane.worker,), lane.is_ready) for lane in lanes]),
        gauge(table.WORKER_INFO, [((lane.worker, lane.device), 1) for lane in lanes]),
        counter(table.RESTARTS, [((lane.worker,), lane.restarts) for lane in lanes]),
        gauge(table.MODEL_STATE, [pair for worker, report in reports for pair in _states(worker, report)]),
        gauge(table.MODEL_BYTES, [((worker, report.id), report.device_bytes) for worker, report in reports]),
        histogram(table.STEP_SECONDS, _steps(lanes)),
        histogram(table.STEP_ROWS, _rows(lanes)),
        histogram(table.PREPARE_SECONDS, _items(lanes, "prepare")),
        histogram(table.DECODE_SECONDS, _items(lanes, "decode")),
        counter(table.BUSY_SECONDS, [((lane.worker,), sum(one.seconds for one in lane.work())) for lane in lanes]),
        counter(table.OUT_OF_MEMORY, _of_models(lanes, "out_of_memory")),
        counter(table.LOADS, _of_models(lanes, "loads")),
        counter(table.LOAD_SECONDS, _of_models(lanes, "load_seconds")),
        counter(table.EVICTIONS, _of_models(lanes, "evictions")),
        counter(
            table.PROMPT_LOOKUPS,
            [
                ((lane.worker, one.model, result), count)
                for lane in lanes
                for one in lane.totals.models()
                for result, count in (("hit", one.prompt_hits), ("miss", one.prompt_misses))
            ],
        ),
        gauge(
            table.CACHE_BYTES,
            [
                ((lane.worker, one.model, cache), held)
                for lane in lanes
                for one in lane.totals.models()
                for cache, held in (("prompts", one.prompt_cache_bytes), ("adapters", one.adapter_bytes))
            ],
        ),
        gauge(table.DEVICE_BYTES, [((worker,), one.total_bytes) for worker, one in memory]),
        gauge(table.DEVICE_USED_BYTES, [((worker,), one.used_bytes) for worker, one in memory]),
    ]


def _steps(lanes: Sequence[LaneView]) -> list[tuple[tuple[str, ...], Sequence[int], float]]:
    return [
        ((lane.worker, one.model, _rows_word(one.rows_bucket)), one.buckets, one.seconds)
        for lane in lanes
        for one in lane.work("denoise")
    ]


def _states(worker: str, report: ModelReport) -> list[tuple[tuple[str, str, str], bool]]:
    return [((worker, report.id, state), state == report.state) for state in MODEL_STATES]


def _rows_word(bucket: int) -> str:
    return str(ROWS_BOUNDS[bucket]) if bucket < len(ROWS_BOUNDS) else MORE


def _rows(lanes: Sequence[LaneView]) -> list[tuple[tuple[str, ...], Sequence[int], float]]:
    """How many steps had so many rows."""
    counts: dict[tuple[str, str], list[int]] = {}
    sums: dict[tuple[str, str], float] = {}
    for lane in lanes:
        for one in lane.work("denoise"):
            key = (lane.worker, one.model)
            counts.setdefault(key, [0] * (len(ROWS_BOUNDS) + 1))[one.rows_bucket] += one.items
            sums[key] = sums.get(key, 0.0) + one.rows
    return [(key, counts[key], sums[key]) for key in counts]


def _items(lanes: Sequence[LaneView], kind: WorkKind) -> list[tuple[tuple[str, ...], Sequence[int], float]]:
    """Of all sizes of batches together."""
    buckets: dict[tuple[str, str], list[int]] = {}
    sums: dict[tuple[str, str], float] = {}
    for lane in lanes:
        for one in lane.work(kind):
            key = (lane.worker, one.model)
            known = buckets.get(key, [0] * len(one.buckets))
            buckets[key] = [a + b for a, b in zip(known, one.buckets, strict=True)]
            sums[key] = sums.get(key, 0.0) + one.seconds
    return [(key, buckets[key], sums[key]) for key in buckets]


def _of_models(lanes: Sequence[LaneView], name: str) -> list[tuple[tuple[str, ...], float]]:
    return [((lane.worker, one.model), getattr(one, name)) for lane in lanes for one in lane.totals.models()]
