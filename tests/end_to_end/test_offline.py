"""An offline server reaches for nobody: every attempt of its processes is counted, by Python and by the kernel.

A day of a server is spent twice: as everything runs, and in a network namespace that has nothing but a loopback. A
third day, with everything open, proves that both counters count.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = ("unshare", "--user", "--net", "--map-root-user")
# What a resolver waits for one server that does not answer. Where a process starts or draws, a machine that others work
# on adds more than that by itself.
RESOLVER_SECONDS, SLOW_SECONDS = 5, 60
LIGHT = ("ready", "models", "docs", "unknown parameter", "absent model", "picture by address", "picture by name")
EXPECTED = {
    "start": 0,
    "ready": 200,
    "models": 200,
    "docs": 200,
    "generation": 200,
    "image to image": 200,
    "edit": 200,
    "unknown parameter": 400,
    "absent model": 503,
    "picture by address": 400,
    "picture by name": 400,
    "draw": 0,
    "check": 1,
    "list": 0,
    "pull": 1,
    "verify": 1,
    "stop": 0,
}


@dataclass(frozen=True)
class Report:
    """What a day was like, and what its processes wrote down."""

    words: dict[str, str]
    status: dict[str, int]
    seconds: dict[str, float]
    packets_without_a_way: int | None
    records: list[dict[str, Any]]

    @property
    def attempts(self) -> list[str]:
        return [f"{record['attempt']} {record['target']}" for record in self.records if "attempt" in record]

    @property
    def processes(self) -> dict[str, dict[str, Any]]:
        """By the module that each one ran."""
        began = [record for record in self.records if "began" in record]
        return {record["began"][record["began"].index("-m") + 1]: record for record in began}


def spend_a_day(folder: Path, *flags: str, within: tuple[str, ...] = ()) -> Report:
    command = [*within, sys.executable, "-m", "tests.end_to_end.offline_day", str(folder), *flags]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=280)
    finally:
        # A day that ended before its evening leaves a server behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors
    day = json.loads(output.splitlines()[-1])
    records = [json.loads(line) for line in (folder / "outbound" / "attempts").read_text().splitlines()]
    status, words = ({name: step[part] for name, step in day["steps"].items()} for part in (0, 1))
    return Report(words, status, day["seconds"], day["packets_without_a_way"], records)


@pytest.fixture(scope="module")
def namespace() -> tuple[str, ...]:
    """How a command is run with nothing but a loopback; a skip where this kernel or container allows none."""
    try:
        tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here, so no network namespace can be made")
    if tried.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {tried.stderr.strip()}")
    return NAMESPACE


@pytest.fixture(scope="module")
def usual_day(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return spend_a_day(tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def day_alone(tmp_path_factory: pytest.TempPathFactory, namespace: tuple[str, ...]) -> Report:
    return spend_a_day(tmp_path_factory.mktemp("alone"), "--alone", within=namespace)


@pytest.fixture(scope="module")
def online_day(tmp_path_factory: pytest.TempPathFactory, namespace: tuple[str, ...]) -> Report:
    return spend_a_day(tmp_path_factory.mktemp("online"), "--alone", "--online", within=namespace)


@pytest.mark.whole  # the quick run has the day in a namespace of its own
def test_no_process_reaches_for_another_machine(usual_day: Report) -> None:
    assert usual_day.attempts == []


def test_no_process_reaches_for_another_machine_when_there_is_none(day_alone: Report) -> None:
    assert day_alone.attempts == []


def test_the_kernel_had_no_packet_that_wanted_to_go_out(day_alone: Report) -> None:
    """It counts for all processes, and for compiled code too."""
    assert day_alone.packets_without_a_way == 0


def test_everything_works_without_a_network(day_alone: Report) -> None:
    assert day_alone.status == EXPECTED


@pytest.mark.whole
def test_everything_works_as_everything_runs(usual_day: Report) -> None:
    assert usual_day.status == EXPECTED


def test_what_would_go_out_is_refused_by_that_name(day_alone: Report) -> None:
    for step in ("picture by address", "picture by name"):
        assert "this server is offline; send the picture itself" in day_alone.words[step]
    assert "offline is set, so nothing is fetched" in day_alone.words["pull"]
    assert "run: safelight models pull not-here" in day_alone.words["check"]
    assert "absent: " in day_alone.words["list"]


@pytest.mark.whole
def test_nothing_waits_for_a_network_that_is_not_there(usual_day: Report, day_alone: Report) -> None:
    waited = {
        step: (usual_day.seconds[step], seconds)
        for step, seconds in day_alone.seconds.items()
        if seconds > usual_day.seconds[step] + (RESOLVER_SECONDS if step in LIGHT else SLOW_SECONDS)
    }
    assert waited == {}


def test_every_kind_of_process_was_watched_and_those_of_the_server_know_that_it_is_offline(day_alone: Report) -> None:
    started = {"pipelines.worker", "server.images.decoder_process", "pipelines.check", "pipelines.shelf"}
    assert day_alone.processes.keys() == started | {"server.cli"}
    for module in started:
        process = day_alone.processes[module]
        assert (process["HF_HUB_OFFLINE"], process["HF_HUB_DISABLE_TELEMETRY"]) == ("1", "1"), module


def test_the_page_of_the_api_needs_nothing_from_elsewhere(day_alone: Report) -> None:
    assert re.findall(r"""(?:src|href)=["']\w*:?//""", day_alone.words["docs"]) == []
    assert "swagger" in day_alone.words["docs"]


@pytest.mark.whole
def test_an_online_server_is_caught_by_both_counters(online_day: Report) -> None:
    """With pictures from anywhere and a proxy for pulls: by address, by name, and from another process."""
    assert "socket.connect ('1.1.1.1', 80)" in online_day.attempts
    assert "socket.getaddrinfo 'pictures.example.com'" in online_day.attempts
    assert "socket.connect ('10.255.255.1', 3128)" in online_day.attempts
    assert online_day.packets_without_a_way
    assert online_day.status == {step: EXPECTED[step] for step in online_day.status}
