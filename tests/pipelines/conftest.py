"""Tiny checkpoints of every kind that the families know, written once for all tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.messages import FamilyName
from tests.pipelines.tiny_models import write_tiny_flux, write_tiny_sd21, write_tiny_sdxl


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder and the family that serves it."""

    family: FamilyName
    folder: Path


KINDS = ("sdxl", "sd21-velocity", "sd21-noise", "flux-schnell", "flux-dev")


def some_of(kinds: Sequence[str], *quick: str) -> list[Any]:
    """All kinds, as parameters: those of the quick run, and the rest for the whole one. For long cases, where every
    kind takes the same way through our code and others test what is its own."""
    return [kind if kind in quick else pytest.param(kind, marks=pytest.mark.whole) for kind in kinds]


def write_checkpoints(root: Path) -> dict[str, Checkpoint]:
    return {
        "sdxl": Checkpoint("sdxl", write_tiny_sdxl(root / "sdxl")),
        "sd21-velocity": Checkpoint("sd21", write_tiny_sd21(root / "velocity", predicts_velocity=True)),
        "sd21-noise": Checkpoint("sd21", write_tiny_sd21(root / "noise", predicts_velocity=False)),
        "flux-schnell": Checkpoint("flux", write_tiny_flux(root / "schnell", takes_guidance=False)),
        "flux-dev": Checkpoint("flux", write_tiny_flux(root / "dev", takes_guidance=True)),
    }


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Checkpoint]:
    return write_checkpoints(tmp_path_factory.mktemp("tiny"))
