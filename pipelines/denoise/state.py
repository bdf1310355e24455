"""What one job owns between two denoise steps: the only lasting truth about it. A batch lives for one step.

Knows tensors of one job; knows no other job.
Invariant: nothing in a state is shared with another state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.denoise.sampler import Sampler


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the prompt became; R is 2 (negative prompt first) with guidance and 1 without.

    states: (R, 77, D) token states; pooled: (R, P); time_ids: (R, 6) sizes and crop, in pixels.
    """

    states: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor


@dataclass(slots=True)
class DenoiseState:
    """latents: (1, C, h, w) in the sampler's scale; `step` counts the denoise steps already done."""

    latents: torch.Tensor
    conditioning: Conditioning
    sampler: Sampler
    generator: torch.Generator
    guidance_scale: float
    step: int = 0

    @property
    def steps(self) -> int:
        return len(self.sampler.timesteps)

    @property
    def is_done(self) -> bool:
        return self.step >= self.steps

    @property
    def timestep(self) -> torch.Tensor:
        return self.sampler.timesteps[self.step]
