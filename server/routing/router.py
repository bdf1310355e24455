"""Has a request served: by the best of those who could, and once more by another where that can cure a failure.

Knows candidates, verdicts, breakers and the books; knows no wire and no pictures' content.
Invariant: at most MAX_ATTEMPTS backends get a request, one after the other, within its one deadline; a wrong request,
and one that somebody will not draw, go to nobody else; every request's entries are settled exactly once, and every
attempt ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from server.backends.backend import Backend, Drawn, Ears, Listener, Order, deaf
from server.backends.trouble import Trouble
from server.backends.upstream import Upstream
from server.core import error_table, errors
from server.core.errors import SafelightError
from server.core.providers import Life, Target
from server.core.request import ImageRequest, Picture
from server.core.tracing import hop
from server.routing.accounts import Accounts
from server.routing.allowance import Allowance
from server.routing.breaker import Breakers
from server.routing.calls import Calls
from server.routing.choice import Prospect, Weights, ranked, reason_of, told
from server.routing.closing import Closing
from server.routing.journey import OK, Candidate, Course, Journey, Served, Try
from server.routing.judged import judged
from server.routing.record import Records
from server.routing.telling import Telling
from server.routing.verdict import Verdict, unasked, verdict_of

log = logging.getLogger("safelight.routing")
MAX_ATTEMPTS, OK_STATUS = 2, 200
# Less is not reserved anew.
LEAST_USD = 0.000_001
TargetState = Literal["ready", "cooling_down", "retired", "not_set_up"]
# Told of picture i as soon as it is there, with the request that it answers.
OnPicture = Callable[[int, Picture, ImageRequest], None]
Deliver = Callable[[Served], Awaitable[None]]


async def undelivered(_: Served) -> None:
    """The pictures were told one by one, or need no more than to be handed back."""


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


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One backend that is being asked. id: in the books, which keep those that cost money."""

    target: Target
    began_seconds: float
    id: str | None = None
    reserved_usd: float = 0.0


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
    closing: Closing = field(default_factory=Closing)
    telling: Telling = field(default_factory=Telling)
    calls: Calls = field(default_factory=Calls)

    async def draw(
        self,
        journey: Journey,
        listener_of: Callable[[int], Listener | None] = deaf,
        on_picture: OnPicture = unmoved,
        deliver: Deliver = undelivered,
    ) -> Served:
        """Raises SafelightError, whose headers tell who was asked. deliver: makes the answer ready; where it cannot,
        the books say that the request failed."""
        began_seconds = time.monotonic()
        if self.calls.are_ending:
            raise errors.shutting_down()
        ranking = self.ranked(journey)
        course = Course(told(ranking, self.weights), reserved_usd=_most_usd(ranking))
        await self.accounts.open(journey, course.reserved_usd)
        try:
            served = await self._served(journey, ranking, course, _Turn(on_picture, listener_of))
            await _delivered(served, deliver)
        except BaseException as failure:
            self.telling.ended(journey, course, failure, time.monotonic() - began_seconds)
            await self._ended(journey, course, failure, _ms_since(began_seconds))
            raise
        await self._settled(journey, served, _ms_since(began_seconds))
        self.telling.observer.routed(served.target, reason_of(served.target, ranking, self.weights))
        self.telling.served(journey, served, time.monotonic() - began_seconds)
        return served

    async def check_quotas(self, journey: Journey) -> None:
        """Before anything is done for it: whether the day's quotas would have room. Raises SafelightError."""
        await self.accounts.check(journey, _most_usd(self.ranked(journey)))

    def ranked(self, journey: Journey) -> list[Prospect]:
        """The candidates as the rule of `choice` orders them now."""
        now_seconds = time.monotonic()
        prospects = [self._prospect(one, place, now_seconds) for place, one in enumerate(journey.candidates)]
        return ranked(prospects, self.weights)

    def drain(self, seconds: float) -> None:
        """Take no more requests, and refuse what providers have not drawn by then."""
        self.calls.drain(seconds)

    async def finish(self) -> None:
        """Wait until the books of those who went away are kept."""
        await self.closing.finish()

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
            if course.asked >= MAX_ATTEMPTS or turn.has_told:
                break
            verdict = self._barred(prospect.target)
            if verdict is not None:
                course.failed(prospect.target, verdict, was_asked=False)
                self.telling.observer.passed_over(prospect.target, verdict.cause)
                continue
            if course.asked and not self.allowance.take():
                break
            outcome = await self._try(journey, candidates[prospect.target], course, turn)
            if isinstance(outcome, Served):
                return outcome
            if not outcome.is_curable:
                break
        raise course.error()

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

    async def _try(self, journey: Journey, candidate: Candidate, course: Course, turn: _Turn) -> Served | Verdict:
        """One candidate's turn: what it served, or why not."""
        target = candidate.target
        # Before anything is waited for, or others would be let through meanwhile.
        self.breakers.asked(target)
        try:
            with hop("attempt", backend=target.backend, model=target.model):
                request = await candidate.ready()
                return await self._ask(journey, target, request, course, turn)
        except SafelightError as refusal:
            self.breakers.abandoned(target)
            verdict = unasked(refusal, target)
            course.failed(target, verdict, was_asked=False)
            self.telling.observer.passed_over(target, verdict.cause)
            return verdict
        except BaseException:
            self.breakers.abandoned(target)
            raise

    async def _ask(
        self, journey: Journey, target: Target, request: ImageRequest, course: Course, turn: _Turn
    ) -> Served | Verdict:
        """Raises SafelightError where it was not asked."""
        attempt = await self._begun(journey, target, request, course)
        try:
            draw = partial(self._drawn, target, _order(journey, request))
            drawn = await judged(draw, request, turn.ears(request), journey.examine)
        except (SafelightError, Trouble) as failure:
            lost_usd = _lost_usd(failure, attempt.reserved_usd)
            verdict = self._failed(target, request, failure, course, lost_usd)
            _tell(journey, target, verdict, failure)
            status = failure.facts.status if isinstance(failure, Trouble) else None
            self._end(attempt, verdict.cause, status, lost_usd)
            return verdict
        except BaseException:
            course.wasted_usd += attempt.reserved_usd
            self._end(attempt, "abandoned", None, attempt.reserved_usd)
            raise
        self._end(attempt, OK, OK_STATUS, drawn.cost_usd)
        return self._succeeded(target, request, drawn, course, _ms_since(attempt.began_seconds))

    async def _begun(self, journey: Journey, target: Target, request: ImageRequest, course: Course) -> _Attempt:
        """With the money reserved, where it costs any. Raises SafelightError."""
        began_seconds = time.monotonic()
        # Not as it was ranked: the size may have followed from the pictures since.
        usd = self.backends[target.backend].estimate(request).usd
        # Of our own devices it moves with each second that they learn, and was reserved as it stood a moment ago.
        if target in self.upstreams or course.wasted_usd:
            await self._reserve(journey, course, usd)
        if target not in self.upstreams:
            return _Attempt(target, began_seconds)
        attempt_id = await self.accounts.begin(journey, target, course.asked + 1, usd)
        if attempt_id is None:
            raise errors.insufficient_quota()
        return _Attempt(target, began_seconds, attempt_id, usd)

    async def _reserve(self, journey: Journey, course: Course, usd: float) -> None:
        """What one try may cost is reserved; a second one costs more where the first has cost something. Raises
        SafelightError where the day's quotas have no room for it."""
        needed_usd = course.wasted_usd + usd
        if needed_usd > course.reserved_usd + LEAST_USD:
            await self.accounts.raise_to(journey, needed_usd)
            course.reserved_usd = needed_usd

    async def _drawn(self, target: Target, order: Order[ImageRequest], ears: Ears) -> Drawn:
        """Within the drain time, once the server stops; our own devices' part of it the dispatcher knows.
        Providers keep the deadline themselves; what our own devices have not drawn by then is ended."""
        backend = self.backends[target.backend]
        if target not in self.upstreams:
            return await _in_time(backend.draw(order, ears), order.patience_seconds)
        async with self.calls.one():
            return await backend.draw(order, ears)

    def _end(self, attempt: _Attempt, cause: str, status: int | None, usd: float) -> None:
        """Before the entries' settlement, with which it shares a commit."""
        if attempt.id is not None:
            told = None if cause == OK else cause
            end = partial(self.accounts.end, attempt.id, told, status, _ms_since(attempt.began_seconds), usd)
            self.closing.beside(end)
        self.telling.observer.tried(attempt.target, cause, time.monotonic() - attempt.began_seconds, usd)

    def _succeeded(self, target: Target, request: ImageRequest, drawn: Drawn, course: Course, ms: int) -> Served:
        self.breakers.served(target)
        self.records.served(target, str(request.size), ms / 1000 / request.count, time.monotonic())
        course.tries.append(Try(target, OK))
        log.debug("served", extra={"target": str(target), "route": course.reason, "tries": len(course.tries)})
        return Served(request, drawn, course)

    def _failed(
        self, target: Target, request: ImageRequest, failure: SafelightError | Trouble, course: Course, lost_usd: float
    ) -> Verdict:
        upstream = self.upstreams.get(target)
        verdict = verdict_of(failure, target, Life() if upstream is None else upstream.entry)
        self.breakers.failed(target, verdict.strain, time.monotonic())
        if verdict.is_curable:
            self.records.failed(target, str(request.size), time.monotonic())
        course.failed(target, verdict, was_asked=True)
        course.wasted_usd += lost_usd
        return verdict

    async def _settled(self, journey: Journey, served: Served, ms: int) -> None:
        """Raises SafelightError, which keeps clients from repeating what was paid for."""
        try:
            await self.closing.now(partial(self.accounts.served, journey, served, ms))
        except SafelightError as problem:
            if served.cost_usd > 0 and served.target in self.upstreams:
                problem.more_headers["x-should-retry"] = "false"
            raise

    async def _ended(self, journey: Journey, course: Course, failure: BaseException, ms: int) -> None:
        """Settle what has no pictures. Whoever went away does not wait for it."""
        ended, usd = partial(self.accounts.ended, journey), course.wasted_usd
        if isinstance(failure, SafelightError):
            await self.closing.now(partial(ended, "failed", failure.code, course.asked, usd, ms))
        elif isinstance(failure, Exception):
            await self.closing.now(partial(ended, "failed", "internal_error", course.asked, usd, ms))
        else:
            self.closing.beside(partial(ended, "cancelled", None, course.asked, usd, ms))


async def _delivered(served: Served, deliver: Deliver) -> None:
    try:
        await deliver(served)
    except BaseException:
        served.course.wasted_usd += served.drawn.cost_usd
        raise


def _lost_usd(failure: SafelightError | Trouble, reserved_usd: float) -> float:
    """What a call that did not serve may have cost. One that our stop cut off may have been drawn."""
    if isinstance(failure, Trouble):
        return failure.cost_usd
    return reserved_usd if failure.row is error_table.SHUTTING_DOWN else 0.0


def _tell(journey: Journey, target: Target, verdict: Verdict, failure: SafelightError | Trouble) -> None:
    """What our own devices fail at, they tell themselves."""
    if isinstance(failure, Trouble):
        whose = {"request_id": journey.request_id, "target": str(target)}
        facts = {"cause": verdict.cause, "status": failure.facts.status, "detail": failure.facts.detail}
        log.warning("backend did not serve", extra={**whose, **facts})


def _most_usd(ranking: list[Prospect]) -> float:
    """What the dearest of those who could serve would cost."""
    return max(prospect.usd for prospect in ranking)


async def _in_time(drawing: Awaitable[Drawn], patience_seconds: float | None) -> Drawn:
    """Raises SafelightError when the time is over; then it is cancelled, and its rows are free at the next step."""
    try:
        async with asyncio.timeout(patience_seconds) as limit:
            return await drawing
    except TimeoutError:
        if not limit.expired():
            raise
        raise errors.deadline_exceeded() from None


def _order(journey: Journey, request: ImageRequest) -> Order[ImageRequest]:
    """Raises SafelightError when the caller has waited long enough."""
    return Order(
        request,
        journey.request_id,
        _patience_seconds(journey),
        journey.wants_progress,
        journey.caller.key_id or "",
        journey.is_deadline_asked,
    )


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
