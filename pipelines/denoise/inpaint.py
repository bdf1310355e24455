"""Keeps what an inpainting must not change: after every step it is the given picture again, as noisy as the rest.

Knows masks and latents; knows no models.
Invariant: where the mask is 0, the last step leaves exactly the encoded picture.
Source: Lugmayr et al., "RePaint" (2022), without resampling, as diffusers' inpainting pipelines do it.
"""

from __future__ import annotations

import torch

from pipelines.denoise.state import DenoiseState


def put_back(state: DenoiseState, latents: torch.Tensor) -> torch.Tensor:
    """The latents after a step, with the kept part of the picture put back at the noise of the next step."""
    repaint = state.repaint
    if repaint is None:
        return latents
    kept = repaint.picture
    if state.step + 1 < state.steps:
        kept = noised(state.sampler, kept, repaint.noise, state.timesteps[state.step + 1])
    return (1 - repaint.mask) * kept + repaint.mask * latents


def noised(sampler: object, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Clean latents with as much of `noise` as the sampler has at `timestep`; flow matching has a word of its own."""
    at = timestep.reshape(1)
    if hasattr(sampler, "scale_noise"):
        mixed: torch.Tensor = sampler.scale_noise(latents, at, noise)
    else:
        mixed = sampler.add_noise(latents, noise, at)  # type: ignore[attr-defined]  # samplers share no type
    return mixed


def latent_mask(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A mask (1, 1, H, W) of zeros and ones at the latents' size, each latent as the pixel at its corner."""
    return torch.nn.functional.interpolate(mask, size=(height, width))
