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
from pipelines.weights.load import load_flux, load_sd21, load_sdxl

Loader = Callable[[Source | Path, torch.device, torch.dtype, FamilyOptions], Family]

LOADERS: dict[FamilyName, Loader] = {
    "sdxl": lambda source, device, dtype, options: sdxl_model(load_sdxl(source, device, dtype), options),
    "sd21": lambda source, device, dtype, options: sd21_model(load_sd21(source, device, dtype), options),
    "flux": lambda source, device, dtype, options: Flux(load_flux(source, device, dtype), options),
}
