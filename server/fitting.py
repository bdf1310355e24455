"""Says before the start which models will fit on which device, for `safelight check`.

Knows findings, settings and what memory there is; loads nothing. What models share is counted with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.amounts import DEFAULT_WEIGHTS, amount_in, amount_text
from pipelines.fits import bytes_on_device, choose_fit
from pipelines.machine import device_named
from pipelines.messages import Finding, Fit, ModelSpec

# bfloat16 on CUDA, float32 on a CPU, where an entry does not say.
BYTES_BY_DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2}
HOW = {"full": "fits", "float8": "fits in float8", "offload": "fits by offloading, slowly"}


@dataclass(frozen=True, slots=True)
class Size:
    """What a model takes of a device as it would be held there. fit: None: it does not fit in any way."""

    size_bytes: int
    fit: Fit | None


@dataclass(frozen=True, slots=True)
class Fitting:
    """One device and what it may hold. memory_bytes: None where nobody can say."""

    device: str
    memory_bytes: int | None
    budget_bytes: int | None
    sizes: dict[str, Size]

    def too_large(self) -> list[str]:
        return [name for name, size in self.sizes.items() if size.fit is None]

    def lines(self) -> Iterator[str]:
        if self.memory_bytes is None or self.budget_bytes is None:
            yield f"{self.device}: its memory is not known here, as nvidia-smi does not tell; models take:"
        else:
            memory, budget = amount_text(self.memory_bytes), amount_text(self.budget_bytes)
            yield f"{self.device}: {memory}, of which models may take {budget}"
        for name, size in self.sizes.items():
            how = "" if self.budget_bytes is None else "too large" if size.fit is None else HOW[size.fit]
            yield f"  {name}: {amount_text(size.size_bytes)} {how}".rstrip()
        together = sum(size.size_bytes for size in self.sizes.values())
        if self.budget_bytes is not None and together > self.budget_bytes:
            yield f"  all together take {amount_text(together)}: they take turns"


def fitting(
    devices: Sequence[str], weights_memory: str | None, findings: Sequence[Finding], specs: Sequence[ModelSpec]
) -> list[Fitting]:
    """One for each device, of the models whose files are sound. findings: of the specs."""
    sound = [(spec, finding) for spec, finding in zip(specs, findings, strict=True) if finding.problem is None]
    return [_on(device, weights_memory or DEFAULT_WEIGHTS, sound) for device in dict.fromkeys(devices)]


def _on(device: str, weights_memory: str, sound: Sequence[tuple[ModelSpec, Finding]]) -> Fitting:
    found = device_named(device)
    budget_bytes = None if found.memory_bytes is None else amount_in(weights_memory, found.memory_bytes)
    sizes = {spec.id: _size(spec, finding, budget_bytes, is_cpu=found.is_cpu) for spec, finding in sound}
    return Fitting(device, found.memory_bytes, budget_bytes, sizes)


def _size(spec: ModelSpec, finding: Finding, budget_bytes: int | None, *, is_cpu: bool) -> Size:
    dtype = spec.dtype if spec.dtype != "auto" else "float32" if is_cpu else "bfloat16"
    each, counts = BYTES_BY_DTYPE[dtype], finding.weights
    if budget_bytes is None:
        return Size(bytes_on_device(counts, "full", each), "full")
    fit = choose_fit(spec.fit, counts, each, budget_bytes, can_offload=not is_cpu)
    size_bytes = bytes_on_device(counts, fit, each)
    return Size(size_bytes, fit if size_bytes <= budget_bytes else None)
