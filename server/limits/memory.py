"""The windows of one process, asked as the storages of the library `limits` are.

Knows keys, amounts and a clock that nobody can set; knows no limits' owners. Not the library's own storage in memory:
that one walks over all keys, with a thread for each, after each hit (docs/log.md), and follows the wall clock. Nor one
of its kind: its storages must also count in fixed windows, which nobody asks for here.
Invariant: nothing here is waited for, so that what is judged is judged and written in one breath; of a key that is not
used for a window's length nothing is left.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

Clock = Callable[[], float]


@dataclass(slots=True, eq=False)
class _Hit:
    at_seconds: float
    amount: int


@dataclass(slots=True)
class _Window:
    """hits: oldest first. total: of their amounts."""

    hits: deque[_Hit] = field(default_factory=deque)
    total: int = 0

    def forget(self, before_seconds: float) -> None:
        while self.hits and self.hits[0].at_seconds < before_seconds:
            self.total -= self.hits.popleft().amount

    def oldest_of_newest(self, count: int) -> float | None:
        """When the oldest came of the newest so many; None of none. Looks from the nearer end: views ask for the newest
        one or for all, refusals for nearly all, and a whole server's minute may hold very many."""
        if not self.hits or self.total <= count:
            return self.hits[0].at_seconds if self.hits else None
        is_near_the_end = count < self.total // 2
        left = count if is_near_the_end else self.total - count + 1
        for hit in reversed(self.hits) if is_near_the_end else self.hits:
            left -= hit.amount
            if left <= 0:
                return hit.at_seconds
        raise AssertionError("the total is the sum of the hits")


class MemoryStorage:
    """clock: seconds that never go backwards."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        # The key that was hit last stands last.
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._windows)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether so much more fits into the last `expiry` seconds; then it is counted."""
        now = self._clock()
        self._forget_idle(now - expiry)
        window = self._windows.setdefault(key, _Window())
        window.forget(now - expiry)
        if window.total + amount > limit:
            return False
        window.hits.append(_Hit(now, amount))
        window.total += amount
        self._windows.move_to_end(key)
        return True

    def give_back(self, key: str, amount: int) -> None:
        """Undo the newest hit of this amount, if it still counts."""
        window = self._windows.get(key)
        hit = next((hit for hit in reversed(window.hits) if hit.amount == amount), None) if window else None
        if window is not None and hit is not None:
            window.hits.remove(hit)
            window.total -= amount

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Of the newest `limit` that count: when the oldest came, Unix seconds, and how many they are."""
        now, window = self._clock(), self._windows.get(key)
        if window is None:
            return time.time(), 0
        window.forget(now - expiry)
        since = window.oldest_of_newest(limit)
        return time.time() - (now - (now if since is None else since)), min(window.total, limit)

    def _forget_idle(self, before_seconds: float) -> None:
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if window.hits and window.hits[-1].at_seconds >= before_seconds:
                return
            del self._windows[key]
