"""The latents at both ends of a denoise run: the first noise, and what the autoencoder decodes.

Knows shapes and the autoencoder's normalisation; knows no prompts.
Invariant: noise is drawn on the CPU from the job's own generator, so that a seed means the same on every device.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL


def seeded_generator(seed: int) -> torch.Generator:
    """A CPU generator, as diffusers' own examples use for reproducible pictures. seed: 0 to 2**64 - 1."""
    return torch.Generator("cpu").manual_seed(seed)


def first_noise(
    channels: int,
    height: int,
    width: int,
    generator: torch.Generator,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Unit normal noise (1, channels, height, width); the sampler scales it. Sizes count latents, not pixels."""
    noise = torch.randn((1, channels, height, width), generator=generator, dtype=dtype)
    return noise.to(device)


def to_autoencoder_scale(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation the denoiser works in. latents: (B, C, h, w), any batch size."""
    config = vae.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents / float(config.scaling_factor)
    shape = (1, -1, 1, 1)
    means = torch.tensor(mean).view(shape).to(latents)
    stds = torch.tensor(std).view(shape).to(latents)
    return latents * stds / float(config.scaling_factor) + means


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Decoded images (B, 3, H, W) in [-1, 1] to (B, H, W, 3) bytes, rounded as diffusers rounds."""
    shares = (images * 0.5 + 0.5).clamp(0, 1)
    return (shares * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
