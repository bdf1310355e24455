"""Guards those who ask for pictures against a Redis that is full, not ready, or no Redis: the limits are kept, by this
server alone, and nobody waits or fails for it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from server.core.caller import Caller, Limits
from server.core.errors import SafelightError
from server.limits.limiter import Limiter
from server.limits.shared import DEADLINE_SECONDS, Shared
from tests.redis_server import RedisServer
from tests.server.limits.false_redis import answering

# What no Redis says to these questions, or one that cannot do what is asked.
FALSE = {
    "no line": b"\x00\xff\xfe garbage\r\n",
    "a web server": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "always well": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "an empty list": b"*0\r\n",
    "a number below all": b":-5\r\n",
    "a number beyond all": b":9223372036854775807\r\n",
    "a list of nothing": b"*2\r\n$-1\r\n$-1\r\n",
    "a list of words": b"*2\r\n$3\r\nabc\r\n$3\r\nabc\r\n",
    "lists in lists": b"*1\r\n" * 500 + b":1\r\n",
    "a word without an end": b"$1000000000\r\nx",
    "two answers for one": b":0\r\n:0\r\n",
    "a length that is none": b"$x\r\n\r\n",
    "no script is known": b"-NOSCRIPT No matching script.\r\n",
    "it is elsewhere": b"-MOVED 1 evil.example:6379\r\n",
    "it can only be read": b"-READONLY You can't write against a read only replica.\r\n",
    "it is loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "it asks for a password": b"-NOAUTH Authentication required.\r\n",
    "it is full": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "a script is in its way": b"-BUSY Redis is busy running a script.\r\n",
    "an error without a word": b"-\r\n",
}
ENDLESS = {"a line without end": b"+" + b"x" * 4096, "numbers without end": b":1\r\n" * 1024}
QUICK = ("a web server", "always well", "a number below all", "it is full", "a line without end")
# A visit asks five times, which would take five times as long; whoever was found away is not asked again.
PATIENCE_SECONDS = 2 * DEADLINE_SECONDS + 3.0
CALLER = Caller("k1", "one", frozenset({"generate"}), limits=Limits(3, 5, 4))


@pytest.fixture
def place() -> Iterator[Path]:
    """Of a socket: short, as their paths must be."""
    with tempfile.TemporaryDirectory(prefix="safelight-false-") as folder:
        yield Path(folder) / "redis.sock"


def played(url: str, play: Callable[[Limiter], Awaitable[None]]) -> None:
    async def run() -> None:
        limiter = Limiter(shared=Shared(url))
        limiter.start()
        try:
            await play(limiter)
        finally:
            await limiter.stop()

    asyncio.run(run())


async def visits_within_the_limits(limiter: Limiter) -> None:
    """Three in a minute, of two pictures, then one; the fourth comes too early, and nobody waits."""
    began = time.monotonic()
    for count, remaining in ((2, "3"), (2, "1"), (1, "0")):
        visit = await limiter.enter(CALLER)
        await limiter.add_pictures(visit, count)
        assert (await limiter.headers(visit))["x-ratelimit-remaining-images"] == remaining
        visit.leave()
    with pytest.raises(SafelightError) as caught:
        await limiter.enter(CALLER)
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.headers()["retry-after"]) <= 60
    assert limiter.slots.held("key:k1") == 0
    assert time.monotonic() - began < PATIENCE_SECONDS


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.whole]) for name in (*FALSE, *ENDLESS)],
)
def test_what_is_no_redis_leaves_each_server_to_keep_its_limits_alone(place: Path, name: str) -> None:
    answer = FALSE.get(name) or ENDLESS[name]
    with answering(place, answer, is_endless=name in ENDLESS):
        played(f"redis+unix://{place}", visits_within_the_limits)


def test_a_redis_that_has_no_room_left_leaves_each_server_to_keep_its_limits_alone(redis: RedisServer) -> None:
    async def play(limiter: Limiter) -> None:
        redis.tell("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1")
        try:
            await visits_within_the_limits(limiter)
        finally:
            redis.tell("CONFIG SET maxmemory 0")

    played(redis.url, play)
