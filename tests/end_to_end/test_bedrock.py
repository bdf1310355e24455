"""Requests that are handed on to Bedrock: a real server, and an endpoint that checks every signature."""

from __future__ import annotations

import base64
import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from PIL import Image

from tests.end_to_end.server_process import ServerProcess
from tests.server.picture_files import RED, file_of, plain
from tests.upstreams.bedrock_endpoint import (
    ACCESS_KEY,
    CANARIES,
    REGION,
    SECRET_KEY,
    SESSION_TOKEN,
    Endpoint,
    fault,
    pictures,
    serving,
)

DEMO = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl"
FOREIGN_WORDS = "account 123456789012 of the provider's words"
PROMPT = "a red circle that no log may hold"
RED_FILE = file_of(plain("RGB", (512, 512), RED))
TITAN, CORE = "amazon.titan-image-generator-v2:0", "stability.stable-image-core-v1:1"
GONE = "stability.stable-image-ultra-v1:0"
MODELS = f"""\
default_model: demo
models:
  demo: {{{{family: sdxl, source: {DEMO}, defaults: {{{{size: 256x256, steps: 2}}}}}}}}
backends:
  bedrock:
    kind: bedrock
    region: {REGION}
    endpoint_url: {{url}}
    access_variables: [TEST_ACCESS_KEY, TEST_SECRET_KEY, TEST_SESSION_TOKEN]
    daily_usd: 100
    models:
      "{TITAN}": {{{{prices: [{{{{usd: 0.01}}}}, {{{{size: 512x512, usd: 0.008}}}}]}}}}
      "{CORE}": {{{{prices: [{{{{usd: 0.04}}}}]}}}}
      "{GONE}": {{{{prices: [{{{{usd: 0.14}}}}], successor: "{CORE}"}}}}
names:
  titan: {{{{route: ["bedrock:{TITAN}"]}}}}
  core: {{{{route: ["bedrock:{CORE}"]}}}}
  gone: {{{{route: ["bedrock:{GONE}"]}}}}
  either: {{{{route: ["bedrock:{CORE}", local:demo]}}}}
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's books lie."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path, endpoint: Endpoint) -> Iterator[ServerProcess]:
    models = folder / "models.yaml"
    models.write_text(MODELS.format(url=endpoint.url))
    environment = {
        "TEST_ACCESS_KEY": ACCESS_KEY,
        "TEST_SECRET_KEY": SECRET_KEY,
        "TEST_SESSION_TOKEN": SESSION_TOKEN,
        "SAFELIGHT_LEDGER": f"sqlite:///{folder / 'books.sqlite'}",
        "SAFELIGHT_LOG_LEVEL": "debug",
        "SAFELIGHT_FALLBACK_SHARE": "1",
    }
    running = ServerProcess(("--models", str(models)), environment)
    yield running
    running.stop()


def ask(server: ServerProcess, model: str, **body: Any) -> httpx.Response:
    asked = {"prompt": PROMPT, "model": model, "response_format": "b64_json", **body}
    return httpx.post(f"{server.url}/v1/images/generations", json=asked, timeout=60)


def sizes_of(answer: httpx.Response) -> list[tuple[int, int]]:
    assert answer.status_code == 200, answer.text
    files = [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]
    return [Image.open(io.BytesIO(file)).size for file in files]


def test_titan_draws_from_words_several_in_a_call(server: ServerProcess, endpoint: Endpoint) -> None:
    endpoint.answers = [pictures(RED_FILE, RED_FILE)]
    answer = ask(server, "titan", size="512x512", n=2, quality="hd", negative_prompt="blue")
    assert sizes_of(answer) == [(512, 512)] * 2
    assert answer.headers["x-safelight-backend"] == "bedrock"
    assert answer.json()["usage"]["cost"] == pytest.approx(0.016)
    received = endpoint.received[-1]
    assert (received.model, received.body["taskType"]) == (TITAN, "TEXT_IMAGE")
    assert received.body["textToImageParams"] == {"text": PROMPT, "negativeText": "blue"}
    config = received.body["imageGenerationConfig"]
    assert (config["numberOfImages"], config["width"], config["quality"]) == (2, 512, "premium")


def test_stability_draws_a_shape_that_is_brought_to_the_size(server: ServerProcess, endpoint: Endpoint) -> None:
    endpoint.answers = [pictures(RED_FILE, seeds=[7], finish_reasons=[None])]
    answer = ask(server, "core", size="1792x1024", seed=7)
    assert sizes_of(answer) == [(1792, 1024)]
    assert answer.headers["x-safelight-drawn-size"] == "1344x768"
    assert answer.json()["data"][0]["seed"] == 7
    assert endpoint.received[-1].body["aspect_ratio"] == "16:9"


def test_a_mask_reaches_titan_in_its_colours(server: ServerProcess, endpoint: Endpoint) -> None:
    endpoint.answers = [pictures(RED_FILE)]
    mask = Image.new("RGBA", (512, 512), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (128, 128, 384, 384))
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    reply = client.images.edit(model="titan", prompt=PROMPT, image=RED_FILE, mask=file_of(mask))
    assert reply.data is not None
    assert Image.open(io.BytesIO(base64.b64decode(reply.data[0].b64_json or ""))).size == (512, 512)
    body = endpoint.received[-1].body
    assert body["taskType"] == "INPAINTING"
    sent = Image.open(io.BytesIO(base64.b64decode(body["inPaintingParams"]["maskImage"])))
    assert (sent.getpixel((256, 256)), sent.getpixel((5, 5))) == ((0, 0, 0), (255, 255, 255))


def test_a_model_at_the_end_of_its_life_is_named_so_with_its_successor(
    server: ServerProcess, endpoint: Endpoint
) -> None:
    message = f"This model version has reached the end of its life. {FOREIGN_WORDS}"
    endpoint.answers = [fault("ResourceNotFoundException", 404, message)]
    answer = ask(server, "gone")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_retired")
    assert f"'{CORE}'" in answer.json()["error"]["message"]
    assert FOREIGN_WORDS not in answer.text
    before = len(endpoint.received)
    assert ask(server, "gone").status_code == 404
    assert len(endpoint.received) == before


def test_where_bedrock_throttles_our_own_model_draws(server: ServerProcess, endpoint: Endpoint) -> None:
    endpoint.answers = [fault("ThrottlingException", 429, FOREIGN_WORDS, retry_after="7")]
    alone = ask(server, "core")
    assert (alone.status_code, alone.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert alone.headers["retry-after"] == "7"
    assert FOREIGN_WORDS not in alone.text
    either = ask(server, "either", size="256x256")
    assert sizes_of(either) == [(256, 256)]
    assert either.headers["x-safelight-attempts"] == f"bedrock:{CORE}=throttled, local:demo=ok"
    assert either.json()["usage"]["cost"] == 0


def test_no_key_and_no_prompt_is_in_the_log_the_books_or_an_answer(
    server: ServerProcess, endpoint: Endpoint, folder: Path
) -> None:
    """Last in this file: all that the others have left is looked through."""
    told = httpx.get(f"{server.url}/v1/models").text
    server.stop()
    books = sqlite3.connect(folder / "books.sqlite")
    told += "\n".join("".join(books.iterdump())) + "".join(server.lines)
    (open_entries,) = books.execute("SELECT count(*) FROM ledger_entries WHERE outcome IS NULL").fetchone()
    (open_attempts,) = books.execute("SELECT count(*) FROM ledger_attempts WHERE cost_microusd IS NULL").fetchone()
    (attempts,) = books.execute("SELECT sum(cost_microusd) FROM ledger_attempts").fetchone()
    (entries,) = books.execute("SELECT sum(cost_microusd) FROM ledger_entries").fetchone()
    books.close()
    assert (open_entries, open_attempts) == (0, 0)
    assert attempts == entries
    assert endpoint.refused == []
    assert not [secret for secret in (*CANARIES, PROMPT, FOREIGN_WORDS) if secret in told]
