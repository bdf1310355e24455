"""The unmodified official client works: it generates, it reads the models, and it raises its own errors."""

from __future__ import annotations

import asyncio
import base64
import io
import urllib.request
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from pipelines.demo.scenes import paint, single
from tests.end_to_end.server_process import ServerProcess


@pytest.fixture
def client(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, _strict_response_validation=True)


def test_it_generates_base64(client: OpenAI) -> None:
    reply = client.images.generate(
        prompt="a red circle", size="256x256", response_format="b64_json", extra_body={"steps": 2, "seed": 11}
    )
    assert reply.data is not None
    assert base64.b64decode(reply.data[0].b64_json or "").startswith(b"\x89PNG")
    assert reply.data[0].model_extra == {"seed": 11}
    assert (reply.size, reply.output_format, reply.background) == ("256x256", "png", "opaque")
    assert reply.usage is not None
    assert reply.usage.output_tokens == 64
    assert reply.usage.model_extra is not None
    assert reply.usage.model_extra["model_used"] == "demo-sdxl"


def test_it_generates_urls_with_dall_e_3s_own_parameters(client: OpenAI) -> None:
    reply = client.images.generate(
        model="dall-e-3", prompt="a red circle", size="256x256", quality="hd", style="natural", extra_body={"steps": 2}
    )
    assert reply.data is not None
    with urllib.request.urlopen(reply.data[0].url or "") as file:
        assert file.read().startswith(b"\x89PNG")


async def generate_asynchronously(url: str) -> str:
    async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        reply = await client.images.generate(
            model="gpt-image-1", prompt="a red circle", size="256x256", extra_body={"steps": 2}
        )
    assert reply.data is not None
    return reply.data[0].b64_json or ""


def test_the_asynchronous_client_generates_for_gpt_image_names(server: ServerProcess) -> None:
    assert base64.b64decode(asyncio.run(generate_asynchronously(f"{server.url}/api"))).startswith(b"\x89PNG")


async def stream_asynchronously(url: str) -> list[str]:
    async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        stream = await client.images.generate(
            prompt="a red circle", size="256x256", stream=True, partial_images=1, extra_body={"steps": 4}
        )
        return [event.type async for event in stream]


def test_the_asynchronous_client_streams(server: ServerProcess) -> None:
    events = asyncio.run(stream_asynchronously(f"{server.url}/v1"))
    assert events == ["image_generation.partial_image", "image_generation.completed"]


def test_it_lists_and_retrieves_models(client: OpenAI) -> None:
    listed = [model.id for model in client.models.list()]
    assert listed[0] == "demo-sdxl"
    assert "dall-e-3" in listed
    assert client.models.retrieve("dall-e-3").id == "dall-e-3"


def test_a_bad_value_raises_bad_request_with_the_parameter(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a red circle", n=11)
    assert (caught.value.param, caught.value.code) == ("n", "invalid_parameter")
    assert caught.value.request_id is not None


def test_an_unknown_model_raises_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt="a red circle", model="no-such-model")
    assert caught.value.code == "model_not_found"


def circle() -> bytes:
    file = io.BytesIO()
    paint(single("circle", "red", "blue", "large"), 256, 256).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_picture_is_of_the_format_that_was_asked_for(
    client: OpenAI, output_format: Literal["png", "jpeg", "webp"]
) -> None:
    reply = client.images.generate(
        prompt="a red circle", size="256x256", output_format=output_format, quality="low", extra_body={"steps": 2}
    )
    assert reply.data is not None
    with urllib.request.urlopen(reply.data[0].url or "") as file:
        assert file.headers["content-type"] == f"image/{output_format}"
        assert (Image.open(io.BytesIO(file.read())).format or "").lower() == output_format
    assert reply.quality == "low"


@pytest.mark.parametrize("partial_images", [0, 1, 3])
def test_a_stream_brings_partial_images_and_then_the_picture(client: OpenAI, partial_images: int) -> None:
    events = list(
        client.images.generate(
            prompt="a red circle",
            size="256x256",
            stream=True,
            partial_images=partial_images,
            extra_body={"steps": 4, "seed": 5},
        )
    )
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * partial_images + ["image_generation.completed"]
    plain = client.images.generate(
        prompt="a red circle", size="256x256", response_format="b64_json", extra_body={"steps": 4, "seed": 5}
    )
    assert plain.data is not None
    assert events[-1].b64_json == plain.data[0].b64_json, "a stream draws what a plain request draws"
    assert len({event.b64_json for event in events}) == len(events)


def test_a_stream_of_several_pictures_brings_each_once(client: OpenAI) -> None:
    stream = client.images.generate(
        prompt="a red circle", size="256x256", n=3, stream=True, extra_body={"steps": 2, "seed": 5}
    )
    seeds = [event.model_extra["seed"] for event in stream if event.model_extra]
    assert sorted(seeds) == [5, 6, 7]


@pytest.mark.parametrize("images", [circle(), [circle()]], ids=["one file", "a list of one"])
def test_it_edits_a_file_or_a_list_of_one(client: OpenAI, images: Any) -> None:
    reply = client.images.edit(image=images, prompt="a green square", input_fidelity="high", extra_body={"steps": 2})
    assert reply.data is not None
    assert base64.b64decode(reply.data[0].b64_json or "").startswith(b"\x89PNG")
    assert reply.size == "256x256"
    assert reply.usage is not None
    assert reply.usage.input_tokens_details.image_tokens == 64


def test_several_files_to_edit_are_refused_with_the_reason(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=[circle(), circle()], prompt="a green square")
    assert caught.value.param == "image"


def test_an_edit_with_a_mask_changes_nothing_where_it_is_opaque(client: OpenAI) -> None:
    mask = Image.new("RGBA", (256, 256), "black")
    mask.paste((0, 0, 0, 0), (128, 0, 256, 256))
    file = io.BytesIO()
    mask.save(file, "PNG")
    reply = client.images.edit(
        image=circle(), mask=file.getvalue(), prompt="a white background", extra_body={"steps": 8, "seed": 1}
    )
    assert reply.data is not None
    drawn = pixels(base64.b64decode(reply.data[0].b64_json or ""))
    change = np.abs(drawn - pixels(circle())).mean(axis=2)
    assert change[:, :96].max() <= 2
    assert change[:, 160:].mean() > 40


def pixels(file: bytes) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), dtype=np.float64)


def test_an_edit_streams(client: OpenAI) -> None:
    stream = client.images.edit(
        image=circle(), prompt="a green square", stream=True, partial_images=1, extra_body={"steps": 4}
    )
    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_it_varies_a_picture(client: OpenAI) -> None:
    with pytest.deprecated_call():
        reply = client.images.create_variation(image=circle(), n=2, size="256x256", extra_body={"steps": 2})
    assert reply.data is not None
    assert len({item.url for item in reply.data}) == 2
