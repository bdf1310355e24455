"""FLUX's tokens: two by two latents in one, and where each stands in the picture.

Knows shapes only. Invariant: unpack undoes pack. Source: FluxPipeline of diffusers 0.42.
"""

from __future__ import annotations

import torch


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) to tokens (B, h/2 * w/2, C * 4), row by row."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tokens (B, height * width, C * 4) to latents (B, C, 2 * height, 2 * width)."""
    batch, _, size = tokens.shape
    patches = tokens.view(batch, height, width, size // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, size // 4, height * 2, width * 2)


def token_positions(height: int, width: int) -> torch.Tensor:
    """(height * width, 3): zero, row and column of each token."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
