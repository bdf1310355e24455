"""What it takes to decide about a request: limits of its key and of the server, quotas, room, pace and deadline.

A thousand pictures wait, ten thousand keys have been there within the minute, and each has limits of every kind.
Measured is what happens between the headers and the reservation in the ledger, with a real dispatcher whose worker
never draws; the body, the parse and the reservation's own write are not in it (scripts/bench overhead, scripts/bench
ledger). cpu_ms: what one decision costs this process, which tells more than its wall time on a machine with company.

python -m tests.benchmarks.admission --waiting 1000 --keys 10000 --decisions 2000
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass

from pipelines.messages import DrawParams, EngineOptions, ModelReport, ModelSpec, Submit
from server.backends.backend import Order
from server.backends.local import LocalBackend
from server.core.caller import Caller, Limits
from server.core.providers import LOCAL, Target
from server.core.request import LocalRequest, Size
from server.dispatch.dispatcher import Dispatcher
from server.dispatch.worker_process import WorkerSettings
from server.ledger.entries import Entry
from server.ledger.ledger import Ledger
from server.limits.limiter import Limiter
from server.limits.shared import Shared
from server.routing.accounts import Accounts, unix_ms
from server.routing.allowance import Allowance
from server.routing.choice import Weights
from server.routing.journey import Candidate, Journey
from server.routing.router import Router
from tests.benchmarks.report import percentile, show
from tests.redis_server import RedisServer

MODEL, MANY, ENOUGH = "tiny", 10**9, 1e15
OWN = Limits(MANY, MANY, MANY)
OF_A_KEY = Limits(1000, 1000, 1000, ENOUGH, ENOUGH)
OPTIONS = EngineOptions(policy="fair", max_rows=16, exact_rows=None, memory_bytes=None, prompt_cache_bytes=0)
WORKER = WorkerSettings((ModelSpec(MODEL, "sd21", "/nowhere"),), "cpu", 1, 10.0, OPTIONS)
REQUEST = LocalRequest(
    operation="generation",
    model=MODEL,
    family="sd21",
    prompt="a circle",
    sent_prompt="a circle",
    negative_prompt=None,
    count=1,
    size=Size(512, 512),
    response_format="b64_json",
    steps=20,
    guidance_scale=5.0,
    sampler="euler",
    seed=1,
)


@dataclass(frozen=True, slots=True)
class Figures:
    storage: str
    part: str
    median_ms: float
    p99_ms: float
    max_ms: float
    cpu_ms: float | None = None


def key(number: int) -> Caller:
    return Caller(f"key_{number}", "", frozenset({"generate"}), limits=OF_A_KEY)


async def unchanged() -> LocalRequest:
    return REQUEST


def journey(caller: Caller) -> Journey:
    candidates = (Candidate(Target(LOCAL, MODEL), REQUEST, unchanged),)
    return Journey(candidates, MODEL, asyncio.get_running_loop().time() + 1e6, caller=caller)


@asynccontextmanager
async def crowded(waiting: int) -> AsyncIterator[tuple[Dispatcher, LocalBackend]]:
    """Pictures of a known pace that wait for a worker which is there and draws nothing."""
    dispatcher = Dispatcher([WORKER], waiting + 10, 0)
    lane = dispatcher.lanes[0]
    lane.is_ready, lane.models = True, {MODEL: ModelReport(MODEL, None)}
    dispatcher._pace.observe(MODEL, 1.0, 1e-9)
    params = DrawParams("a circle", None, 512, 512, 20, 5.0, "euler", 1)
    jobs = [asyncio.create_task(dispatcher.draw(Submit(f"job_{number}", MODEL, params))) for number in range(waiting)]
    await asyncio.sleep(0)
    try:
        yield dispatcher, LocalBackend(dispatcher, has_facts=True, usd_per_device_hour=1.0)
    finally:
        for job in jobs:
            job.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*jobs, return_exceptions=True)


async def figures(storage: str, shared: Shared | None, arguments: argparse.Namespace) -> list[Figures]:
    with tempfile.TemporaryDirectory() as folder:
        ledger, limiter = Ledger(f"sqlite:///{folder}/ledger.db", deadline_seconds=60.0), Limiter(OWN, shared)
        await ledger.open()
        async with crowded(arguments.waiting) as (dispatcher, local):
            accounts = Accounts(ledger, {}, ENOUGH)
            router = Router({LOCAL: local}, {}, accounts, Weights(100.0, 30.0), Allowance(0.2))
            await fill(limiter, ledger, arguments)
            began_cpu = time.process_time()
            took = [
                await decide(limiter, router, local, number % arguments.keys) for number in range(arguments.decisions)
            ]
            cpu_ms = 1000 * (time.process_time() - began_cpu) / arguments.decisions
            assert len(dispatcher._pending) == arguments.waiting
        await limiter.stop()
        await ledger.close()
    parts = {"limits": [one[0] for one in took], "room, pace and deadline": [one[1] for one in took]}
    parts |= {"quotas": [one[2] for one in took], "all": [sum(one) for one in took]}
    return [
        Figures(
            storage,
            part,
            1000 * percentile(values, 0.5),
            1000 * percentile(values, 0.99),
            1000 * max(values),
            cpu_ms if part == "all" else None,
        )
        for part, values in parts.items()
    ]


async def fill(limiter: Limiter, ledger: Ledger, arguments: argparse.Namespace) -> None:
    """Every key was there a moment ago, and the pictures that wait stand in the books."""
    for number in range(arguments.keys):
        visit = await limiter.enter(key(number))
        await limiter.add_pictures(visit, 1)
        visit.leave()
    now = unix_ms()
    await ledger.reserve(
        [
            Entry(f"req_{number}", 0, f"key_{number % arguments.keys}", "generation", MODEL, "512x512", now, 1.0)
            for number in range(arguments.waiting)
        ]
    )


async def decide(limiter: Limiter, router: Router, local: LocalBackend, number: int) -> tuple[float, float, float]:
    """Seconds for the limits; for room, pace and deadline; and for the day's quotas."""
    began, caller = time.perf_counter(), key(number)
    visit = await limiter.enter(caller)
    await limiter.add_pictures(visit, 1)
    limited = time.perf_counter()
    one = journey(caller)
    local.check_room(1)
    router.ranked(one)
    jobs = local._jobs(Order(REQUEST, one.request_id), has_facts=True)
    local._check_duration(jobs, 1e6, is_asked=True)
    judged = time.perf_counter()
    await router.accounts.check(one, 0.01)
    ended = time.perf_counter()
    visit.leave()
    return limited - began, judged - limited, ended - judged


@contextmanager
def redis_url(is_wanted: bool) -> Iterator[str | None]:
    server = RedisServer() if is_wanted else None
    try:
        yield None if server is None else server.url
    finally:
        if server is not None:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--decisions", type=int, default=2000)
    parser.add_argument("--storages", nargs="+", choices=["memory", "redis"], default=["memory", "redis"])
    arguments = parser.parse_args()
    found: list[Figures] = []
    with redis_url("redis" in arguments.storages) as url:
        for storage in arguments.storages:
            shared = Shared(url) if storage == "redis" and url is not None else None
            found += asyncio.run(figures(storage, shared, arguments))
    rows = [
        (f.storage, f.part, *("" if v is None else f"{v:.2f}" for v in (f.median_ms, f.p99_ms, f.max_ms, f.cpu_ms)))
        for f in found
    ]
    given = {name: getattr(arguments, name) for name in ("waiting", "keys", "decisions")}
    header = ("storage", "part", "median ms", "p99 ms", "max ms", "cpu ms")
    show("admission", header, rows, {"figures": [asdict(one) for one in found], **given})


if __name__ == "__main__":
    main()
