"""What can go wrong with a backend, as one exception with a cause, so that whoever asks next can be chosen by it.

Knows causes; knows no wire and no words for callers.
Invariant: nothing of a provider's own text is kept here but for the log's eyes, shortened, and never a credential.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# unreachable: no connection. timeout: connected, and silent for too long. broken: an answer that is none (cut off, no
# JSON, not what was asked for). failed: it says that it failed. throttled: it asks to come later. overloaded: it has no
# room. no_quota: its account is used up. unauthorised: it does not know our credentials. retired: the model is gone for
# good. unknown_model: it does not have the model. refused: it takes the request to be wrong. policy: it will not draw
# this. bad_picture: what came is no picture that may be passed on. own_policy: it was drawn, and our own checks keep it
# here. unjudged: it was drawn, and a check that must be made could not be.
Cause = Literal[
    "unreachable",
    "timeout",
    "broken",
    "failed",
    "throttled",
    "overloaded",
    "no_quota",
    "unauthorised",
    "retired",
    "unknown_model",
    "refused",
    "policy",
    "bad_picture",
    "own_policy",
    "unjudged",
]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the log and the books are told. status: HTTP. detail: for the log; may hold the provider's words, cut short.
    retry_after_seconds: as the provider wishes. is_charged: whether it may have cost money all the same."""

    status: int | None = None
    detail: str = ""
    retry_after_seconds: float | None = None
    is_charged: bool = False


class Trouble(Exception):
    """A provider did not serve. cost_usd: what may have been spent on it nevertheless."""

    def __init__(self, cause: Cause, facts: Facts | None = None) -> None:
        super().__init__(cause)
        self.cause, self.facts, self.cost_usd = cause, facts or Facts(), 0.0
