"""How much work each caller has had, so that nobody gets more than a fair share while others wait.

Knows callers and work units; knows no jobs, tensors or clocks.
Invariant: a caller who was away comes back at the level of those present: without credit for the time away, and with no
debt but what was truly served. Source: start-time fair queueing (Goyal, Vin, Cheng, 1996).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Shares:
    """Served work units by caller, on a scale common to all who wait."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._jobs: Counter[str] = Counter()
        self._floor = 0.0

    def join(self, caller: str) -> None:
        """One more job of this caller waits or works."""
        self._raise_floor()
        if caller not in self._jobs:
            self._served[caller] = max(self._of(caller), self._floor)
        self._jobs[caller] += 1

    def leave(self, caller: str) -> None:
        """One job of this caller is settled."""
        self._raise_floor()
        self._jobs[caller] -= 1
        if self._jobs[caller] == 0:
            del self._jobs[caller]
        self._forget_level_callers()

    def charge(self, caller: str, work: float) -> None:
        """The device did `work` units for this caller."""
        self._served[caller] = self._of(caller) + work
        if self._jobs:
            self._floor += work / len(self._jobs)

    def least_served(self, waiting: Iterable[str]) -> str | None:
        """Of those who wait the one with the least work done; None when nobody waits."""
        return min(waiting, key=self._of, default=None)

    def lead_of(self, caller: str, other: str | None) -> float:
        """By how many work units the caller is ahead of the other one; 0 where there is none."""
        return 0.0 if other is None else self._of(caller) - self._of(other)

    def _of(self, caller: str) -> float:
        return self._served.get(caller, self._floor)

    def _raise_floor(self) -> None:
        """The level at which newcomers join: what all present have had on average, and never beyond any of them.

        The least served one's level alone would not rise while newcomers keep joining at it.
        """
        if self._jobs:
            levels = [self._of(caller) for caller in self._jobs]
            self._floor = min(max(self._floor, min(levels)), max(levels))

    def _forget_level_callers(self) -> None:
        """Who is away and not ahead would come back at the floor in any case."""
        for caller in [one for one, served in self._served.items() if one not in self._jobs and served <= self._floor]:
            del self._served[caller]
