"""Builds the private sampler of one job: the diffusers "scheduler" object that turns predictions into steps.

Knows diffusers' sampler classes; knows no models and no batches.
Invariant: samplers keep a step index and a history, so no two jobs ever share one.
"""

from __future__ import annotations

from typing import Any, Protocol

import diffusers
import torch

from pipelines.messages import SamplerName

SAMPLER_CLASSES: dict[SamplerName, type] = {
    "euler": diffusers.EulerDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}


class Sampler(Protocol):
    """The part of a diffusers scheduler that a denoise loop uses."""

    timesteps: torch.Tensor
    init_noise_sigma: Any

    def scale_model_input(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor: ...

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **kwargs: Any) -> Any: ...


def build_sampler(
    name: SamplerName, own_class: type, config: dict[str, Any], steps: int, device: torch.device
) -> Sampler:
    """A fresh sampler for `steps` denoise steps, with the checkpoint's configuration.

    name: `checkpoint` for the class that the checkpoint names, `own_class`, or one of SAMPLER_CLASSES.
    """
    chosen: Any = SAMPLER_CLASSES.get(name, own_class)
    sampler: Any = chosen.from_config(config)
    sampler.set_timesteps(steps, device=device)
    built: Sampler = sampler
    return built
