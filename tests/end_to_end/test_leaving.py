"""The server ends in good order, or at once; says so to whoever looks, and leaves no process and no file behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.server_process import START_SECONDS, ServerProcess, is_alive, wait_until_dead

LONG: dict[str, Any] = {"size": "1024x1024", "steps": 100}
PATIENT = {"SAFELIGHT_PLAIN_ANSWER_SECONDS": "100000"}


def started(folder: Path, **environment: str) -> ServerProcess:
    server = ServerProcess(environment={**PATIENT, "TMPDIR": str(folder), **environment})
    server.generate(prompt="warm")
    return server


def wait_until_it_draws(server: ServerProcess) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not any(
        line.startswith("safelight_jobs{") and 'state="working"' in line and not line.endswith(" 0.0")
        for line in httpx.get(f"{server.url}/metrics").text.splitlines()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end_of_stream(server: ServerProcess) -> dict[str, Any]:
    """The last event of a long stream."""
    body = {"prompt": "x", "stream": True, **LONG}
    with httpx.stream("POST", f"{server.url}/v1/images/generations", json=body, timeout=120) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    last: dict[str, Any] = json.loads(lines[-1].removeprefix("data: "))
    return last


def test_while_it_drains_it_says_so_to_all_who_come_and_ends_streams_with_an_error(tmp_path: Path) -> None:
    server = started(tmp_path, SAFELIGHT_DRAIN_SECONDS="2")
    (worker,) = server.worker_pids()
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(end_of_stream, server)
        time.sleep(1.5)
        server.process.terminate()
        began = time.monotonic()
        time.sleep(0.3)
        ready = httpx.get(f"{server.url}/health/ready")
        assert (ready.status_code, ready.json()["reasons"][0]) == (503, "The server is stopping.")
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        refusal = server.generate(prompt="late")
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "server_is_overloaded")
        assert 1 <= int(refusal.headers["retry-after"]) <= 60
        last = stream.result()
    assert (last["type"], last["error"]["code"]) == ("error", "server_is_overloaded")
    assert server.process.wait(20) == 0
    assert time.monotonic() - began < 2 + 2 + 2, "drain, replies, worker"
    wait_until_dead(worker, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.whole
def test_a_second_signal_ends_it_within_a_moment_even_with_a_worker_that_stands_still(tmp_path: Path) -> None:
    server = started(tmp_path, SAFELIGHT_DRAIN_SECONDS="60")
    (worker,) = server.worker_pids()
    with ThreadPoolExecutor(1) as pool:
        cut_off = pool.submit(lambda: server.generate(prompt="x", **LONG))
        wait_until_it_draws(server)
        os.kill(worker, signal.SIGSTOP)
        server.process.terminate()
        time.sleep(0.3)
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 2
        wait_until_dead(worker, 1)
        assert cut_off.exception() is not None or cut_off.result().status_code >= 500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.whole
@pytest.mark.parametrize("after_seconds", [0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
def test_a_signal_in_the_middle_of_the_start_leaves_nothing_behind(tmp_path: Path, after_seconds: float) -> None:
    command = [sys.executable, "-m", "server.cli", "serve", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after_seconds)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.terminate()
    assert process.wait(15) in (0, -signal.SIGTERM)
    assert not [pid for pid in children if is_alive(int(pid))]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.whole
def test_a_worker_that_stands_still_shows_within_five_seconds_long_before_it_is_replaced(tmp_path: Path) -> None:
    server = started(tmp_path, SAFELIGHT_WORKER_SILENCE_SECONDS="30")
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    began = time.monotonic()
    while (ready := httpx.get(f"{server.url}/health/ready")).status_code == 200:
        time.sleep(0.1)
    assert time.monotonic() - began < 5
    assert (ready.json()["worker"], ready.json()["reasons"]) == ("silent", ["No worker takes jobs."])
    os.kill(worker, signal.SIGCONT)
    server.wait_until_ready(5)
    assert server.worker_pids() == [worker]
    assert server.stop() == 0
