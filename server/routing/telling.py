"""Tells of requests that are at their end: to the log, a line for each picture; and to whoever counts.

Knows journeys and their ends; decides nothing.
Invariant: no line holds a prompt that the operator did not ask for, nor a picture's bytes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from server.core.observer import DEAF, Ended, Ending, Observer
from server.core.prompt_log import PromptLog
from server.core.providers import Target
from server.core.request import LocalRequest, Picture, RemoteRequest
from server.routing.accounts import work_units
from server.routing.journey import Course, Journey, Served

log = logging.getLogger("safelight.routing")


@dataclass(frozen=True, slots=True)
class Telling:
    observer: Observer = DEAF
    prompts: PromptLog = field(default_factory=PromptLog)

    def served(self, journey: Journey, served: Served, seconds: float) -> None:
        """All pictures are there and in the books."""
        self._ended(journey, served.target, "succeeded", seconds, served.request.count * work_units(served.request))
        for index, picture in enumerate(served.drawn.pictures):
            fields = {"index": index, **_fields_of(journey, served, picture)}
            log.info("drawn", extra={**fields, **self.prompts.fields(journey.request.sent_prompt)})

    def ended(self, journey: Journey, course: Course, failure: BaseException, seconds: float) -> None:
        """There are no pictures."""
        target = course.tries[-1].target if course.tries else journey.candidates[0].target
        self._ended(journey, target, "failed" if isinstance(failure, Exception) else "cancelled", seconds, 0.0)

    def _ended(self, journey: Journey, target: Target, ending: Ending, seconds: float, units: float) -> None:
        request = journey.request
        self.observer.ended(Ended(target, request.operation, ending, request.count, units, seconds))


def _fields_of(journey: Journey, served: Served, picture: Picture) -> dict[str, object]:
    request = served.request
    steps = request.steps if isinstance(request, (LocalRequest, RemoteRequest)) else None
    waited, worked = picture.queue_seconds, picture.device_seconds
    return {
        "request_id": journey.request_id,
        "key_id": journey.caller.key_id,
        "backend": served.target.backend,
        "model": served.target.model,
        "operation": request.operation,
        "size": str(request.size),
        "steps": steps,
        "queue_ms": None if waited is None else round(waited * 1000),
        "device_ms": round(worked * 1000) if isinstance(request, LocalRequest) else None,
        "cost_usd": round(picture.cost_usd, 6),
    }
