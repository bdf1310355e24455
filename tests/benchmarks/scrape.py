"""What a scrape costs the event loop: the longest that it stands still while a page of many series is written.

python -m tests.benchmarks.scrape --workers 8 --models 20
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.benchmarks.report import percentile, show
from tests.server.metrics.many import crowded

TICK_SECONDS = 0.001


async def lags(stop: asyncio.Event) -> list[float]:
    """How late a short sleep ends, again and again."""
    found = []
    while not stop.is_set():
        due = time.perf_counter() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        found.append(time.perf_counter() - due)
    return found


async def measured(workers: int, models: int, scrapes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        async with crowded(Path(scratch), workers=workers, models=models) as read:
            await read.page("")
            idle_stop, busy_stop = asyncio.Event(), asyncio.Event()
            idle = asyncio.create_task(lags(idle_stop))
            await asyncio.sleep(1.0)
            idle_stop.set()
            busy = asyncio.create_task(lags(busy_stop))
            seconds, on_loop = [], []
            for _ in range(scrapes):
                began = time.perf_counter()
                read._taken()
                on_loop.append(time.perf_counter() - began)
                began = time.perf_counter()
                page = await read.page("application/openmetrics-text")
                seconds.append(time.perf_counter() - began)
            busy_stop.set()
            idle_lags, busy_lags = await idle, await busy
    return {
        "series": page.content.count(b"\n") - page.content.count(b"# "),
        "page_ms": 1000 * percentile(seconds, 0.5),
        "on_loop_ms": 1000 * percentile(on_loop, 0.5),
        "idle_lag_p99_ms": 1000 * percentile(idle_lags, 0.99),
        "lag_p50_ms": 1000 * percentile(busy_lags, 0.5),
        "lag_p99_ms": 1000 * percentile(busy_lags, 0.99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--scrapes", type=int, default=20)
    arguments = parser.parse_args()
    figures = asyncio.run(measured(arguments.workers, arguments.models, arguments.scrapes))
    show("scrape", tuple(figures), [tuple(f"{value:.2f}" for value in figures.values())], figures)


if __name__ == "__main__":
    main()
