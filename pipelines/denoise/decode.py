"""Turns finished latents into pixels, and never lets a broken result become a picture.

Knows the autoencoder and its precision; knows no jobs.
Invariant: pixels leave the device as bytes, and only of results that are finite.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from pipelines.denoise.latents import to_autoencoder_scale
from pipelines.messages import DrawParams

# Rough peak of the decoder's activations: bytes per pixel of the picture for each byte of an element.
BYTES_PER_PIXEL = 2200


class NonFiniteResults(Exception):
    """The model produced NaN or infinity, which must never become a picture. places: where in the batch."""

    def __init__(self, places: list[int]) -> None:
        super().__init__(f"{len(places)} results hold values that are not finite")
        self.places = places


def footprint_bytes(params: DrawParams, dtype: torch.dtype) -> int:
    """What a job holds at its peak: the decoder's activations, which dwarf its latents and the denoiser's rows."""
    return params.width_px * params.height_px * BYTES_PER_PIXEL * dtype.itemsize


def decode_pictures(vae: AutoencoderKL, denoised: torch.Tensor, in_tiles: bool = False) -> torch.Tensor:
    """uint8 (B, H, W, 3) of latents (B, C, h, w) in the denoiser's scale. Raises NonFiniteResults.

    Pixels that are not finite although their latents are get one more try in float32, as half precision overflows in
    some autoencoders.
    """
    latents = to_autoencoder_scale(vae, denoised)
    broken = _places_not_finite(latents)
    if broken:
        raise NonFiniteResults(broken)
    images = _decode(vae, latents.to(vae.dtype), in_tiles)
    overflown = _places_not_finite(images)
    if overflown and vae.dtype != torch.float32:
        images = images.float()
        images[overflown] = _decode_in_float32(vae, latents[overflown], in_tiles)
        overflown = _places_not_finite(images)
    if overflown:
        raise NonFiniteResults(overflown)
    return to_uint8(images)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Decoded images (B, 3, H, W) in [-1, 1] to (B, H, W, 3) bytes, rounded as diffusers rounds."""
    shares = (images * 0.5 + 0.5).clamp(0, 1)
    return (shares.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _decode(vae: AutoencoderKL, latents: torch.Tensor, in_tiles: bool) -> torch.Tensor:
    if in_tiles:
        vae.enable_tiling()
    try:
        images: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    finally:
        if in_tiles:
            vae.disable_tiling()
    return images


def _decode_in_float32(vae: AutoencoderKL, latents: torch.Tensor, in_tiles: bool) -> torch.Tensor:
    half = vae.dtype
    try:
        return _decode(vae.to(torch.float32), latents.float(), in_tiles)
    finally:
        vae.to(half)


def _places_not_finite(values: torch.Tensor) -> list[int]:
    is_finite = torch.isfinite(values).flatten(1).all(dim=1)
    return (~is_finite).nonzero().flatten().tolist()
