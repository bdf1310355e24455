"""Classifier-free guidance over a batch whose jobs differ in it: some fill two rows, some one.

Knows rows and scales; knows no models.
Invariant: rows stand in the order of the jobs, each guided job's unconditional row right before its conditional one.
Source: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022), equation 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from pipelines.denoise.state import DenoiseState


def is_guided(guidance_scale: float) -> bool:
    """Guidance acts above 1; at 1 the formula gives the conditional prediction itself."""
    return guidance_scale > 1


def guided(predictions: torch.Tensor, states: Sequence[DenoiseState]) -> Iterator[torch.Tensor]:
    """One prediction (1, ...) per job out of the forward's rows (R, ...); rows beyond the jobs' are padding."""
    row = 0
    for state in states:
        rows = predictions[row : row + state.rows]
        yield rows if state.rows == 1 else rows[:1] + state.guidance_scale * (rows[1:] - rows[:1])
        row += state.rows
