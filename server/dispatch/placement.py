"""Decides which device draws a job: the one that would be done with it first.

Knows what each worker says of the job's model, and how long it is busy; knows no processes and no clock.
Invariant: of devices that are equally busy, one that has the model wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.messages import ModelReport

# What a load is taken to cost of which nobody knows anything yet.
UNKNOWN_LOAD_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One device whose worker is there. report: of the job's model; busy_seconds: of work that was given to it."""

    report: ModelReport | None
    busy_seconds: float


def choose(choices: Sequence[Choice]) -> int:
    """The place of the best choice; the first of equals. There must be one."""
    return min(range(len(choices)), key=lambda place: _cost(choices[place]))


def _cost(choice: Choice) -> tuple[bool, float, bool]:
    """Smaller is better: without a problem, then the seconds until the device could begin. A device that loads the
    model already is as good as one that has it, but for equals."""
    report = choice.report
    if report is None:
        return (True, choice.busy_seconds, True)
    is_coming = report.state in ("device", "loading")
    seconds = UNKNOWN_LOAD_SECONDS if report.load_seconds is None else report.load_seconds
    return (report.problem is not None, choice.busy_seconds + (0.0 if is_coming else seconds), report.state != "device")
