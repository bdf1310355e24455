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
from typing import Literal

from server.core.providers import Target
from server.routing.record import Record

# Why one served and no other. only: nobody else could. in_order: the first in the operator's route. faster, cheaper,
# preferred: what told most against the first in the route. fallback: whoever was better did not serve.
Reason = Literal["only", "in_order", "faster", "cheaper", "preferred", "fallback"]
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


def reason_of(served: Target, ranking: Sequence[Prospect], weights: Weights) -> Reason:
    """Why this one of the ranking served, in a word."""
    best, first = ranking[0], min(ranking, key=lambda prospect: prospect.place)
    if served != best.target:
        return "fallback"
    if len(ranking) == 1:
        return "only"
    if best is first:
        return "in_order"
    gains: dict[Reason, float] = {
        "faster": first.expected_seconds / first.record.success - best.expected_seconds / best.record.success,
        "cheaper": (first.usd - best.usd) * weights.seconds_per_usd,
        "preferred": best.preference_seconds - first.preference_seconds,
    }
    return max(gains, key=lambda reason: gains[reason])


def told(prospects: Sequence[Prospect], weights: Weights) -> str:
    """The ranking with its scores, for a header: "local:sdxl 2.1 s, openai:gpt-image-2 36.3 s"."""
    return ", ".join(f"{prospect.target} {score_seconds(prospect, weights):.1f} s" for prospect in prospects)
