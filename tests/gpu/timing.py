"""Time on a device that works while the program goes on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def synchronised(device: torch.device) -> float:
    """The time once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(device: torch.device, work: Callable[[], object], repeats: int = 3) -> float:
    """The median of some runs after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        started = synchronised(device)
        work()
        times.append(synchronised(device) - started)
    return statistics.median(times)
