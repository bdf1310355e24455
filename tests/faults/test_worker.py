"""Whatever goes wrong in a worker, one request pays for it at most, and the house is as it was."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.faults.armed import ARMED, STEPS, Armed, seed_of
from tests.invariants import House, workers_of

# Of the armed faults the quick run tries these.
QUICK = (
    "out of memory once, at step 2",
    "out of memory for ever, while it is decoded",
    "no number, at step 1",
    "an exception, before it begins",
)
LONG: dict[str, Any] = {"size": "512x512", "steps": 60, "seed": 5, "response_format": "b64_json"}


def marked() -> list[object]:
    return [pytest.param(one, id=one.name, marks=[] if one.name in QUICK else [pytest.mark.whole]) for one in ARMED]


@pytest.mark.parametrize("armed", marked())
def test_an_armed_fault_ends_its_own_request_as_stated_and_no_other(house: House, armed: Armed) -> None:
    with ThreadPoolExecutor(1) as callers:
        # Whoever is in the batch when a worker dies is drawn again; twice in one, and it is refused like the other.
        mates = [] if armed.deaths else [callers.submit(house.ask, steps=STEPS, seed=1, response_format="b64_json")]
        reply = house.ask(steps=STEPS, seed=seed_of(armed), response_format="b64_json")
        assert [mate.result().status_code for mate in mates] in ([], [200])
    house.restarts += armed.deaths
    assert reply.status_code == armed.status, reply.text
    if armed.code is not None:
        assert reply.json()["error"]["code"] == armed.code
        assert reply.headers["x-should-retry"] == "false"
    house.assert_sound()


KILLS = {"SIGKILL": signal.SIGKILL, "SIGSEGV": signal.SIGSEGV, "SIGABRT": signal.SIGABRT, "SIGBUS": signal.SIGBUS}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.whole) for name in KILLS])
def test_a_worker_that_dies_is_replaced_and_its_picture_drawn_with_the_same_seed(house: House, name: str) -> None:
    assert_drawn_again(house, KILLS[name])


@pytest.mark.whole
def test_a_worker_that_stops_is_replaced_and_its_picture_drawn(house: House) -> None:
    assert_drawn_again(house, signal.SIGSTOP)


@pytest.mark.whole
def test_a_worker_that_dies_with_nothing_to_do_costs_nobody_anything(house: House) -> None:
    for _ in range(3):
        os.kill(workers_of(house.server.process.pid)[0], signal.SIGKILL)
        house.restarts += 1
        house.server.wait_until_ready()
        house.assert_sound()


def assert_drawn_again(house: House, how: signal.Signals) -> None:
    undisturbed = house.ask(**LONG).json()["data"][0]["b64_json"]
    (worker,) = workers_of(house.server.process.pid)
    with ThreadPoolExecutor(1) as callers:
        waiting = callers.submit(house.ask, **LONG)
        time.sleep(0.7)
        assert not waiting.done()
        os.kill(worker, how)
        reply = waiting.result()
    assert reply.status_code == 200, reply.text
    assert reply.json()["data"][0]["b64_json"] == undisturbed
    house.restarts += 1
    house.assert_sound()


@pytest.mark.whole
def test_workers_that_die_as_soon_as_they_start_are_refused_in_time_and_the_server_lives(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A fault that no worker can read ends each at its start, from the next one on."""
    house = House(tmp_path_factory.mktemp("loop"))
    spare = house.server.process
    os.kill(workers_of(spare.pid)[0], signal.SIGKILL)
    try:
        began = time.monotonic()
        while time.monotonic() - began < 12:
            for worker in workers_of(spare.pid):
                os.kill(worker, signal.SIGKILL)
            time.sleep(0.05)
        assert httpx.get(f"{house.server.url}/health/live").status_code == 200
        assert httpx.get(f"{house.server.url}/health/ready").status_code == 503
        house.server.wait_until_ready(120)
        house.restarts = httpx.get(f"{house.server.url}/health/ready").json()["restarts"]
        house.assert_sound()
    finally:
        house.stop()
