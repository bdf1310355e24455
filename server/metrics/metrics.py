"""Counts what the server's parts tell of their work, in a registry of this server's own.

Knows the table's instruments; knows no HTTP and asks nobody anything.
Invariant: a telling costs a few additions, holds nobody up and raises nothing for any word that it may be told.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from server.core.observer import Answered, Ended, Observer
from server.core.providers import Target
from server.metrics import table
from server.metrics.table import MetricRow

UNKNOWN = "unknown"


class Metrics(Observer):
    """One server's."""

    def __init__(self) -> None:
        # Another series for each, with the time of its first value: nobody asks for it.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's own
        self.registry = CollectorRegistry(auto_describe=False)
        self._http = self._counter(table.HTTP_REQUESTS)
        self._http_seconds = self._histogram(table.HTTP_SECONDS)
        self._open = Gauge(table.HTTP_OPEN.name, table.HTTP_OPEN.meaning, registry=self.registry)
        self._errors = self._counter(table.ERRORS)
        self._images = self._counter(table.IMAGES)
        self._drawing = self._histogram(table.DRAWING_SECONDS)
        self._work_units = self._counter(table.WORK_UNITS)
        self._cost = self._counter(table.COST_USD)
        self._policy = self._counter(table.POLICY)
        self._queue = self._histogram(table.QUEUE)
        self._attempts = self._counter(table.ATTEMPTS)
        self._attempt_seconds = self._histogram(table.ATTEMPT_SECONDS)
        self._passed_over = self._counter(table.PASSED_OVER)
        self._routes = self._counter(table.ROUTES)
        self._ledger = self._histogram(table.LEDGER)
        self._ledger_problems = self._counter(table.LEDGER_PROBLEMS)
        self._decoder = self._histogram(table.DECODER)
        self._decoder_lost = self._counter(table.DECODER_LOST)
        self._lag = self._histogram(table.LAG)
        self._spans = self._counter(table.SPANS)

    def _counter(self, row: MetricRow) -> Counter:
        return Counter(row.name, row.meaning, row.labels, registry=self.registry)

    def _histogram(self, row: MetricRow) -> Histogram:
        return Histogram(row.name, row.meaning, row.labels, registry=self.registry, buckets=row.buckets)

    def arrived(self) -> None:
        self._open.inc()

    def answered(self, answered: Answered) -> None:
        self._open.dec()
        route, status = answered.route or UNKNOWN, "none" if answered.status is None else str(answered.status)
        self._http.labels(route, answered.method, status).inc()
        self._http_seconds.labels(route).observe(answered.seconds)
        if answered.code is not None:
            self._errors.labels(answered.code).inc()

    def queued(self, model: str, seconds: float) -> None:
        self._queue.labels(model).observe(seconds)

    def routed(self, target: Target, reason: str) -> None:
        self._routes.labels(target.backend, target.model, reason).inc()

    def tried(self, target: Target, cause: str, seconds: float, usd: float) -> None:
        self._attempts.labels(target.backend, target.model, cause).inc()
        self._attempt_seconds.labels(target.backend, target.model).observe(seconds)
        self._cost.labels(target.backend, target.model).inc(max(0.0, usd))

    def passed_over(self, target: Target, cause: str) -> None:
        self._passed_over.labels(target.backend, target.model, cause).inc()

    def ended(self, ended: Ended) -> None:
        backend, model = ended.target.backend, ended.target.model
        self._images.labels(backend, model, ended.operation, ended.ending).inc(ended.count)
        if ended.ending == "succeeded":
            self._drawing.labels(backend, model).observe(ended.seconds)
        if ended.work_units:
            self._work_units.labels(model).inc(ended.work_units)

    def judged(self, check: str, decision: str) -> None:
        self._policy.labels(check, decision).inc()

    def booked(self, operation: str, seconds: float, *, is_kept: bool) -> None:
        self._ledger.labels(operation).observe(seconds)
        if not is_kept:
            self._ledger_problems.labels(operation).inc()

    def decoded(self, work: str, seconds: float, *, is_lost: bool) -> None:
        self._decoder.labels(work).observe(seconds)
        if is_lost:
            self._decoder_lost.labels(work).inc()

    def lagged(self, seconds: float) -> None:
        self._lag.observe(seconds)

    def exported(self, spans: int, *, is_lost: bool) -> None:
        """So many hops reached the collector, or were lost. From any thread."""
        self._spans.labels("lost" if is_lost else "exported").inc(spans)
