"""What a browser needs: listed origins may call and read all headers, and the docs load nothing from outside."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.server_process import SMALL, ServerProcess

ORIGIN = "https://pages.example"
ROUTE = "/v1/images/generations"
ASKED = ("authorization", "content-type", "x-stainless-lang", "idempotency-key", "x-safelight-progress")
READABLE = ("x-request-id", "openai-processing-ms", "retry-after", "x-should-retry", "x-safelight-ignored")


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for web pages, whose files live for a second."""
    environment = {
        "SAFELIGHT_CORS_ORIGINS": f'["{ORIGIN}"]',
        "SAFELIGHT_FILE_LIFETIME_SECONDS": "1",
        "SAFELIGHT_FILES_FOLDER": str(tmp_path_factory.mktemp("files")),
    }
    process = ServerProcess(environment=environment)
    yield process
    assert process.stop() == 0


def preflight(server: ServerProcess, origin: str) -> httpx.Response:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": ", ".join(ASKED)}
    return httpx.options(server.url + ROUTE, headers={"origin": origin, **asks})


def test_a_page_of_a_listed_origin_may_send_what_the_official_client_sends(open_server: ServerProcess) -> None:
    answer = preflight(open_server, ORIGIN)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert set(ASKED) <= set(answer.headers["access-control-allow-headers"].lower().split(", "))


def test_another_origin_is_given_no_leave(open_server: ServerProcess) -> None:
    assert "access-control-allow-origin" not in preflight(open_server, "https://stranger.example").headers


@pytest.mark.parametrize(("body", "status"), [({"prompt": "a red circle", **SMALL}, 200), ({"n": 0}, 400)])
def test_a_page_reads_answers_refusals_and_their_headers(
    open_server: ServerProcess, body: dict[str, object], status: int
) -> None:
    answer = httpx.post(open_server.url + ROUTE, json=body, headers={"origin": ORIGIN}, timeout=60)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert set(READABLE) <= set(answer.headers["access-control-expose-headers"].lower().split(", "))


def test_without_the_setting_no_origin_is_allowed(server: ServerProcess) -> None:
    assert "access-control-allow-origin" not in preflight(server, ORIGIN).headers


def test_the_docs_load_everything_from_the_server_itself(server: ServerProcess) -> None:
    page = httpx.get(server.url + "/docs")
    assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 2
    for asset in assets:
        assert asset.startswith("/")
        assert httpx.get(server.url + asset).status_code == 200
    assert "https://" not in page.text


def test_an_expired_file_says_so(open_server: ServerProcess) -> None:
    reply = open_server.generate(prompt="a red circle").json()
    time.sleep(1.1)
    answer = httpx.get(reply["data"][0]["url"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "file_expired")


@pytest.mark.whole
def test_an_expired_file_leaves_the_disk_within_a_minute(tmp_path: Path) -> None:
    server = ServerProcess(
        environment={"SAFELIGHT_FILE_LIFETIME_SECONDS": "1", "SAFELIGHT_FILES_FOLDER": str(tmp_path)}
    )
    try:
        server.generate(prompt="a red circle")
        assert list(tmp_path.glob("*.png"))
        deadline = time.monotonic() + 60
        while list(tmp_path.glob("*.png")):
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        server.stop(signal.SIGKILL)


@pytest.mark.whole
def test_a_stream_that_waits_for_its_turn_shows_signs_of_life(tmp_path: Path) -> None:
    order = {"SAFELIGHT_SCHEDULING_POLICY": "fifo", "TMPDIR": str(tmp_path)}
    server = ServerProcess(environment=order)
    long = {"prompt": "a red circle", "size": "1024x1024", "steps": 60, "stream": True}
    try:
        with (
            httpx.stream("POST", server.url + ROUTE, json=long, timeout=300) as first,
            httpx.stream(
                "POST", server.url + ROUTE, json={**long, "seed": 2, "size": "512x512"}, timeout=300
            ) as second,
        ):
            assert first.status_code == 200
            lines = second.iter_lines()
            assert next(lines) == ": keep-alive"
    finally:
        server.stop(signal.SIGKILL)
