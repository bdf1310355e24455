"""How much came within the last minute, by whom: whether more may come, and when.

Knows windows and the two places where they are counted; knows no requests and no HTTP.
Invariant: no stretch of a minute holds more than a window's limit; of several windows all are hit or none.

Moving windows, as every stretch of a minute then keeps the limit and the wait is known to the hit: a fixed window lets
twice as much through around its edge, a sliding counter guesses. What this process has let through is counted in memory
always, and in Redis too where there is one, whose word then counts. So this process knows its own part when Redis is
away: it goes on, and each server then keeps the limits alone. Money and work stand in the ledger, and are kept anyway.
Source: the library `limits`, strategy "moving window".
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from limits import RateLimitItemPerMinute

from server.limits.memory import Clock, MemoryStorage
from server.limits.shared import Away, Shared

WINDOW_SECONDS = 60
# What rounding on Redis' side may hide of a time.
ROUNDING_SECONDS = 0.001
What = Literal["requests", "images"]


class Storage(Protocol):
    """Where hits are kept: what the library's strategy asks of its storages. expiry: the window's seconds."""

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether so much more fits into the window; then it is counted."""

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Of the newest `limit` that count: when the oldest came, Unix seconds, and how many they are."""


@dataclass(frozen=True, slots=True)
class Window:
    """what: is counted. owner: a key's id, or the server's name for itself. limit: in a minute, 1 or more."""

    what: What
    owner: str
    limit: int

    @property
    def key(self) -> str:
        """As the library names it."""
        return RateLimitItemPerMinute(self.limit, namespace="rate").key_for(self.what, self.owner)


@dataclass(frozen=True, slots=True)
class View:
    """How a window stands. reset_seconds: until all of it is there again."""

    window: Window
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """window: whose limit it is. wait_seconds: after them the same may be let through; 1 to WINDOW_SECONDS."""

    window: Window
    wait_seconds: int


class Rates:
    """shared: None where this server counts alone. clock: seconds that never go backwards."""

    def __init__(self, shared: Shared | None = None, clock: Clock = time.monotonic) -> None:
        self._memory, self._shared = MemoryStorage(clock), shared

    async def take(self, windows: Sequence[Window], cost: int) -> Refusal | None:
        """Count so much in all of the windows, or tell which one has no room. cost: at most each window's limit.

        Where Redis refuses the second of two windows, what the first one counted there stays, and what it counted
        without our hearing of it is counted again: that may cost a key some of its minute, and lets nobody through.
        """
        taken: list[Window] = []
        for window in windows:
            if not await _hit(self._memory, window, cost):
                self._give_back(taken, cost)
                return Refusal(window, await _longest_wait_seconds(self._memory, windows, cost))
            taken.append(window)
        refusal = await self._take_together(windows, cost)
        if refusal is not None:
            self._give_back(taken, cost)
        return refusal

    async def views(self, windows: Sequence[Window]) -> list[View]:
        """As they stand now."""
        if self._shared is not None:
            storage = self._shared.storage
            try:
                return await self._shared.ask(lambda: _views(storage, windows))
            except Away:
                pass
        return await _views(self._memory, windows)

    async def _take_together(self, windows: Sequence[Window], cost: int) -> Refusal | None:
        if self._shared is None:
            return None
        storage = self._shared.storage

        async def take() -> Refusal | None:
            for window in windows:
                if not await _hit(storage, window, cost):
                    return Refusal(window, await _longest_wait_seconds(storage, windows, cost))
            return None

        try:
            return await self._shared.ask(take)
        except Away:
            return None

    def _give_back(self, windows: Sequence[Window], cost: int) -> None:
        for window in windows:
            self._memory.give_back(window.key, cost)


async def _hit(storage: Storage, window: Window, cost: int) -> bool:
    return await storage.acquire_entry(window.key, window.limit, WINDOW_SECONDS, cost)


async def _longest_wait_seconds(storage: Storage, windows: Sequence[Window], cost: int) -> int:
    """Whole seconds after which all of the windows have room, if nobody else comes before."""
    waits = await asyncio.gather(*(_wait_seconds(storage, window, cost) for window in windows))
    return min(max(1, math.ceil(max(waits) + ROUNDING_SECONDS)), WINDOW_SECONDS)


async def _wait_seconds(storage: Storage, window: Window, cost: int) -> float:
    """Until the oldest has left of those that stand in the way: the newest of them but `limit - cost`."""
    in_the_way = window.limit - cost + 1
    since, count = await storage.get_moving_window(window.key, in_the_way, WINDOW_SECONDS)
    return since + WINDOW_SECONDS - time.time() if count == in_the_way else 0.0


async def _views(storage: Storage, windows: Sequence[Window]) -> list[View]:
    return list(await asyncio.gather(*(_view(storage, window) for window in windows)))


async def _view(storage: Storage, window: Window) -> View:
    (_, count), (newest, any_) = await asyncio.gather(
        storage.get_moving_window(window.key, window.limit, WINDOW_SECONDS),
        storage.get_moving_window(window.key, 1, WINDOW_SECONDS),
    )
    reset_seconds = newest + WINDOW_SECONDS - time.time() if any_ else 0.0
    return View(window, max(0, window.limit - count), max(0.0, reset_seconds))
