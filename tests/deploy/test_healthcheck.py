"""HEALTHCHECK's own command, run against a server that draws, cannot draw, is gone, or says nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from server.listener import bind
from tests.deploy.files import ROOT, values
from tests.end_to_end.server_process import ServerProcess

PROBE = "/opt/safelight/healthcheck.py"


def run_healthcheck(url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The words after CMD, with this machine's Python and the repository's copy of the file."""
    (check,) = values("HEALTHCHECK", "")
    command = json.loads(check.partition("CMD")[2])
    assert (command[0], command[-1]) == ("python", PROBE)
    host, _, port = url.removeprefix("http://").rpartition(":")
    return subprocess.run(
        [sys.executable, *command[1:-1], ROOT / "deploy" / "healthcheck.py"],
        env={**os.environ, "SAFELIGHT_HOST": host, "SAFELIGHT_PORT": port, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.whole
def test_a_server_is_healthy_while_it_can_draw_and_no_longer() -> None:
    server = ServerProcess()
    assert run_healthcheck(server.url).returncode == 0
    nowhere = "http://127.0.0.1:9"
    assert run_healthcheck(server.url, http_proxy=nowhere, HTTP_PROXY=nowhere).returncode == 0
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.3)
    without_worker = run_healthcheck(server.url)
    server.stop()
    gone = run_healthcheck(server.url)
    assert (without_worker.returncode, gone.returncode) == (1, 1)
    assert '"status":"not ready"' in without_worker.stdout
    assert "does not answer" in gone.stdout


def test_a_server_that_says_nothing_is_not_healthy() -> None:
    with bind("127.0.0.1", 0) as silent:
        silent.listen()
        unhealthy = run_healthcheck(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert unhealthy.returncode == 1
    assert "does not answer" in unhealthy.stdout
