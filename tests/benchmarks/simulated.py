"""What the scheduler does to each caller on one device of made-up time: in the known mix, and in a tenfold flood.

python -m tests.benchmarks.simulated

Nothing is timed: the same seed gives the same figures on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

from pipelines.engine import fifo, scheduler
from tests.benchmarks.report import show
from tests.pipelines.simulation import Device, Job, Policy, known_mix

POLICIES: Mapping[str, Policy] = {"fair": scheduler.next_batch, "fifo": fifo.next_batch}
# Jobs of 20 steps take 2.155 s alone: 200 of them come at ten times what the device can do, and another caller's every
# 25 s.
FLOOD = [Job(f"flood {number:03}", 20, "flooder", arrived_seconds=number * 0.2155) for number in range(200)]
LIGHT = [Job(f"light {number}", 20, "light", arrived_seconds=5.0 + 25.0 * number) for number in range(10)]


def seconds_by_caller(policy: Policy) -> dict[str, tuple[float, float]]:
    """Mean and worst latency of each caller."""
    device = Device(policy)
    jobs = [Job(job.id, job.steps, job.caller, arrived_seconds=job.arrived_seconds) for job in (*FLOOD, *LIGHT)]
    device.serve(jobs)
    waits: dict[str, list[float]] = {}
    for job in jobs:
        waits.setdefault(job.caller, []).append(device.settled[job.id] - job.arrived_seconds)
    return {caller: (mean(seconds), max(seconds)) for caller, seconds in waits.items()}


def main() -> None:
    mixes = {name: known_mix(policy, 2000, 8, seed=0) for name, policy in POLICIES.items()}
    slowdowns = [(name, f"{mix.mean:.2f}", f"{mix.p95:.2f}", f"{mix.worst:.2f}") for name, mix in mixes.items()]
    figures = {name: {"mean": mix.mean, "p95": mix.p95, "worst": mix.worst} for name, mix in mixes.items()}
    show("simulated mix", ("policy", "mean slowdown", "p95", "worst"), slowdowns, {"jobs": 2000, "slowdown": figures})
    floods = {name: seconds_by_caller(policy) for name, policy in POLICIES.items()}
    waits = [
        (name, caller, f"{seconds[0]:.1f}", f"{seconds[1]:.1f}")
        for name, callers in floods.items()
        for caller, seconds in callers.items()
    ]
    show("simulated flood", ("policy", "caller", "mean s", "worst s"), waits, {"seconds": floods})


if __name__ == "__main__":
    main()
