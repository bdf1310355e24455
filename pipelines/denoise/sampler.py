"""Builds the private sampler of one job: the diffusers "scheduler" object that turns predictions into steps.

Knows diffusers' sampler classes and the names that users know them by; knows no models and no batches.
Invariant: samplers keep a step index and a history, so no two jobs ever share one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch

from pipelines.messages import SamplerName

SAMPLER_CLASSES: dict[SamplerName, tuple[type, dict[str, Any]]] = {
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "ddim": (diffusers.DDIMScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
    "flow_euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
}


@dataclass(frozen=True, slots=True)
class SamplerSource:
    """What a checkpoint says about sampling: the diffusers class and its configuration."""

    own_class: type
    config: dict[str, Any]


def build_sampler(source: SamplerSource, name: SamplerName, steps: int, device: torch.device) -> Any:
    """A fresh sampler for `steps` denoise steps, with the checkpoint's configuration.

    name: `checkpoint` for the class that the checkpoint names, or one of SAMPLER_CLASSES.
    """
    sampler = _from_source(source, name)
    sampler.set_timesteps(steps, device=device)
    return sampler


def build_flow_sampler(
    source: SamplerSource, name: SamplerName, steps: int, token_count: int, device: torch.device
) -> Any:
    """A fresh flow-matching sampler for pictures of `token_count` tokens, of which its shift may depend.

    Source: FluxPipeline of diffusers 0.42: sigmas fall evenly from 1 to 1 / steps before the checkpoint's shift.
    """
    sampler = _from_source(source, name)
    sigmas = None if sampler.config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
    count = steps if sigmas is None else None
    sampler.set_timesteps(count, device=device, sigmas=sigmas, mu=dynamic_shift(sampler.config, token_count))
    return sampler


def dynamic_shift(config: Any, token_count: int) -> float:
    """The exponent of FLUX's resolution-dependent shift: a line through two (tokens, shift) points."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    return float(token_count * slope + (low - slope * few))


def timesteps_after(sampler: Any, steps: int, steps_to_do: int) -> torch.Tensor:
    """The sampler's timesteps of the last `steps_to_do` of `steps`, and tell it to begin there.

    A second-order sampler has about two timesteps, each with a forward of its own, for one denoise step.
    """
    begin = (steps - steps_to_do) * sampler.order
    if hasattr(sampler, "set_begin_index"):
        sampler.set_begin_index(begin)
    timesteps: torch.Tensor = sampler.timesteps[begin:]
    return timesteps


def _from_source(source: SamplerSource, name: SamplerName) -> Any:
    chosen: Any
    chosen, changes = SAMPLER_CLASSES.get(name, (source.own_class, {}))
    return chosen.from_config(source.config, **changes)
