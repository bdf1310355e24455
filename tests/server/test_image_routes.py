"""Guards the route's way with an image: decoded beside the event loop, handed on whole, refused in the envelope."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from pipelines.messages import DrawParams, Event, Image, ModelReport, Submit
from server.api import pictures
from server.api.envelope import Edge
from server.api.services import Services
from server.app import engine_options
from server.core import errors
from server.core.settings import load_settings
from server.images.store import FileStore
from server.routing.accounts import Accounts
from tests.server.parts import local_backend, local_router, parse_locally, routes_over, services_in
from tests.server.picture_files import BLUE, RED, animation, bomb, file_of, halves, plain, text_of

PICTURE = text_of(file_of(halves((64, 96), RED, BLUE)))
MASK = text_of(file_of(plain("L", (64, 96), 255)))


class FakeDispatcher:
    """Draws nothing and remembers what it was asked for. seconds, ahead: what it says of its pace."""

    def __init__(self) -> None:
        self.jobs: list[Submit] = []
        self.is_full = False
        self.seconds: float | None = None
        self.ahead = 0.0

    def own_seconds(self, jobs: Sequence[Submit]) -> float | None:
        return None if self.seconds is None else self.seconds * len(jobs)

    def seconds_ahead(self, _: Sequence[Submit]) -> float:
        return self.ahead

    def reports(self, _: str) -> list[ModelReport]:
        """No worker has said anything yet."""
        return []

    def load(self, _: str) -> None:
        raise errors.worker_unavailable()

    def check_room(self, count: int) -> None:
        if self.is_full:
            raise errors.overloaded(count)

    async def draw(self, submit: Submit, _: Callable[[Event], None] | None = None) -> Image:
        self.jobs.append(submit)
        return Image(submit.job_id, b"png", 0.1)


@pytest.fixture
def dispatcher() -> FakeDispatcher:
    return FakeDispatcher()


@pytest.fixture
def app(tmp_path: Path, dispatcher: FakeDispatcher) -> FastAPI:
    return routes_over(services_in(tmp_path, dispatcher))


def run_with(app: FastAPI, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """All at once."""

    async def exchange() -> list[httpx.Response]:
        services: Services = app.state.services
        await services.decoder.start()
        await services.ledger.open()
        transport = httpx.ASGITransport(app=Edge(app))
        try:
            return await send_all(transport)
        finally:
            await services.decoder.stop()
            await services.router.finish()
            await services.ledger.close()

    async def send_all(transport: httpx.ASGITransport) -> list[httpx.Response]:
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


def test_the_size_that_follows_from_an_image_is_what_the_books_and_the_quotas_count(app: FastAPI) -> None:
    services: Services = app.state.services
    pixels = 64 * 96  # and not the 64 x 64 of a request that says nothing
    router = replace(services.router, accounts=Accounts(services.ledger, {}, work_units_per_day=2.5 * pixels))
    app.state.services = replace(services, router=router)
    few = {"image": PICTURE, "steps": 1, "guidance_scale": 1}

    assert post(app, **few, n=2).status_code == 200
    refused = post(app, **few)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert f"{2 * pixels:,} of" in refused.json()["error"]["message"]


def test_a_request_without_an_image_asks_the_worker_for_none(app: FastAPI, dispatcher: FakeDispatcher) -> None:
    assert post(app, image=None).status_code == 200
    params = dispatcher.jobs[0].params
    defaults = {field: getattr(params, field) for field in ("image", "mask", "strength")}
    assert defaults == {"image": None, "mask": None, "strength": DrawParams("", None, 8, 8, 1, 1, "euler", 0).strength}


def test_a_full_server_decodes_nothing(
    app: FastAPI, dispatcher: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "content_of", None)
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


def test_what_would_take_longer_than_clients_wait_is_refused_at_once_with_the_way_out(
    app: FastAPI, dispatcher: FakeDispatcher
) -> None:
    dispatcher.seconds = 100.0
    assert post(app, n=2).status_code == 200
    error = post(app, n=3).json()["error"]
    assert (error["code"], error["param"]) == ("request_too_long", "stream")
    assert "about 300 seconds" in error["message"]
    assert "'stream': true" in error["message"]
    assert len(dispatcher.jobs) == 2


def test_a_queue_that_is_too_long_for_a_plain_answer_may_be_tried_again(
    app: FastAPI, dispatcher: FakeDispatcher
) -> None:
    dispatcher.seconds, dispatcher.ahead = 100.0, 200.0
    reply = post(app)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert reply.headers["retry-after"] == "30"
    assert dispatcher.jobs == []


def test_a_stream_may_take_as_long_as_it_likes(app: FastAPI, dispatcher: FakeDispatcher) -> None:
    dispatcher.seconds = 1e6
    reply = post(app, stream=True)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert "event: image_generation.completed" in reply.text


def test_a_url_is_refused_before_work_where_the_disk_quota_is_used_up(
    app: FastAPI, dispatcher: FakeDispatcher, tmp_path: Path
) -> None:
    app.state.services = replace(app.state.services, files=FileStore(tmp_path, 60, 0))
    reply = post(app, response_format="url")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "storage_full")
    assert dispatcher.jobs == []
    assert post(app).status_code == 200


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


def test_the_devices_time_costs_what_the_operator_says(app: FastAPI, dispatcher: FakeDispatcher) -> None:
    services: Services = app.state.services
    paid = local_backend(dispatcher, usd_per_device_hour=3600.0)
    router = local_router(paid, services.ledger)
    app.state.services = replace(services, local=paid, router=router)
    answer = post(app, n=3)
    assert answer.json()["usage"]["cost"] == pytest.approx(3 * 0.1)  # a tenth of a second each, a dollar a second
    dispatcher.seconds = 2.0
    request = parse_locally("generation", {"prompt": "x", "n": 3}, services.catalogue).request
    assert paid.estimate(request).usd == pytest.approx(6.0)
