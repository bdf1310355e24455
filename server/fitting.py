"""Says before the start which models will fit on which device, for `safelight check`.

Knows findings, settings and what memory there is; loads nothing. What models share is counted with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.amounts import DEFAULT_WEIGHTS, amount_in, amount_text
from pipelines.machine import cuda_memory_bytes, device_memory_bytes
from pipelines.messages import Finding

# bfloat16 on CUDA, float32 on a CPU.
BYTES_PER_WEIGHT = {"cuda": 2, "cpu": 4}


@dataclass(frozen=True, slots=True)
class Fitting:
    """One device and what it may hold. memory_bytes: None where nobody can say."""

    device: str
    memory_bytes: int | None
    budget_bytes: int | None
    sizes: dict[str, int]

    def too_large(self) -> list[str]:
        return (
            [] if self.budget_bytes is None else [name for name, size in self.sizes.items() if size > self.budget_bytes]
        )

    def lines(self) -> Iterator[str]:
        if self.memory_bytes is None or self.budget_bytes is None:
            yield f"{self.device}: its memory is not known here, as nvidia-smi does not tell; models take:"
        else:
            memory, budget = amount_text(self.memory_bytes), amount_text(self.budget_bytes)
            yield f"{self.device}: {memory}, of which models may take {budget}"
        for name, size in self.sizes.items():
            verdict = "" if self.budget_bytes is None else "too large" if name in self.too_large() else "fits"
            yield f"  {name}: {amount_text(size)} {verdict}".rstrip()
        if self.budget_bytes is not None and sum(self.sizes.values()) > self.budget_bytes:
            yield f"  all together take {amount_text(sum(self.sizes.values()))}: they take turns"


def fitting(devices: Sequence[str], weights_memory: str | None, findings: Sequence[Finding]) -> list[Fitting]:
    """One for each device, of the models whose files are sound."""
    return [_on(device, weights_memory or DEFAULT_WEIGHTS, findings) for device in dict.fromkeys(devices)]


def _on(device: str, weights_memory: str, findings: Sequence[Finding]) -> Fitting:
    memory_bytes = device_memory_bytes(device)
    budget_bytes = None if memory_bytes is None else amount_in(weights_memory, memory_bytes)
    is_cpu = device == "cpu" or (device == "auto" and not cuda_memory_bytes())
    each = BYTES_PER_WEIGHT["cpu" if is_cpu else "cuda"]
    sizes = {finding.id: each * finding.weights for finding in findings if finding.problem is None}
    return Fitting(device, memory_bytes, budget_bytes, sizes)
