"""Between pictures and latents: the first noise, the encoded input, what the autoencoder decodes.

Knows shapes and the autoencoder's normalisation; knows no prompts.
Invariant: noise is drawn on the CPU from the job's own generator, so that a seed means the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


def seeded_generator(seed: int) -> torch.Generator:
    """A CPU generator, as diffusers' own examples use for reproducible pictures. seed: 0 to 2**64 - 1."""
    return torch.Generator("cpu").manual_seed(seed)


def first_noise(
    shape: Sequence[int], generator: torch.Generator, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Unit normal noise; the sampler scales it."""
    return torch.randn(tuple(shape), generator=generator, dtype=dtype).to(device)


def pixels_of(rgb: bytes, width_px: int, height_px: int) -> torch.Tensor:
    """Pixels (1, 3, H, W) in [-1, 1] in float32, from RGB bytes row by row."""
    return shares_of(rgb, width_px, height_px) * 2 - 1


def shares_of(rgb: bytes, width_px: int, height_px: int) -> torch.Tensor:
    """Pixels (1, 3, H, W) in [0, 1] in float32, from RGB bytes row by row."""
    values = torch.frombuffer(bytearray(rgb), dtype=torch.uint8).view(1, height_px, width_px, 3)
    return values.permute(0, 3, 1, 2).float() / 255


def mask_of(gray: bytes, width_px: int, height_px: int) -> torch.Tensor:
    """A mask (1, 1, H, W) of zeros and ones in float32: 1 where the byte is 128 or more."""
    values = torch.frombuffer(bytearray(gray), dtype=torch.uint8).view(1, 1, height_px, width_px)
    return (values >= 128).float()  # noqa: PLR2004  (half of a byte's range)


def picture_distributions(vae: AutoencoderKL, pixels: torch.Tensor) -> list[DiagonalGaussianDistribution]:
    """What the encoder says about each of the pictures (B, 3, H, W): to be sampled with each job's own generator."""
    parameters = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.parameters
    return [DiagonalGaussianDistribution(one) for one in parameters.split(1)]


def to_denoiser_scale(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Encoded latents (B, C, h, w) in the normalisation that the denoiser works in."""
    mean, std = _normalisation(vae, latents)
    return (latents - mean) * float(vae.config.scaling_factor) / std


def to_autoencoder_scale(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation the denoiser works in. latents: (B, C, h, w), any batch size."""
    mean, std = _normalisation(vae, latents)
    return latents * std / float(vae.config.scaling_factor) + mean


def _normalisation(vae: AutoencoderKL, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation that broadcast over (B, C, h, w): per channel, or one shift as in FLUX, or none."""
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is None or std is None:
        shift = vae.config.get("shift_factor") or 0.0
        return latents.new_tensor(shift), latents.new_tensor(1.0)
    shape = (1, -1, 1, 1)
    return latents.new_tensor(mean).view(shape), latents.new_tensor(std).view(shape)
