"""The unmodified official client works: it generates, it reads the models, and it raises its own errors."""

from __future__ import annotations

import asyncio
import base64
import urllib.request

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

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
