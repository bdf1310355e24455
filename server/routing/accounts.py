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
from datetime import UTC, datetime
from typing import TypeVar

from server.core import errors
from server.core.providers import BackendEntry, Target
from server.core.request import ImageRequest, LocalRequest, RemoteRequest
from server.ledger.entries import Attempt, AttemptEnd, Entry, Outcome, Settlement
from server.ledger.ledger import Ledger
from server.ledger.problem import LedgerProblem
from server.routing.journey import Journey, Served

log = logging.getLogger("safelight.routing")
T = TypeVar("T")
MICRO = 1_000_000
MAX_NAME_CHARACTERS = 100


class Accounts:
    """caps_usd: what may be spent in a day (UTC), by backend; under None by all together."""

    def __init__(self, ledger: Ledger, caps_usd: Mapping[str | None, float]) -> None:
        self._ledger = ledger
        self._caps = _in_micro(caps_usd)

    def with_caps(self, caps_usd: Mapping[str | None, float]) -> Accounts:
        """The same books under other limits."""
        other = copy(self)
        other._caps = _in_micro(caps_usd)
        return other

    async def open(self, journey: Journey) -> None:
        """Raises SafelightError when the books cannot be kept."""
        request, now_ms = journey.request, unix_ms()
        entries = [
            Entry(
                request_id=journey.request_id,
                index=index,
                key_id=journey.caller.key_id,
                operation=request.operation,
                requested_model=journey.named[:MAX_NAME_CHARACTERS],
                size=str(request.size),
                began_unix_ms=now_ms,
                work_units=work_units(request),
            )
            for index in range(request.count)
        ]
        await _kept(self._ledger.reserve(entries))

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
                queue_ms=None,
                device_ms=round(picture.device_seconds * 1000) if isinstance(request, LocalRequest) else None,
                latency_ms=latency_ms,
                cost_microusd=microusd(picture.cost_usd) + extra[index],
                size=str(request.size),
            )
            for index, picture in enumerate(drawn.pictures)
        ]
        await _kept(self._ledger.settle(settlements))

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
        await _kept(self._ledger.settle(settlements))

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
        is_begun = await _kept(self._ledger.try_attempt(attempt, self._caps, day_began_unix_ms()))
        return attempt.attempt_id if is_begun else None

    async def end(self, attempt_id: str, cause: str | None, status: int | None, latency_ms: int, usd: float) -> None:
        """Raises SafelightError when the books cannot be kept; then what was reserved stays spent."""
        await _kept(self._ledger.end_attempt(AttemptEnd(attempt_id, cause, status, latency_ms, microusd(usd))))


def caps_usd(backends: Mapping[str, BackendEntry], daily_usd: float | None) -> dict[str | None, float]:
    """What may be spent in a day, as Accounts takes it. daily_usd: by all backends together."""
    caps: dict[str | None, float] = {
        name: entry.daily_usd for name, entry in backends.items() if entry.daily_usd is not None
    }
    return caps if daily_usd is None else {**caps, None: daily_usd}


def _in_micro(caps: Mapping[str | None, float]) -> dict[str | None, int]:
    return {backend: microusd(usd) for backend, usd in caps.items()}


def work_units(request: ImageRequest) -> float:
    """Of one picture: rows x pixels x steps, of what our own devices draw; 0 for others, whose work nobody knows."""
    if not isinstance(request, LocalRequest):
        return 0.0
    rows = 2 if request.guidance_scale > 1 else 1
    return float(rows * request.size.width_px * request.size.height_px * request.steps)


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


async def _kept(work: Awaitable[T]) -> T:
    """What the ledger does. Raises SafelightError when it cannot."""
    try:
        return await work
    except LedgerProblem as problem:
        log.error("ledger unavailable", extra={"detail": str(problem)})  # noqa: TRY400
        raise errors.ledger_unavailable() from problem
