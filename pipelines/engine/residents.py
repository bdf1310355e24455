"""What the engine asks of whoever holds the models."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from pipelines.families.contract import Family
from pipelines.residency.holding import Wanted


class Residents(Protocol):
    """The models of one device. Called by the engine's thread alone."""

    def family(self, model: str) -> Family | None:
        """The model, if new work may begin with it now."""
        ...

    def problem(self, model: str) -> str | None:
        """Why the model cannot be served, and will not until something else changes."""
        ...

    def digest(self, model: str) -> str:
        """Of the weights that the model was loaded from."""
        ...

    def used(self, model: str, now_seconds: float) -> None:
        """A job begins to work with it."""
        ...

    def has_news(self, now_seconds: float) -> bool:
        """Whether `update` would find something that the jobs did not bring."""
        ...

    def update(self, now_seconds: float, wanted: Sequence[Wanted], leased: Collection[str]) -> frozenset[str]:
        """Have that begun which brings what is wanted; the models whose coming begins now."""
        ...
