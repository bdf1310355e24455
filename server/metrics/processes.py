"""What the operating system says of the server's processes: memory, CPU time, files, threads.

Knows process ids and /proc; knows nothing of what the processes do.
Invariant: a process that is gone, or that may not be looked at, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric

from server.metrics import table
from server.metrics.family import counter, gauge

# As ProcessCollector calls its samples, and as we do.
COUNTED = {"process_cpu_seconds_total": table.PROCESS_CPU}
TRUE_NOW = {
    "process_resident_memory_bytes": table.PROCESS_RSS,
    "process_virtual_memory_bytes": table.PROCESS_VIRTUAL,
    "process_start_time_seconds": table.PROCESS_START,
    "process_open_fds": table.PROCESS_FILES,
    "process_max_fds": table.PROCESS_MAX_FILES,
}


def families(pids: Mapping[str, int]) -> list[Metric]:
    """pids: by the processes' names. Reads files: not for the event loop."""
    found: dict[str, list[tuple[Sequence[str], float]]] = {}
    for process, pid in pids.items():
        for name, value in _read(pid):
            found.setdefault(name, []).append(((process,), value))
    return [
        *(counter(row, found.get(name, ())) for name, row in COUNTED.items()),
        *(gauge(row, found.get(name, ())) for name, row in TRUE_NOW.items()),
        gauge(
            table.PROCESS_THREADS, [((process,), count) for process, pid in pids.items() if (count := _threads(pid))]
        ),
    ]


def _read(pid: int) -> list[tuple[str, float]]:
    try:
        told = ProcessCollector(pid=lambda: pid, registry=None).collect()
        return [(sample.name, sample.value) for metric in told for sample in metric.samples]
    except (OSError, ValueError, IndexError):  # it ended while it was read
        return []


def _threads(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return 0
