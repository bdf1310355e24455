"""Puts the jobs of a batch side by side as the rows of one forward.

Knows states and tensors; knows no models.
Invariant: every tensor of a forward has its rows in the order of the jobs, and equally many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from pipelines.denoise.state import DenoiseState

Item = TypeVar("Item")


def latent_rows(state: DenoiseState) -> torch.Tensor:
    """The state's latents once or twice, (R, ...), as its sampler wants the model to see them."""
    repeats = (state.rows, *[1] * (state.latents.dim() - 1))
    rows = state.latents.repeat(repeats)
    if not hasattr(state.sampler, "scale_model_input"):
        return rows
    scaled: torch.Tensor = state.sampler.scale_model_input(rows, state.timestep)
    return scaled


def timestep_rows(state: DenoiseState) -> torch.Tensor:
    """(R,) in float32, as samplers differ in the type of their timesteps and embeddings are computed in it anyway."""
    return state.timestep.float().reshape(1).expand(state.rows)


def joined(parts: Sequence[torch.Tensor], row_count: int | None) -> torch.Tensor:
    """The rows of all parts in one tensor, padded with copies of the first to `row_count` rows if that is given."""
    rows = torch.cat(list(parts))
    if row_count is None or len(rows) >= row_count:
        return rows
    padding = rows[:1].expand(row_count - len(rows), *rows.shape[1:])
    return torch.cat([rows, padding])


def grouped(items: Sequence[Item], one_by_one: bool) -> list[Sequence[Item]]:
    """All items as one group, or each as its own; no group is empty."""
    if one_by_one:
        return [[item] for item in items]
    return [items] if items else []


def conditioning_rows(
    states: Sequence[DenoiseState], row_count: int | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The token states and the extras of all jobs. All jobs of a batch have the same extras."""
    conditions = [state.conditioning for state in states]
    names = conditions[0].extras
    extras = {name: joined([condition.extras[name] for condition in conditions], row_count) for name in names}
    return joined([condition.states for condition in conditions], row_count), extras
