"""Hints over the socket, with a ControlNet beside the embedded model."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw

from server.images.inspect import facts_of
from tests.end_to_end.server_process import ServerProcess
from tests.pipelines.tiny_models import write_control

SOURCE = Path("pipelines/demo/demo-sdxl").resolve()
CATALOGUE = """\
default_model: demo
models:
  demo:
    family: sdxl
    source: {source}
    defaults: {{size: 256x256, steps: 2, guidance_scale: 2.0}}
    controls: {{canny: {{source: canny}}, depth: {{source: missing}}}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("control")
    write_control(folder / "canny", SOURCE, 1)
    (folder / "models.yaml").write_text(CATALOGUE.format(source=SOURCE))
    process = ServerProcess(("--models", str(folder / "models.yaml")), {"SAFELIGHT_BATCH_EXACT_ROWS": "2"})
    yield process
    assert process.stop() == 0


def edges(width_px: int = 256, height_px: int = 256) -> bytes:
    picture = Image.new("RGB", (width_px, height_px))
    ImageDraw.Draw(picture).ellipse((40, 40, 200, 200), outline="white", width=4)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


HINT = base64.b64encode(edges()).decode()


def drawn(server: ServerProcess, **body: Any) -> bytes:
    reply = server.generate(prompt="a red circle", seed=3, response_format="b64_json", **body)
    assert reply.status_code == 200, reply.text
    return base64.b64decode(reply.json()["data"][0]["b64_json"])


def pixels(file: bytes) -> bytes:
    return Image.open(io.BytesIO(file)).tobytes()


def test_the_picture_changes_with_the_scale_and_at_zero_is_that_without_to_the_byte(server: ServerProcess) -> None:
    none = drawn(server)
    zero, half, full = (drawn(server, control="canny", control_image=HINT, control_scale=s) for s in (0, 0.5, 1))
    assert pixels(zero) == pixels(none)
    assert len({pixels(none), pixels(half), pixels(full)}) == 3
    told = facts_of(full)
    assert (told["control"], told["control_scale"]) == ("canny", 1.0)


def test_a_form_brings_the_hint_as_a_file_beside_an_image(server: ServerProcess) -> None:
    fields = {"prompt": "a red circle", "control": "canny", "control_scale": "0.7", "steps": "2", "size": "256x256"}
    files = {"image": edges(), "control_image": edges()}
    reply = httpx.post(f"{server.url}/v1/images/edits", data=fields, files=files, timeout=120)
    assert reply.status_code == 200, reply.text


def test_without_a_size_the_hints_shape_is_drawn(server: ServerProcess) -> None:
    hint = base64.b64encode(edges(512, 256)).decode()
    file = drawn(server, control="canny", control_image=hint, size="auto")
    assert Image.open(io.BytesIO(file)).size == (512, 256)


@pytest.mark.parametrize("content", [b"no picture", edges(64, 64)])
def test_a_hint_that_cannot_be_used_is_refused_by_name(server: ServerProcess, content: bytes) -> None:
    hint = base64.b64encode(content).decode()
    reply = server.generate(prompt="a", control="canny", control_image=hint)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "control_image"), reply.text


def test_a_network_whose_files_are_missing_answers_503_to_those_who_name_it_alone(server: ServerProcess) -> None:
    reply = server.generate(prompt="a", control="depth", control_image=HINT)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (503, "control_unavailable", "control"), json.dumps(
        error
    )
    assert pixels(drawn(server))
    assert httpx.get(f"{server.url}/v1/models/demo").json()["controls"] == ["canny", "depth"]
