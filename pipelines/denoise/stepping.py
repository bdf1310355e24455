"""Advances jobs by one step of their own samplers.

Knows states and predictions; knows no models.
Invariant: random samplers draw from the job's generator, never from a global one, and a job whose sampler fails
keeps no other from advancing.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from pipelines.denoise.guidance import guided
from pipelines.denoise.inpaint import put_back
from pipelines.denoise.state import DenoiseState


class StepFaults(Exception):
    """Some jobs could not advance; all others of the batch did. errors: by place in the batch."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        super().__init__(f"{len(errors)} jobs could not advance")
        self.errors = errors


def advance_all(states: Sequence[DenoiseState], predictions: torch.Tensor) -> None:
    """Step every job with its part of the forward's rows (R, ...). Raises StepFaults."""
    errors: dict[int, Exception] = {}
    for place, (state, prediction) in enumerate(zip(states, guided(predictions, states), strict=True)):
        try:
            advance(state, prediction)
        except Exception as error:
            errors[place] = error
    if errors:
        raise StepFaults(errors) from next(iter(errors.values()))


def advance(state: DenoiseState, prediction: torch.Tensor) -> None:
    """Step the latents with the guided prediction (1, ...), put back what an inpainting keeps, and count the step."""
    options: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(state.sampler.step).parameters:
        options["generator"] = state.generator
    latents = state.sampler.step(prediction, state.timestep, state.latents, **options)[0]
    state.last = (state.latents, prediction)
    state.latents = put_back(state, latents.to(state.latents.dtype))
    state.step += 1
