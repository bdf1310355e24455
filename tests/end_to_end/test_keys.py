"""A real server with keys: official clients, the commands beside it, browsers; and a revoked key that ends in time."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import AzureOpenAI, OpenAI

from tests.end_to_end.server_process import SMALL, ServerProcess
from tests.server.access.parts import issue, revoke, rotate

ORIGIN = "https://pages.example"
# What an operator is promised, and what a machine with other work may add.
SECONDS_TO_REVOKE = 2.0


class Site:
    """A server with a file of keys. Two may draw: alice's, and an admin's."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.books = folder / "keys.json", folder / "ledger.sqlite"
        self.alice, self.admin = issue(self.keys, "alice"), issue(self.keys, "admin", scopes=("admin",))
        self.server = ServerProcess(
            environment={
                "SAFELIGHT_KEYS": str(self.keys),
                "SAFELIGHT_LEDGER": f"sqlite:///{self.books}",
                "SAFELIGHT_CORS_ORIGINS": f'["{ORIGIN}"]',
            }
        )

    def client(self, key: str) -> OpenAI:
        """To be closed."""
        return OpenAI(base_url=f"{self.server.url}/v1", api_key=key, max_retries=0)

    def status(self, key: str) -> int:
        return httpx.get(f"{self.server.url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code

    def seconds_until(self, key: str, status: int) -> float:
        began = time.monotonic()
        while self.status(key) != status:
            assert time.monotonic() < began + 20
            time.sleep(0.02)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    assert site.server.stop() == 0


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_official_client_draws_with_a_key_and_its_picture_needs_none(site: Site) -> None:
    with site.client(site.alice.text) as client:
        reply = client.images.generate(prompt="a red circle", size="256x256", extra_body={"steps": 2})
    assert reply.data is not None
    assert httpx.get(reply.data[0].url or "").content.startswith(b"\x89PNG")
    with sqlite3.connect(site.books) as books:
        (row,) = books.execute("SELECT key_id, outcome FROM ledger_entries").fetchall()
    books.close()
    assert row == (site.alice.record.id, "succeeded")


def test_the_official_client_raises_its_own_errors_and_lists_what_the_key_may_ask_for(site: Site) -> None:
    with site.client("sk-unused") as stranger, pytest.raises(openai.AuthenticationError) as wrong:
        stranger.images.generate(prompt="x")
    assert wrong.value.code == "invalid_api_key"
    issued = issue(site.keys, "few", models=("demo-sd21",))
    site.seconds_until(issued.text, 200)
    with site.client(issued.text) as client:
        listed = {model.id for model in client.models.list()}
        assert ("demo-sd21" in listed, "dall-e-3" in listed, "demo-sdxl" in listed) == (True, False, False)
        with pytest.raises(openai.PermissionDeniedError) as forbidden:
            client.images.generate(prompt="x", model="dall-e-3")
    assert forbidden.value.code == "model_not_found"


def test_azures_client_draws_with_its_own_header_and_paths(site: Site) -> None:
    with AzureOpenAI(
        azure_endpoint=site.server.url, api_key=site.alice.text, api_version="2024-10-21", max_retries=0
    ) as client:
        assert client.models.retrieve("dall-e-3").id == "dall-e-3"
        asked = {"steps": 2, "response_format": "b64_json"}
        for model in ("dall-e-3", openai.omit):
            reply = client.images.generate(prompt="a red circle", size="256x256", model=model, extra_body=asked)
            assert reply.data is not None
            assert reply.data[0].b64_json
    with site.client(site.alice.text) as client, pytest.raises(openai.NotFoundError, match="nobody"):
        client.post("/../openai/deployments/nobody/images/generations", body={"prompt": "x"}, cast_to=object)


def test_a_revoked_and_a_rotated_key_end_on_a_running_server_within_two_seconds(site: Site) -> None:
    issued = issue(site.keys, "bob")
    assert site.seconds_until(issued.text, 200) < SECONDS_TO_REVOKE
    renewed = rotate(site.keys, "bob")
    assert site.seconds_until(issued.text, 401) < SECONDS_TO_REVOKE
    assert site.status(renewed.text) == 200
    revoke(site.keys, "bob")
    assert site.seconds_until(renewed.text, 401) < SECONDS_TO_REVOKE


def test_a_damaged_file_changes_nothing_and_the_log_says_so(site: Site) -> None:
    whole = site.keys.read_bytes()
    site.keys.write_bytes(whole[: len(whole) // 2])
    deadline = time.monotonic() + 10
    while not any("the keys cannot be read" in line for line in site.server.lines):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert site.status(site.alice.text) == 200
    site.keys.write_bytes(whole)
    assert issue(site.keys, "carol").record.id in site.keys.read_text()


def test_a_page_asks_leave_without_a_key_and_reads_the_refusal(site: Site) -> None:
    url, origin = f"{site.server.url}/v1/images/generations", {"origin": ORIGIN}
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, api-key"}
    leave = httpx.options(url, headers=origin | asks)
    assert leave.status_code == 200
    assert "api-key" in leave.headers["access-control-allow-headers"]
    refused = httpx.post(url, json={"prompt": "x", **SMALL}, headers=origin)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)


def test_who_has_no_key_is_refused_before_the_body_came(site: Site) -> None:
    answer = site.server.answer_to_unfinished_body(40_000_000)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: Bearer" in answer.replace(b"WWW-Authenticate", b"www-authenticate")


@pytest.mark.parametrize(
    "header",
    [
        b"authorization: Bearer \xff\xfe",
        b"authorization: Bearer " + b"k" * 60_000,
        b"authorization: Bearer",
        b"api-key: a\r\napi-key: b",
        b"api-key:",
        b"authorization: Basic YTpi",
    ],
    ids=lambda header: repr(header[:30]),
)
def test_hostile_headers_are_answered_in_the_envelope(site: Site, header: bytes) -> None:
    host, port = site.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + header + b"\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    status = int(answer.split(b" ")[1])
    assert status in (400, 401)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] in ("invalid_api_key", "invalid_http")
    assert b"kkk" not in answer


@pytest.mark.whole
def test_the_commands_make_and_revoke_a_key_that_draws(site: Site, tmp_path: Path) -> None:
    file = ("--keys", str(site.keys))
    made = run_cli("keys", "create", *file, "--name", "dora")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    site.seconds_until(key, 200)
    asks = ("--server", site.server.url, "--key", key)
    drawn = run_cli("draw", "a red circle", "--size", "256x256", "--steps", "2", *asks, "-o", str(tmp_path / "x.png"))
    assert drawn.returncode == 0, drawn.stderr
    assert "'admin'" in run_cli("models", "load", "demo-sdxl", *asks).stderr
    assert run_cli("keys", "revoke", "dora", *file).returncode == 0
    assert site.seconds_until(key, 401) < 20


def test_no_key_is_in_the_servers_log(site: Site) -> None:
    """Last, as it looks at all that was printed."""
    assert site.alice.text not in "".join(site.server.lines)
    assert "sl-" not in re.sub(r"-H .Authorization: Bearer \$SAFELIGHT_KEY.", "", "".join(site.server.lines))
