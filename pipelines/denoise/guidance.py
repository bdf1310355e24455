"""Classifier-free guidance over a batch whose jobs differ in it: some fill two rows, some one.

Knows rows and scales; knows no models.
Invariant: rows stand in the order of the jobs, each guided job's unconditional row right before its conditional one.
Source: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022), equation 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def rows_of(guidance_scale: float) -> int:
    """Two rows when guidance acts (scale above 1), one when it does not."""
    return 2 if guidance_scale > 1 else 1


def guided(predictions: torch.Tensor, guidance_scales: Sequence[float]) -> Iterator[torch.Tensor]:
    """One prediction (1, C, h, w) per job out of the forward's rows (R, C, h, w)."""
    row = 0
    for scale in guidance_scales:
        if rows_of(scale) == 1:
            yield predictions[row : row + 1]
            row += 1
            continue
        unconditional, conditional = predictions[row : row + 1], predictions[row + 1 : row + 2]
        yield unconditional + scale * (conditional - unconditional)
        row += 2
