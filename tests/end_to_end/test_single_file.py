"""A checkpoint in one file, as the community passes them on, in a real server: the same pictures as its folder."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from pipelines.messages import FamilyName
from tests.end_to_end.server_process import ServerProcess
from tests.pipelines.conftest import write_checkpoints
from tests.pipelines.kept_forms import as_single_file

FAMILIES: tuple[FamilyName, ...] = ("sdxl", "sd21")


def entry(name: str, family: str, **places: object) -> str:
    lines = [f"  {name}:", f"    family: {family}", "    defaults: {size: 256x256, steps: 2}"]
    return "\n".join([*lines, *(f"    {key}: {place}" for key, place in places.items())]) + "\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder, text = tmp_path_factory.mktemp("models"), "default_model: sdxl-folder\nmodels:\n"
    checkpoints = write_checkpoints(tmp_path_factory.mktemp("tiny"))
    for kind in ("sdxl", "sd21-noise"):
        checkpoint = checkpoints[kind]
        family = checkpoint.family
        (folder / family).mkdir()
        one = as_single_file(checkpoint, folder / family)
        text += entry(f"{family}-folder", family, source=checkpoint.folder)
        text += entry(f"{family}-file", family, source=one.path, rest=one.rest, config=one.config)
    cut = folder / "cut.safetensors"
    cut.write_bytes((folder / "sdxl" / "model.safetensors").read_bytes()[:-100])
    text += entry("cut", "sdxl", source=cut, rest=folder / "sdxl" / "rest", config=folder / "sdxl" / "rest")
    (folder / "models.yaml").write_text(text)
    running = ServerProcess(("--models", str(folder / "models.yaml")))
    yield running
    running.stop()


def pixels(server: ServerProcess, model: str) -> bytes:
    body: dict[str, Any] = {"prompt": "a red circle on a blue background", "seed": 3, "response_format": "b64_json"}
    answer = server.generate(model=model, **body)
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))).tobytes()


@pytest.mark.whole
@pytest.mark.parametrize("family", FAMILIES)
def test_one_file_draws_to_the_pixel_what_its_folder_draws(server: ServerProcess, family: FamilyName) -> None:
    assert pixels(server, f"{family}-file") == pixels(server, f"{family}-folder")


@pytest.mark.whole
def test_a_truncated_file_is_named_and_costs_nobody_else_anything(server: ServerProcess) -> None:
    answer = server.generate(prompt="a red circle", model="cut")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert answer.headers["x-should-retry"] == "false"
    assert pixels(server, "sdxl-folder")
