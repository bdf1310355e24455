"""Who is asked first: one number for each of those who could serve, the least first. Pure.

Knows estimates, records, prices and the operator's wishes; knows no requests, no clock and no backend.

The rule. A target's score is in seconds:

    seconds until its pictures are there, divided by its share of successes,
    plus its price in USD times `seconds_per_usd`,
    plus its place in the route (0 for the first) times `seconds_per_place`,
    minus the operator's `preference_seconds` for its backend.

Seconds come from the backend's own estimate where it has one (our own queue and pace), else from what its pictures took
before; who never served is taken to be as quick as UNTRIED_SECONDS, so that it is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.core.providers import Target
from server.routing.record import Record

UNTRIED, UNTRIED_SECONDS = Record(), 1.0


@dataclass(frozen=True, slots=True)
class Weights:
    """The operator's: what a dollar and a later place in the route weigh, in seconds."""

    seconds_per_usd: float
    seconds_per_place: float


@dataclass(frozen=True, slots=True)
class Prospect:
    """One who could serve. place: in the route, from 0. seconds, usd: its own estimate for all pictures. count: of the
    pictures. preference_seconds: how much slower it may be and still come first."""

    target: Target
    place: int
    seconds: float | None
    usd: float
    count: int = 1
    record: Record = UNTRIED
    preference_seconds: float = 0.0

    @property
    def expected_seconds(self) -> float:
        if self.seconds is not None:
            return self.seconds
        return UNTRIED_SECONDS if self.record.seconds is None else self.record.seconds * self.count


def score_seconds(prospect: Prospect, weights: Weights) -> float:
    return (
        prospect.expected_seconds / prospect.record.success
        + prospect.usd * weights.seconds_per_usd
        + prospect.place * weights.seconds_per_place
        - prospect.preference_seconds
    )


def ranked(prospects: Sequence[Prospect], weights: Weights) -> list[Prospect]:
    """The best first; equals stay in the route's order."""
    return sorted(prospects, key=lambda prospect: (score_seconds(prospect, weights), prospect.place))


def told(prospects: Sequence[Prospect], weights: Weights) -> str:
    """The ranking with its scores, for a header: "local:sdxl 2.1 s, openai:gpt-image-2 36.3 s"."""
    return ", ".join(f"{prospect.target} {score_seconds(prospect, weights):.1f} s" for prospect in prospects)
