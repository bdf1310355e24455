"""What the parts of the server tell of their work, to whoever counts it: plain words and numbers.

Knows no counter and no registry. The class itself hears everything and does nothing.
Invariant: whoever listens neither blocks nor raises, so that nobody waits for being counted or fails of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.core.providers import Target
from server.core.request import Operation

Ending = Literal["succeeded", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Answered:
    """One HTTP request. route: the template that matched it; None: no route did. status: None where its client went
    away before. code: of the error that it was answered with."""

    route: str | None
    method: str
    status: int | None
    seconds: float
    code: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """One request for pictures. target: who drew, or who was to. work_units: of all its pictures."""

    target: Target
    operation: Operation
    ending: Ending
    count: int
    work_units: float
    seconds: float


class Observer:
    """Override what is to be heard."""

    def arrived(self) -> None:
        """An HTTP request has come."""

    def answered(self, answered: Answered) -> None:
        """An HTTP request has its answer, or needs none any more."""

    def queued(self, model: str, seconds: float) -> None:
        """A picture's work has begun after so long."""

    def routed(self, target: Target, reason: str) -> None:
        """The target has served; reason: why it and no other, in a word."""

    def tried(self, target: Target, cause: str, seconds: float, usd: float) -> None:
        """The target was asked. cause: `ok`, or why it did not serve; usd: what it may have cost."""

    def passed_over(self, target: Target, cause: str) -> None:
        """The target was not asked, though it was its turn."""

    def ended(self, ended: Ended) -> None:
        """A request for pictures is at its end."""

    def judged(self, check: str, decision: str) -> None:
        """A content check has decided: allow or refuse."""

    def booked(self, operation: str, seconds: float, *, is_kept: bool) -> None:
        """The ledger has done this, or could not."""

    def decoded(self, work: str, seconds: float, *, is_lost: bool) -> None:
        """A decoder process has answered, or was lost of it."""

    def lagged(self, seconds: float) -> None:
        """The event loop came so much too late to what was due."""


DEAF = Observer()
