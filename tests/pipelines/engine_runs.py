"""Runs jobs through the real engine with real tiny models, in this process, one work item after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import torch

from pipelines.engine.faults import Fault, FaultPoints
from pipelines.engine.runner import Runner
from pipelines.engine.safety import SafetyCheck
from pipelines.engine.tally import Tally
from pipelines.families.contract import FamilyOptions
from pipelines.messages import Cancelled, ControlKind, EngineOptions, Event, Failed, Image, ModelSpec, Refused, Submit
from pipelines.residency.carrier import Carrier
from pipelines.residency.holding import Budgets, Rules
from pipelines.residency.models import Aside, Models
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.stock import params

CPU = torch.device("cpu")
PLENTY = Budgets(device_bytes=1 << 40)


class AtOnce(Executor):
    """Runs what it is given in the caller's thread."""

    def submit(self, work: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments, **keywords))
        return done


class Engine:
    """A runner over some checkpoints, its events, and a clock that ticks a hundredth of a second a look."""

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        options: EngineOptions | None = None,
        faults: Sequence[Fault] = (),
        device: torch.device = CPU,
        budgets: Budgets = PLENTY,
        rules: Rules | None = None,
        carrier: Carrier | None = None,
        aside: Aside | None = None,
        loras: Mapping[str, str] | None = None,
        controls: Mapping[ControlKind, str | None] | None = None,
        changes: Mapping[str, Any] | None = None,
        safety: SafetyCheck | None = None,
    ) -> None:
        options = options or EngineOptions()
        fields = {"loras": dict(loras or {}), "controls": dict(controls or {}), **(changes or {})}
        specs = [ModelSpec(name, one.family, str(one.folder), **fields) for name, one in checkpoints.items()]
        family_options = FamilyOptions(options.exact_rows, options.prompt_cache_bytes)
        ticks = itertools.count()
        self.carrier = carrier or Carrier(device)
        aside = aside or Aside(AtOnce(), AtOnce())
        self.models = Models(specs, self.carrier, budgets, rules or Rules(), aside, family_options)
        self.events: list[Event] = []
        self.tally = Tally()
        self.runner = Runner(
            self.models,
            self.events.append,
            AtOnce(),
            clock=lambda: next(ticks) / 100,
            options=options,
            faults=FaultPoints(faults),
            safety=safety,
            tally=self.tally,
        )

    def draw(self, requests: Sequence[Submit], meanwhile: Callable[[], None] = lambda: None) -> dict[str, list[Event]]:
        """Submit all, work until nothing is left, and say how each ended. meanwhile: called after every work item."""
        for request in requests:
            self.runner.submit(request)
        while self.runner.has_work:
            self.runner.work()
            meanwhile()
        return self.ends()

    def ends(self) -> dict[str, list[Event]]:
        ends: dict[str, list[Event]] = {}
        for event in self.events:
            if isinstance(event, (Image, Refused, Failed, Cancelled)):
                ends.setdefault(event.job_id, []).append(event)
        return ends

    def pictures(self) -> dict[str, bytes]:
        return {event.job_id: event.file for event in self.events if isinstance(event, Image)}


def submit(job_id: str, *, model: str = "sdxl", caller: str = "", **changes: Any) -> Submit:
    """A small quick job; changes: to its parameters, or to the message."""
    message = {
        name: changes.pop(name)
        for name in ("wants_progress", "preview_steps", "priority", "output", "is_checked")
        if name in changes
    }
    asked = params(**{"width_px": 64, "height_px": 64, "steps": 2, "guidance_scale": 1.0, **changes})
    return Submit(job_id, model, asked, caller=caller, **message)
