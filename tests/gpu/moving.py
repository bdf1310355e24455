"""Measures what it takes to move and treat a full-size denoiser: loading, swapping, float8, compiling.

Floors: reading the same file into memory, and copying one large pinned tensor each way. Used by tests.gpu.measure.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from pipelines.denoise.compiled import Compiling, Denoiser
from pipelines.families.contract import Family
from pipelines.residency.carrier import HOST, give_back_memory, relocate
from pipelines.weights.component import load_component
from pipelines.weights.layout import Weights
from pipelines.weights.treatment import Treatment, bytes_on_device, treated
from tests.gpu.timing import seconds_of, synchronised

SWAPS = 20
FLOOR_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Moves:
    """One denoiser. Seconds, and shares of the floors; allocated_bytes: on the device after the first and the last
    swap; gains: how many times as fast a step is, None where it could not be tried."""

    family: str
    size_gib: float
    load_s: float
    load_floor_share: float
    to_host_s: float
    to_host_floor_share: float
    to_device_s: float
    to_device_floor_share: float
    allocated_bytes: tuple[int, int]
    float8_gain: float | None
    float8_size_share: float | None
    compiled_gain: float | None


def measure_moves(name: str, family: Family, states: list[Any], device: torch.device, dtype: torch.dtype) -> Moves:
    """states: prepared jobs, whose steps are timed. At the end the denoiser is in float8, and of no more use."""
    module = getattr(family.parts, "unet", None) or family.parts.transformer  # type: ignore[attr-defined]
    size_bytes = bytes_on_device(module, Treatment(dtype))
    step = seconds_of(device, lambda: family.denoise_step(states))
    load_s, read_s = _load_seconds(module, device, dtype)
    to_host_s, to_device_s, allocated = _swap_seconds(module, device)
    out_s, in_s = _copy_floor_seconds(device, size_bytes)
    compiled = _compiled_step(family, module, states, device)
    float8_s, float8_share = _float8(family, module, states, device, dtype, size_bytes)
    return Moves(
        family=name,
        size_gib=size_bytes / 2**30,
        load_s=load_s,
        load_floor_share=read_s / load_s,
        to_host_s=to_host_s,
        to_host_floor_share=out_s / to_host_s,
        to_device_s=to_device_s,
        to_device_floor_share=in_s / to_device_s,
        allocated_bytes=allocated,
        float8_gain=None if float8_s is None else step / float8_s,
        float8_size_share=float8_share,
        compiled_gain=None if compiled is None else step / compiled,
    )


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    began = synchronised(device)
    work()
    return synchronised(device) - began


def _load_seconds(module: Any, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """From a file of safetensors, and for the floor all its bytes once into memory; both out of the system's cache."""
    with TemporaryDirectory() as folder:
        home = Path(folder)
        config = home / "config.json"
        config.write_text(json.dumps({**module.config, "_class_name": type(module).__name__}, default=list))
        file = home / "weights.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, file)
        read_s = _timed(device, file.read_bytes)
        part = Weights("denoiser", config, (file,), "", "measured")
        load_s = _timed(device, lambda: load_component(type(module), part, device, dtype))
    give_back_memory(device)
    return load_s, read_s


def _swap_seconds(module: torch.nn.Module, device: torch.device) -> tuple[float, float, tuple[int, int]]:
    """Medians of SWAPS ways out and back; the first makes the pinned memory, and is not among them."""
    out, back, allocated = [], [], []
    for _ in range(SWAPS):
        out.append(_timed(device, lambda: relocate(module, HOST)))
        back.append(_timed(device, lambda: relocate(module, device)))
        allocated.append(torch.cuda.memory_allocated(device) if device.type == "cuda" else 0)
    middle = SWAPS // 2
    return sorted(out[1:])[middle], sorted(back[1:])[middle], (allocated[0], allocated[-1])


def _copy_floor_seconds(device: torch.device, size_bytes: int) -> tuple[float, float]:
    """So long would as many bytes take as one pinned tensor, out and in."""
    floor_bytes = min(FLOOR_BYTES, size_bytes)
    pinned = torch.empty(floor_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = torch.empty(floor_bytes, dtype=torch.uint8, device=device)
    out = seconds_of(device, lambda: pinned.copy_(there, non_blocking=True))
    back = seconds_of(device, lambda: there.copy_(pinned, non_blocking=True))
    return out * size_bytes / floor_bytes, back * size_bytes / floor_bytes


def _compiled_step(family: Any, module: Any, states: list[Any], device: torch.device) -> float | None:
    """A step with compiled blocks; None where compiling failed, which says why on standard error."""
    eager = family._denoiser
    with ThreadPoolExecutor(1) as threads:
        family._denoiser = Denoiser(module, Compiling("blocks", threads))
        family.denoise_step(states)
    seconds = seconds_of(device, lambda: family.denoise_step(states)) if family._denoiser.is_compiled else None
    family._denoiser = eager
    return seconds


def _float8(
    family: Family, module: Any, states: list[Any], device: torch.device, dtype: torch.dtype, size_bytes: int
) -> tuple[float | None, float | None]:
    with contextlib.suppress(NotImplementedError):  # a device without the casts
        low = replace(Treatment(dtype), fit="float8")
        treated(module, low, device)
        seconds = seconds_of(device, lambda: family.denoise_step(states))
        return seconds, bytes_on_device(module, low) / size_bytes
    return None, None


def lines(moves: Sequence[Moves]) -> list[str]:
    """A table for the report."""
    head = "| denoiser | GiB | load s | of floor | to host s | of floor | to device s | of floor | bytes after swaps |"
    table = [
        f"| {one.family} | {one.size_gib:.2f} | {one.load_s:.2f} | {one.load_floor_share:.0%} | {one.to_host_s:.3f} "
        f"| {one.to_host_floor_share:.0%} | {one.to_device_s:.3f} | {one.to_device_floor_share:.0%} "
        f"| {one.allocated_bytes[0]}, {one.allocated_bytes[1]} |"
        for one in moves
    ]
    gains = [
        f"| {one.family} | {_times(one.compiled_gain)} | {_times(one.float8_gain)} | {_share(one.float8_size_share)} |"
        for one in moves
    ]
    return [
        "## Moving and treating a denoiser",
        "",
        head,
        "|---|---|---|---|---|---|---|---|---|",
        *table,
        "",
        "| denoiser | step, compiled blocks | step, float8 | size, float8 |",
        "|---|---|---|---|",
        *gains,
        "",
    ]


def _times(gain: float | None) -> str:
    return "not possible" if gain is None else f"{gain:.2f} times as fast"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
