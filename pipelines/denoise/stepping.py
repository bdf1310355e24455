"""Advances one job by one step of its own sampler.

Knows a state and a prediction; knows no models.
Invariant: random samplers draw from the job's generator, never from a global one.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from pipelines.denoise.state import DenoiseState


def advance(state: DenoiseState, prediction: torch.Tensor) -> None:
    """Step the latents with the guided prediction (1, C, h, w) and count the step."""
    options: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(state.sampler.step).parameters:
        options["generator"] = state.generator
    state.latents = state.sampler.step(prediction, state.timestep, state.latents, **options)[0]
    state.step += 1
