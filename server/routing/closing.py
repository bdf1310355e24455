"""Writes the ends of what was begun in the books, whoever has left meanwhile, and again where they could not be kept.

Knows tasks and time; knows no entries and no money.
Invariant: nobody who leaves breaks an end off, and it is tried until it is written or the server stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from server.core.errors import SafelightError

log = logging.getLogger("safelight.routing")
RETRY_SECONDS = 5.0
Write = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Closing:
    """One server's. Call `finish` once."""

    _writing: set[asyncio.Task[None]] = field(default_factory=set)
    _is_ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def now(self, write: Write) -> None:
        """Wait for it. Raises SafelightError where the books cannot be kept; it is tried again all the same."""
        await asyncio.shield(self._begun(write))

    def beside(self, write: Write) -> None:
        """Nobody waits for it."""
        self._begun(write)

    async def finish(self) -> None:
        """Wait for all, each of which is tried once more at most."""
        self._is_ending.set()
        await asyncio.gather(*self._writing, return_exceptions=True)

    def _begun(self, write: Write) -> asyncio.Future[None]:
        """Done after the first try."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first.add_done_callback(_looked_at)
        task = asyncio.create_task(self._until_written(write, first))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return first

    async def _until_written(self, write: Write, first: asyncio.Future[None]) -> None:
        problem = await _problem_of(write)
        if problem is None:
            first.set_result(None)
            return
        first.set_exception(problem)
        while isinstance(problem, SafelightError) and not self._is_ending.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._is_ending.wait()
            problem = await _problem_of(write)
        if problem is not None:
            # What was written although its try failed is refused the second time.
            log.error("an end is not in the books, or is there twice", extra={"detail": str(problem)})


async def _problem_of(write: Write) -> Exception | None:
    try:
        await write()
    except Exception as problem:
        return problem
    return None


def _looked_at(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # or asyncio would complain where nobody waits
