"""The client of a Redis. Imported only where one is named: it takes its time, and brings OpenTelemetry's SDK with it.

Knows redis-py and how the `limits` library speaks to it; asks nothing.
"""

from __future__ import annotations

from typing import Any

from limits.aio.storage import RedisStorage
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

# What a question may end with, beside its answer: a broken line, or what came is no answer and cannot be read as one.
OF_THE_LINE = (RedisError, OSError, TimeoutError)
PROBLEMS = (*OF_THE_LINE, TypeError, ValueError, LookupError)


def connected(url: str, prefix: str) -> tuple[Redis, RedisStorage]:
    """A client, and a storage that shares its connections. Connects when asked, not before."""
    pool = ConnectionPool.from_url(url.replace("redis+unix://", "unix://", 1), retry=Retry(NoBackoff(), 0))
    # Its options are typed as plain values; it documents this one.
    options: dict[str, Any] = {"connection_pool": pool}
    storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix=prefix, **options)
    return Redis(connection_pool=pool), storage
