"""What memory this machine and its devices have, without asking torch: both processes need to know.

Knows the operating system and NVIDIA's own tool; knows no models. Imports nothing but the standard library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CGROUP_USES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
TOOL_SECONDS = 10.0
MEBIBYTE = 1024**2


def host_memory_bytes() -> int:
    """This machine's memory, or what of it this process may take, where a container says less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(limit for limit in map(_limit_in, CGROUP_LIMITS) if limit)])


def used_memory_bytes() -> int | None:
    """What of `host_memory_bytes` is taken; None where the system does not say. In a container its own pages, those of
    files that were read among them; else what could not be freed at once."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit_path, used_path in zip(CGROUP_LIMITS, CGROUP_USES, strict=True):
        if (_limit_in(limit_path) or physical) < physical:
            return _limit_in(used_path)
    available = _available_bytes()
    return None if available is None else physical - available


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(kibibytes) * 1024 for kibibytes in found), None)


def cuda_memory_bytes() -> tuple[int, ...]:
    """Of each NVIDIA device, in the order of their numbers; none where the driver's `nvidia-smi` is not there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
        return tuple(int(line) * MEBIBYTE for line in answer.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


@dataclass(frozen=True, slots=True)
class Device:
    """What a device's name means here. memory_bytes: None where nobody can say."""

    is_cpu: bool
    memory_bytes: int | None


def device_named(name: str) -> Device:
    """name: `auto`, `cpu`, `cuda` or `cuda:N`."""
    cards = () if name == "cpu" else cuda_memory_bytes()
    if name == "cpu" or (name == "auto" and not cards):
        return Device(True, host_memory_bytes())
    number = int(name.partition(":")[2] or 0)
    return Device(False, cards[number] if number < len(cards) else None)


def _limit_in(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
