"""What the workers have counted, as metrics: steps, rows, loads, caches and memory of each lane.

Knows figures and the table; knows no process and asks no worker: a dead one's figures are there as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric

from pipelines.figures import ROWS_BOUNDS, DeviceMemory, ModelFigures, WorkFigures, WorkKind
from server.metrics import table
from server.metrics.family import counter, gauge, histogram

MORE = "more"


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """One lane's. worker: its place, from "0"."""

    worker: str
    work: Sequence[WorkFigures]
    models: Sequence[ModelFigures]
    memory: DeviceMemory | None


def families(lanes: Sequence[LaneFigures]) -> list[Metric]:
    return [
        histogram(table.STEP_SECONDS, _steps(lanes)),
        histogram(table.STEP_ROWS, _rows(lanes)),
        histogram(table.PREPARE_SECONDS, _items(lanes, "prepare")),
        histogram(table.DECODE_SECONDS, _items(lanes, "decode")),
        counter(table.BUSY_SECONDS, [((lane.worker,), sum(one.seconds for one in lane.work)) for lane in lanes]),
        counter(table.OUT_OF_MEMORY, _of_models(lanes, "out_of_memory")),
        counter(table.LOADS, _of_models(lanes, "loads")),
        counter(table.LOAD_SECONDS, _of_models(lanes, "load_seconds")),
        counter(table.EVICTIONS, _of_models(lanes, "evictions")),
        counter(
            table.PROMPT_LOOKUPS,
            [
                ((lane.worker, one.model, result), count)
                for lane in lanes
                for one in lane.models
                for result, count in (("hit", one.prompt_hits), ("miss", one.prompt_misses))
            ],
        ),
        gauge(
            table.CACHE_BYTES,
            [
                ((lane.worker, one.model, cache), held)
                for lane in lanes
                for one in lane.models
                for cache, held in (("prompts", one.prompt_cache_bytes), ("adapters", one.adapter_bytes))
            ],
        ),
        gauge(table.DEVICE_BYTES, [((lane.worker,), lane.memory.total_bytes) for lane in lanes if lane.memory]),
        gauge(table.DEVICE_USED_BYTES, [((lane.worker,), lane.memory.used_bytes) for lane in lanes if lane.memory]),
    ]


def _steps(lanes: Sequence[LaneFigures]) -> list[tuple[tuple[str, ...], Sequence[int], float]]:
    return [
        ((lane.worker, one.model, _rows_word(one.rows_bucket)), one.buckets, one.seconds)
        for lane in lanes
        for one in lane.work
        if one.kind == "denoise"
    ]


def _rows_word(bucket: int) -> str:
    return str(ROWS_BOUNDS[bucket]) if bucket < len(ROWS_BOUNDS) else MORE


def _rows(lanes: Sequence[LaneFigures]) -> list[tuple[tuple[str, ...], Sequence[int], float]]:
    """How many steps had so many rows."""
    counts: dict[tuple[str, str], list[int]] = {}
    sums: dict[tuple[str, str], float] = {}
    for lane in lanes:
        for one in lane.work:
            if one.kind == "denoise":
                key = (lane.worker, one.model)
                counts.setdefault(key, [0] * (len(ROWS_BOUNDS) + 1))[one.rows_bucket] += one.items
                sums[key] = sums.get(key, 0.0) + one.rows
    return [(key, counts[key], sums[key]) for key in counts]


def _items(lanes: Sequence[LaneFigures], kind: WorkKind) -> list[tuple[tuple[str, ...], Sequence[int], float]]:
    """Of all sizes of batches together."""
    buckets: dict[tuple[str, str], list[int]] = {}
    sums: dict[tuple[str, str], float] = {}
    for lane in lanes:
        for one in lane.work:
            if one.kind == kind:
                key = (lane.worker, one.model)
                known = buckets.get(key, [0] * len(one.buckets))
                buckets[key] = [a + b for a, b in zip(known, one.buckets, strict=True)]
                sums[key] = sums.get(key, 0.0) + one.seconds
    return [(key, buckets[key], sums[key]) for key in buckets]


def _of_models(lanes: Sequence[LaneFigures], name: str) -> list[tuple[tuple[str, ...], float]]:
    return [((lane.worker, one.model), getattr(one, name)) for lane in lanes for one in lane.models]
