"""Caps how many requests may be asked a second time, so that one backend's failure does not double another's load.

Knows counts; knows no requests and no clock.
Invariant: over any stretch no more are asked again than the reserve and the share of the requests in it.
Source: retry budgets as in Finagle (Twitter) and gRPC's retry throttling.
"""

from __future__ import annotations

from dataclasses import dataclass

# What an idle server may ask again at once.
RESERVE = 10.0


@dataclass(slots=True)
class Allowance:
    """share: of the requests that may be asked again, 0 to 1."""

    share: float
    left: float = RESERVE

    def earn(self) -> None:
        """Another request came."""
        self.left = min(self.left + self.share, RESERVE)

    def take(self) -> bool:
        """Whether one may be asked again; then it is counted."""
        if self.share == 0 or self.left < 1:
            return False
        self.left -= 1
        return True
