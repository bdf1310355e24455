"""Keeps a request's books while it is on its way: an entry for each picture, an attempt for each call that costs money.

Knows journeys, the ledger's forms, limits of spending and the clock of the day; decides nothing else.
Invariant: an entry is durable before any work for it, and settled before its caller is told the end.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Mapping
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from pipelines.work import forwards_for, rows_for
from server.core import errors
from server.core.caller import Caller
from server.core.observer import DEAF, Observer
from server.core.providers import BackendEntry, Target
from server.core.request import ImageRequest, LocalRequest, RemoteRequest
from server.core.tracing import hop
from server.ledger.entries import Attempt, AttemptEnd, Entry, Excess, Outcome, Quota, Settlement
from server.ledger.ledger import Ledger
from server.ledger.problem import LedgerProblem
from server.routing.journey import Journey, Served

log = logging.getLogger("safelight.routing")
T = TypeVar("T")
MICRO = 1_000_000
MAX_NAME_CHARACTERS = 100


class Accounts:
    """caps_usd: what may be spent in a day (UTC), by backend; under None by all together. work_units_per_day: what our
    own devices draw in a day, for everybody; None: as much as they can."""

    def __init__(
        self,
        ledger: Ledger,
        caps_usd: Mapping[str | None, float],
        work_units_per_day: float | None = None,
        observer: Observer = DEAF,
    ) -> None:
        self._ledger, self._work_units_per_day, self._observer = ledger, work_units_per_day, observer
        self._caps = _in_micro(caps_usd)

    def with_caps(self, caps_usd: Mapping[str | None, float]) -> Accounts:
        """The same books under other limits."""
        other = copy(self)
        other._caps = _in_micro(caps_usd)
        return other

    @property
    def caps_usd(self) -> dict[str | None, float]:
        return {backend: cap / MICRO for backend, cap in self._caps.items()}

    async def check(self, journey: Journey, usd: float) -> None:
        """Whether the day's quotas would have room, before anything is done. Raises SafelightError as `open` does."""
        quotas = self._quotas(journey.caller)
        if quotas:
            entries = self._entries(journey, usd)
            asked = self._ledger.first_excess(entries, quotas, day_began_unix_ms())
            excess = await self._kept("quota", asked)
            _check_excess(excess, entries)

    async def open(self, journey: Journey, usd: float = 0.0) -> None:
        """usd: the most that all of its pictures may cost. Raises SafelightError when the day's quotas of its key or of
        the server have no room for it, and when the books cannot be kept."""
        quotas, entries = self._quotas(journey.caller), self._entries(journey, usd)
        if quotas:
            reserving = self._ledger.try_reserve(entries, quotas, day_began_unix_ms())
            _check_excess(await self._kept("reserve", reserving), entries)
        else:
            await self._kept("reserve", self._ledger.reserve(entries))

    async def raise_to(self, journey: Journey, usd: float) -> None:
        """Before another try: usd is what it and those before may cost together. Raises SafelightError as `open`
        does."""
        quotas = [
            replace(quota, work_units=None) for quota in self._quotas(journey.caller) if quota.microusd is not None
        ]
        if quotas:
            entries = self._entries(journey, usd)
            raising = self._ledger.try_raise(entries, quotas, day_began_unix_ms())
            _check_excess(await self._kept("reserve", raising), entries)

    def _quotas(self, caller: Caller) -> list[Quota]:
        limits = caller.limits
        microusd_per_day = None if limits.usd_per_day is None else microusd(limits.usd_per_day)
        quotas = [Quota(None, work_units=self._work_units_per_day)]
        if caller.key_id is not None:
            quotas.insert(0, Quota(caller.key_id, limits.work_units_per_day, microusd_per_day))
        return [quota for quota in quotas if quota.work_units is not None or quota.microusd is not None]

    def _entries(self, journey: Journey, usd: float) -> list[Entry]:
        request, now_ms = journey.request, unix_ms()
        reserved = shares(microusd(usd), request.count)
        return [
            Entry(
                request_id=journey.request_id,
                index=index,
                key_id=journey.caller.key_id,
                operation=request.operation,
                requested_model=journey.named[:MAX_NAME_CHARACTERS],
                size=str(request.size),
                began_unix_ms=now_ms,
                work_units=work_units(journey.local_request or request),
                reserved_microusd=reserved[index],
            )
            for index in range(request.count)
        ]

    async def served(self, journey: Journey, served: Served, latency_ms: int) -> None:
        """Raises SafelightError when the books cannot be kept."""
        drawn, request = served.drawn, served.request
        extra = shares(microusd(served.cost_usd - sum(one.cost_usd for one in drawn.pictures)), request.count)
        settlements = [
            Settlement(
                request_id=journey.request_id,
                index=index,
                outcome="succeeded",
                error_code=None,
                served_model=request.model,
                backend=served.target.backend,
                attempts=served.course.asked,
                steps=request.steps if isinstance(request, (LocalRequest, RemoteRequest)) else None,
                seed=picture.seed,
                queue_ms=None if picture.queue_seconds is None else round(picture.queue_seconds * 1000),
                device_ms=round(picture.device_seconds * 1000) if isinstance(request, LocalRequest) else None,
                latency_ms=latency_ms,
                cost_microusd=microusd(picture.cost_usd) + extra[index],
                size=str(request.size),
            )
            for index, picture in enumerate(drawn.pictures)
        ]
        await self._kept("settle", self._ledger.settle(settlements))

    async def ended(
        self, journey: Journey, outcome: Outcome, code: str | None, attempts: int, cost_usd: float, latency_ms: int
    ) -> None:
        """Without pictures. Raises SafelightError when the books cannot be kept."""
        costs = shares(microusd(cost_usd), journey.request.count)
        settlements = [
            Settlement(
                request_id=journey.request_id,
                index=index,
                outcome=outcome,
                error_code=code,
                served_model=None,
                backend=None,
                attempts=attempts,
                steps=None,
                seed=None,
                queue_ms=None,
                device_ms=None,
                latency_ms=latency_ms,
                cost_microusd=costs[index],
                size=None,
            )
            for index in range(journey.request.count)
        ]
        await self._kept("settle", self._ledger.settle(settlements))

    async def begin(self, journey: Journey, target: Target, number: int, reserved_usd: float) -> str | None:
        """The attempt's id; None where it would break a cap. Raises SafelightError when the books cannot be kept."""
        attempt = Attempt(
            attempt_id=secrets.token_hex(8),
            request_id=journey.request_id,
            number=number,
            backend=target.backend,
            model=target.model,
            count=journey.request.count,
            reserved_microusd=microusd(reserved_usd),
            began_unix_ms=unix_ms(),
        )
        is_begun = await self._kept("begin_attempt", self._ledger.try_attempt(attempt, self._caps, day_began_unix_ms()))
        return attempt.attempt_id if is_begun else None

    async def end(self, attempt_id: str, cause: str | None, status: int | None, latency_ms: int, usd: float) -> None:
        """Raises SafelightError when the books cannot be kept; then what was reserved stays spent."""
        end = AttemptEnd(attempt_id, cause, status, latency_ms, microusd(usd))
        await self._kept("end_attempt", self._ledger.end_attempt(end))

    async def _kept(self, operation: str, work: Awaitable[T]) -> T:
        """What the ledger does. Raises SafelightError when it cannot."""
        began_seconds, is_kept = time.monotonic(), True
        try:
            with hop(operation):
                return await work
        except LedgerProblem as problem:
            is_kept = False
            log.error("ledger unavailable", extra={"detail": str(problem)})  # noqa: TRY400
            raise errors.ledger_unavailable() from problem
        finally:
            self._observer.booked(operation, time.monotonic() - began_seconds, is_kept=is_kept)


def _check_excess(excess: Excess | None, entries: list[Entry]) -> None:
    if excess is None:
        return
    whose = "this server" if excess.quota.key_id is None else "this key"
    used, limit = excess.used.work_units, excess.quota.work_units
    needed = sum(entry.work_units for entry in entries)
    what = "work units"
    if excess.is_of_money:
        used, limit = excess.used.microusd / MICRO, (excess.quota.microusd or 0) / MICRO
        needed = sum(entry.reserved_microusd for entry in entries) / MICRO
        what = "USD"
    raise errors.quota_used_up(whose, what, f"{used:,.15g}", f"{limit:,.15g}", f"{needed:,.15g}")


def caps_usd(backends: Mapping[str, BackendEntry], daily_usd: float | None) -> dict[str | None, float]:
    """What may be spent in a day, as Accounts takes it. daily_usd: by all backends together."""
    caps: dict[str | None, float] = {
        name: entry.daily_usd for name, entry in backends.items() if entry.daily_usd is not None
    }
    return caps if daily_usd is None else {**caps, None: daily_usd}


def _in_micro(caps: Mapping[str | None, float]) -> dict[str | None, int]:
    return {backend: microusd(usd) for backend, usd in caps.items()}


def work_units(request: ImageRequest) -> float:
    """Of one picture of our own devices: rows x pixels x the steps that are done; 0 of others, whose work nobody
    knows."""
    if not isinstance(request, LocalRequest):
        return 0.0
    steps = forwards_for(request.family, request.steps, request.sampler, request.strength)
    rows = rows_for(request.family, request.guidance_scale)
    return float(rows * request.size.width_px * request.size.height_px * steps)


def microusd(usd: float) -> int:
    return max(0, round(usd * MICRO))


def shares(whole: int, count: int) -> list[int]:
    """A sum in `count` whole parts, none of them more than one larger than another."""
    part, rest = divmod(whole, count)
    return [part + (index < rest) for index in range(count)]


def unix_ms() -> int:
    return time.time_ns() // MICRO


def day_began_unix_ms() -> int:
    """Midnight, UTC."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return round(midnight.timestamp() * 1000)
