"""Which family serves a catalogue entry. Adding a family is one line here and one file beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pipelines.families.contract import Family
from pipelines.families.sdxl import Sdxl
from pipelines.weights.load import load_sdxl

Loader = Callable[[Path, torch.device, torch.dtype], Family]


def _sdxl(folder: Path, device: torch.device, dtype: torch.dtype) -> Family:
    return Sdxl(load_sdxl(folder, device, dtype))


LOADERS: dict[str, Loader] = {"sdxl": _sdxl}
