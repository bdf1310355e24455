"""How much memory weights may take: amounts as operators write them, against what a machine has.

Knows amounts, one device and this machine's memory; knows no models.
Invariant: what is left beside the weights' budget on a CUDA device is what pictures in work may hold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.amounts import amount_in
from pipelines.messages import EngineOptions
from pipelines.residency.holding import Budgets

# Of the device: the rest is for pictures in work, less what the driver and fragments take.
DEFAULT_WEIGHTS, USABLE_SHARE = "70%", 0.95
DEFAULT_HOST = "50%"
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Memory:
    """What a device and its host have, in bytes."""

    device_bytes: int
    host_bytes: int


def memory_of(device: torch.device) -> Memory:
    host_bytes = host_memory_bytes()
    if device.type == "cuda":
        return Memory(torch.cuda.get_device_properties(device).total_memory, host_bytes)
    return Memory(host_bytes, host_bytes)


def host_memory_bytes() -> int:
    """This machine's memory, or what of it this process may take, where a container says less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(limit for limit in map(_limit_in, CGROUP_LIMITS) if limit)])


def _limit_in(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def budgets_of(options: EngineOptions, memory: Memory, device: torch.device) -> Budgets:
    """For weights. Beside a CPU there is no second memory: what leaves it is read from disk again."""
    default_host = DEFAULT_HOST if device.type == "cuda" else "0"
    return Budgets(
        amount_in(options.weights_memory or DEFAULT_WEIGHTS, memory.device_bytes),
        amount_in(options.host_memory or default_host, memory.host_bytes),
    )


def job_memory_bytes(options: EngineOptions, memory: Memory, device: torch.device) -> int | None:
    """For pictures in work, beyond the weights; None is no limit, which a CPU has unless it was given one."""
    if options.memory_bytes is not None or device.type != "cuda":
        return options.memory_bytes
    left_bytes = USABLE_SHARE * memory.device_bytes - budgets_of(options, memory, device).device_bytes
    return max(0, int(left_bytes))
