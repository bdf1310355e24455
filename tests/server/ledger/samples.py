"""Entries, settlements and attempts to begin from, a ledger to put them in, and a way to look at its database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.pool import NullPool

from server.ledger.entries import Attempt, AttemptEnd, Entry, Row, Settlement
from server.ledger.ledger import Ledger
from server.ledger.question import Question

Result = TypeVar("Result")
NOW = 1_790_000_000_000
ALWAYS = Question(0, 2 * NOW)


def entry(request_id: str = "req_1", index: int = 0, **values: Any) -> Entry:
    usual: dict[str, Any] = {
        "key_id": "key_1",
        "operation": "generation",
        "requested_model": "gpt-image-1",
        "size": "1024x1024",
        "began_unix_ms": NOW,
        "work_units": 1.5,
    }
    return Entry(request_id, index, **{**usual, **values})


def settlement(request_id: str = "req_1", index: int = 0, **values: Any) -> Settlement:
    usual: dict[str, Any] = {
        "outcome": "succeeded",
        "error_code": None,
        "served_model": "demo-sdxl",
        "backend": "local",
        "attempts": 1,
        "steps": 16,
        "seed": 7,
        "queue_ms": 10,
        "device_ms": 900,
        "latency_ms": 1000,
        "cost_microusd": 0,
        "size": None,
    }
    return Settlement(request_id, index, **{**usual, **values})


def attempt(
    attempt_id: str = "att_1", backend: str = "openai", reserved_microusd: int = 40_000, **values: Any
) -> Attempt:
    usual: dict[str, Any] = {
        "request_id": "req_1",
        "number": 1,
        "model": "gpt-image-1",
        "count": 1,
        "began_unix_ms": NOW,
    }
    return Attempt(attempt_id, backend=backend, reserved_microusd=reserved_microusd, **{**usual, **values})


def attempt_end(attempt_id: str = "att_1", cost_microusd: int = 39_000, **values: Any) -> AttemptEnd:
    usual: dict[str, Any] = {"cause": None, "status": 200, "latency_ms": 3000}
    return AttemptEnd(attempt_id, cost_microusd=cost_microusd, **{**usual, **values})


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Ledger]:
    ledger = Ledger(url, **options)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


def played(url: str, play: Callable[[Ledger], Awaitable[Result]], **options: Any) -> Result:
    """What `play` returns, given an open ledger."""

    async def run() -> Result:
        async with opened(url, **options) as ledger:
            return await play(ledger)

    return asyncio.run(run())


async def all_rows(ledger: Ledger) -> list[Row]:
    return list((await ledger.rows(ALWAYS, after=None, limit=100_000)).rows)


@contextmanager
def beside(url: str) -> Iterator[Connection]:
    """Another program's connection to the same database, which commits nothing by itself."""
    engine = create_engine(url, poolclass=NullPool)
    if url.startswith("sqlite"):
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Nobody else can write."""
    with beside(url) as connection:
        if url.startswith("sqlite"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("LOCK TABLE ledger_entries, ledger_attempts IN EXCLUSIVE MODE"))
        yield
        connection.rollback()
