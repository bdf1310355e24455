"""A Redis that is killed, stands still, is full or is no Redis while requests come: they are served, the limits hold in
this server alone, nobody waits for it beyond its deadline, and the server ends in good order meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from server.limits.shared import DEADLINE_SECONDS, RETRY_SECONDS
from tests.invariants import House
from tests.redis_server import RedisServer, running
from tests.server.limits.false_redis import answering

pytestmark = pytest.mark.whole  # tests/server/limits/test_redis_attacked.py tries what is no Redis in the quick run
PER_MINUTE = 120
# What a refused request may take: a Redis that is found silent, and a machine with other work.
PATIENCE_SECONDS = 2 * DEADLINE_SECONDS + 9.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running() as server:
        yield server


@pytest.fixture
def house(tmp_path: Path, redis: RedisServer) -> Iterator[House]:
    settings = {"SAFELIGHT_REQUESTS_PER_MINUTE": PER_MINUTE, "SAFELIGHT_CONCURRENT_IMAGES": 60}
    words = {name: str(most) for name, most in settings.items()}
    redis.tell("FLUSHALL")
    house = House(tmp_path, SAFELIGHT_LIMITS_STORAGE=redis.url, **words)
    yield house
    assert house.server.stop() == 0


@contextmanager
def dead(redis: RedisServer) -> Iterator[None]:
    redis.kill()
    try:
        yield
    finally:
        redis.start_again()


@contextmanager
def full(redis: RedisServer) -> Iterator[None]:
    redis.tell("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1")
    try:
        yield
    finally:
        redis.tell("CONFIG SET maxmemory 0")


@contextmanager
def false(redis: RedisServer) -> Iterator[None]:
    with dead(redis), answering(redis.place, b"+OK\r\n"):
        yield


ATTACKS: dict[str, Callable[[RedisServer], AbstractContextManager[None]]] = {
    "killed": dead,
    "silent": RedisServer.silent,
    "full": full,
    "no Redis": false,
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """One for all: each of its own would read the system's certificates first."""
    with httpx.Client(headers={"connection": "close"}, timeout=60) as client:
        yield client


def refused(client: httpx.Client, house: House) -> tuple[int, float]:
    """The status of a request that has no prompt, which counts as one all the same, and what it took."""
    began = time.monotonic()
    answer = client.post(f"{house.server.url}/v1/images/generations", json={})
    return answer.status_code, time.monotonic() - began


def test_whatever_befalls_redis_requests_are_served_in_time_and_the_limits_hold(
    house: House, redis: RedisServer, client: httpx.Client
) -> None:
    for name, attack in ATTACKS.items():
        with ThreadPoolExecutor(8) as callers, attack(redis):
            told = list(callers.map(lambda _: refused(client, house), range(16)))
            assert {status for status, _ in told} == {400}, name
            assert max(seconds for _, seconds in told) < PATIENCE_SECONDS, name
            assert callers.submit(house.ask, response_format="b64_json").result().status_code == 200, name
            assert httpx.get(f"{house.server.url}/health/ready").status_code == 200, name
        time.sleep(RETRY_SECONDS + 0.1)
        house.assert_sound()
    printed = "".join(house.server.lines)
    assert "limits are counted by this server alone: redis is away" in printed
    assert "redis is back: limits are shared again" in printed


def test_the_limit_of_the_minute_holds_while_redis_is_gone(
    house: House, redis: RedisServer, client: httpx.Client
) -> None:
    with ThreadPoolExecutor(8) as callers, dead(redis):
        told = [status for status, _ in callers.map(lambda _: refused(client, house), range(PER_MINUTE + 50))]
        answer = httpx.post(f"{house.server.url}/v1/images/generations", json={})
    assert told.count(400) <= PER_MINUTE
    assert set(told) == {400, 429}
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"


def test_a_server_ends_in_good_order_while_redis_stands_still(house: House, redis: RedisServer) -> None:
    with redis.silent():
        assert house.ask(response_format="b64_json").status_code == 200
        began = time.monotonic()
        assert house.server.stop() == 0
        assert time.monotonic() - began < 15


def test_a_server_starts_without_its_redis(tmp_path: Path, redis: RedisServer) -> None:
    with dead(redis):
        house = House(tmp_path, SAFELIGHT_LIMITS_STORAGE=redis.url, SAFELIGHT_REQUESTS_PER_MINUTE=str(PER_MINUTE))
        house.assert_sound()
        house.stop()
