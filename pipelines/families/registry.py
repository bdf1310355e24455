"""Which family serves a catalogue entry. Adding a family is one line here and one file beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pipelines.families.contract import Family, FamilyOptions
from pipelines.families.flux import Flux
from pipelines.families.sd21 import sd21_model
from pipelines.families.sdxl import sdxl_model
from pipelines.messages import FamilyName
from pipelines.weights.layout import Source
from pipelines.weights.load import Modules, Opened, flux_parts, sd21_parts, sdxl_parts

Builder = Callable[[Opened, Modules, torch.device, torch.dtype, FamilyOptions], Family]

BUILDERS: dict[FamilyName, Builder] = {
    "sdxl": lambda opened, modules, device, dtype, options: sdxl_model(
        sdxl_parts(opened, modules, device, dtype), options
    ),
    "sd21": lambda opened, modules, device, dtype, options: sd21_model(
        sd21_parts(opened, modules, device, dtype), options
    ),
    "flux": lambda opened, modules, device, dtype, options: Flux(flux_parts(opened, modules, device, dtype), options),
}


def load_family(
    family: FamilyName,
    source: Source | Path,
    device: torch.device,
    dtype: torch.dtype,
    options: FamilyOptions | None = None,
) -> Family:
    """A whole model at once. Raises CheckpointProblem when its files are not sound."""
    opened = Opened(source, family)
    return BUILDERS[family](opened, opened.modules(device, dtype), device, dtype, options or FamilyOptions())
