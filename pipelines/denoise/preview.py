"""Guesses the finished latents in the middle of a run: the clean picture that the last prediction points to.

Knows samplers' noise levels and prediction types; knows no models.
Invariant: looking changes nothing in the state.
"""

from __future__ import annotations

import torch

from pipelines.denoise.state import DenoiseState


def predicted_clean(state: DenoiseState) -> torch.Tensor:
    """Clean latents, from the last forward's latents and guided prediction. The state has done at least one step.

    Sources: Song et al., "DDIM" (2021), equation 12; Salimans and Ho (2022), appendix D, for velocities; Karras et al.
    (2022) for latents that are not scaled; Lipman et al. (2023) for flow matching.
    """
    if state.last is None:
        raise ValueError("nothing is predicted before the first step")
    latents, prediction = state.last
    signal, noise = noise_levels(state, state.step - 1)
    kind = state.sampler.config.get("prediction_type", "flow")
    if kind == "epsilon":
        return (latents - noise * prediction) / signal
    if kind == "v_prediction":
        scale = (signal**2 + noise**2) ** 0.5
        return (latents * signal / scale - noise * prediction) / scale
    if kind == "flow":
        return latents - noise * prediction
    return prediction


def noise_levels(state: DenoiseState, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors (signal, noise) with which latents were mixed at a step: latents = signal * clean + noise * noise."""
    sampler = state.sampler
    if hasattr(sampler, "scale_noise"):
        noise = state.timesteps[step] / sampler.config.num_train_timesteps
        return 1 - noise, noise
    level = sampler.alphas_cumprod[state.timesteps[step].long().cpu()].to(state.latents)
    if keeps_unit_signal(sampler):
        return torch.ones_like(level), ((1 - level) / level) ** 0.5
    return level**0.5, (1 - level) ** 0.5


def keeps_unit_signal(sampler: object) -> bool:
    """Whether latents grow with the noise (Euler, Heun) instead of keeping unit variance (DDIM, DPM-Solver)."""
    name = type(sampler).__name__
    return name.startswith(("Euler", "Heun"))
