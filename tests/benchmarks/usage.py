"""How long questions over the books take: a year of pictures in SQLite and PostgreSQL, read as the routes read them.

python -m tests.benchmarks.usage --rows 100000
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.ledger.ledger import Ledger
from server.ledger.question import Question
from tests.benchmarks.ledger import databases
from tests.benchmarks.report import percentile, show
from tests.server.ledger.samples import NOW, entry, opened, settlement

DAY_MS = 86_400_000
DAYS, KEYS, MODELS = 365, 20, 5
# Rows that one reservation holds while the past is made.
AT_ONCE = 1000
REPEATS = 5
MOST = 1_000_000


async def make_a_year(ledger: Ledger, rows: int) -> None:
    """Requests of two pictures each, evenly over the days, keys and models."""
    for first in range(0, rows, AT_ONCE):
        numbers = range(first, min(rows, first + AT_ONCE))
        names = {number: (f"req_{number // 2}", number % 2) for number in numbers}
        await ledger.reserve([entry(*names[number], **values(number, rows)) for number in numbers])
        await ledger.settle(
            [
                settlement(*names[number], served_model=f"model-{number // 2 % MODELS}", cost_microusd=number % 1000)
                for number in numbers
            ]
        )


def values(number: int, rows: int) -> dict[str, Any]:
    request = number // 2
    return {"key_id": f"key_{request % KEYS}", "began_unix_ms": NOW + request * 2 * DAYS * DAY_MS // rows}


def questions(ledger: Ledger) -> dict[str, Callable[[], Awaitable[object]]]:
    """By what they answer."""
    year = Question(NOW, NOW + DAYS * DAY_MS)
    month = replace(year, until_unix_ms=NOW + 31 * DAY_MS)
    one_key = replace(year, keys=frozenset({"key_7"}))

    def sums(asked: Question, *by: Any) -> Callable[[], Awaitable[object]]:
        return lambda: ledger.sums(asked, stretch_ms=DAY_MS, by=by, most=MOST)

    async def every_page() -> None:
        page = await ledger.rows(year, after=None, limit=500)
        while page.after is not None:
            page = await ledger.rows(year, after=page.after, limit=500)

    return {
        "a year, by day": sums(year),
        "a year, by day, key and model": sums(year, "key_id", "model"),
        "31 days, by day, key and model": sums(month, "key_id", "model"),
        "a year of one key, by day and model": sums(one_key, "model"),
        "a page of 1000 rows": lambda: ledger.rows(year, after=None, limit=1000),
        "all rows, 500 at a time": every_page,
    }


async def measure(url: str, rows: int) -> dict[str, float]:
    """Milliseconds, the median of a few."""
    async with opened(url, deadline_seconds=120.0) as ledger:
        await make_a_year(ledger, rows)
        return {name: await median_ms(ask) for name, ask in questions(ledger).items()}


async def median_ms(ask: Callable[[], Awaitable[object]]) -> float:
    waits = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        await ask()
        waits.append(time.perf_counter() - began)
    return 1000 * percentile(waits, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        databases(arguments.databases, Path(folder)) as urls,
    ):
        took = {name: asyncio.run(measure(url, arguments.rows)) for name, url in urls.items()}
    rows = [(name, *(f"{took[one][name]:.0f} ms" for one in took)) for name in next(iter(took.values()))]
    show("usage", ("question", *took), rows, {"rows": arguments.rows, "median_ms": took})


if __name__ == "__main__":
    main()
