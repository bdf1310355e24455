"""What sharing denoise steps brings: the same pictures for 8 callers at once, and one by one, in turn.

python -m tests.benchmarks.batching --callers 8 --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx

from tests.benchmarks.report import show
from tests.end_to_end.server_process import ServerProcess

# Unlike jobs, as unlike users send them: steps and guidance differ.
KINDS = ((16, 2.0), (12, 1.0), (20, 3.0), (16, 1.0))


def draw(client: httpx.Client, size: str, number: int) -> None:
    steps, guidance = KINDS[number % len(KINDS)]
    body = {"prompt": "a blue star on a white background", "size": size, "seed": number, "steps": steps}
    answer = client.post("/v1/images/generations", json={**body, "guidance_scale": guidance})
    answer.raise_for_status()


def round_seconds(client: httpx.Client, size: str, callers: int, at_once: bool) -> float:
    """The time until all pictures are there, asked for by all callers at once, or each after the other."""
    started = time.perf_counter()
    with ThreadPoolExecutor(callers if at_once else 1) as pool:
        list(pool.map(partial(draw, client, size), range(callers)))
    return time.perf_counter() - started


def measure(client: httpx.Client, size: str, callers: int, rounds: int) -> dict[str, float]:
    round_seconds(client, size, callers, at_once=True)  # learns what rows of this size cost
    apart, together = [], []
    for _ in range(rounds):
        apart.append(round_seconds(client, size, callers, at_once=False))
        together.append(round_seconds(client, size, callers, at_once=True))
    medians = {"one by one": statistics.median(apart), "together": statistics.median(together)}
    return {**medians, "gain": medians["one by one"] / medians["together"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["256x256", "512x512", "1024x1024"])
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    server = ServerProcess()
    try:
        server.wait_until_ready()
        limits = httpx.Limits(max_connections=arguments.callers)
        with httpx.Client(base_url=server.url, timeout=600, limits=limits) as client:
            figures = {size: measure(client, size, arguments.callers, arguments.rounds) for size in arguments.sizes}
    finally:
        server.stop()
    rows = [(s, f"{f['one by one']:.2f}", f"{f['together']:.2f}", f"{f['gain']:.2f}") for s, f in figures.items()]
    show("batching", ("size", "one by one s", "together s", "gain"), rows, {"sizes": figures})


if __name__ == "__main__":
    main()
