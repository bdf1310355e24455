"""What several servers count together: a Redis, asked within a deadline, and left alone for a while where it is silent.

Knows the connection and its health; knows nothing of what is counted.
Invariant: nobody waits for an answer longer than twice DEADLINE_SECONDS; while it is away, one question in
RETRY_SECONDS finds that out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

log = logging.getLogger("safelight.limits")
Result = TypeVar("Result")
DEADLINE_SECONDS, RETRY_SECONDS = 0.5, 2.0
# Questions at one time. The others wait their turn, which is no sign of a silent Redis: a burst must not loosen limits.
QUESTIONS_AT_ONCE = 8
PREFIX = "safelight"


class Away(Exception):
    """Redis does not answer at the moment, or not what was asked."""


class Shared:
    """url: redis://, rediss:// or redis+unix://. Connects when asked, not before."""

    def __init__(self, url: str) -> None:
        from server.limits.redis_client import OF_THE_LINE, PROBLEMS, connected  # noqa: PLC0415

        self.client, self.storage = connected(url, PREFIX)
        self._problems, self._of_the_line = PROBLEMS, OF_THE_LINE
        self._turns = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        self._away_until_seconds = 0.0
        self._is_away = False

    async def ask(self, question: Callable[[], Awaitable[Result]]) -> Result:
        """What it answers; it may be asked twice. A question reads its answer itself, so that what is none is found
        out here. Raises Away, at once where it was silent a moment ago."""
        async with self._turns:
            return await self._asked(question)

    async def _asked(self, question: Callable[[], Awaitable[Result]]) -> Result:
        now = time.monotonic()
        if now < self._away_until_seconds:
            raise Away
        if self._is_away:
            self._away_until_seconds = now + RETRY_SECONDS  # others need not find out too
        try:
            try:
                answer = await _within_the_deadline(question)
            except TimeoutError:
                # A busy moment of this process looks alike. Only who is silent twice is away.
                answer = await _within_the_deadline(question)
        except self._problems as problem:
            self._found_away(problem)
            raise Away from problem
        self._found_there()
        return answer

    async def close(self) -> None:
        await self.client.aclose()
        await self.client.connection_pool.disconnect()

    def _found_away(self, problem: Exception) -> None:
        if not self._is_away:
            # The text of a problem of the line may hold the URL, and so a password. Others may be our own mistakes.
            told = None if isinstance(problem, self._of_the_line) else problem
            cause = {"cause": type(problem).__name__}
            log.error("limits are counted by this server alone: redis is away", extra=cause, exc_info=told)
        self._is_away, self._away_until_seconds = True, time.monotonic() + RETRY_SECONDS

    def _found_there(self) -> None:
        if self._is_away:
            log.warning("redis is back: limits are shared again")
        self._is_away, self._away_until_seconds = False, 0.0


async def _within_the_deadline(question: Callable[[], Awaitable[Result]]) -> Result:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await question()
