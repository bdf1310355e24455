"""How the backends have done so far: success and speed of each target, by picture size, fading with time.

Knows outcomes and times that it is told; reads no clock.
Invariant: an old outcome weighs half of one that is a half-life younger, and nothing is held of more than MAX_RECORDS.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.core.providers import Target

HALF_LIFE_SECONDS = 600.0
MAX_RECORDS = 1000
# What nobody has tried is taken to work: so many successes are assumed, and fade against what is seen.
ASSUMED_SUCCESSES = 1.0


@dataclass(frozen=True, slots=True)
class Record:
    """success: in (0, 1], the share of orders that were served. seconds: for one picture; None: never served."""

    success: float = 1.0
    seconds: float | None = None


@dataclass(slots=True)
class _Sums:
    """Fading sums of the orders, of those that were served, and of the served ones' seconds for a picture."""

    at_seconds: float
    orders: float = 0.0
    served: float = 0.0
    seconds: float = 0.0

    def fade(self, now_seconds: float) -> None:
        factor: float = 0.5 ** (max(0.0, now_seconds - self.at_seconds) / HALF_LIFE_SECONDS)
        self.orders, self.served, self.seconds = (value * factor for value in (self.orders, self.served, self.seconds))
        self.at_seconds = now_seconds


@dataclass(slots=True)
class Records:
    """All targets'. The longest untouched makes way."""

    _sums: dict[tuple[Target, str], _Sums] = field(default_factory=dict)

    def served(self, target: Target, size: str, seconds_per_picture: float, now_seconds: float) -> None:
        sums = self._touched(target, size, now_seconds)
        sums.orders, sums.served, sums.seconds = sums.orders + 1, sums.served + 1, sums.seconds + seconds_per_picture

    def failed(self, target: Target, size: str, now_seconds: float) -> None:
        self._touched(target, size, now_seconds).orders += 1

    def of(self, target: Target, size: str, now_seconds: float) -> Record:
        sums = self._sums.get((target, size))
        if sums is None:
            return Record()
        seconds = sums.seconds / sums.served if sums.served else None
        sums.fade(now_seconds)
        return Record((sums.served + ASSUMED_SUCCESSES) / (sums.orders + ASSUMED_SUCCESSES), seconds)

    def _touched(self, target: Target, size: str, now_seconds: float) -> _Sums:
        sums = self._sums.pop((target, size), None) or _Sums(now_seconds)
        sums.fade(now_seconds)
        self._sums[target, size] = sums
        if len(self._sums) > MAX_RECORDS:
            del self._sums[next(iter(self._sums))]
        return sums
