"""What a model family can do: the verbs that the engine calls, and what it gives them.

Knows no family. Invariant: families know each other as little as they know jobs, callers and queues.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from pipelines.denoise.compiled import Compiling
from pipelines.denoise.prompts import CacheUse
from pipelines.denoise.state import DenoiseState
from pipelines.messages import DrawParams, ModelSpec


@dataclass(frozen=True, slots=True)
class FamilyOptions:
    """padded_rows: if set, every forward of the denoiser is padded to so many rows, and prompts and pictures are
    encoded one by one, so that no job's result depends on its neighbours. prompt_cache_bytes: a cap for what is kept
    of encoded prompts. compilers: a thread to compile on; compiling: how this model is compiled, if it is. loras: the
    model's adapters, name -> file; lora_cache_bytes: a cap for what is kept of them
    while no job uses them. prompt_use: counts what the model's cache of prompts found."""

    padded_rows: int | None = None
    prompt_cache_bytes: int = 256 * 1024 * 1024
    compilers: Executor | None = None
    compiling: Compiling | None = None
    loras: Mapping[str, str] = field(default_factory=dict)
    lora_cache_bytes: int = 1024 * 1024 * 1024
    prompt_use: CacheUse | None = None

    def for_model(self, spec: ModelSpec) -> FamilyOptions:
        """With what is said of this model alone."""
        compiling = None
        if spec.compile != "off" and self.compilers is not None:
            compiling = Compiling(spec.compile, self.compilers)
        return replace(self, loras=spec.loras, lora_cache_bytes=spec.lora_cache_bytes, compiling=compiling)

    def encodes_alone(self, device: torch.device) -> bool:
        """Whether prompts and pictures are encoded each in a forward of its own.

        So they are where nothing may depend on company; and on a CPU, which gains nothing by sharing, while guidance
        multiplies at every step what a shared forward rounds otherwise.
        """
        return self.padded_rows is not None or device.type == "cpu"


@dataclass(frozen=True, slots=True)
class CachedBytes:
    """What a model keeps beside its weights: of encoded prompts, and of adapters."""

    prompts: int
    adapters: int


class Family(Protocol):
    """A loaded model of one family. All verbs run on the one thread that owns the device."""

    def prepare(self, batch: Sequence[DrawParams]) -> list[DenoiseState]:
        """Encode prompts and pictures, draw the first noise and set up the samplers of jobs of one size.

        Raises AdapterUnavailable when a job names an adapter that cannot be used.
        """
        ...

    def batch_key(self, state: DenoiseState) -> Hashable:
        """Equal keys, and only those, may share a forward."""
        ...

    def denoise_step(self, states: Sequence[DenoiseState]) -> None:
        """Advance every state by one denoise step, in one forward. All states have the same batch key.

        Raises:
            StepFaults: some could not advance; all others did.
            Exception: the forward failed; no state changed.
        """
        ...

    def decode(self, states: Sequence[DenoiseState], *, in_tiles: bool = False) -> torch.Tensor:
        """The pictures as uint8 (B, H, W, 3), from states of one batch key that are done.

        in_tiles: slower and with faint seams, in a fraction of the memory.

        Raises:
            NonFiniteResults: pictures would hold NaN or infinity.
        """
        ...

    def preview(self, state: DenoiseState) -> torch.Tensor:
        """What the picture will probably be, uint8 (1, H, W, 3), from a state that has done a step."""
        ...

    def rows(self, params: DrawParams) -> int:
        """How many rows of a forward a job of these parameters fills."""
        ...

    def footprint(self, params: DrawParams) -> int:
        """The bytes that a job of these parameters needs beyond the weights, at its peak."""
        ...

    def cached_bytes(self) -> CachedBytes:
        """What it keeps now, whoever works with it."""
        ...
