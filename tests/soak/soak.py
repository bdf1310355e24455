"""Has a server work for long, and looks at it from outside whenever nothing is in work: what grows, leaks.

Knows a House, the mix of requests and the judgement of trends; measures processes by /proc alone.
Invariant: a sample is taken only when every request so far is answered or gone and the books have nothing open.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from tests.invariants import (
    House,
    children_of,
    counts,
    decoders_of,
    descriptors_of,
    read_only,
    rss_bytes,
    threads_of,
    workers_of,
)
from tests.soak.mix import Mix
from tests.soak.trend import growth

CALLERS = 4
MIB = 1024 * 1024
QUIET_SECONDS = 30.0
# What is kept on purpose is full soon: results for their hour, and encoded prompts, of which every one is new here.
SETTINGS = {"SAFELIGHT_FILE_LIFETIME_SECONDS": "5", "SAFELIGHT_PROMPT_CACHE_BYTES": str(4 * MIB)}


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment at which nothing is in work. Memory is private; files are those of results."""

    requests: int
    seconds: float
    server_bytes: int
    worker_bytes: int
    decoder_bytes: int
    server_descriptors: int
    worker_descriptors: int
    server_threads: int
    worker_threads: int
    processes: int
    files: int
    open_rows: int


# So much may a figure grow over the part of a run that counts, whatever its length: an allocator's rest for memory, one
# more connection or thread of a pool for counts.
ALLOWED = {
    "server_bytes": 8 * MIB,
    "worker_bytes": 12 * MIB,
    "server_descriptors": 3,
    "worker_descriptors": 3,
    "server_threads": 3,
    "worker_threads": 3,
    "processes": 1,
}


def leaks_in(samples: Sequence[Sample]) -> list[str]:
    """The names of the figures that grow."""
    series = {name: [float(asdict(sample)[name]) for sample in samples] for name in ALLOWED}
    return [name for name, values in series.items() if growth(values).is_more_than(ALLOWED[name])]


def soak(house: House, requests: int, samples: int, checkpoints: Path | None = None) -> Iterator[Sample]:
    """Send so many requests in `samples` equal lots. checkpoints: a file that every sample is written to at once."""
    mix, began = Mix(), time.monotonic()
    lot = requests // samples
    with ThreadPoolExecutor(CALLERS) as callers, httpx.Client(base_url=house.server.url, timeout=120) as client:
        for first in range(0, lot * samples, lot):
            list(callers.map(lambda number: mix.send(client, number), range(first, first + lot)))
            wait_until_quiet(house)
            sample = look_at(house, first + lot, time.monotonic() - began)
            if checkpoints is not None:
                with checkpoints.open("a") as file:
                    file.write(json.dumps({**asdict(sample), "statuses": mix.statuses}) + "\n")
            yield sample
    house.told.pictures += delivered_since(house, mix)


def delivered_since(house: House, mix: Mix) -> int:
    """What the replies held. A picture that was drawn while its caller left is in the books and in no reply."""
    with read_only(house.books) as books:
        (succeeded,) = counts(books, "sum(outcome = 'succeeded')", "ledger_entries")
    unseen = succeeded - house.told.pictures - mix.delivered
    left = 2 * mix.statuses.get(499, 0)
    assert 0 <= unseen <= left, f"{unseen} pictures more in the books than in the replies, of {left} nobody waited for"
    return mix.delivered + unseen


def wait_until_quiet(house: House) -> None:
    """Nothing is in work any more."""
    deadline = time.monotonic() + QUIET_SECONDS
    while open_rows(house):
        assert time.monotonic() < deadline, "jobs are in work that nobody waits for"
        time.sleep(0.05)
    time.sleep(0.2)


def open_rows(house: House) -> int:
    with read_only(house.books) as books:
        (open_entries,) = counts(books, "sum(outcome IS NULL)", "ledger_entries")
    return open_entries


def look_at(house: House, requests: int, seconds: float) -> Sample:
    server = house.server.process.pid
    (worker,) = workers_of(server)
    return Sample(
        requests=requests,
        seconds=round(seconds, 1),
        server_bytes=rss_bytes(server),
        worker_bytes=rss_bytes(worker),
        decoder_bytes=sum(map(rss_bytes, decoders_of(server))),
        server_descriptors=descriptors_of(server).total(),
        worker_descriptors=descriptors_of(worker).total(),
        server_threads=threads_of(server),
        worker_threads=threads_of(worker),
        processes=len(children_of(server)),
        files=len(list(house.files.iterdir())),
        open_rows=open_rows(house),
    )
