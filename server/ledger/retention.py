"""Forgets what is older than the books are kept, now and then, while the server runs.

Knows days of UTC and the ledger; knows no tables.
Invariant: whole days are forgotten, and never today or yesterday: the limits of a day are reckoned from them, and
another server's clock may be late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from server.ledger.ledger import Ledger
from server.ledger.problem import LedgerProblem

log = logging.getLogger("safelight.ledger")
DAY_MS = 86_400_000
PAUSE_SECONDS = 3600.0


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


def oldest_kept_unix_ms(now_unix_ms: int, keep_days: int) -> int:
    """The midnight (UTC) that lies so many whole days, 1 or more, before today's."""
    return (now_unix_ms // DAY_MS - keep_days) * DAY_MS


async def forget_old(
    ledger: Ledger,
    keep_days: int | None,
    now_unix_ms: Callable[[], int] = unix_ms,
    pause_seconds: float = PAUSE_SECONDS,
) -> None:
    """At once, and again after each pause, until cancelled. keep_days: None keeps all, and returns."""
    while keep_days is not None:
        try:
            forgotten = await ledger.forget_before(oldest_kept_unix_ms(now_unix_ms(), keep_days))
        except LedgerProblem as problem:
            log.warning("old books could not be forgotten; trying again", extra={"problem": str(problem)})
        else:
            log.log(logging.INFO if forgotten else logging.DEBUG, "old books forgotten", extra={"rows": forgotten})
        await asyncio.sleep(pause_seconds)
