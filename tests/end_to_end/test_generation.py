"""A prompt becomes pictures, over the socket, by the whole real path: what a first user sees."""

from __future__ import annotations

import base64
import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops

from tests.end_to_end.server_process import ServerProcess


def picture_of(item: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


@pytest.mark.parametrize("prefix", ["/v1", "/api", ""])
def test_every_prefix_draws_a_picture_of_the_size_that_was_asked(server: ServerProcess, prefix: str) -> None:
    reply = server.generate(f"{prefix}/images/generations", prompt="a red circle", response_format="b64_json")
    assert reply.status_code == 200
    (item,) = reply.json()["data"]
    picture = picture_of(item)
    assert (picture.format, picture.size, picture.mode) == ("PNG", (256, 256), "RGB")


def test_a_size_that_is_not_square_is_wide_by_high(server: ServerProcess) -> None:
    reply = server.generate(prompt="a red circle", size="384x256", response_format="b64_json")
    assert picture_of(reply.json()["data"][0]).size == (384, 256)


def test_the_same_seed_gives_the_same_bytes(server: ServerProcess) -> None:
    first, second = (
        server.generate(prompt="a red circle", seed=7, response_format="b64_json").json()["data"] for _ in range(2)
    )
    assert first == second


def test_another_seed_gives_another_picture(server: ServerProcess) -> None:
    first, second = (
        server.generate(prompt="a red circle", seed=seed, response_format="b64_json").json()["data"][0]["b64_json"]
        for seed in (1, 2)
    )
    assert first != second


def test_picture_i_of_a_request_is_drawn_with_seed_plus_i(server: ServerProcess) -> None:
    several = server.generate(prompt="a red circle", n=4, seed=40, response_format="b64_json").json()["data"]
    assert [item["seed"] for item in several] == [40, 41, 42, 43]
    assert len({item["b64_json"] for item in several}) == 4
    alone = server.generate(prompt="a red circle", seed=42, response_format="b64_json").json()["data"][0]
    assert alone["seed"] == 42
    difference = ImageChops.difference(picture_of(alone), picture_of(several[2]))
    assert max(difference.tobytes()) <= 1, "only rounding may differ by company"


@pytest.mark.whole
def test_with_exact_rows_picture_i_drawn_alone_has_the_same_bytes() -> None:
    exact = ServerProcess(environment={"SAFELIGHT_BATCH_EXACT_ROWS": "4"})
    try:
        asked = {"prompt": "a red circle", "response_format": "b64_json"}
        several = exact.generate(**asked, n=3, seed=40).json()["data"]
        alone = exact.generate(**asked, seed=42).json()["data"][0]
    finally:
        assert exact.stop() == 0
    assert alone == several[2]


def test_a_missing_seed_is_drawn_at_random_and_told(server: ServerProcess) -> None:
    drawn = [server.generate(prompt="a red circle", response_format="b64_json").json()["data"][0] for _ in range(2)]
    assert drawn[0]["seed"] != drawn[1]["seed"]
    again = server.generate(prompt="a red circle", seed=drawn[0]["seed"], response_format="b64_json").json()["data"][0]
    assert again == drawn[0]


def test_the_last_seed_of_64_bits_wraps_around(server: ServerProcess) -> None:
    reply = server.generate(prompt="a red circle", n=2, seed=2**64 - 1, response_format="b64_json")
    assert [item["seed"] for item in reply.json()["data"]] == [2**64 - 1, 0]


@pytest.mark.parametrize(
    "change", [{"guidance_scale": 6.0}, {"negative_prompt": "blue"}, {"num_inference_steps": 3, "steps": None}]
)
def test_every_knob_changes_the_picture(server: ServerProcess, change: dict[str, Any]) -> None:
    plain = server.generate(prompt="a red circle", seed=3, response_format="b64_json").json()["data"][0]
    changed = server.generate(prompt="a red circle", seed=3, response_format="b64_json", **change).json()["data"][0]
    assert changed["b64_json"] != plain["b64_json"]


def test_a_url_is_served_without_a_key_as_a_safe_png(server: ServerProcess) -> None:
    before = int(time.time())
    reply = server.generate(prompt="a red circle").json()
    assert before <= reply["created"] <= time.time()
    url = reply["data"][0]["url"]
    assert re.fullmatch(re.escape(server.url) + r"/files/[A-Za-z0-9_-]{22}\.png", url)
    file = httpx.get(url)
    assert file.headers["content-type"] == "image/png"
    assert file.headers["x-content-type-options"] == "nosniff"
    assert Image.open(io.BytesIO(file.content)).size == (256, 256)
    assert int(httpx.head(url).headers["content-length"]) == len(file.content)


@pytest.mark.parametrize(
    ("model", "form"),
    [("dall-e-3", "url"), ("dall-e-2", "url"), ("gpt-image-1", "b64_json"), ("gpt-image-2.6-flare", "b64_json")],
)
def test_names_that_clients_have_built_in_answer_in_the_form_they_expect(
    server: ServerProcess, model: str, form: str
) -> None:
    reply = server.generate(prompt="a red circle", model=model)
    assert set(reply.json()["data"][0]) == {form, "seed"}


def test_parameters_without_effect_are_named(server: ServerProcess) -> None:
    reply = server.generate(prompt="a red circle", quality="hd", style="vivid", user="u1", partial_images=2)
    assert reply.headers["x-safelight-ignored"] == "partial_images"


def test_a_prompt_of_thousands_of_emoji_is_drawn(server: ServerProcess) -> None:
    assert server.generate(prompt="\N{CAT FACE}" * 32_000).status_code == 200


def test_requests_at_the_same_time_are_all_answered(server: ServerProcess) -> None:
    with ThreadPoolExecutor(8) as callers:
        replies = list(callers.map(lambda seed: server.generate(prompt="a red circle", seed=seed), range(8)))
    assert [reply.json()["data"][0]["seed"] for reply in replies] == list(range(8))
