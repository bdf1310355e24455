"""What one job owns between two denoise steps: the only lasting truth about it. A batch lives for one step.

Knows tensors of one job; knows no other job.
Invariant: nothing in a state is shared with another state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.denoise.adapters import NO_ADAPTERS, AdapterSet


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the prompt became; R is 2 (negative prompt first) with guidance and 1 without.

    states: (R, T, D) token states. extras: what else the denoiser takes beside them, (R, ...) by the argument's name.
    """

    states: torch.Tensor
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repaint:
    """What an inpainting job puts back after every step, where its mask is 0.

    All in the shape of the job's latents: the encoded picture, the noise that it began with, the mask (1: may change).
    """

    picture: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """A hint and the network that reads it, which has no type of its own in diffusers' pipelines either.

    pixels: (1, 3, H, W) in [0, 1]. scale: how strongly it acts. start, end: the shares of the steps between which.
    """

    network: Any
    pixels: torch.Tensor
    scale: float
    start: float
    end: float

    def acts_in(self, step: int, steps: int) -> bool:
        """step: from 0, of the job's own."""
        return self.scale != 0 and step / steps >= self.start and (step + 1) / steps <= self.end


@dataclass(slots=True)
class DenoiseState:
    """latents: one row, in the sampler's scale. timesteps: those still to do when the job began; `step` counts the
    forwards already done. last: the latents before the last forward and its guided prediction, for previews. `sampler`
    is a diffusers scheduler, whose classes have no type in common. adapters: what acts beside the weights in every
    forward; the state keeps them alive. guide: a hint for a network beside the denoiser. beside: latents that the
    denoiser itself sees next to its own in every forward, in the same shape."""

    latents: torch.Tensor
    conditioning: Conditioning
    sampler: Any
    timesteps: torch.Tensor
    generator: torch.Generator
    guidance_scale: float
    height_px: int
    width_px: int
    repaint: Repaint | None = None
    step: int = 0
    last: tuple[torch.Tensor, torch.Tensor] | None = None
    adapters: AdapterSet = NO_ADAPTERS
    guide: Guide | None = None
    beside: torch.Tensor | None = None

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def is_done(self) -> bool:
        return self.step >= self.steps

    @property
    def timestep(self) -> torch.Tensor:
        return self.timesteps[self.step]

    @property
    def rows(self) -> int:
        """How many rows of a forward the job fills."""
        return len(self.conditioning.states)
