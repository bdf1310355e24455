"""OpenTelemetry's SDK, set up for one server: what sends its spans, and how a span of ours becomes one of theirs.

Knows the SDK; knows no request. Imported only where traces are sent.
Invariant: what is sent goes to the one endpoint, without anything that the environment would add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from requests import Session

from server import __version__
from server.core.tracing import Span

NAME = "safelight"
QUEUE_SPANS, BATCH_SPANS, PAUSE_SECONDS = 4096, 512, 2.0
# For one batch, with what it is tried again.
SEND_SECONDS = 5.0
# So many spans were exported, or lost.
Told = Callable[[int, bool], None]


class Exporter(OTLPSpanExporter):
    """Tells of every batch what became of it."""

    def __init__(self, endpoint: str, told: Told) -> None:
        session = Session()
        # No proxies, no .netrc; and whoever answers with another place is not followed.
        session.trust_env, session.max_redirects = False, 0
        super().__init__(endpoint=endpoint, headers={}, timeout=SEND_SECONDS, session=session)
        self._told = told

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self._told(len(spans), result is not SpanExportResult.SUCCESS)
        return result


class Sender:
    """A queue of spans and the thread that empties it, running from now on."""

    def __init__(self, endpoint: str, told: Told) -> None:
        self._resource = Resource({"service.name": NAME, "service.version": __version__})
        self._scope = InstrumentationScope(NAME, __version__)
        self._processor = BatchSpanProcessor(
            Exporter(endpoint, told),
            max_queue_size=QUEUE_SPANS,
            schedule_delay_millis=PAUSE_SECONDS * 1000,
            max_export_batch_size=BATCH_SPANS,
            export_timeout_millis=SEND_SECONDS * 1000,
        )

    def queue(self, span: Span) -> None:
        """The oldest makes way where the queue is full."""
        self._processor.on_end(self._readable(span))

    def shut_down(self) -> None:
        """Send what is left. Blocks as long as the collector does."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own

    def _readable(self, span: Span) -> ReadableSpan:
        parent_id = span.parent_id
        return ReadableSpan(
            span.name,
            context=_context(span.trace_id, span.span_id, is_remote=False),
            parent=None if parent_id is None else _context(span.trace_id, parent_id, is_remote=span.is_entry),
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER if span.is_entry else SpanKind.INTERNAL,
            status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.began_unix_ns,
            end_time=span.ended_unix_ns,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str, *, is_remote: bool) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED))
