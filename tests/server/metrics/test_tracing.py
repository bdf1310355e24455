"""A request's hops: their parents, in whatever task they are; what callers say of their trace; and where spans go."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.app import build_traces
from server.core import errors
from server.core.settings import load_settings
from server.core.tracing import Parent, Span, entry, hop, mark, parent_of
from server.metrics.metrics import Metrics
from server.metrics.traces import FLUSH_SECONDS, Traces
from tests.otlp_receiver import Receiver

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_traceparent_as_the_standard_has_it_is_understood() -> None:
    assert parent_of(f"00-{TRACE}-{PARENT}-01") == Parent(TRACE, PARENT, is_sampled=True)
    assert parent_of(f"00-{TRACE}-{PARENT}-02") == Parent(TRACE, PARENT, is_sampled=False)
    assert parent_of(f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like") == Parent(TRACE, PARENT, is_sampled=True)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f" 00-{TRACE}-{PARENT}-01",
        "x" * 10_000,
    ],
)
def test_any_other_traceparent_begins_a_trace_of_our_own(header: str | None) -> None:
    assert parent_of(header) is None


def test_a_hop_is_the_child_of_the_hop_around_it_in_other_tasks_too() -> None:
    spans: list[Span] = []

    async def work(name: str) -> None:
        with hop(name):
            await asyncio.sleep(0)

    async def request() -> None:
        with entry("request", parent_of(f"00-{TRACE}-{PARENT}-01"), spans.append), hop("attempt"):
            await asyncio.gather(asyncio.create_task(work("a")), asyncio.create_task(work("b")))
            mark("denoise", seconds_ago=0.5, seconds=2.0)

    asyncio.run(request())
    by_name = {span.name: span for span in spans}
    assert {span.trace_id for span in spans} == {TRACE}
    assert by_name["request"].parent_id == PARENT
    assert by_name["attempt"].parent_id == by_name["request"].span_id
    assert {by_name[name].parent_id for name in ("a", "b", "denoise")} == {by_name["attempt"].span_id}
    denoise = by_name["denoise"]
    assert denoise.ended_unix_ns - denoise.began_unix_ns == pytest.approx(2e9)
    assert denoise.ended_unix_ns < by_name["attempt"].ended_unix_ns - 0.4e9
    assert all(span.ended_unix_ns >= span.began_unix_ns for span in spans)


def test_a_hop_that_fails_says_how_in_one_word_and_none_of_the_text() -> None:
    spans: list[Span] = []
    with pytest.raises(ValueError, match="secret"), entry("request", None, spans.append), hop("inner"):
        raise ValueError("a secret prompt")
    with pytest.raises(errors.SafelightError), entry("request", None, spans.append):
        raise errors.insufficient_quota()
    assert [span.error for span in spans] == ["ValueError", "ValueError", "insufficient_quota"]
    assert "secret" not in repr(spans)


def test_nothing_is_recorded_where_nobody_traces_or_the_caller_does_not_want_it() -> None:
    spans: list[Span] = []
    with entry("request", None, None) as first, hop("inner") as inner:
        mark("denoise", 0.0, 1.0)
    with entry("request", Parent(TRACE, PARENT, is_sampled=False), spans.append) as second, hop("inner"):
        pass
    assert (first, inner, second, spans) == (None, None, None, [])


def test_a_clock_that_is_set_meanwhile_bends_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[Span] = []
    with entry("request", None, spans.append), hop("inner"):
        monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert all(0 <= span.ended_unix_ns - span.began_unix_ns < 1e9 for span in spans)


def span_of(name: str) -> Span:
    now_ns = time.time_ns()
    return Span(name, TRACE, PARENT, None, now_ns - 10, now_ns, {"backend": "local"}, is_entry=True)


async def sent(traces: Traces, names: list[str]) -> float:
    """Seconds that the end took."""
    traces.start()
    for name in names:
        traces.take(span_of(name))
    began = time.monotonic()
    await traces.stop()
    await traces.stop()
    return time.monotonic() - began


def test_what_is_left_is_sent_at_the_end() -> None:
    told: list[tuple[int, bool]] = []
    with Receiver() as receiver:
        asyncio.run(sent(Traces(receiver.url, lambda *one: told.append(one)), ["a", "b"]))
        assert [span.name for span in receiver.spans()] == ["a", "b"]
        assert receiver.paths == ["/v1/traces"]
    assert told == [(2, False)]


def test_a_collector_that_hangs_holds_the_end_up_no_longer_than_was_promised() -> None:
    with Receiver(pause_seconds=20.0) as receiver:
        seconds = asyncio.run(sent(Traces(receiver.url, lambda *_: None), ["a"]))
    assert seconds < FLUSH_SECONDS + 1.0


@pytest.mark.parametrize("status", [307, 400])
def test_a_collector_that_refuses_or_points_elsewhere_is_left_alone_and_the_loss_is_counted(status: int) -> None:
    told: list[tuple[int, bool]] = []
    with Receiver(status=status) as receiver:
        asyncio.run(sent(Traces(receiver.url, lambda *one: told.append(one)), ["a"]))
    assert told == [(1, True)]


def test_the_environments_words_for_opentelemetry_add_nothing_and_lead_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Receiver() as receiver, Receiver() as other:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", other.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-secret=told")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "secret=told")
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        monkeypatch.setenv("HTTP_PROXY", other.url)
        asyncio.run(sent(Traces(receiver.url + "/own/path", lambda *_: None), ["a"]))
        assert (len(receiver.bodies), other.bodies) == (1, [])
        assert receiver.paths == ["/own/path"]
        assert b"told" not in receiver.bodies[0]
        assert "x-secret" not in {name.lower() for name in receiver.headers[0]}
        assert not [name for name in os.environ if name.startswith("OTEL_")]


ROOT = Path(__file__).resolve().parents[3]
# A framework's application, started and asked once, with the word about telemetry that it is given.
ASKED_ONCE = """
import asyncio, sys
import httpx
from fastapi import FastAPI
from server.app import NO_TELEMETRY

app = FastAPI(telemetry=NO_TELEMETRY if sys.argv[1] == "ours" else None)

async def main():
    coming, told = asyncio.Queue(), asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan"}, coming.get, told.put))
    await coming.put({"type": "lifespan.startup"})
    await told.get()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
        await client.get("/openapi.json")
    await coming.put({"type": "lifespan.shutdown"})
    await life

asyncio.run(main())
"""


@pytest.mark.parametrize(("whose", "is_sent"), [("theirs", True), ("ours", False)])
def test_the_frameworks_own_telemetry_is_off_whatever_the_environment_says(whose: str, is_sent: bool) -> None:
    with Receiver() as receiver:
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "FASTAPI_OTEL_AUTO_CONFIGURE": "true"}
        command = [sys.executable, "-c", ASKED_ONCE, whose]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **told}, check=True, timeout=120)
        assert bool(receiver.bodies) is is_sent


@pytest.mark.parametrize(
    ("endpoint", "may"),
    [
        ("http://127.0.0.1:4318", True),
        ("http://localhost:4318", True),
        ("http://[::1]:4318", True),
        ("http://10.1.2.3:4318", True),
        ("http://collector.internal:4318", False),
        ("http://8.8.8.8:4318", False),
        ("http://169.254.169.254", False),
        ("http://0.0.0.0:4318", False),
    ],
)
def test_offline_spans_go_no_further_than_a_private_address(endpoint: str, may: bool) -> None:
    settings = load_settings({"offline": True, "otlp_endpoint": endpoint})
    assert (build_traces(settings, Metrics()) is not None) is may
