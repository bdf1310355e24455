"""Armed faults, for tests only: named points at which a chosen job goes wrong in a chosen way.

Knows seeds, phases and steps; knows no models. Off unless SAFELIGHT_FAULTS is set, a JSON list of faults.
Invariant: nothing armed, nothing done.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import torch

from pipelines.engine.candidate import Phase
from pipelines.engine.job import Job
from pipelines.leaks import Leaks, Planted

VARIABLE = "SAFELIGHT_FAULTS"
FaultKind = Literal["out_of_memory", "exception", "not_finite", "slow", "hang", "crash"]


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """What strikes the job of this seed. phase: before which work item; step: of denoising, before which one (from 0;
    any if None). at_least: only in batches of so many jobs. times: how often; slow_seconds: for `slow`. once: a file
    that is made when it strikes, and where it is there already it does not: so the next worker is spared."""

    kind: FaultKind
    seed: int
    phase: Literal["prepare", "denoise", "decode"] = "denoise"
    step: int | None = None
    at_least: int = 1
    times: int = 1000
    slow_seconds: float = 1.0
    once: str | None = None


class ArmedFault(RuntimeError):
    """What a fault of the kind `exception` raises."""


class FaultPoints:
    """The armed faults of one worker."""

    def __init__(self, faults: Sequence[Fault] = (), leaks: Leaks | None = None) -> None:
        # Copies, as each counts down by itself.
        self._faults = [msgspec.structs.replace(fault) for fault in faults]
        self._leaks = leaks or Leaks()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> FaultPoints:
        """Raises msgspec.MsgspecError when the variable holds no list of faults."""
        faults = msgspec.json.decode(environment.get(VARIABLE, "[]"), type=list[Fault])
        return cls(faults, Leaks(Planted.in_environment(environment).worker))

    def strike(self, phase: Phase, batch: Sequence[Job]) -> None:
        """Let the armed faults of this work item happen: before it, so that no state has changed."""
        if phase is Phase.PREPARE:
            self._leaks.lose()
        for fault in self._faults:
            guilty = next((job for job in batch if _is_due(fault, phase, job, len(batch))), None)
            if guilty is not None and _is_first(fault.once):
                fault.times -= 1
                _happen(fault, guilty)


def _is_due(fault: Fault, phase: Phase, job: Job, batch_size: int) -> bool:
    step = job.state.step if job.state is not None else 0
    here = fault.phase == phase.value and fault.seed == job.params.seed and fault.step in (None, step)
    return here and fault.times > 0 and batch_size >= fault.at_least


def _is_first(marker: str | None) -> bool:
    if marker is None:
        return True
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _happen(fault: Fault, job: Job) -> None:
    match fault.kind:
        case "out_of_memory":
            raise torch.OutOfMemoryError("an armed fault")
        case "exception":
            raise ArmedFault("an armed fault")
        case "not_finite" if job.state is not None:
            job.state.latents = job.state.latents * float("nan")
        case "slow":
            time.sleep(fault.slow_seconds)
        case "hang":
            # As a kernel that never ends: this thread waits without Python's lock, so that the others live on.
            threading.Event().wait()
        case "crash":
            os.abort()
