"""Has a request served: by the best of those who could, and once more by another where that can cure a failure.

Knows candidates, verdicts, breakers and the books; knows no wire and no pictures' content.
Invariant: at most MAX_ATTEMPTS backends get a request, one after the other, within its one deadline; a wrong request,
and one that somebody will not draw, go to nobody else; every request's entries are settled exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from server.backends.backend import Backend, Drawn, Ears, Listener, Order, deaf
from server.backends.trouble import Trouble
from server.backends.upstream import Upstream
from server.core import errors
from server.core.errors import SafelightError
from server.core.providers import Life, Target
from server.core.request import ImageRequest, Picture
from server.routing.accounts import Accounts
from server.routing.allowance import Allowance
from server.routing.breaker import Breakers
from server.routing.choice import Prospect, Weights, ranked, told
from server.routing.journey import OK, Candidate, Course, Journey, Served, Try
from server.routing.record import Records
from server.routing.verdict import Verdict, verdict_of

log = logging.getLogger("safelight.routing")
MAX_ATTEMPTS = 2
TargetState = Literal["ready", "cooling_down", "retired", "not_set_up"]
# Told of picture i as soon as it is there, with the request that it answers.
OnPicture = Callable[[int, Picture, ImageRequest], None]


def unmoved(_: int, __: Picture, ___: ImageRequest) -> None:
    """Nobody waits for single pictures."""


@dataclass(slots=True)
class _Turn:
    """One candidate's. has_told: whether somebody has heard of a picture of it."""

    on_picture: OnPicture
    listener_of: Callable[[int], Listener | None]
    has_told: bool = False

    def ears(self, request: ImageRequest) -> Ears:
        def hear(index: int, picture: Picture) -> None:
            self.has_told = True
            self.on_picture(index, picture, request)

        return Ears(self.listener_of, hear)


@dataclass(slots=True)
class Router:
    """backends: by their names, our own among them. upstreams: the models of the others."""

    backends: Mapping[str, Backend[Any]]
    upstreams: Mapping[Target, Upstream]
    accounts: Accounts
    weights: Weights
    allowance: Allowance
    records: Records = field(default_factory=Records)
    breakers: Breakers = field(default_factory=Breakers)
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    async def draw(
        self,
        journey: Journey,
        listener_of: Callable[[int], Listener | None] = deaf,
        on_picture: OnPicture = unmoved,
    ) -> Served:
        """Raises SafelightError, whose headers tell who was asked."""
        began_seconds = time.monotonic()
        await self.accounts.open(journey)
        ranking = self.ranked(journey)
        course = Course(told(ranking, self.weights))
        try:
            served = await self._served(journey, ranking, course, _Turn(on_picture, listener_of))
        except BaseException as failure:
            await self._ended(journey, course, failure, _ms_since(began_seconds))
            raise
        await self.accounts.served(journey, served, _ms_since(began_seconds))
        return served

    def ranked(self, journey: Journey) -> list[Prospect]:
        """The candidates as the rule of `choice` orders them now."""
        now_seconds = time.monotonic()
        prospects = [self._prospect(one, place, now_seconds) for place, one in enumerate(journey.candidates)]
        return ranked(prospects, self.weights)

    async def finish(self) -> None:
        """Wait until the books of those who went away are kept."""
        await asyncio.gather(*self._background, return_exceptions=True)

    def _prospect(self, candidate: Candidate, place: int, now_seconds: float) -> Prospect:
        target, request = candidate.target, candidate.request
        estimate = self.backends[target.backend].estimate(request)
        record = self.records.of(target, str(request.size), now_seconds)
        preference = self.upstreams[target].preference_seconds if target in self.upstreams else 0.0
        return Prospect(target, place, estimate.seconds, estimate.usd, request.count, record, preference)

    async def _served(self, journey: Journey, ranking: list[Prospect], course: Course, turn: _Turn) -> Served:
        self.allowance.earn()
        candidates = {one.target: one for one in journey.candidates}
        for prospect in ranking:
            if course.asked and not self._may_ask_again(course, turn):
                break
            verdict = self._barred(prospect.target)
            if verdict is not None:
                course.failed(prospect.target, verdict, was_asked=False)
                continue
            outcome = await self._try(journey, candidates[prospect.target], prospect, course, turn)
            if isinstance(outcome, Served):
                return outcome
            if not outcome.is_curable:
                break
        raise course.error()

    def _may_ask_again(self, course: Course, turn: _Turn) -> bool:
        return course.asked < MAX_ATTEMPTS and not turn.has_told and self.allowance.take()

    def _barred(self, target: Target) -> Verdict | None:
        """Why nobody may be asked there now. Our own devices know for themselves what they can take."""
        upstream = self.upstreams.get(target)
        if upstream is None:
            return None
        if self.is_retired(target):
            return verdict_of(Trouble("retired"), target, upstream.entry)
        if self.breakers.is_closed(target, time.monotonic()):
            return None
        return Verdict("cooling_down", errors.backend_failed(), is_curable=True)

    def state_of(self, target: Target) -> TargetState:
        """Whether the target can be asked now."""
        if target.backend not in self.backends:
            return "not_set_up"
        if self.is_retired(target):
            return "retired"
        return "ready" if self.breakers.is_closed(target, time.monotonic()) else "cooling_down"

    def is_retired(self, target: Target) -> bool:
        """Whether the provider has said so, or models.yaml does."""
        upstream = self.upstreams.get(target)
        is_over = upstream is not None and upstream.entry.is_over(datetime.now(UTC).date())
        return is_over or self.breakers.is_gone(target)

    async def _try(
        self, journey: Journey, candidate: Candidate, prospect: Prospect, course: Course, turn: _Turn
    ) -> Served | Verdict:
        """One candidate's turn: what it served, or why not."""
        request = await candidate.ready()
        order = Order(request, journey.request_id, _patience_seconds(journey), journey.wants_progress)
        target, began_seconds = candidate.target, time.monotonic()
        attempt_id: str | None = None
        if target in self.upstreams:
            attempt_id = await self.accounts.begin(journey, target, course.asked + 1, prospect.usd)
            if attempt_id is None:
                verdict = Verdict("daily_limit", errors.insufficient_quota(), is_curable=True)
                course.failed(target, verdict, was_asked=False)
                return verdict
        self.breakers.asked(target)
        try:
            drawn = await self.backends[target.backend].draw(order, turn.ears(request))
        except (SafelightError, Trouble) as failure:
            return await self._failed(target, request, failure, attempt_id, course, _ms_since(began_seconds))
        except BaseException:
            self.breakers.abandoned(target)
            if attempt_id is not None:
                end = self.accounts.end(attempt_id, "abandoned", None, _ms_since(began_seconds), prospect.usd)
                course.wasted_usd += prospect.usd
                self._beside(end)
            raise
        return await self._succeeded(target, request, drawn, attempt_id, course, _ms_since(began_seconds))

    async def _succeeded(
        self, target: Target, request: ImageRequest, drawn: Drawn, attempt_id: str | None, course: Course, ms: int
    ) -> Served:
        self.breakers.served(target)
        self.records.served(target, str(request.size), ms / 1000 / request.count, time.monotonic())
        if attempt_id is not None:
            await self.accounts.end(attempt_id, None, 200, ms, drawn.cost_usd)
        course.tries.append(Try(target, OK))
        log.debug("served", extra={"target": str(target), "route": course.reason, "tries": len(course.tries)})
        return Served(request, drawn, course)

    async def _failed(
        self,
        target: Target,
        request: ImageRequest,
        failure: SafelightError | Trouble,
        attempt_id: str | None,
        course: Course,
        ms: int,
    ) -> Verdict:
        upstream = self.upstreams.get(target)
        verdict = verdict_of(failure, target, Life() if upstream is None else upstream.entry)
        self.breakers.failed(target, verdict.strain, time.monotonic())
        if verdict.is_curable:
            self.records.failed(target, str(request.size), time.monotonic())
        course.failed(target, verdict, was_asked=True)
        if isinstance(failure, Trouble):
            facts = {"target": str(target), "cause": verdict.cause, "status": failure.facts.status}
            log.warning("backend did not serve", extra={**facts, "detail": failure.facts.detail})
            course.wasted_usd += failure.cost_usd
        if attempt_id is not None:
            status, cost_usd = _billed(failure)
            await self.accounts.end(attempt_id, verdict.cause, status, ms, cost_usd)
        return verdict

    async def _ended(self, journey: Journey, course: Course, failure: BaseException, ms: int) -> None:
        """Settle what has no pictures. Whoever went away does not wait for it."""
        if isinstance(failure, SafelightError):
            await self.accounts.ended(journey, "failed", failure.code, course.asked, course.wasted_usd, ms)
        elif isinstance(failure, Exception):
            await self.accounts.ended(journey, "failed", "internal_error", course.asked, course.wasted_usd, ms)
        else:
            self._beside(self.accounts.ended(journey, "cancelled", None, course.asked, course.wasted_usd, ms))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """Nobody waits for it, so its failure is told to the log."""
    try:
        await work
    except SafelightError as problem:
        log.error("books of an abandoned request not kept", extra={"code": problem.code})  # noqa: TRY400


def _billed(failure: SafelightError | Trouble) -> tuple[int | None, float]:
    """The provider's status, and what may have been spent. A refusal of our own comes before any call."""
    return (failure.facts.status, failure.cost_usd) if isinstance(failure, Trouble) else (None, 0.0)


def _patience_seconds(journey: Journey) -> float | None:
    """Raises SafelightError when the caller has waited long enough."""
    if journey.deadline_seconds is None:
        return None
    left = journey.deadline_seconds - asyncio.get_running_loop().time()
    if left <= 0:
        raise errors.backend_timeout()
    return left


def _ms_since(began_seconds: float) -> int:
    return round((time.monotonic() - began_seconds) * 1000)
