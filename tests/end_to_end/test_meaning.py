"""Parameters mean what they say, judged by what is in the pictures: presets, negative prompts, images and masks."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.demo.scenes import Scene, paint, single
from tests.demo.oracle import Finding, read
from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.test_pictures_as_inputs import as_base64

SIDE_PX = 256
SCENE = single("circle", "red", "blue", "large")


def drawn(server: ServerProcess, **body: Any) -> tuple[Image.Image, dict[str, Any]]:
    """The picture, drawn with the model's own number of steps, and its entry in the reply."""
    defaults = {"prompt": SCENE.caption, "seed": 3, "steps": None, "response_format": "b64_json"}
    answer = server.generate(**{**defaults, **body})
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["data"]
    return Image.open(io.BytesIO(base64.b64decode(entry["b64_json"]))), entry


def only_thing(picture: Image.Image) -> Finding:
    (finding,) = read(picture).findings
    return finding


@pytest.mark.parametrize("model", ["demo-sdxl", pytest.param("demo-sd21", marks=pytest.mark.whole)])
@pytest.mark.parametrize("prompt", ["a square", "a circle on a blue background"])
def test_what_the_negative_prompt_names_is_not_drawn(server: ServerProcess, model: str, prompt: str) -> None:
    free, _ = drawn(server, model=model, prompt=prompt, guidance_scale=3.0)
    colour = only_thing(free).colour
    other, _ = drawn(server, model=model, prompt=prompt, guidance_scale=3.0, negative_prompt=colour)
    assert only_thing(other).colour != colour


@pytest.mark.parametrize(("quality", "steps"), [("low", 8), ("standard", 16), ("hd", 32), ("high", 32), (None, 16)])
def test_a_higher_quality_takes_more_steps(server: ServerProcess, quality: str | None, steps: int) -> None:
    picture, _ = drawn(server, quality=quality)
    assert f"Steps: {steps}," in picture.info["parameters"]


def test_a_style_draws_the_prompt_that_it_says_it_drew(server: ServerProcess) -> None:
    plain, unchanged = drawn(server)
    vivid, entry = drawn(server, style="vivid")
    by_hand, _ = drawn(server, prompt=entry["revised_prompt"], guidance_scale=3.5)
    assert "revised_prompt" not in unchanged
    assert entry["revised_prompt"] == f"{SCENE.caption}, studio light"
    assert vivid.tobytes() == by_hand.tobytes() != plain.tobytes()


@pytest.mark.parametrize("strength", [0.2, 0.4])
def test_a_low_strength_keeps_what_the_image_shows(server: ServerProcess, strength: float) -> None:
    star = "a large yellow star on a blue background"
    picture, _ = drawn(server, prompt=star, image=as_base64(shown(SCENE)), strength=strength)
    assert read(picture).mistakes(SCENE) == []


def test_a_full_strength_draws_the_prompt_instead_of_the_image(server: ServerProcess) -> None:
    star = single("square", "yellow", "green", "large")
    picture, _ = drawn(server, prompt=star.caption, image=as_base64(shown(SCENE)), strength=1.0)
    assert read(picture).mistakes(star) == []


@pytest.mark.parametrize("model", ["demo-sdxl", pytest.param("demo-sd21", marks=pytest.mark.whole)])
def test_inpainting_changes_the_masked_thing_and_nothing_else(server: ServerProcess, model: str) -> None:
    green_square = single("square", "green", "blue", "large")
    mask = Image.new("L", (SIDE_PX, SIDE_PX))
    mask.paste(255, (40, 40, 216, 216))
    body = {"image": as_base64(shown(SCENE)), "mask": as_base64(mask), "strength": 1.0}
    picture, _ = drawn(server, model=model, prompt=green_square.caption, **body)
    assert read(picture).mistakes(green_square) == []
    change = np.abs(np.asarray(picture, dtype=int) - np.asarray(shown(SCENE), dtype=int)).max(axis=2)
    assert change[np.asarray(mask) == 0].max() <= 2


def shown(scene: Scene) -> Image.Image:
    return paint(scene, SIDE_PX, SIDE_PX)
