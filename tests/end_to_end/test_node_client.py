"""The unmodified official Node client works: it generates, streams, edits, reads the models, and raises its errors."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipelines.demo.scenes import paint, single
from tests.end_to_end.server_process import ServerProcess

PROGRAM = Path(__file__).resolve().parent / "node"


@pytest.fixture(scope="module")
def got(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program says that it got. It fails, and is never skipped, where Node or npm is missing."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(PROGRAM, folder, dirs_exist_ok=True)
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=300)
    paint(single("circle", "red", "blue", "large"), 256, 256).save(folder / "in.png")
    program = ["node", "client.mjs", server.url, "in.png"]
    finished = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return dict(json.loads(finished.stdout))


def test_it_generates_base64_and_urls(got: dict[str, Any]) -> None:
    assert base64.b64decode(got["plain"]).startswith(b"\x89PNG")
    assert got["usage"] > 0
    assert got["linkedType"] == "image/png"


def test_it_streams(got: dict[str, Any]) -> None:
    assert got["streamed"] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


def test_it_edits_a_file_and_a_list_of_one(got: dict[str, Any]) -> None:
    assert got["edited"] > 1000
    assert got["editedFromList"] > 1000


def test_it_raises_bad_request_with_the_parameter(got: dict[str, Any]) -> None:
    assert got["error"] == {"name": "BadRequestError", "status": 400, "code": "invalid_parameter", "param": "n"}


def test_it_lists_models(got: dict[str, Any]) -> None:
    assert {"demo-sdxl", "dall-e-3"} <= set(got["models"])


def test_its_admin_side_reads_what_was_drawn_and_what_it_cost(got: dict[str, Any]) -> None:
    assert {("demo-sdxl", "image.generation"), ("demo-sdxl", "image.edit")} <= {tuple(one) for one in got["drawn"]}
    assert ["demo-sdxl, local", "usd"] in got["costs"]
