"""What a job's latents are before its first step: pure noise, a noised picture, or either beside a mask.

Knows samplers, masks and encoded pictures; knows no prompts and no denoiser.
Invariant: a job draws from its generator in the same order as diffusers' pipelines do, so that a seed means the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from pipelines.denoise.adapters import AdapterSet
from pipelines.denoise.inpaint import latent_mask, noised
from pipelines.denoise.latents import (
    first_noise,
    mask_of,
    picture_distributions,
    pixels_of,
    seeded_generator,
    to_denoiser_scale,
)
from pipelines.denoise.rows import grouped
from pipelines.denoise.sampler import timesteps_after
from pipelines.denoise.state import Conditioning, DenoiseState, Repaint
from pipelines.messages import DrawParams, FamilyName
from pipelines.work import steps_after


@dataclass(frozen=True, slots=True)
class Canvas:
    """Where a family paints. channels: of a latent; arrange: from (1, C, h, w) to the shape that the denoiser works
    in. encodes_hints: the denoiser sees a job's hint as latents beside its own."""

    vae: AutoencoderKL
    channels: int
    device: torch.device
    dtype: torch.dtype
    arrange: Callable[[torch.Tensor], torch.Tensor] = lambda latents: latents
    encodes_hints: bool = False

    @property
    def scale(self) -> int:
        """How many pixels wide a latent is: every level of the autoencoder but the last halves the picture."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, params: DrawParams) -> tuple[int, int, int, int]:
        return (1, self.channels, params.height_px // self.scale, params.width_px // self.scale)


def begin_all(
    canvas: Canvas,
    family: FamilyName,
    batch: Sequence[DrawParams],
    conditions: Sequence[Conditioning],
    sampler_for: Callable[[DrawParams], Any],
    one_by_one: bool,
    sets: Sequence[AdapterSet],
) -> list[DenoiseState]:
    """The states of jobs before their first step. All have pictures and hints of one size, or none.

    one_by_one: encode one picture at a time, so that what it becomes depends on no other. sets: each job's adapters.
    """
    states = []
    pictures = _encoded(canvas, [params.image for params in batch], batch, one_by_one)
    hints = _encoded(canvas, [_hint_of(canvas, params) for params in batch], batch, one_by_one)
    for params, conditioning, picture, hint, adapters in zip(batch, conditions, pictures, hints, sets, strict=True):
        sampler = sampler_for(params)
        timesteps = sampler.timesteps
        if picture is not None:
            timesteps = timesteps_after(sampler, params.steps, steps_after(family, params.steps, params.strength))
        state = begin(canvas, params, conditioning, sampler, timesteps, picture, hint)
        state.adapters = adapters
        states.append(state)
    return states


def _hint_of(canvas: Canvas, params: DrawParams) -> bytes | None:
    return params.control.hint if canvas.encodes_hints and params.control is not None else None


def _encoded(
    canvas: Canvas, pictures: Sequence[bytes | None], batch: Sequence[DrawParams], one_by_one: bool
) -> list[DiagonalGaussianDistribution | None]:
    """What the autoencoder makes of each job's picture; None for jobs that have none."""
    places = [place for place, picture in enumerate(pictures) if picture is not None]
    encoded: list[DiagonalGaussianDistribution | None] = [None] * len(batch)
    for group in grouped(places, one_by_one):
        pixels = torch.cat([_pixels(pictures[place], batch[place]) for place in group])
        for place, distribution in zip(group, picture_distributions(canvas.vae, pixels), strict=True):
            encoded[place] = distribution
    return encoded


def begin(
    canvas: Canvas,
    params: DrawParams,
    conditioning: Conditioning,
    sampler: Any,
    timesteps: torch.Tensor,
    picture: DiagonalGaussianDistribution | None,
    hint: DiagonalGaussianDistribution | None = None,
) -> DenoiseState:
    """The state of a job before its first step."""
    generator = seeded_generator(params.seed)
    shape = canvas.latent_shape(params)
    beside = None if hint is None else _beside(canvas, params, hint, generator)
    clean = None if picture is None else to_denoiser_scale(canvas.vae, picture.sample(generator)).to(canvas.dtype)
    noise = first_noise(shape, generator, canvas.device, canvas.dtype)
    if clean is None or _starts_from_noise(params, sampler):
        latents = noise * getattr(sampler, "init_noise_sigma", 1.0)
    else:
        latents = noised(sampler, clean, noise, timesteps[0])
    return DenoiseState(
        latents=canvas.arrange(latents),
        conditioning=conditioning,
        sampler=sampler,
        timesteps=timesteps,
        generator=generator,
        guidance_scale=params.guidance_scale,
        height_px=params.height_px,
        width_px=params.width_px,
        repaint=None if clean is None else _repaint(canvas, params, clean, noise, generator),
        beside=beside,
    )


def _beside(
    canvas: Canvas, params: DrawParams, hint: DiagonalGaussianDistribution, generator: torch.Generator
) -> torch.Tensor:
    """Before all else that is drawn from the generator, but for the masked picture that diffusers encodes first."""
    if params.mask is not None:
        first_noise(canvas.latent_shape(params), generator, canvas.device, canvas.dtype)
    return canvas.arrange(to_denoiser_scale(canvas.vae, hint.sample(generator)).to(canvas.dtype))


def _pixels(picture: bytes | None, params: DrawParams) -> torch.Tensor:
    return pixels_of(picture or b"", params.width_px, params.height_px)


def _starts_from_noise(params: DrawParams, sampler: object) -> bool:
    """At full strength nothing of what is repainted shall shine through; with flow matching nothing does anyway."""
    return params.mask is not None and params.strength == 1 and not hasattr(sampler, "scale_noise")


def _repaint(
    canvas: Canvas, params: DrawParams, clean: torch.Tensor, noise: torch.Tensor, generator: torch.Generator
) -> Repaint | None:
    if params.mask is None:
        return None
    mask = latent_mask(mask_of(params.mask, params.width_px, params.height_px), *clean.shape[-2:]).to(clean)
    if not canvas.encodes_hints:
        # Diffusers encodes the masked picture here, for models that want it as an input, and draws as much for others.
        first_noise(clean.shape, generator, canvas.device, canvas.dtype)
    return Repaint(canvas.arrange(clean), canvas.arrange(noise), canvas.arrange(mask.expand(clean.shape)))
