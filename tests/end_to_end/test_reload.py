"""models.yaml is read again while a server draws: by route, by command and by signal; without a restart of anything."""

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
FIRST = f"""\
default_model: a
models:
  a: {{family: sdxl, source: {DEMOS / "demo-sdxl"}, limits: {{max_n: 4}}}}
"""
SECOND = f"""\
default_model: b
models:
  b: {{family: sd21, source: {DEMOS / "demo-sd21"}, loading: pin}}
  damaged: {{family: sdxl, source: nowhere}}
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reload") / "models.yaml"
    path.write_text(FIRST)
    return path


@pytest.fixture(scope="module")
def server(catalogue: Path) -> Iterator[ServerProcess]:
    started = ServerProcess(("--models", str(catalogue)))
    yield started
    assert started.stop() == 0


def command(server: ServerProcess) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "server.cli", "reload", "--server", server.url]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


def models(server: ServerProcess) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in httpx.get(f"{server.url}/v1/models").json()["data"]}


def wait_for(server: ServerProcess, model: str, state: str) -> None:
    deadline = time.monotonic() + 60
    while models(server)[model]["state"] != state:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_models_change_under_a_request_that_ends_by_the_old_ones_and_no_worker_is_restarted(
    server: ServerProcess, catalogue: Path
) -> None:
    server.generate(prompt="warm")
    (worker,) = server.worker_pids()
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(server.generate, prompt="a red circle", model="a", size="512x512", steps=60, n=4)
        time.sleep(1)
        catalogue.write_text(SECOND)
        told = command(server)
        assert not begun.done()
        assert server.generate(prompt="a red circle", model="a").status_code == 404
        assert server.generate(prompt="a red circle").status_code == 200
        assert begun.result().status_code == 200
    assert told.returncode == 1, "something of it cannot be served"
    assert {"model b: added", "model damaged: added", "model a: removed"} <= set(told.stdout.splitlines())
    assert "damaged: " in told.stdout
    wait_for(server, "b", "device")
    assert (models(server)["b"]["pinned"], models(server)["damaged"]["state"]) == (True, "absent")
    assert server.worker_pids() == [worker]


def test_a_file_with_mistakes_is_refused_with_all_of_them_and_the_old_one_goes_on(
    server: ServerProcess, catalogue: Path
) -> None:
    before = list(models(server))
    catalogue.write_text("default_model: a\nmodels:\n  a: {family: sdxm, source: x}\n  c: {family: sdxl, sourse: x}\n")
    refused = httpx.post(f"{server.url}/admin/reload")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "catalogue_refused")
    assert "models.a.family" in refused.json()["error"]["message"]
    assert "models.c.sourse" in refused.json()["error"]["message"]
    assert command(server).returncode == 1
    assert list(models(server)) == before
    assert server.generate(prompt="a red circle").status_code == 200


def test_the_signal_that_daemons_know_reloads_too(server: ServerProcess, catalogue: Path) -> None:
    catalogue.write_text(FIRST)
    os.kill(server.process.pid, signal.SIGHUP)
    deadline = time.monotonic() + 30
    while "a" not in models(server):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.generate(prompt="a red circle", model="a").status_code == 200


def test_a_page_of_another_origin_cannot_have_it_read(server: ServerProcess) -> None:
    refused = httpx.post(f"{server.url}/admin/reload", headers={"origin": "https://elsewhere.example"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
