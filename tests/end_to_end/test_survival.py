"""The server outlives its worker, answers what it accepted, and leaves nothing behind when it ends."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.server_process import ServerProcess, is_alive, wait_until_dead

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl"
LONG: dict[str, Any] = {"size": "512x512", "steps": 100, "seed": 5, "response_format": "b64_json"}


PATIENCE = {"SAFELIGHT_WORKER_SILENCE_SECONDS": "5", "SAFELIGHT_DRAIN_SECONDS": "60"}


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that a test may hurt, and that begins whatever it is asked, however long it takes."""
    patient = {**PATIENCE, "SAFELIGHT_PLAIN_ANSWER_SECONDS": "100000"}
    server = ServerProcess(environment={**patient, "TMPDIR": str(tmp_path)})
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def server_in_order(tmp_path: Path) -> Iterator[ServerProcess]:
    """The same, drawing one request after the other, so that short ones wait behind long ones."""
    order = {"SAFELIGHT_SCHEDULING_POLICY": "fifo"}
    server = ServerProcess(environment={**PATIENCE, **order, "TMPDIR": str(tmp_path)})
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def begin(callers: ThreadPoolExecutor, server: ServerProcess, **body: Any) -> Future[httpx.Response]:
    """Send a long request and give the worker the time to begin with it."""
    waiting = callers.submit(lambda: server.generate(prompt="a red circle", **{**LONG, **body}))
    time.sleep(2)
    assert not waiting.done()
    return waiting


def test_a_killed_worker_is_replaced_and_its_picture_drawn_with_the_same_seed(
    own_server: ServerProcess, callers: ThreadPoolExecutor
) -> None:
    undisturbed = own_server.generate(prompt="a red circle", **LONG).json()["data"]
    (first_worker,) = own_server.worker_pids()
    waiting = begin(callers, own_server)
    os.kill(first_worker, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while httpx.get(f"{own_server.url}/health/ready").status_code != 503:
        assert time.monotonic() < deadline
    reply = waiting.result()
    assert reply.status_code == 200
    assert reply.json()["data"] == undisturbed
    assert own_server.worker_pids() != [first_worker]


@pytest.mark.whole
def test_a_picture_that_costs_two_workers_is_refused_and_those_behind_it_are_drawn(
    own_server: ServerProcess, callers: ThreadPoolExecutor
) -> None:
    own_server.generate(prompt="warm")
    doomed = begin(callers, own_server, steps=100)
    behind = callers.submit(own_server.generate, prompt="a blue star")
    for _ in range(2):
        own_server.wait_until_ready()
        time.sleep(3)
        os.kill(own_server.worker_pids()[0], signal.SIGKILL)
        time.sleep(0.5)
    reply = doomed.result()
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "worker_lost")
    assert reply.headers["x-should-retry"] == "false"
    assert behind.result().status_code == 200


@pytest.mark.whole  # as one that was killed, after SAFELIGHT_WORKER_SILENCE_SECONDS
def test_a_worker_that_hangs_is_replaced_and_its_picture_drawn(
    own_server: ServerProcess, callers: ThreadPoolExecutor
) -> None:
    own_server.generate(prompt="warm")
    (hung,) = own_server.worker_pids()
    waiting = begin(callers, own_server)
    os.kill(hung, signal.SIGSTOP)
    assert waiting.result().status_code == 200
    assert not is_alive(hung)


def test_a_client_that_goes_away_frees_the_worker(own_server: ServerProcess) -> None:
    own_server.generate(prompt="warm")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{own_server.url}/v1/images/generations",
            json={"prompt": "a red circle", "size": "1024x1024", "steps": 100, "n": 10},
            timeout=1.5,
        )
    began = time.monotonic()
    assert own_server.generate(prompt="a red circle").status_code == 200
    assert time.monotonic() - began < 60  # alone, the ten abandoned pictures take many minutes


def test_sigterm_lets_the_begun_picture_finish_refuses_the_waiting_one_and_ends_everything(
    server_in_order: ServerProcess, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    server_in_order.generate(prompt="warm")
    begun = begin(callers, server_in_order, steps=100)
    queued = callers.submit(server_in_order.generate, prompt="a blue star")
    time.sleep(0.5)
    (worker,) = server_in_order.worker_pids()
    server_in_order.process.terminate()
    refusal = queued.result()
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert 1 <= int(refusal.headers["retry-after"]) <= 60
    assert begun.result().status_code == 200
    assert server_in_order.stop() == 0
    wait_until_dead(worker, 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.whole
def test_a_picture_that_outlasts_the_drain_time_is_refused_in_the_envelope(callers: ThreadPoolExecutor) -> None:
    server = ServerProcess(environment={"SAFELIGHT_DRAIN_SECONDS": "1"})
    server.generate(prompt="warm")
    endless = begin(callers, server, size="1024x1024", steps=100)
    server.process.terminate()
    assert endless.result().status_code == 503
    assert server.stop() == 0


@pytest.mark.whole
def test_a_second_signal_ends_at_once(own_server: ServerProcess, callers: ThreadPoolExecutor) -> None:
    own_server.generate(prompt="warm")
    begin(callers, own_server, size="1024x1024", steps=100)
    (worker,) = own_server.worker_pids()
    own_server.process.terminate()
    time.sleep(0.3)
    own_server.process.terminate()
    assert own_server.process.wait(6) is not None
    wait_until_dead(worker, 5)


def test_the_worker_ends_with_a_killed_server_even_in_the_middle_of_a_picture(
    own_server: ServerProcess, callers: ThreadPoolExecutor
) -> None:
    own_server.generate(prompt="warm")
    waiting = begin(callers, own_server)
    (worker,) = own_server.worker_pids()
    own_server.process.kill()
    wait_until_dead(worker, 5)
    assert isinstance(waiting.exception(), httpx.HTTPError)


@pytest.mark.whole
def test_more_waiting_pictures_than_allowed_are_refused_with_a_time_to_come_back(
    callers: ThreadPoolExecutor,
) -> None:
    server = ServerProcess(environment={"SAFELIGHT_MAX_WAITING_IMAGES": "2"})
    waiting = begin(callers, server, n=2)
    refusal = server.generate(prompt="a blue star")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "server_is_overloaded")
    assert refusal.headers["retry-after"] == "10"
    assert waiting.result().status_code == 200
    server.stop()


@pytest.mark.whole
def test_a_body_that_does_not_arrive_is_answered_with_408() -> None:
    server = ServerProcess(environment={"SAFELIGHT_RECEIVE_TIMEOUT_SECONDS": "0.5"})
    assert b" 408 " in server.answer_to_unfinished_body(100)
    server.stop()


@pytest.mark.whole
def test_an_expired_file_is_gone() -> None:
    server = ServerProcess(environment={"SAFELIGHT_FILE_LIFETIME_SECONDS": "1"})
    url = server.generate(prompt="a red circle").json()["data"][0]["url"]
    assert httpx.get(url).status_code == 200
    time.sleep(1.1)
    late = httpx.get(url)
    assert (late.status_code, late.json()["error"]["code"]) == (410, "file_expired")
    server.stop()


def test_a_damaged_model_is_named_at_start_and_the_others_are_served(tmp_path: Path) -> None:
    shutil.copytree(DEMO_FOLDER, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    catalogue = tmp_path / "models.yaml"
    catalogue.write_text(
        f"default_model: good\nmodels:\n  good: {{family: sdxl, source: {DEMO_FOLDER}}}\n"
        "  damaged: {family: sdxl, source: damaged}\n  absent: {family: sdxl, source: nowhere}\n"
    )
    server = ServerProcess(("--models", str(catalogue)))
    try:
        printed = "".join(server.lines)
        assert str(weights) in printed
        assert str(tmp_path / "nowhere") in printed
        for model in ("damaged", "absent"):
            refusal = server.generate(prompt="a red circle", model=model)
            assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "model_unavailable")
            assert refusal.headers["x-should-retry"] == "false"
        assert server.generate(prompt="a red circle").status_code == 200
        states = {model["id"]: model["state"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]}
        assert states == {"good": "device", "damaged": "failed", "absent": "absent"}
    finally:
        server.stop()


@pytest.mark.whole
def test_a_short_picture_does_not_wait_for_a_long_one(own_server: ServerProcess, callers: ThreadPoolExecutor) -> None:
    own_server.generate(prompt="warm")
    long = begin(callers, own_server)
    assert own_server.generate(prompt="a blue star").status_code == 200
    assert not long.done()
    assert long.result().status_code == 200
