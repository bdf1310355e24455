"""One forward of a UNet for all rows of a batch, as SDXL and SD 2.1 share it.

Knows UNets and states; knows no families.
Invariant: no state changes here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel

from pipelines.denoise.rows import conditioning_rows, joined, latent_rows, timestep_rows
from pipelines.denoise.state import DenoiseState


def predict(unet: UNet2DConditionModel, states: Sequence[DenoiseState], row_count: int | None) -> torch.Tensor:
    """Predictions (R, C, h, w), padded to `row_count` rows if that is given."""
    token_states, extras = conditioning_rows(states, row_count)
    predictions: torch.Tensor = unet(
        joined([latent_rows(state) for state in states], row_count),
        joined([timestep_rows(state) for state in states], row_count),
        encoder_hidden_states=token_states,
        added_cond_kwargs=extras or None,
        return_dict=False,
    )[0]
    return predictions
