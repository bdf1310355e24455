"""An adapter that is trained here, on the embedded model, acts as much as its scale says, over the socket too."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.demo.lora import ORANGE, Trained, train, write_both
from tests.demo.measure import load_demo
from tests.end_to_end.server_process import ServerProcess

PROMPT = "a large green circle on a white background"
CATALOGUE = """\
default_model: demo
models:
  demo:
    family: sdxl
    source: {source}
    defaults: {{size: 256x256, steps: 6, guidance_scale: 2.0}}
    presets: {{quality: {{hd: {{steps: 9}}}}}}
    loras_folder: adapters
    loras:
      orange: {{scale: 0.5}}
      quick: {{source: adapters/orange.safetensors, defaults: {{steps: 2, sampler: lcm, guidance_scale: 1.0}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    family = load_demo("demo-sdxl")
    made = train(family)
    write_both(family, made, folder / "adapters")
    return made


@pytest.fixture(scope="module")
def server(folder: Path, trained: Trained) -> Iterator[ServerProcess]:
    assert trained.losses[1] < trained.losses[0] / 2, "nothing was learned"
    (folder / "adapters" / "broken.safetensors").write_bytes(b"\x80\x04cos\nsystem\n.")
    source = Path("pipelines/demo/demo-sdxl").resolve()
    (folder / "models.yaml").write_text(CATALOGUE.format(source=source))
    process = ServerProcess(("--models", str(folder / "models.yaml")))
    yield process
    assert process.stop() == 0


def drawn(server: ServerProcess, loras: object = None, **body: object) -> bytes:
    asked: dict[str, Any] = {"prompt": PROMPT, "seed": 3, "response_format": "b64_json", "steps": 6, **body}
    reply = server.generate(**asked, loras=loras)
    assert reply.status_code == 200, reply.text
    return base64.b64decode(reply.json()["data"][0]["b64_json"])


def pixels(file: bytes) -> bytes:
    return Image.open(io.BytesIO(file)).tobytes()


def distance(file: bytes) -> float:
    """How far, on average, a picture is from the colour that the adapter was trained towards."""
    return float(np.abs(np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) - np.array(ORANGE)).mean())


def test_a_scale_of_0_is_none_to_the_byte_one_half_lies_between_and_1_is_most(server: ServerProcess) -> None:
    none = drawn(server)
    zero, half, full = (drawn(server, [{"name": "orange", "scale": scale}]) for scale in (0, 0.5, 1))
    assert pixels(zero) == pixels(none)
    assert distance(full) < distance(half) - 5 < distance(none) - 10
    assert pixels(drawn(server, [{"name": "orange"}])) == pixels(half), "the default scale of its entry"
    for _ in range(3):
        drawn(server, [{"name": "orange", "scale": 2}])
    assert drawn(server) == none, "something was left behind"


def test_the_same_adapter_in_kohyas_form_draws_the_same(server: ServerProcess) -> None:
    one, other = (drawn(server, [{"name": name, "scale": 1}]) for name in ("orange", "orange-kohya"))
    assert pixels(one) == pixels(other)


def test_a_form_holds_adapters_as_json_and_the_file_tells_of_them(server: ServerProcess) -> None:
    loras = [{"name": "orange", "scale": 0.75}]
    reply = httpx.post(
        f"{server.url}/v1/images/edits",
        data={"prompt": PROMPT, "loras": json.dumps(loras), "seed": "3", "steps": "4", "size": "256x256"},
        files={"image": drawn(server)},
        timeout=120,
    )
    assert reply.status_code == 200, reply.text
    header = Image.open(io.BytesIO(base64.b64decode(reply.json()["data"][0]["b64_json"]))).info
    facts = json.loads(header["safelight"])
    assert json.loads(facts["loras"]) == loras


def test_a_broken_adapter_costs_503_to_those_who_name_it_and_nothing_to_others(server: ServerProcess) -> None:
    before = drawn(server)
    for _ in range(2):
        reply = server.generate(prompt=PROMPT, loras=[{"name": "broken"}])
        assert reply.status_code == 503
        assert reply.headers["x-should-retry"] == "false"
        error = reply.json()["error"]
        assert (error["code"], error["param"]) == ("adapter_unavailable", "loras")
        assert "'broken'" in error["message"]
        assert "/" not in error["message"]
    assert drawn(server) == before


def test_an_adapter_of_few_steps_brings_its_own_and_the_request_wins(server: ServerProcess) -> None:
    def facts(**body: object) -> dict[str, object]:
        asked: dict[str, Any] = {"steps": None, **body}
        reply = server.generate(prompt=PROMPT, response_format="b64_json", **asked)
        header = Image.open(io.BytesIO(base64.b64decode(reply.json()["data"][0]["b64_json"]))).info
        told: dict[str, object] = json.loads(header["safelight"])
        return {name: told[name] for name in ("steps", "sampler", "guidance_scale")}

    own = {"steps": 2, "sampler": "lcm", "guidance_scale": 1.0}
    assert facts(loras=[{"name": "quick"}], quality="hd") == own
    assert facts(loras=[{"name": "quick"}], steps=3) == {**own, "steps": 3}
    assert facts(loras=[{"name": "quick", "scale": 0}])["steps"] == 6


def test_a_models_adapters_are_listed(server: ServerProcess) -> None:
    model = httpx.get(f"{server.url}/v1/models/demo").json()
    assert model["loras"] == ["broken", "orange", "orange-kohya", "quick"]
