"""Classifier-free guidance over a batch whose jobs differ in it: some fill two rows, some one.

Knows rows and scales; knows no models.
Invariant: rows stand in the order of the jobs, each guided job's unconditional row right before its conditional one.
Source: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022), equation 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def is_guided(guidance_scale: float) -> bool:
    """Guidance acts above 1; at 1 the formula gives the conditional prediction itself."""
    return guidance_scale > 1


def rows_of(guidance_scale: float) -> int:
    """How many rows of a forward a job fills."""
    return 2 if is_guided(guidance_scale) else 1


def guided(predictions: torch.Tensor, guidance_scales: Sequence[float]) -> Iterator[torch.Tensor]:
    """One prediction (1, C, h, w) per job out of the forward's rows (R, C, h, w)."""
    row = 0
    for scale in guidance_scales:
        if not is_guided(scale):
            yield predictions[row : row + 1]
            row += 1
            continue
        unconditional, conditional = predictions[row : row + 1], predictions[row + 1 : row + 2]
        yield unconditional + scale * (conditional - unconditional)
        row += 2
