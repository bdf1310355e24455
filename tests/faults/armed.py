"""The faults that strike a job of a known seed in the worker: what is armed, and how such a request must end.

Knows seeds, phases and steps; the worker's side of it is pipelines/engine/faults.py.
Invariant: no two faults have the same seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STEPS = 4
FIRST_SEED = 900_000


@dataclass(frozen=True, slots=True)
class Armed:
    """code: of the error; None: the picture is drawn all the same. deaths: how many workers it costs."""

    name: str
    fault: dict[str, Any]
    status: int
    code: str | None = None
    deaths: int = 0


def _armed() -> list[Armed]:
    places: list[tuple[str, dict[str, Any]]] = [("before it begins", {"phase": "prepare"})]
    places += [(f"at step {step}", {"phase": "denoise", "step": step}) for step in range(STEPS)]
    places += [("while it is decoded", {"phase": "decode"})]
    found = []
    for where, place in places:
        once, memory = {**place, "times": 1}, {**place, "kind": "out_of_memory"}
        found += [
            Armed(f"out of memory once, {where}", {**memory, "times": 1}, 200),
            Armed(f"out of memory for ever, {where}", memory, 500, "insufficient_memory"),
            Armed(f"an exception, {where}", {**place, "kind": "exception"}, 500, "generation_failed"),
            Armed(f"a crash once, {where}", {**once, "kind": "crash"}, 500, "worker_lost", deaths=2),
            Armed(f"a slow device, {where}", {**once, "kind": "slow", "slow_seconds": 0.5}, 200),
        ]
        if place["phase"] != "prepare":
            found.append(Armed(f"no number, {where}", {**place, "kind": "not_finite"}, 500, "generation_failed"))
    return found


ARMED: tuple[Armed, ...] = tuple(_armed())


def seed_of(armed: Armed) -> int:
    return FIRST_SEED + ARMED.index(armed)


def as_environment(armed: Sequence[Armed]) -> str:
    """Faults count down in each worker by itself: what strikes once, strikes once in every worker."""
    return json.dumps([{**one.fault, "seed": seed_of(one)} for one in armed])
