"""Whether the books can be written now, asked as often as anybody wants to know, and found out by writing.

Knows one write and when it was last confirmed; knows no tables.
Invariant: whoever asks is answered within PATIENCE_SECONDS, however long the database takes; and no more than one write
is on its way for all who ask.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from server.ledger.problem import SILENT, LedgerProblem

# So long an answer holds, and so long its finding may take.
FRESH_SECONDS, PATIENCE_SECONDS = 2.0, 1.0


class Pulse:
    """touch: writes something that changes nothing; raises LedgerProblem."""

    def __init__(self, touch: Callable[[], Awaitable[None]]) -> None:
        self._touch = touch
        self._found: str | None = None
        self._found_seconds = -FRESH_SECONDS
        self._finding: asyncio.Task[None] | None = None

    async def problem(self) -> str | None:
        """Why they cannot be written; None when they can. The text is one of `problem`'s, and tells no secret."""
        if self._finding is None:
            if time.monotonic() - self._found_seconds < FRESH_SECONDS:
                return self._found
            self._finding = asyncio.create_task(self._find())
        await asyncio.wait((self._finding,), timeout=PATIENCE_SECONDS)
        return SILENT if self._finding is not None else self._found

    async def _find(self) -> None:
        try:
            await self._touch()
            self._found = None
        except LedgerProblem as problem:
            self._found = str(problem)
        finally:
            self._found_seconds, self._finding = time.monotonic(), None
