"""Another Safelight as a provider: what it is asked through the OpenAI adapter is what it draws when asked directly."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pipelines.demo.scenes import paint, single
from server.backends.openai_provider import OpenAiProvider
from server.backends.provider import Answer
from server.backends.trouble import Trouble
from server.core.request import RemoteRequest, Size
from tests.end_to_end.server_process import ServerProcess
from tests.upstreams.openai_requests import remote_request

SIDE_PX = 256
SIZE = Size(SIDE_PX, SIDE_PX)
SCENE = single("circle", "red", "blue", "large")
WORDS: dict[str, Any] = {"prompt": "a large yellow star on a green background", "seed": 2**64 - 2, "steps": 4}


def request(**changes: Any) -> RemoteRequest:
    whole = {**WORDS, "model": "demo-sdxl", "size": SIZE, "drawn_size": SIZE}
    return remote_request("compatible", **{**whole, **changes})


def ask(server: ServerProcess, asked: RemoteRequest, first: int = 0, count: int = 1) -> Answer:
    async def run() -> Answer:
        provider = OpenAiProvider(f"{server.url}/v1", None, {"demo-sdxl": "compatible", "nobody": "compatible"})
        try:
            return await provider.ask(asked, first, count, 120.0)
        finally:
            await provider.close()

    return asyncio.run(run())


def direct(server: ServerProcess, route: str, **changes: Any) -> list[bytes]:
    """The pixels of the same, asked without us."""
    body = {**WORDS, "model": "demo-sdxl", "size": str(SIZE), "response_format": "b64_json", **changes}
    answer = httpx.post(f"{server.url}/v1/images/{route}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return [pixels(base64.b64decode(entry["b64_json"])) for entry in answer.json()["data"]]


def pixels(file: bytes) -> bytes:
    return Image.open(io.BytesIO(file)).convert("RGB").tobytes()


def file_of(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def text(file: bytes) -> str:
    return base64.b64encode(file).decode()


@pytest.fixture(scope="module")
def image() -> bytes:
    return file_of(paint(SCENE, SIDE_PX, SIDE_PX))


@pytest.fixture(scope="module")
def mask() -> bytes:
    """Transparent, and so to be drawn anew, on the right."""
    alpha = Image.new("L", (SIDE_PX, SIDE_PX), 255)
    alpha.paste(0, (SIDE_PX // 2, 0, SIDE_PX, SIDE_PX))
    return file_of(Image.merge("RGBA", [Image.new("L", alpha.size)] * 3 + [alpha]))


def test_a_prompt_with_all_our_knobs_draws_the_same_pixels(server: ServerProcess) -> None:
    knobs: dict[str, Any] = {"negative_prompt": "red", "guidance_scale": 3.0, "sampler": "euler"}
    words: dict[str, Any] = {"quality": "hd", "style": "vivid"}
    answer = ask(server, request(**knobs, asked_quality="hd", style="vivid"))
    assert [pixels(one.file) for one in answer.pictures] == direct(server, "generations", **knobs, **words)
    assert answer.pictures[0].revised_prompt == f"{WORDS['prompt']}, studio light"
    assert answer.tokens is not None
    assert answer.tokens.image_out == (SIDE_PX // 32) ** 2


def test_several_pictures_come_in_one_call_each_with_its_seed(server: ServerProcess) -> None:
    answer = ask(server, request(), count=3)
    assert [one.seed for one in answer.pictures] == [2**64 - 2, 2**64 - 1, 0]
    assert len({one.file for one in answer.pictures}) == 3


def test_a_later_picture_asked_for_alone_is_the_one_it_would_have_been(server: ServerProcess) -> None:
    [alone] = ask(server, request(), first=2).pictures
    assert alone.seed == 0
    assert [pixels(alone.file)] == direct(server, "generations", seed=0)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_a_picture_to_start_from_keeps_its_strength(server: ServerProcess, image: bytes, strength: float) -> None:
    [drawn] = ask(server, request(operation="edit", image=image, strength=strength)).pictures
    assert pixels(drawn.file) == direct(server, "edits", image=text(image), strength=strength)[0]


def test_a_mask_keeps_what_it_protects(server: ServerProcess, image: bytes, mask: bytes) -> None:
    [drawn] = ask(server, request(operation="edit", image=image, mask=mask)).pictures
    assert pixels(drawn.file) == direct(server, "edits", image=text(image), mask=text(mask))[0]
    before, after = (np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in (image, drawn.file))
    assert np.array_equal(before[:, : SIDE_PX // 2], after[:, : SIDE_PX // 2])
    assert not np.array_equal(before[:, SIDE_PX // 2 :], after[:, SIDE_PX // 2 :])


def test_a_variation_needs_no_prompt(server: ServerProcess, image: bytes) -> None:
    [drawn] = ask(server, request(operation="variation", prompt="", image=image, background="opaque")).pictures
    body = {key: value for key, value in WORDS.items() if key != "prompt"}
    asked = {**body, "model": "demo-sdxl", "size": str(SIZE), "response_format": "b64_json", "image": text(image)}
    answer = httpx.post(f"{server.url}/v1/images/variations", json=asked, timeout=120)
    assert pixels(drawn.file) == pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"model": "nobody"}, "unknown_model"),
        ({"drawn_size": Size(100, 100)}, "refused"),
        ({"sampler": "nobodys"}, "refused"),
    ],
)
def test_its_refusals_have_their_cause(server: ServerProcess, changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(Trouble) as caught:
        ask(server, request(**changes))
    assert caught.value.cause == cause
    assert not caught.value.facts.is_charged


FRONT = """\
default_model: demo
models:
  demo: {{family: sdxl, source: {demo}}}
backends:
  big-one: {{kind: openai, base_url: {url}/v1, models: {{demo-sdxl: {{prices: [{{usd: 0.002}}]}}}}}}
names:
  far: {{route: [big-one:demo-sdxl]}}
"""


@pytest.fixture(scope="module")
def front(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A Safelight that hands a name on to the other."""
    models = tmp_path_factory.mktemp("front") / "models.yaml"
    demo = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl"
    models.write_text(FRONT.format(demo=demo, url=server.url))
    running = ServerProcess(("--models", str(models)))
    yield running
    running.stop()


@pytest.mark.whole
def test_through_one_safelight_the_other_draws_what_it_draws_alone(
    server: ServerProcess, front: ServerProcess, image: bytes, mask: bytes
) -> None:
    for route, more in (
        ("generations", {"guidance_scale": 3.0}),
        ("edits", {"image": text(image), "strength": 0.4}),
        ("edits", {"image": text(image), "mask": text(mask)}),
    ):
        body = {**WORDS, "model": "far", "size": str(SIZE), "response_format": "b64_json", **more}
        answer = httpx.post(f"{front.url}/v1/images/{route}", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        drawn = answer.json()
        assert [pixels(base64.b64decode(one["b64_json"])) for one in drawn["data"]] == direct(server, route, **more)
        assert [one["seed"] for one in drawn["data"]] == [WORDS["seed"]]
        assert drawn["usage"]["cost"] == pytest.approx(0.002)
        assert answer.headers["x-safelight-backend"] == "big-one"
