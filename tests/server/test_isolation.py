"""Guards the wall between the processes: the server never imports torch, and our package names are ours alone."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "diffusers", "transformers", "safetensors", "accelerate", "tokenizers"}


def modules_after(statement: str) -> set[str]:
    """The names of all modules that a fresh interpreter holds after a statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=True, text=True
    )
    return set(json.loads(finished.stdout))


@pytest.fixture(scope="module")
def server_modules() -> set[str]:
    return modules_after("import server.app, server.cli, server.ledger.ledger")


def test_the_probe_sees_what_was_imported(server_modules: set[str]) -> None:
    assert {"server.app", "server.cli", "fastapi"} <= server_modules


def test_the_server_imports_no_torch(server_modules: set[str]) -> None:
    assert {name.partition(".")[0] for name in server_modules} & HEAVY == set()


def test_the_server_loads_no_providers_sdk_before_a_backend_needs_it(server_modules: set[str]) -> None:
    assert {name.partition(".")[0] for name in server_modules} & {"boto3", "botocore", "openai"} == set()


def test_the_server_loads_nothing_that_sends_traces_before_it_is_told_where_to(server_modules: set[str]) -> None:
    sending = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "requests")
    assert [name for name in server_modules if name.startswith(sending)] == []


def test_the_server_imports_nothing_of_the_worker_but_messages_reckoning_and_writing_files(
    server_modules: set[str],
) -> None:
    ours = {name for name in server_modules if name.partition(".")[0] == "pipelines"}
    shared = {"messages", "framing", "figures", "work", "leaks", "amounts", "fits", "machine", "pace", "picture_file"}
    assert ours == {"pipelines", *(f"pipelines.{name}" for name in shared)}


@pytest.mark.parametrize("package", ["server", "pipelines"])
def test_no_other_distribution_provides_our_packages(package: str) -> None:
    assert set(packages_distributions()[package]) == {"safelight"}
