"""A process that reserves and settles as fast as it can, and writes down what was acknowledged; made to be killed.

What it wrote down survives it, as the system keeps what a process has given it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from server.ledger.ledger import Ledger
from tests.server.ledger.samples import attempt, attempt_end, entry, settlement

CALLERS = 8
RESERVED_MICROUSD = 40_000


def cost_of(number: int) -> int:
    """What image `number` costs, so that sums tell which are in them."""
    return 1 + number * 7919 % 30_000


def run(url: str, acknowledged: Path, name: str) -> None:
    """Never returns. Each line of `acknowledged` is one thing that the ledger has confirmed."""
    asyncio.run(_run(url, acknowledged, name))


async def _run(url: str, acknowledged: Path, name: str) -> None:
    ledger = Ledger(url)
    await ledger.open()
    lines = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(line: str) -> None:
        os.write(lines, f"{line}\n".encode())

    async def call(caller: int) -> None:
        number = caller
        while True:
            request, call_id, cost = f"{name}_{number}", f"{name}_{number}", cost_of(number)
            await ledger.reserve([entry(request, index) for index in range(2)])
            note(f"reserved {request}")
            await ledger.begin_attempt(attempt(call_id, name, RESERVED_MICROUSD, request_id=request))
            note(f"begun {call_id} {RESERVED_MICROUSD}")
            await ledger.end_attempt(attempt_end(call_id, cost))
            note(f"ended {call_id} {cost}")
            await ledger.settle([settlement(request, index, cost_microusd=cost) for index in range(2)])
            note(f"settled {request} {cost}")
            number += CALLERS

    note("opened")
    await asyncio.gather(*(call(caller) for caller in range(CALLERS)))
