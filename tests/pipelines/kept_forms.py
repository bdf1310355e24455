"""Checkpoints in the forms that people keep them in, made of the tiny ones, and what they draw or why they do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.families.contract import Family, FamilyOptions
from pipelines.families.flux import Flux
from pipelines.families.sd21 import sd21_model
from pipelines.families.sdxl import sdxl_model
from pipelines.messages import FamilyName
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.layout import STEMS, Source
from pipelines.weights.load import load_flux, load_sd21, load_sdxl
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.original_files import (
    single_file_tensors,
    write,
)
from tests.pipelines.stock import Result, ours, params

CPU = torch.device("cpu")
Checkpoints = Mapping[str, Checkpoint]
BUILDERS: dict[FamilyName, Callable[[Source, torch.dtype], Family]] = {
    "sdxl": lambda source, dtype: sdxl_model(load_sdxl(source, CPU, dtype), FamilyOptions()),
    "sd21": lambda source, dtype: sd21_model(load_sd21(source, CPU, dtype), FamilyOptions()),
    "flux": lambda source, dtype: Flux(load_flux(source, CPU, dtype), FamilyOptions()),
}
ASKED = params(width_px=64, height_px=64, steps=2)


def picture(source: Source | Path, family: FamilyName, dtype: torch.dtype = torch.float32) -> Result:
    source = Source(source) if isinstance(source, Path) else source
    return ours(BUILDERS[family](source, dtype), ASKED)


def problem_of(source: Source | Path, family: FamilyName) -> str:
    """What is said when the model is loaded."""
    with pytest.raises(CheckpointProblem) as caught:
        BUILDERS[family](Source(source) if isinstance(source, Path) else source, torch.float32)
    return str(caught.value)


def without_weights(folder: Path, to: Path, *names: str) -> Path:
    """A copy of a diffusers folder, without the weights of these components or of all."""
    shutil.copytree(folder, to)
    for name in names or STEMS:
        for file in (to / name).glob("*.safetensors"):
            file.unlink()
    return to


def as_single_file(checkpoint: Checkpoint, scratch: Path, **changes: torch.Tensor) -> Source:
    """The checkpoint as one file, and beside it a folder for all that the file does not hold."""
    in_file = ("transformer",) if checkpoint.family == "flux" else tuple(STEMS)
    rest = without_weights(checkpoint.folder, scratch / "rest", *in_file)
    tensors = single_file_tensors(checkpoint.folder, checkpoint.family) | changes
    return Source(write(scratch / "model.safetensors", tensors), rest, config=str(rest))


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], stem: str, variant: str = "") -> Path:
    """As diffusers and transformers write them; returns the index."""
    weight_map: dict[str, str] = {}
    for number in range(3):
        file = f"{stem}{variant}-0000{number + 1}-of-00003.safetensors"
        names = list(tensors)[number::3]
        write(folder / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    index = folder / f"{stem}.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}), encoding="utf-8")
    return index


def halve(folder: Path, *, variant: str = ".fp16", keep_plain: bool = False) -> Path:
    """Write every component's weights in half precision, as a variant."""
    for name, stem in STEMS.items():
        plain = folder / name / f"{stem}.safetensors"
        if plain.exists():
            halved = {key: tensor.half() for key, tensor in load_file(plain).items()}
            write(folder / name / f"{stem}{variant}.safetensors", halved)
            if not keep_plain:
                plain.unlink()
    return folder
