"""The official client may repeat a request whose answer it never got: the pictures are drawn and booked once."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.end_to_end.server_process import SMALL, ServerProcess
from tests.server.ledger.samples import all_rows, played

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
PROMPT = "a large red circle on a blue background"


class CuttingProxy:
    """Passes on every request to the server; the first connection's answer is thrown away, and the connection cut."""

    def __init__(self, server: ServerProcess) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client, self.connections == 1), daemon=True).start()

    def _serve(self, client: socket.socket, is_cut: bool) -> None:
        with client, socket.create_connection(self._server) as server:
            threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
            if is_cut:
                server.recv(1)  # the answer has begun, so the pictures are drawn
                client.shutdown(socket.SHUT_RDWR)
            else:
                _pass_on(server, client)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while content := source.recv(65536):
            target.sendall(content)
    except OSError:
        pass


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[CuttingProxy]:
    with closing(CuttingProxy(server)) as proxy:
        yield proxy


def test_openai_python_repeats_after_a_cut_connection_and_gets_the_picture_that_was_drawn(proxy: CuttingProxy) -> None:
    client = OpenAI(base_url=f"{proxy.url}/v1", api_key="unused", max_retries=2)
    raw = client.images.with_raw_response.generate(
        prompt=PROMPT, size="256x256", response_format="b64_json", extra_headers=KEY, extra_body={"steps": 2}
    )
    assert proxy.connections == 2
    assert raw.headers["idempotent-replayed"] == "true"
    assert raw.headers["x-safelight-original-request"] != raw.headers["x-request-id"]
    reply = raw.parse()
    assert reply.data is not None
    # Without a seed of its own, another drawing would be another picture.
    again = client.images.generate(
        prompt=PROMPT, size="256x256", response_format="b64_json", extra_headers=KEY, extra_body={"steps": 2}
    )
    assert again == reply


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "SAFELIGHT_LEDGER": f"sqlite:///{tmp_path / 'ledger.sqlite'}",
        "SAFELIGHT_IDEMPOTENCY_FOLDER": str(tmp_path / "answers"),
        "SAFELIGHT_PLAIN_ANSWER_SECONDS": "100000",
        "TMPDIR": str(tmp_path),
    }


def ask(server: ServerProcess, key: str, **body: Any) -> httpx.Response:
    told = {**SMALL, "prompt": PROMPT, "response_format": "b64_json", **body}
    headers = {"Idempotency-Key": key}
    return httpx.post(f"{server.url}/v1/images/generations", json=told, headers=headers, timeout=120)


@pytest.mark.whole  # two starts of a server
def test_a_killed_server_keeps_its_answers_and_draws_anew_what_it_had_begun(
    environment: dict[str, str], tmp_path: Path
) -> None:
    first = ServerProcess(environment=environment)
    done = ask(first, "done")
    with ThreadPoolExecutor() as pool:
        begun = pool.submit(ask, first, "begun", size="1024x1024", steps=100)
        time.sleep(2)
        first.stop(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            begun.result()
    second = ServerProcess(environment=environment)
    try:
        replayed = ask(second, "done")
        assert (replayed.content, replayed.headers["idempotent-replayed"]) == (done.content, "true")
        # Under the same key, and since nothing of it was answered, even with another body.
        assert "idempotent-replayed" not in ask(second, "begun").headers
    finally:
        second.stop()
    rows = played(environment["SAFELIGHT_LEDGER"], all_rows)
    assert [row.settlement and row.settlement.outcome for row in rows] == ["succeeded", "interrupted", "succeeded"]
    assert len(list((tmp_path / "answers").glob("*.answer"))) == 2


@pytest.mark.whole  # starts a server only to see it refuse
def test_a_second_server_in_the_same_folder_does_not_start_and_says_why(environment: dict[str, str]) -> None:
    first = ServerProcess(environment=environment)
    try:
        with pytest.raises(AssertionError, match="SAFELIGHT_IDEMPOTENCY_FOLDER: another server keeps its answers"):
            ServerProcess(environment=environment)
    finally:
        first.stop()
