"""What the ledger writes: callers that reserve and settle an image again and again, more and more of them at once.

python -m tests.benchmarks.ledger --callers 1 10 100 1000 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from server.ledger.entries import Attempt
from server.ledger.ledger import Ledger
from tests.benchmarks.report import percentile, show
from tests.postgresql import Postgresql
from tests.server.ledger.samples import NOW, attempt, entry, opened, settlement

# Attempts that are begun at once while a past is made for the caps.
CROWD = 500


@dataclass(frozen=True, slots=True)
class Figures:
    """rows_per_second: durable writes, a reservation or a settlement of one image each."""

    database: str
    callers: int
    commits_per_second: float
    rows_per_second: float
    median_ms: float
    p99_ms: float


@contextmanager
def databases(names: list[str], folder: Path) -> Iterator[dict[str, str]]:
    """The URL of an empty one of each."""
    server = Postgresql(is_durable=True) if "postgresql" in names else None
    try:
        urls = {"sqlite": f"sqlite:///{folder / 'ledger.db'}"}
        if server is not None:
            urls["postgresql"] = server.url(server.new_database())
        yield {name: urls[name] for name in names}
    finally:
        if server is not None:
            server.stop()


async def crowd(ledger: Ledger, name: str, callers: int, seconds: float) -> Figures:
    waits: list[float] = []
    commits, began = ledger.commits, time.perf_counter()

    async def caller(number: int) -> None:
        turn = 0
        while time.perf_counter() < began + seconds:
            request = f"{callers}_{number}_{turn}"
            for write in (ledger.reserve([entry(request)]), ledger.settle([settlement(request)])):
                started = time.perf_counter()
                await write
                waits.append(time.perf_counter() - started)
            turn += 1

    await asyncio.gather(*(caller(number) for number in range(callers)))
    took = time.perf_counter() - began
    middle, late = (1000 * percentile(waits, share) for share in (0.5, 0.99))
    return Figures(name, callers, (ledger.commits - commits) / took, len(waits) / took, middle, late)


async def cap_ms(ledger: Ledger, past: int, tries: int = 20) -> float:
    """The median of one attempt under a cap, with so many attempts in the time that the cap looks at."""

    def call(name: str) -> Attempt:
        return attempt(name, reserved_microusd=1)

    for first in range(0, past, CROWD):
        await asyncio.gather(*(ledger.begin_attempt(call(f"past_{first + one}")) for one in range(CROWD)))
    waits = []
    for number in range(tries):
        started = time.perf_counter()
        assert await ledger.try_attempt(call(f"try_{number}"), {"openai": 10**12, None: 10**12}, NOW)
        waits.append(time.perf_counter() - started)
    return 1000 * percentile(waits, 0.5)


async def measure(urls: dict[str, str], arguments: argparse.Namespace) -> tuple[list[Figures], dict[str, float]]:
    figures, caps = [], {}
    for name, url in urls.items():
        async with opened(url, deadline_seconds=60.0) as ledger:
            for callers in arguments.callers:
                figures.append(await crowd(ledger, name, callers, arguments.seconds))
            caps[name] = await cap_ms(ledger, arguments.past)
    return figures, caps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--past", type=int, default=20_000, help="attempts within the time of a cap")
    parser.add_argument("--folder", type=Path, help="where SQLite's file lies; a temporary folder if unset")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        databases(arguments.databases, Path(folder)) as urls,
    ):
        figures, caps = asyncio.run(measure(urls, arguments))
    rows = [
        (
            f.database,
            f.callers,
            *(f"{v:.0f}" for v in (f.commits_per_second, f.rows_per_second)),
            f"{f.median_ms:.1f}",
            f"{f.p99_ms:.1f}",
        )
        for f in figures
    ]
    print(
        "\n".join(
            f"{name}: an attempt under a cap over {arguments.past} attempts {ms:.1f} ms" for name, ms in caps.items()
        )
    )
    header = ("database", "callers", "commits/s", "rows/s", "median ms", "p99 ms")
    show("ledger", header, rows, {"figures": [asdict(one) for one in figures], "cap_ms": caps, "past": arguments.past})


if __name__ == "__main__":
    main()
