"""What a model family can do: the five verbs that the engine calls, and what it gives them.

Knows no family. Invariant: families know each other as little as they know jobs, callers and queues.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import torch

from pipelines.denoise.state import DenoiseState
from pipelines.messages import DrawParams


class Family(Protocol):
    """A loaded model of one family. All verbs run on the one thread that owns the device."""

    def prepare(self, params: DrawParams) -> DenoiseState:
        """Encode the prompt, draw the first noise and set up the sampler of one job."""
        ...

    def batch_key(self, state: DenoiseState) -> Hashable:
        """Equal keys, and only those, may share a forward."""
        ...

    def denoise_step(self, states: Sequence[DenoiseState]) -> None:
        """Advance every state by one denoise step, in one forward. All states have the same batch key."""
        ...

    def decode(self, states: Sequence[DenoiseState]) -> torch.Tensor:
        """The pictures as uint8 (B, H, W, 3), from states of one batch key that are done.

        Raises:
            NonFiniteResult: a picture would hold NaN or infinity.
        """
        ...

    def footprint(self, params: DrawParams) -> int:
        """The bytes that a job of these parameters needs beyond the weights, at its peak."""
        ...


class NonFiniteResult(Exception):
    """The model produced NaN or infinity, which must never become a picture."""
