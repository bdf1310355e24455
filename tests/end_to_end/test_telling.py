"""What a real server tells of its work: metrics, one trace a request, and log lines, none of which holds a secret."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families as parsed_text
from prometheus_client.samples import Sample

from server.metrics.table import TABLE
from tests.end_to_end.server_process import SMALL, ServerProcess
from tests.otlp_receiver import Receiver

PROMPT, KEY, PATH_WORD = "a tangerine elephant nobody may read of", "sk-never-to-be-told", "nowhere"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# Of all steps: two pictures of two steps, and one, changed by half, of one; each step for the prompt and without it.
ROWS = 2.0 * (2 + 2 + 1)
HEADERS = {"authorization": f"Bearer {KEY}"}


def picture() -> bytes:
    file = BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Day:
    """What was asked of one server, and everything that it told. after: the page once its worker was killed."""

    drawn: httpx.Response
    refused: httpx.Response
    edited: httpx.Response
    page: str
    after: str
    scrape_seconds: float
    lines: list[str]
    spans: list[Span]
    stray: list[bytes]
    rows: list[tuple[Any, ...]]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def events_of(self, reply: httpx.Response) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("request_id") == reply.headers["x-request-id"]]

    def trace(self, trace_id: str) -> dict[str, Span]:
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}


def ask(server: ServerProcess) -> tuple[httpx.Response, httpx.Response, httpx.Response]:
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=120) as client:
        traced = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        body = {**SMALL, "prompt": PROMPT, "n": 2, "response_format": "b64_json"}
        drawn = client.post("/v1/images/generations", json=body, headers=traced)
        refused = client.post("/v1/images/generations", json={**body, "n": PROMPT})
        form = {**{name: str(value) for name, value in SMALL.items()}, "prompt": PROMPT, "response_format": "url"}
        edited = client.post("/v1/images/edits", data=form, files={"image": ("a.png", picture(), "image/png")})
        client.get(edited.json()["data"][0]["url"]).raise_for_status()
        client.get(f"/v1/{PATH_WORD}")
    return drawn, refused, edited


def scraped(server: ServerProcess) -> str:
    return httpx.get(f"{server.url}/metrics", timeout=10).raise_for_status().text


def scraped_until(server: ServerProcess, *lines: str) -> str:
    """Workers tell once a second."""
    deadline = time.monotonic() + 20
    while not set(lines) <= set((page := scraped(server)).splitlines()):
        assert time.monotonic() < deadline, page
        time.sleep(0.2)
    return page


def spend(folder: Path, receiver: Receiver, other: Receiver) -> Day:
    ledger = folder / "ledger.sqlite"
    environment = {
        "SAFELIGHT_OTLP_ENDPOINT": receiver.url,
        "SAFELIGHT_LOG_LEVEL": "debug",
        "SAFELIGHT_LEDGER": f"sqlite:///{ledger}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": other.url,
        "OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider",
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
    }
    server = ServerProcess(environment=environment)
    try:
        server.wait_until_ready()
        drawn, refused, edited = ask(server)
        page = scraped_until(server, f'safelight_step_rows_sum{{model="demo-sdxl",worker="0"}} {ROWS}')
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        began = time.monotonic()
        after = scraped_until(server, 'safelight_worker_up{worker="0"} 0.0')
        seconds = time.monotonic() - began
    finally:
        assert server.stop() == 0
    with sqlite3.connect(ledger) as books:
        rows = books.execute("SELECT outcome, queue_ms, device_ms, latency_ms FROM ledger_entries").fetchall()
    books.close()
    return Day(drawn, refused, edited, page, after, seconds, server.lines, receiver.spans(), other.bodies, rows)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    with Receiver() as receiver, Receiver() as other:
        yield spend(tmp_path_factory.mktemp("telling"), receiver, other)


def samples(page: str) -> list[Sample]:
    return [sample for family in parsed_text(page) for sample in family.samples]


def value(page: str, name: str, **labels: str) -> float:
    """The sum of all that have these labels."""
    found = [one.value for one in samples(page) if one.name == name and labels.items() <= one.labels.items()]
    assert found, f"no {name} with {labels}"
    return sum(found)


def test_the_day_was_as_it_was_meant(day: Day) -> None:
    assert (day.drawn.status_code, day.refused.status_code, day.edited.status_code) == (200, 400, 200)


# Metrics.


def test_the_metrics_count_what_was_asked_and_drawn(day: Day) -> None:
    page = day.page
    assert value(page, "safelight_images_total", operation="generation", outcome="succeeded") == 2
    assert value(page, "safelight_images_total", operation="edit", outcome="succeeded") == 1
    assert value(page, "safelight_errors_total", code="invalid_parameter") == 1
    assert value(page, "safelight_errors_total", code="unknown_url") == 1
    assert value(page, "safelight_http_requests_total", route="/v1/images/generations", status="200") == 1
    assert value(page, "safelight_http_requests_total", route="unknown", status="404") == 1
    assert value(page, "safelight_queue_seconds_count") == 3
    assert value(page, "safelight_attempts_total", backend="local", cause="ok") == 2
    assert value(page, "safelight_routes_total", reason="only") == 2
    assert value(page, "safelight_work_units_total") == ROWS * 256 * 256
    assert value(page, "safelight_ready") == value(page, "safelight_worker_up") == 1
    assert value(page, "safelight_http_requests_open") == 1, "the scrape itself"


def test_the_metrics_tell_of_the_engine_the_device_and_the_processes(day: Day) -> None:
    page = day.page
    assert value(page, "safelight_step_rows_sum") == ROWS
    assert value(page, "safelight_step_seconds_count") == value(page, "safelight_step_rows_count") >= 3
    assert value(page, "safelight_model_loads_total") == 1
    assert value(page, "safelight_model_state", state="device") == 1
    assert value(page, "safelight_cache_bytes", cache="prompts") > 0
    assert 0 < value(page, "safelight_device_memory_used_bytes") < value(page, "safelight_device_memory_bytes")
    for process in ("server", "worker-0", "decoder"):
        assert value(page, "safelight_process_resident_memory_bytes", process=process) > 1e6
        assert value(page, "safelight_process_threads", process=process) >= 1


def test_every_metric_of_a_real_server_is_one_of_the_table(day: Day) -> None:
    names = {family.name for family in parsed_text(day.page)}
    assert names == {row.name.removesuffix("_total") if row.kind == "counter" else row.name for row in TABLE}


def test_no_label_holds_what_a_caller_sent(day: Day) -> None:
    for word in (PROMPT, KEY, PATH_WORD, day.drawn.headers["x-request-id"]):
        assert word not in day.page


def test_with_its_worker_dead_the_server_is_scraped_as_ever_and_no_sum_falls(day: Day) -> None:
    assert day.scrape_seconds < 5.0
    assert value(day.after, "safelight_ready") == 0
    for name in ("safelight_step_rows_sum", "safelight_step_rows_count", "safelight_model_loads_total"):
        assert value(day.after, name) >= value(day.page, name)


# Traces.


def test_a_request_is_one_trace_under_its_callers_with_a_span_for_each_hop(day: Day) -> None:
    trace = day.trace(TRACE)
    request = trace["POST /v1/images/generations"]
    assert request.parent_span_id.hex() == PARENT
    assert request.kind == Span.SPAN_KIND_SERVER
    for name in ("receive", "parse", "pictures", "reserve", "attempt", "settle", "reply"):
        assert trace[name].parent_span_id == request.span_id, name
    assert trace["picture"].parent_span_id == trace["attempt"].span_id
    pictures = {span.span_id for span in day.spans if span.name == "picture"}
    for name in ("queue", "prepare", "denoise", "decode", "encode"):
        assert trace[name].parent_span_id in pictures, name
    assert len([span for span in day.spans if span.trace_id.hex() == TRACE and span.name == "denoise"]) == 2


def test_the_parts_of_a_picture_follow_one_another_within_it(day: Day) -> None:
    for picture in (span for span in day.spans if span.name == "picture"):
        parts = {span.name: span for span in day.spans if span.parent_span_id == picture.span_id}
        inside = [parts[name] for name in ("queue", "prepare", "denoise", "decode", "encode")]
        for before, after in itertools.pairwise(inside):
            assert abs(after.start_time_unix_nano - before.end_time_unix_nano) < 1e6
        assert abs(inside[0].start_time_unix_nano - picture.start_time_unix_nano) < 50e6
        assert inside[-1].end_time_unix_nano <= picture.end_time_unix_nano


def test_a_refusal_is_marked_with_its_code_and_an_edits_picture_is_seen_at_the_decoder(day: Day) -> None:
    errors = {span.status.message for span in day.spans if span.status.code}
    assert "invalid_parameter" in errors
    assert "decoder FitImage" in {span.name for span in day.spans}


def test_no_span_holds_a_prompt_or_a_key(day: Day) -> None:
    told = b"".join(span.SerializeToString() for span in day.spans)
    assert PROMPT.encode() not in told
    assert KEY.encode() not in told


def test_nothing_is_sent_where_the_environment_says(day: Day) -> None:
    assert day.stray == []


# Logs.


def test_every_line_on_the_log_is_one_json_object(day: Day) -> None:
    welcome = re.compile(r"\n|Safelight serves|A first picture|  curl|    \|")
    assert [line for line in day.lines if not line.startswith("{") and not welcome.match(line)] == []
    assert all({"time", "level", "logger", "event"} <= event.keys() for event in day.events)


def test_a_line_that_belongs_to_a_request_says_to_which_and_to_which_trace(day: Day) -> None:
    events = {event["event"] for event in day.events_of(day.drawn)}
    assert {"request", "drawn", "served"} <= events
    assert {event["trace_id"] for event in day.events_of(day.drawn)} == {TRACE}
    assert {event["event"] for event in day.events_of(day.refused)} == {"request"}
    (request,) = day.events_of(day.refused)
    assert (request["status"], request["code"]) == (400, "invalid_parameter")
    outliving = [event for event in day.events if event["event"] in ("decoder ended", "worker ready", "model moved")]
    assert outliving
    assert not any("request_id" in event for event in outliving)


def test_each_picture_has_its_line(day: Day) -> None:
    drawn = [event for event in day.events_of(day.drawn) if event["event"] == "drawn"]
    assert [event["index"] for event in drawn] == [0, 1]
    for event in drawn:
        assert (event["backend"], event["size"], event["steps"]) == ("local", "256x256", 2)
        assert event["queue_ms"] >= 0
        assert event["device_ms"] > 0
        assert event["prompt_characters"] == len(PROMPT)
        assert re.fullmatch(r"[0-9a-f]{16}", event["prompt_mark"])
    assert len({event["prompt_mark"] for event in day.events if "prompt_mark" in event}) == 1, "equal prompts"


def test_no_line_at_any_level_holds_a_prompt_a_key_a_picture_or_the_name_of_a_result(day: Day) -> None:
    log = "".join(day.lines)
    name = day.edited.json()["data"][0]["url"].rpartition("/")[2]
    image = day.drawn.json()["data"][0]["b64_json"]
    sent = base64.b64encode(picture()).decode()
    for secret in (PROMPT, PROMPT.split()[1], KEY, name, image[:40], image[200:240], sent[:40]):
        assert secret not in log


# Books.


def test_the_books_say_how_long_each_picture_waited(day: Day) -> None:
    assert [row[0] for row in day.rows] == ["succeeded"] * 3
    for _, queue_ms, device_ms, latency_ms in day.rows:
        assert 0 <= queue_ms <= latency_ms
        assert 0 < device_ms <= latency_ms
