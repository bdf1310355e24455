"""One request's way through those who could serve it: who they are, who was asked, and who served.

Knows requests, targets and verdicts; asks nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from server.backends.backend import Drawn
from server.core.caller import ANYBODY, Caller
from server.core.error_table import WORKER_LOST
from server.core.errors import SafelightError
from server.core.providers import Target
from server.core.request import ImageRequest, LocalRequest
from server.core.request_id import new_request_id
from server.routing.judged import Examine
from server.routing.verdict import Verdict

# What a try that served is called.
OK = "ok"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One who could serve. request: complete but for its pictures. ready: gives the whole one, once it is its turn."""

    target: Target
    request: ImageRequest
    ready: Callable[[], Awaitable[ImageRequest]]


@dataclass(frozen=True, slots=True)
class Journey:
    """candidates: in the operator's order, at least one. named: the model as the caller named it. deadline_seconds: on
    the loop's clock; None: the caller waits for ever. is_deadline_asked: whether the caller set it itself. caller:
    whose entry it is in the books, and whose share. examine: what must let each picture pass before anybody hears of
    it; None: nothing."""

    candidates: tuple[Candidate, ...]
    named: str
    deadline_seconds: float | None = None
    is_deadline_asked: bool = False
    wants_progress: bool = False
    request_id: str = field(default_factory=new_request_id)
    caller: Caller = ANYBODY
    examine: Examine | None = None

    @property
    def request(self) -> ImageRequest:
        """What all candidates' requests agree on may be read from this one: operation, count, the prompt as sent."""
        return self.candidates[0].request

    @property
    def local_request(self) -> LocalRequest | None:
        """What our own devices would draw, if they could serve."""
        own = (one.request for one in self.candidates)
        return next((request for request in own if isinstance(request, LocalRequest)), None)


@dataclass(frozen=True, slots=True)
class Try:
    """One candidate's turn. was_asked: whether it got the request at all."""

    target: Target
    cause: str
    was_asked: bool = True

    def __str__(self) -> str:
        return f"{self.target}={self.cause}"


@dataclass(slots=True)
class Course:
    """What has happened so far. reason: why in this order. reserved_usd: what may be spent of the day's quotas.
    wasted_usd: on tries that did not serve."""

    reason: str
    tries: list[Try] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    reserved_usd: float = 0.0
    wasted_usd: float = 0.0

    @property
    def asked(self) -> int:
        return sum(one.was_asked for one in self.tries)

    def failed(self, target: Target, verdict: Verdict, *, was_asked: bool) -> None:
        self.tries.append(Try(target, verdict.cause, was_asked))
        self.verdicts.append(verdict)

    def headers(self) -> dict[str, str]:
        """For whoever wants to know who was asked, and why in this order."""
        served = next((one.target.backend for one in self.tries if one.cause == OK), None)
        headers = {"x-safelight-attempts": ", ".join(map(str, self.tries)), "x-safelight-route": self.reason}
        return headers if served is None else {"x-safelight-backend": served, **headers}

    def error(self) -> SafelightError:
        """What the caller is told in the end: that workers died of it, else a refusal that ended it, else a failure
        that may pass, else the first. For whom the request was none counts only where it was so for all."""
        verdicts = [verdict for verdict in self.verdicts if not verdict.is_unfit] or self.verdicts
        last = verdicts[-1]
        # Whoever repeats it by himself, as clients do after other failures, costs two workers more each time.
        deadly = (verdict for verdict in verdicts if verdict.error.row is WORKER_LOST)
        passing = (verdict for verdict in verdicts if verdict.error.row.should_retry is not False)
        told = next(deadly, None) or (next(passing, verdicts[0]) if last.is_curable else last)
        told.error.more_headers |= self.headers()
        return told.error


@dataclass(frozen=True, slots=True)
class Served:
    """The pictures, and whose request they answer. cost_usd: with what was wasted on the way."""

    request: ImageRequest
    drawn: Drawn
    course: Course

    @property
    def target(self) -> Target:
        return self.course.tries[-1].target

    @property
    def cost_usd(self) -> float:
        return self.drawn.cost_usd + self.course.wasted_usd
