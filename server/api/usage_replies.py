"""What all answers out of the books share: exact money, one encoding, and what is said when the books are shut.

Knows the wire; knows no question.
Invariant: money is written digit by digit as it was reckoned, in USD with at most six places, and never rounded.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from server.core import errors
from server.ledger.problem import LedgerProblem

log = logging.getLogger("safelight.usage")
T = TypeVar("T")
_encoder = msgspec.json.Encoder(decimal_format="number")


def usd(microusd: int) -> Decimal:
    """microusd: millionths of a dollar, 0 or more."""
    whole, part = divmod(microusd, 1_000_000)
    return Decimal(f"{whole}.{part:06}".rstrip("0").rstrip("."))


def reply(body: dict[str, Any]) -> Response:
    return Response(_encoder.encode(body), media_type="application/json")


async def answered(reading: Awaitable[T]) -> T:
    """What the ledger answers. Raises SafelightError when it cannot."""
    try:
        return await reading
    except LedgerProblem as problem:
        log.error("ledger unavailable", extra={"detail": str(problem)})  # noqa: TRY400
        raise errors.ledger_unavailable() from problem
