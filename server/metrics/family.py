"""Metrics that are read where they are, at the moment when they are asked for: rows of the table with their samples.

Knows the table and prometheus_client's families; knows no part of the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from server.metrics.table import MetricRow

# Label values, in the order of the row's labels, and what is true of them.
Samples = Iterable[tuple[Sequence[str], float]]
Tallied = Iterable[tuple[Sequence[str], Sequence[int], float]]


def counter(row: MetricRow, samples: Samples) -> Metric:
    return _filled(CounterMetricFamily(row.name, row.meaning, labels=row.labels), samples)


def gauge(row: MetricRow, samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(row.name, row.meaning, labels=row.labels), samples)


def histogram(row: MetricRow, tallied: Tallied) -> Metric:
    """tallied: labels, how many were in each bucket of its own, the last beyond all, and their sum."""
    family = HistogramMetricFamily(row.name, row.meaning, labels=row.labels)
    bounds = [*map(str, row.buckets), "+Inf"]
    for labels, counts, total in tallied:
        below, buckets = 0, []
        for bound, count in zip(bounds, counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        family.add_metric(labels, buckets, total)
    return family


def _filled(family: CounterMetricFamily | GaugeMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
