"""The unit is one that systemd takes, gives the server its drain, and lets it do no more than drawing needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.core.settings import PREFIX, load_settings
from server.dispatch.worker_process import STOP_SECONDS
from server.listener import REPLY_SECONDS
from server.terminal import USAGE_ERROR
from tests.deploy.files import UNIT, tool, unit

# prctl(2): memory is writable or executable and stays what it was, in whatever runs from then on: what
# MemoryDenyWriteExecute= asks for.
DENY = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
DRAW = "import torch; torch.nn.functional.gelu(torch.rand(2, 64))"


def environment() -> dict[str, str]:
    pairs = (word.partition("=") for value in unit()["Environment"] for word in value.split())
    return {name: value for name, _, value in pairs}


def run_python(*code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", *code], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def analyze() -> str:
    """systemd-analyze, which a machine without systemd does not have."""
    path = tool("systemd-analyze")
    if path is None:
        pytest.skip("no systemd-analyze on this machine")
    return path


@pytest.fixture
def installed_unit(tmp_path: Path) -> Path:
    """The unit, but for the program that is not installed here."""
    (command,) = unit()["ExecStart"]
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace(command.split()[0], sys.executable))
    return path


def test_systemd_takes_every_line(analyze: str, installed_unit: Path) -> None:
    command = [analyze, "verify", "--man=no", str(installed_unit)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (finished.stderr, finished.returncode) == ("", 0)


def test_systemd_finds_little_exposed(analyze: str, installed_unit: Path) -> None:
    command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(installed_unit)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert finished.returncode == 0, finished.stdout


def test_the_server_takes_the_settings_and_drains_before_it_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert settings.is_loopback
    assert settings.keys == Path("%S/safelight/keys.json")
    assert settings.ledger == "sqlite:///%S/safelight/books.sqlite"
    assert (unit()["StateDirectory"], unit()["StateDirectoryMode"]) == (["safelight"], ["0700"])
    (timeout,) = unit()["TimeoutStopSec"]
    stop_seconds = int(re.fullmatch(r"(\d+)s", timeout)[1])  # type: ignore[index]
    assert stop_seconds >= settings.drain_seconds + REPLY_SECONDS + STOP_SECONDS + 5


def test_the_worker_is_left_to_the_server() -> None:
    assert unit()["KillMode"] == ["mixed"]
    assert unit()["OOMPolicy"] == ["continue"]


def test_a_server_that_cannot_be_configured_is_not_started_again() -> None:
    assert unit()["Restart"] == ["on-failure"]
    assert unit()["RestartPreventExitStatus"] == [str(USAGE_ERROR)]


def test_whatever_is_written_lies_in_the_units_own_folders() -> None:
    written = environment()
    for name in ("HOME", "HF_HOME", "CUDA_CACHE_PATH", "SAFELIGHT_FILES_FOLDER"):
        assert written[name].startswith("%C/safelight"), name
    assert unit()["CacheDirectory"] == ["safelight"]
    assert unit()["ProtectSystem"] == ["strict"]


def test_drawing_needs_memory_that_is_written_and_then_run_so_it_is_not_denied() -> None:
    if run_python(DENY, "").returncode != 0:
        pytest.skip("this kernel cannot deny it")
    assert run_python(DRAW).returncode == 0
    assert "could not create a primitive" in run_python(DENY, DRAW).stderr
    assert unit()["MemoryDenyWriteExecute"] == ["no"]
