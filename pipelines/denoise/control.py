"""ControlNets at work: what hints add to the UNet's forward, for the rows of the jobs that have one.

Knows states and networks; knows no files and no requests.
Invariant: rows of jobs without a hint that acts get zeros, which change no bit; so all jobs share the UNet's forward.
Source: Zhang et al. (2023), as diffusers' ControlNet pipelines act it out without their guess mode: guided jobs get the
residuals in both rows, and a hint acts in step i of n while i / n >= start and (i + 1) / n <= end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.denoise.rows import conditioning_rows, joined, timestep_rows
from pipelines.denoise.state import DenoiseState, Guide

# What is added to the UNet's skip connections, and to its middle; each (R, C, h, w).
Residuals = tuple[list[torch.Tensor], torch.Tensor]


def residuals_of(
    states: Sequence[DenoiseState], latents: Sequence[torch.Tensor], row_count: int | None
) -> Residuals | None:
    """One forward of every network that acts in this step; None where none does.

    latents: each job's rows as the UNet sees them. row_count: how many rows every forward is padded to, if it is.
    """
    begins = [0]
    for state in states:
        begins.append(begins[-1] + state.rows)
    total: list[torch.Tensor] = []
    for places in _by_network(states):
        added = _forward([states[place] for place in places], [latents[place] for place in places], row_count)
        rows = [row for place in places for row in range(begins[place], begins[place + 1])]
        total = total or [one.new_zeros(max(begins[-1], row_count or 0), *one.shape[1:]) for one in added]
        for sum_, one in zip(total, added, strict=True):
            sum_[rows] = one[: len(rows)]
    return (total[:-1], total[-1]) if total else None


def _by_network(states: Sequence[DenoiseState]) -> list[list[int]]:
    """The places of the jobs whose hints act in this step, those of one network together."""
    groups: dict[int, list[int]] = {}
    for place, state in enumerate(states):
        if state.guide is not None and state.guide.acts_in(state.step, state.steps):
            groups.setdefault(id(state.guide.network), []).append(place)
    return list(groups.values())


def _forward(
    states: Sequence[DenoiseState], latents: Sequence[torch.Tensor], row_count: int | None
) -> list[torch.Tensor]:
    """What the network that these jobs have in common adds, the middle last, each job's rows by its own scale."""
    pairs = [(state, state.guide) for state in states if state.guide is not None]
    token_states, extras = conditioning_rows(states, row_count)
    network = pairs[0][1].network
    down, middle = network(
        joined(latents, row_count),
        joined([timestep_rows(state) for state in states], row_count),
        encoder_hidden_states=token_states,
        controlnet_cond=joined([_repeated(guide.pixels, state.rows) for state, guide in pairs], row_count),
        conditioning_scale=joined([_scales(guide, state.rows) for state, guide in pairs], row_count),
        added_cond_kwargs=extras or None,
        return_dict=False,
    )
    return [one.to(latents[0].dtype) for one in (*down, middle)]


def _repeated(pixels: torch.Tensor, rows: int) -> torch.Tensor:
    return pixels.expand(rows, -1, -1, -1)


def _scales(guide: Guide, rows: int) -> torch.Tensor:
    """(R, 1, 1, 1) in float32, so that it is not rounded before it multiplies."""
    return torch.full((rows, 1, 1, 1), guide.scale, device=guide.pixels.device)
