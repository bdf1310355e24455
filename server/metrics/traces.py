"""Sends the hops of requests to a collector, by OTLP over HTTP, in batches and from a thread of its own.

Knows when to begin, when to end and where to; the sending itself is OpenTelemetry's SDK, which is imported when the
first server starts that was told where to send.
Invariant: no request waits for it or fails of it; the server's end waits FLUSH_SECONDS at most. It sends to the
endpoint that it was given and nowhere else, whatever the environment says.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from server.core.tracing import Span

log = logging.getLogger("safelight.traces")
PATH = "/v1/traces"
# At the server's end: for all that is left.
FLUSH_SECONDS = 3.0


class Traces:
    """endpoint: a collector's URL; without a path it gets OTLP's own. told: hears how many spans were exported, or
    lost (then its second argument is true); from any thread."""

    def __init__(self, endpoint: str, told: Callable[[int, bool], None]) -> None:
        self._endpoint, self._told = _with_path(endpoint), told
        self._sender: Any = None

    def start(self) -> None:
        """Take spans from now on."""
        _forget_environment()
        from server.metrics.otlp import Sender  # noqa: PLC0415  (nobody else pays for the import)

        self._sender = Sender(self._endpoint, self._told)

    def take(self, span: Span) -> None:
        """Neither blocks nor raises. Before the start and after the end spans are lost."""
        try:
            if self._sender is None:
                self._told(1, True)
            else:
                self._sender.queue(span)
        except Exception:
            log.exception("a span could not be kept")

    async def stop(self) -> None:
        """Send what is left, within FLUSH_SECONDS. Safe to call twice."""
        sender, self._sender = self._sender, None
        if sender is None:
            return
        # A thread that nobody has to join, as a collector may hang.
        is_over, loop = asyncio.Event(), asyncio.get_running_loop()
        threading.Thread(target=_shut_down, args=(sender, loop, is_over), daemon=True, name="traces-end").start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await is_over.wait()
        except TimeoutError:
            log.warning("the collector takes too long: traces are lost")


def _with_path(endpoint: str) -> str:
    has_path = urlsplit(endpoint).path not in ("", "/")
    return endpoint if has_path else endpoint.rstrip("/") + PATH


def _forget_environment() -> None:
    """OpenTelemetry's own variables would add headers, credentials and other places to send to."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]


def _shut_down(sender: Any, loop: asyncio.AbstractEventLoop, is_over: asyncio.Event) -> None:
    try:
        sender.shut_down()
    finally:
        # A server that did not wait has closed its loop.
        if not loop.is_closed():
            loop.call_soon_threadsafe(is_over.set)
