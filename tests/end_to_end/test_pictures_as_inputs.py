"""Image to image, inpainting and samplers over HTTP, judged by pixels."""

from __future__ import annotations

import base64
import io
from typing import Any, get_args

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipelines.demo.scenes import COLOURS, paint, single
from pipelines.messages import SAMPLERS_BY_FAMILY, SamplerName
from tests.end_to_end.server_process import ServerProcess

SIDE_PX = 256
SCENE = single("circle", "red", "blue", "large")
Pixels = npt.NDArray[np.float64]


def as_base64(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pixels_of(answer: httpx.Response) -> Pixels:
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["data"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["b64_json"]))), dtype=np.float64)


def given() -> Image.Image:
    return paint(SCENE, SIDE_PX, SIDE_PX)


def right_half() -> Image.Image:
    mask = Image.new("L", (SIDE_PX, SIDE_PX))
    mask.paste(255, (SIDE_PX // 2, 0, SIDE_PX, SIDE_PX))
    return mask


def redraw(server: ServerProcess, **changes: Any) -> Pixels:
    body: dict[str, Any] = {
        "prompt": SCENE.caption,
        "image": as_base64(given()),
        "steps": 8,
        "seed": 1,
        "response_format": "b64_json",
    }
    return pixels_of(server.generate(**{**body, **changes}))


def test_a_low_strength_stays_near_the_image_and_a_high_one_goes_far(server: ServerProcess) -> None:
    original = np.asarray(given(), dtype=np.float64)
    prompt = "a small yellow star in the top left on a green background"
    near, far = (np.abs(redraw(server, prompt=prompt, strength=share) - original).mean() for share in (0.25, 1.0))
    assert near < 20 < far


def test_what_the_mask_keeps_is_kept_and_the_rest_changes(server: ServerProcess) -> None:
    original = np.asarray(given(), dtype=np.float64)
    drawn = redraw(server, prompt="a white background", mask=as_base64(right_half()), strength=1.0)
    change = np.abs(drawn - original).mean(axis=2)
    margin = 32  # the model's mask acts on latents of 16 pixels, and the autoencoder blends over one of them
    assert change[:, : SIDE_PX // 2].max() == 0
    assert change[:, SIDE_PX // 2 + margin :].mean() > 40


def test_without_a_size_the_image_keeps_its_shape(server: ServerProcess) -> None:
    wide = paint(SCENE, 512, 256)
    assert redraw(server, image=as_base64(wide), size="auto", strength=0.25).shape == (256, 512, 3)


@pytest.mark.parametrize("sampler", SAMPLERS_BY_FAMILY["sdxl"])
def test_every_sampler_draws_the_background_that_was_asked_for(server: ServerProcess, sampler: SamplerName) -> None:
    body: dict[str, Any] = {
        "prompt": SCENE.caption,
        "seed": 1,
        "steps": 16,
        "sampler": sampler,
        "response_format": "b64_json",
    }
    drawn = pixels_of(server.generate(**body))
    corner = drawn[:16, :16].mean(axis=(0, 1))
    assert min(COLOURS, key=lambda name: float(np.abs(corner - COLOURS[name]).sum())) == "blue"


def test_a_sampler_of_another_family_is_refused_with_those_that_fit(server: ServerProcess) -> None:
    error = server.generate(prompt="a", sampler="flow_euler").json()["error"]
    assert error["param"] == "sampler"
    assert all(name in error["message"] for name in get_args(SamplerName) if name != "flow_euler")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"strength": 0}, "strength"),
        ({"strength": 0.01}, "strength"),
        ({"mask": as_base64(Image.new("L", (64, 64), 255))}, "mask"),
        ({"image": as_base64(Image.new("RGB", (64, 64)))}, "image"),
        ({"image": "not base64"}, "image"),
    ],
)
def test_an_unusable_input_is_refused_by_name(server: ServerProcess, changes: dict[str, Any], param: str) -> None:
    answer = server.generate(**{"prompt": "a", "image": as_base64(given()), **changes})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
