"""Guards the route's way with an image: decoded beside the event loop, handed on whole, refused in the envelope."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image as Pictures

from pipelines.messages import DrawParams, Image, Submit
from server.api import image_inputs
from server.api.envelope import Edge, install_handlers
from server.api.services import DECODINGS_AT_ONCE, Services
from server.app import add_routes, engine_options
from server.core import errors
from server.core.catalogue import load_catalogue
from server.core.settings import load_settings
from server.dispatch.dispatcher import Dispatcher
from server.images.decode import decode_image
from server.images.store import FileStore
from tests.server.picture_files import BLUE, RED, animation, bomb, file_of, halves, plain, text_of

MODELS = """\
default_model: tiny
models:
  tiny:
    family: sdxl
    source: weights/tiny
    defaults: {size: 64x64, steps: 10}
    limits: {min_side_px: 64, max_side_px: 128, side_multiple_px: 16, max_pixels: 16384}
"""
PICTURE = text_of(file_of(halves((64, 96), RED, BLUE)))
MASK = text_of(file_of(plain("L", (64, 96), 255)))


class FakeDispatcher:
    """Draws nothing and remembers what it was asked for."""

    def __init__(self) -> None:
        self.jobs: list[Submit] = []
        self.is_full = False

    def check_room(self, count: int) -> None:
        if self.is_full:
            raise errors.overloaded(count)

    async def draw(self, submit: Submit) -> Image:
        self.jobs.append(submit)
        return Image(submit.job_id, b"png", 0.1)


@pytest.fixture
def dispatcher() -> FakeDispatcher:
    return FakeDispatcher()


@pytest.fixture
def app(tmp_path: Path, dispatcher: FakeDispatcher) -> FastAPI:
    (tmp_path / "models.yaml").write_text(MODELS)
    app = FastAPI()
    app.state.services = Services(
        settings=load_settings({}),
        catalogue=load_catalogue(tmp_path / "models.yaml"),
        dispatcher=cast(Dispatcher, dispatcher),
        files=FileStore(tmp_path, 60),
        base_url="http://test",
        started_unix_seconds=0,
    )
    install_handlers(app)
    add_routes(app)
    return app


def run_with(app: FastAPI, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """All at once."""

    async def exchange() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=Edge(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            replies: list[Coroutine[Any, Any, httpx.Response]] = [
                client.post("/v1/images/generations", json={"prompt": "x", "response_format": "b64_json"} | body)
                for body in bodies
            ]
            return await asyncio.gather(*replies)

    return asyncio.run(exchange())


def post(app: FastAPI, **body: Any) -> httpx.Response:
    return run_with(app, body)[0]


def test_image_mask_strength_and_sampler_reach_the_worker(app: FastAPI, dispatcher: FakeDispatcher) -> None:
    assert post(app, image=PICTURE, mask=MASK, strength=0.5, sampler="ddim", n=2, seed=1).status_code == 200
    assert [job.params.seed for job in dispatcher.jobs] == [1, 2]
    for job in dispatcher.jobs:
        assert (job.params.width_px, job.params.height_px) == (64, 96)
        assert job.params.image == halves((64, 96), RED, BLUE).tobytes()
        assert job.params.mask == b"\xff" * 64 * 96
        assert (job.params.strength, job.params.sampler) == (0.5, "ddim")
        assert job.caller == ""


def test_all_pictures_of_a_request_share_one_copy_of_its_image(app: FastAPI, dispatcher: FakeDispatcher) -> None:
    post(app, image=PICTURE, n=4)
    assert len({id(job.params.image) for job in dispatcher.jobs}) == 1


def test_a_request_without_an_image_asks_the_worker_for_none(app: FastAPI, dispatcher: FakeDispatcher) -> None:
    assert post(app, image=None).status_code == 200
    params = dispatcher.jobs[0].params
    defaults = {field: getattr(params, field) for field in ("image", "mask", "strength")}
    assert defaults == {"image": None, "mask": None, "strength": DrawParams("", None, 8, 8, 1, 1, "euler", 0).strength}


def test_a_picture_is_decoded_beside_the_event_loop_and_few_at_once(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, now, most = threading.Lock(), 0, 0
    threads: set[threading.Thread] = set()

    def watched(content: bytes) -> Pictures.Image:
        nonlocal now, most
        with guard:
            now, most = now + 1, max(most, now + 1)
        threads.add(threading.current_thread())
        time.sleep(0.05)
        with guard:
            now -= 1
        return decode_image(content)

    monkeypatch.setattr(image_inputs, "decode_image", watched)
    replies = run_with(app, *[{"image": PICTURE}] * 6)
    assert [reply.status_code for reply in replies] == [200] * 6
    assert threading.main_thread() not in threads
    assert most == DECODINGS_AT_ONCE


def test_a_full_server_decodes_nothing(
    app: FastAPI, dispatcher: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_inputs, "content_of", None)
    dispatcher.is_full = True
    reply = post(app, image=PICTURE)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "server_is_overloaded")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"image": text_of(bomb("PNG", 60_000))}, "image"),
        ({"image": text_of(bomb("PNG", 9_000))}, "image"),
        ({"image": text_of(file_of(plain("RGB", (64, 64), RED))[:-20])}, "image"),
        ({"image": text_of(animation("GIF"))}, "image"),
        ({"image": "https://example.org/x.png"}, "image"),
        ({"image": ""}, "image"),
        ({"image": "A" * 10_000_000}, "image"),
        ({"image": PICTURE, "mask": text_of(plain("L", (64, 96), 0).tobytes())}, "mask"),
        ({"mask": MASK}, "mask"),
        ({"strength": 0.5}, "strength"),
        ({"image": PICTURE, "strength": 0.01}, "strength"),
        ({"sampler": "flow_euler"}, "sampler"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_hostile_picture_is_answered_in_the_envelope_and_never_reaches_the_worker(
    app: FastAPI, dispatcher: FakeDispatcher, body: dict[str, Any], param: str
) -> None:
    reply = post(app, **body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "invalid_parameter", param)
    assert set(error) == {"message", "type", "param", "code"}
    assert dispatcher.jobs == []


def test_the_settings_of_the_engine_reach_its_options() -> None:
    given = {
        "scheduling_policy": "fifo",
        "batch_max_rows": 4,
        "batch_exact_rows": 8,
        "job_memory_bytes": 1000,
        "prompt_cache_bytes": 2000,
    }
    options = engine_options(load_settings(given))
    assert (options.policy, options.max_rows, options.exact_rows) == ("fifo", 4, 8)
    assert (options.memory_bytes, options.prompt_cache_bytes) == (1000, 2000)


def test_without_settings_the_engine_gets_its_own_defaults() -> None:
    assert engine_options(load_settings({})) == type(engine_options(load_settings({})))()
