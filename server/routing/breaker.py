"""Stops asking a target that keeps failing, and tries it again after a while. Pure: it is told the time.

Knows failures by how bad they are; knows no causes, no clock and no backend.
Invariant: an open target is let through once after each cool-down, by one request at a time; a target that is gone for
good never is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from server.core.providers import Target

# none: not its fault. some: so many in a row open it. lasting: opens it at once, as nothing will change soon (its
# credentials are wrong, its account is used up). for_good: the model is gone.
Strain = Literal["none", "some", "lasting", "for_good"]
FAILURES_IN_A_ROW = 5
FIRST_COOL_DOWN_SECONDS, LONGEST_COOL_DOWN_SECONDS = 30.0, 600.0


@dataclass(slots=True)
class _State:
    """failures: in a row. openings: in a row, each twice as long as the last. is_probing: whether somebody has been let
    through and has not come back."""

    failures: int = 0
    openings: int = 0
    open_until_seconds: float = -math.inf
    is_probing: bool = False


@dataclass(slots=True)
class Breakers:
    """One for each target that ever failed."""

    _states: dict[Target, _State] = field(default_factory=dict)

    def is_closed(self, target: Target, now_seconds: float) -> bool:
        """Whether the target may be asked now."""
        state = self._states.get(target)
        if state is None or not state.openings:
            return True
        return now_seconds >= state.open_until_seconds and not state.is_probing

    def is_gone(self, target: Target) -> bool:
        state = self._states.get(target)
        return state is not None and state.open_until_seconds == math.inf

    def asked(self, target: Target) -> None:
        """Somebody is on the way: the only one, where it was open."""
        state = self._states.get(target)
        if state is not None and state.openings:
            state.is_probing = True

    def served(self, target: Target) -> None:
        self._states.pop(target, None)

    def abandoned(self, target: Target) -> None:
        """Whoever asked went away without an outcome."""
        state = self._states.get(target)
        if state is not None:
            state.is_probing = False

    def forget(self, backend: str) -> None:
        """It is another one now, though its name is the same."""
        for target in [target for target in self._states if target.backend == backend]:
            del self._states[target]

    def failed(self, target: Target, strain: Strain, now_seconds: float) -> None:
        if strain == "none":
            self.abandoned(target)
            return
        state = self._states.setdefault(target, _State())
        state.failures, state.is_probing = state.failures + 1, False
        if strain == "for_good":
            state.openings, state.open_until_seconds = state.openings + 1, math.inf
        elif strain == "lasting" or state.openings or state.failures >= FAILURES_IN_A_ROW:
            longest = strain == "lasting"
            state.open_until_seconds = now_seconds + _cool_down_seconds(state.openings, is_longest=longest)
            state.openings += 1


def _cool_down_seconds(openings: int, *, is_longest: bool) -> float:
    if is_longest:
        return LONGEST_COOL_DOWN_SECONDS
    return min(FIRST_COOL_DOWN_SECONDS * 2.0 ** min(openings, 10), LONGEST_COOL_DOWN_SECONDS)
