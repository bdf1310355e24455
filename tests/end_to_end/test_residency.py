"""Operators say which models are on the devices, and several devices share the work: real servers, real workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.server_process import ServerProcess

DEMOS = Path(__file__).resolve().parents[2] / "pipelines" / "demo"
# In exact mode, so that a picture drawn again beside others is the same to the byte.
TWO = {"SAFELIGHT_DEVICE": "cpu,cpu", "SAFELIGHT_THREADS": "2", "SAFELIGHT_BATCH_EXACT_ROWS": "2"}
CATALOGUE = f"""\
default_model: red
models:
  red:
    family: sdxl
    source: {DEMOS / "demo-sdxl"}
    defaults: {{size: 256x256, steps: 4}}
  green:
    family: sd21
    source: {DEMOS / "demo-sd21"}
    defaults: {{size: 256x256, steps: 4}}
  gone:
    family: sdxl
    source: nowhere
"""


@pytest.fixture(scope="module")
def models_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("catalogue") / "models.yaml"
    file.write_text(CATALOGUE)
    return file


@pytest.fixture(scope="module")
def server(models_file: Path) -> Iterator[ServerProcess]:
    """One worker, with room for one of the models. Every test leaves its device empty of `red`."""
    running = ServerProcess(("--models", str(models_file)), {"SAFELIGHT_WEIGHTS_MEMORY": "60MB"})
    yield running
    running.stop()


@pytest.fixture(scope="module")
def pair(models_file: Path) -> Iterator[ServerProcess]:
    """Two workers."""
    running = ServerProcess(("--models", str(models_file)), TWO)
    yield running
    running.stop()


def model(server: ServerProcess, name: str) -> dict[str, Any]:
    described: dict[str, Any] = httpx.get(f"{server.url}/v1/models/{name}").json()
    return described


def steer(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", "models", *arguments, "--server", server.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_models_are_brought_let_go_and_pinned_by_command(server: ServerProcess) -> None:
    assert model(server, "red")["state"] == "disk"
    loaded = steer(server, "load", "red")
    assert loaded.returncode == 0, loaded.stderr
    assert model(server, "red")["state"] == "device"
    assert model(server, "red")["device_bytes"] > 0
    assert steer(server, "unload", "red").returncode == 0
    assert model(server, "red")["state"] == "disk"
    assert steer(server, "pin", "red").returncode == 0
    refused = steer(server, "unload", "red")
    assert refused.returncode == 1
    assert "pinned" in refused.stderr
    answer = server.generate(prompt="a green square", model="green")
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "model_unavailable"
    assert steer(server, "unpin", "red").returncode == 0
    assert server.generate(prompt="a green square", model="green").status_code == 200
    assert model(server, "red")["state"] == "disk"


def test_a_model_whose_files_are_not_there_is_absent_and_cannot_be_brought(server: ServerProcess) -> None:
    assert model(server, "gone")["state"] == "absent"
    assert "nowhere" in model(server, "gone")["problem"]
    brought = steer(server, "load", "gone", "--wait", "3")
    assert brought.returncode == 1


def test_a_model_that_nobody_knows_cannot_be_steered(server: ServerProcess) -> None:
    answer = httpx.post(f"{server.url}/admin/models/blue/load")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_a_strange_web_page_cannot_steer_models(server: ServerProcess) -> None:
    answer = httpx.post(f"{server.url}/admin/models/red/load", headers={"origin": "https://elsewhere.example"})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"
    assert model(server, "red")["state"] == "disk"


def test_two_devices_share_the_work_and_each_keeps_to_the_model_that_it_has(pair: ServerProcess) -> None:
    pair.wait_until_ready()
    while not all(worker["state"] == "ready" for worker in health(pair)["workers"]):
        time.sleep(0.1)
    with ThreadPoolExecutor(8) as callers:
        kinds = ["red", "green"] * 6
        answers = list(callers.map(lambda name: pair.generate(prompt="a circle", model=name, seed=3), kinds))
    assert {answer.status_code for answer in answers} == {200}
    assert model(pair, "red")["state"] == model(pair, "green")["state"] == "device"
    moves = [line for line in pair.lines if "model moved" in line and '"device"' in line.replace("'", '"')]
    assert len(moves) >= 2


@pytest.mark.whole
def test_the_jobs_of_a_device_whose_worker_dies_are_drawn_by_the_other(pair: ServerProcess) -> None:
    pair.wait_until_ready()
    while not all(worker["state"] == "ready" for worker in health(pair)["workers"]):
        time.sleep(0.1)
    restarts = health(pair)["restarts"]
    alone = pair.generate(prompt="a circle", seed=5, steps=40, response_format="b64_json").json()["data"][0]
    with ThreadPoolExecutor(4) as callers:
        asked = [
            callers.submit(pair.generate, prompt="a circle", seed=5, steps=40, response_format="b64_json")
            for _ in range(4)
        ]
        time.sleep(1.0)
        os.kill(workers(pair)[0], signal.SIGKILL)
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["data"][0]["b64_json"] for answer in answers} == {alone["b64_json"]}
    assert health(pair)["restarts"] == restarts + 1


def health(server: ServerProcess) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.url}/health/ready").json()
    return answer


def workers(server: ServerProcess) -> list[int]:
    """Of the server's children those that draw; the others decode."""
    return [pid for pid in server.worker_pids() if b"pipelines.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
