"""The console command says clearly what is wrong, where, and what was probably meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.server_process import ServerProcess

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl"


def run_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1"])  # noqa: S104 (it must be refused)
def test_listening_beyond_this_machine_is_refused(host: str) -> None:
    finished = run_cli("serve", "--host", host)
    assert finished.returncode == 2
    assert "no keys" in finished.stderr


def test_a_taken_port_is_named(server: ServerProcess) -> None:
    finished = run_cli("serve", "--port", server.url.rpartition(":")[2])
    assert finished.returncode == 2
    assert "cannot listen" in finished.stderr


def test_an_unknown_setting_is_refused_with_a_suggestion() -> None:
    finished = run_cli("check", SAFELIGHT_PROT="1")
    assert finished.returncode == 2
    assert "Did you mean 'SAFELIGHT_PORT'?" in finished.stderr


def test_check_names_line_and_key_and_suggests(tmp_path: Path) -> None:
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text("default_model: a\nmodels:\n  a:\n    family: sdlx\n    source: .\n    defalts: {steps: 4}\n")
    finished = run_cli("check", "--models", str(catalogue))
    assert finished.returncode == 2
    assert f"{catalogue}:4: models.a.family" in finished.stderr
    assert "Did you mean 'sdxl'?" in finished.stderr
    assert f"{catalogue}:6: models.a.defalts: unknown key. Did you mean 'defaults'?" in finished.stderr


def test_check_finds_that_the_server_would_refuse_its_address_and_could_not_write() -> None:
    finished = run_cli("check", SAFELIGHT_HOST="192.168.1.1", SAFELIGHT_FILES_FOLDER="/proc/self")
    assert finished.returncode == 1
    assert "keys: refusing to listen on 192.168.1.1: there are no keys" in finished.stdout
    assert "SAFELIGHT_FILES_FOLDER: /proc/self cannot be written" in finished.stdout
    assert finished.stdout.endswith("1 problems of keys, 0 of content checks, 1 of folders\n")


def test_check_and_models_say_what_is_present() -> None:
    assert run_cli("check").returncode == 0
    listed = run_cli("models")
    assert "demo-sdxl (default)" in listed.stdout
    assert str(DEMO_FOLDER) in listed.stdout
    assert run_cli("--version").stdout == "safelight 0.1.0\n"
