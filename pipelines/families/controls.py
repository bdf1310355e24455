"""Which of a model's ControlNets a job's hint is for.

Knows hints and networks; knows no files and no queues.
Invariant: a ControlNet that cannot be used harms nobody but those who name it.
"""

from __future__ import annotations

import torch

from pipelines.denoise.latents import shares_of
from pipelines.denoise.state import Guide
from pipelines.messages import DrawParams
from pipelines.weights.control import ControlNets, UnusableControl


class ControlUnavailable(Exception):
    """A hint that a job brings cannot be used. reason: what callers may know, as the end of a sentence."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"the control {kind!r} cannot be used: {reason}")
        self.kind, self.reason = kind, reason


def guide_of(params: DrawParams, networks: ControlNets, device: torch.device, dtype: torch.dtype) -> Guide | None:
    """Raises ControlUnavailable."""
    control = params.control
    if control is None:
        return None
    network = networks.get(control.kind)
    if network is None:
        raise ControlUnavailable(control.kind, "the model has none of this kind")
    if isinstance(network, UnusableControl):
        raise ControlUnavailable(control.kind, network.problem.reason) from network.problem
    pixels = shares_of(control.hint, params.width_px, params.height_px).to(device, dtype)
    return Guide(network, pixels, control.scale, control.start, control.end)
