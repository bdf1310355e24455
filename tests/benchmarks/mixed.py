"""How long unlike jobs wait for one another: a Poisson mix at 80 % of capacity, under `fair` and under `fifo`.

python -m tests.benchmarks.mixed --jobs 200 --load 0.8
"""

from __future__ import annotations

import argparse
import base64
import io
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from tests.benchmarks.report import percentile, show
from tests.end_to_end.server_process import ServerProcess

# (row-steps, share): what a job's denoising costs. Short ones are unguided, long ones have two rows a step.
WORK = {4: 0.5, 20: 0.2, 60: 0.2, 120: 0.1}
SIZES = ("256x256", "384x256", "256x384")
MOST_STEPS = 100  # that the model takes
POLICIES = ("fair", "fifo")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job of the mix: when it comes, in shares of the mean time between two, and its request."""

    at: float
    body: dict[str, Any]
    kind: tuple[int, str, bool]


def mix(count: int, seed: int) -> list[Arrival]:
    """The same jobs at the same times for every policy: sizes and tasks mixed, times exponential."""
    rng, at, arrivals = random.Random(seed), 0.0, []
    for number in range(count):
        at += rng.expovariate(1.0)
        row_steps = rng.choices(list(WORK), list(WORK.values()))[0]
        size, has_picture = rng.choice(SIZES), rng.random() < 0.25
        kind = (row_steps, size, has_picture)
        arrivals.append(Arrival(at, body_of(*kind, seed=number), kind))
    return arrivals


def body_of(row_steps: int, size: str, has_picture: bool, seed: int) -> dict[str, Any]:
    """The request of a job of this kind. One with a picture asks for up to twice the steps and does as many."""
    is_guided = row_steps > min(WORK)
    steps = row_steps // 2 if is_guided else row_steps
    body: dict[str, Any] = {"prompt": "a red circle on a blue background", "size": size, "seed": seed}
    body |= {"steps": steps, "guidance_scale": 2.0 if is_guided else 1.0, "response_format": "b64_json"}
    if has_picture:
        asked = min(2 * steps, MOST_STEPS)
        body |= {"image": some_picture(size), "strength": steps / asked, "steps": asked}
    return body


def some_picture(size: str) -> str:
    width_px, height_px = (int(side) for side in size.split("x"))
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width_px, height_px)).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def seconds_of(client: httpx.Client, body: dict[str, Any]) -> float:
    started = time.perf_counter()
    client.post("/v1/images/generations", json=body).raise_for_status()
    return time.perf_counter() - started


def alone_seconds(client: httpx.Client, kinds: Sequence[tuple[int, str, bool]]) -> dict[tuple[int, str, bool], float]:
    """How long a job of each kind takes with the server to itself: the median of three, after one."""
    return {
        kind: statistics.median([seconds_of(client, body_of(*kind, seed=seed)) for seed in range(4)][1:])
        for kind in kinds
    }


def latencies(client: httpx.Client, arrivals: Sequence[Arrival], gap_seconds: float) -> list[float]:
    """Send every job at its time, whatever becomes of the others, and wait for all."""
    results = [0.0] * len(arrivals)

    def send(number: int, body: dict[str, Any]) -> None:
        results[number] = seconds_of(client, body)

    threads = []
    began = time.perf_counter()
    for number, arrival in enumerate(arrivals):
        time.sleep(max(0.0, began + arrival.at * gap_seconds - time.perf_counter()))
        threads.append(threading.Thread(target=send, args=(number, arrival.body)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return results


def measure(policy: str, arrivals: Sequence[Arrival], load: float) -> dict[str, float]:
    """Slowdowns, latency over latency alone, of all jobs under one policy."""
    server = ServerProcess(environment={"SAFELIGHT_SCHEDULING_POLICY": policy, "SAFELIGHT_MAX_WAITING_IMAGES": "5000"})
    try:
        server.wait_until_ready()
        with httpx.Client(base_url=server.url, timeout=3600, limits=httpx.Limits(max_connections=None)) as client:
            alone = alone_seconds(client, sorted({arrival.kind for arrival in arrivals}))
            gap_seconds = statistics.mean(alone[arrival.kind] for arrival in arrivals) / load
            taken = latencies(client, arrivals, gap_seconds)
    finally:
        server.stop()
    slowdowns = [seconds / alone[arrival.kind] for seconds, arrival in zip(taken, arrivals, strict=True)]
    return {"mean": statistics.mean(slowdowns), "p95": percentile(slowdowns, 0.95), "worst": max(slowdowns)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=150)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arrivals = mix(arguments.jobs, arguments.seed)
    figures = {policy: measure(policy, arrivals, arguments.load) for policy in POLICIES}
    ratios = {name: figures["fifo"][name] / figures["fair"][name] for name in ("mean", "p95", "worst")}
    rows = [(policy, *(f"{value:.2f}" for value in figures[policy].values())) for policy in POLICIES]
    rows.append(("fifo / fair", *(f"{ratio:.2f}" for ratio in ratios.values())))
    show("mixed", ("slowdown", "mean", "p95", "worst"), rows, {"policies": figures, "ratios": ratios})


if __name__ == "__main__":
    main()
