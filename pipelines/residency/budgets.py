"""How much memory weights may take: amounts as operators write them, against what a machine has.

Knows amounts, one device and this machine's memory; knows no models.
Invariant: what is left beside the weights' budget on a CUDA device is what pictures in work may hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.amounts import DEFAULT_HOST, DEFAULT_WEIGHTS, amount_in
from pipelines.figures import DeviceMemory
from pipelines.machine import host_memory_bytes, used_memory_bytes
from pipelines.messages import EngineOptions
from pipelines.residency.holding import Budgets

# Less what the driver and fragments take.
USABLE_SHARE = 0.95


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


def memory_in_use(device: torch.device) -> DeviceMemory | None:
    """Now, by whomever; None where nobody can say."""
    if device.type == "cuda":
        try:
            free_bytes, total_bytes = torch.cuda.mem_get_info(device)
        except RuntimeError:  # a device that fails shows in the work, not here
            return None
        return DeviceMemory(total_bytes, total_bytes - free_bytes)
    used_bytes = used_memory_bytes()
    return None if used_bytes is None else DeviceMemory(host_memory_bytes(), used_bytes)


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
