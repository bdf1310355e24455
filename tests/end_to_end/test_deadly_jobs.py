"""What hangs or kills its worker, in a real server: found, replaced, drawn again; guilty twice, it is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.end_to_end.server_process import ServerProcess

POISON, HANGING, HANGING_FOR_EVER = 1313, 2121, 2222


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    marker = str(tmp_path_factory.mktemp("faults") / "hung")
    faults = [
        {"kind": "crash", "seed": POISON, "step": 3},
        {"kind": "hang", "seed": HANGING, "step": 1, "once": marker},
        {"kind": "hang", "seed": HANGING_FOR_EVER, "step": 1},
    ]
    patience = {"SAFELIGHT_STEP_TIMEOUT_SECONDS": "3", "SAFELIGHT_PLAIN_ANSWER_SECONDS": "100000"}
    started = ServerProcess(environment={"SAFELIGHT_FAULTS": json.dumps(faults), **patience})
    yield started
    assert started.stop() == 0


def restarts(server: ServerProcess) -> int:
    count: int = httpx.get(f"{server.url}/health/ready").json()["restarts"]
    return count


@pytest.mark.whole
def test_a_step_that_hangs_is_found_though_the_process_lives_and_the_picture_is_drawn_by_another_worker(
    server: ServerProcess,
) -> None:
    # Twice: only what was seen before has a limit that is worth waiting for.
    undisturbed = [server.generate(prompt="a red circle", seed=1, response_format="b64_json") for _ in range(2)]
    before = restarts(server)
    assert server.generate(prompt="a red circle", seed=HANGING).status_code == 200
    assert restarts(server) == before + 1
    assert any('"event": "worker hangs"' in line for line in server.lines)
    again = server.generate(prompt="a red circle", seed=1, response_format="b64_json")
    assert again.json()["data"] == undisturbed[0].json()["data"]


@pytest.mark.whole
def test_a_job_that_kills_two_workers_is_refused_and_those_in_its_batch_are_drawn(server: ServerProcess) -> None:
    with ThreadPoolExecutor(4) as pool:
        replies = {
            seed: pool.submit(server.generate, prompt="a red circle", seed=seed, steps=30) for seed in (7, POISON, 8, 9)
        }
        ends = {seed: reply.result() for seed, reply in replies.items()}
    refusal = ends.pop(POISON)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (500, "worker_lost")
    assert refusal.headers["x-should-retry"] == "false"
    assert [reply.status_code for reply in ends.values()] == [200, 200, 200]


@pytest.mark.whole
def test_a_job_that_hangs_twice_is_refused_and_the_next_is_drawn(server: ServerProcess) -> None:
    for _ in range(2):
        server.generate(prompt="a red circle", seed=1)
    body = {"prompt": "a red circle", "seed": HANGING_FOR_EVER, "size": "256x256", "steps": 2}
    refusal = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=300)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (500, "worker_lost")
    server.wait_until_ready()
    assert server.generate(prompt="a blue star").status_code == 200
