"""The calls to providers that are under way, and when they end if the server stops.

Knows deadlines; knows no provider.
Invariant: once the end is set, no call outlasts it, neither one that is under way nor one that begins later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from server.core import errors


@dataclass(slots=True)
class Calls:
    """Shared by the routers of all editions of models.yaml."""

    _calls: set[asyncio.Timeout] = field(default_factory=set)
    _ends_at: float | None = None

    @property
    def are_ending(self) -> bool:
        return self._ends_at is not None

    def drain(self, seconds: float) -> None:
        """Refuse what is not there by then."""
        self._ends_at = asyncio.get_running_loop().time() + seconds
        for call in self._calls:
            call.reschedule(self._ends_at)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Around a call. Raises SafelightError when the server's end cuts it off."""
        try:
            async with asyncio.timeout_at(self._ends_at) as call:
                self._calls.add(call)
                try:
                    yield
                finally:
                    self._calls.discard(call)
        except TimeoutError:
            if not call.expired():
                raise
            raise errors.shutting_down() from None
