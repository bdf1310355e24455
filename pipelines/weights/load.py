"""Loads a verified model into components on one device, all at once or one by one, from nothing but its own files.

Knows what each family is made of; knows no jobs, and of layouts only what was decided.
Invariant: only safetensors are read, nothing is fetched, no code from a model's folder runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, FluxTransformer2DModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from pipelines.denoise.sampler import SamplerSource
from pipelines.messages import ControlKind, FamilyName
from pipelines.weights.component import load_component
from pipelines.weights.control import ControlNets, by_kind, load_control, without_controls
from pipelines.weights.control_file import DAMAGED, PREFIX, ControlProblem, verify_controls
from pipelines.weights.files import CheckpointProblem, read_json
from pipelines.weights.layout import Source
from pipelines.weights.verify import verify


@dataclass(frozen=True, slots=True)
class SdxlComponents:
    """The parts of Stable Diffusion XL, on one device and in one dtype. Every job builds its own sampler."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    sampler: SamplerSource
    force_zeros_for_empty_prompt: bool
    device: torch.device
    dtype: torch.dtype
    controls: ControlNets = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sd21Components:
    """The parts of Stable Diffusion 2.1, on one device and in one dtype."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    sampler: SamplerSource
    device: torch.device
    dtype: torch.dtype
    controls: ControlNets = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FluxComponents:
    """The parts of FLUX.1, on one device and in one dtype."""

    transformer: FluxTransformer2DModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    text_encoder_2: T5EncoderModel
    tokenizer: CLIPTokenizer
    tokenizer_2: T5TokenizerFast
    sampler: SamplerSource
    device: torch.device
    dtype: torch.dtype


# The components with weights, and what each is built as.
MODEL_CLASSES: dict[FamilyName, dict[str, Any]] = {
    "sdxl": {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    },
    "sd21": {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel},
    "flux": {
        "transformer": FluxTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": T5EncoderModel,
    },
}
# By component name: its module.
Modules = Mapping[str, Any]


class Opened:
    """A verified model, from which components are loaded one by one.

    controls: its ControlNets, by the names of their components; control_problems: why others cannot be used, by kind.

    Raises CheckpointProblem when its files are not sound; those of a ControlNet are no part of it.
    """

    def __init__(self, source: Source | Path, family: FamilyName) -> None:
        self.family: FamilyName = family
        self.layout = verify(source, family)
        self.controls, self.control_problems = verify_controls(source, self.layout)
        self.index = read_json(self.layout.index)
        self._tokenizers: dict[str, Any] = {}

    def module(self, name: str, device: torch.device, dtype: torch.dtype) -> Any:
        """A component with weights. Convolutions on a CUDA device run in channels_last, which tensor cores want."""
        if name in self.controls:
            loaded = load_control(self.controls[name], device, dtype)
        else:
            loaded = load_component(MODEL_CLASSES[self.family][name], self.layout.weights[name], device, dtype)
        if device.type == "cuda" and isinstance(loaded, UNet2DConditionModel | AutoencoderKL | ControlNetModel):
            loaded = loaded.to(memory_format=torch.channels_last)
        return loaded

    def leave_out(self, control: str, problem: CheckpointProblem) -> None:
        """Do without a ControlNet, by the name of its component, whose files were found bad since."""
        del self.controls[control]
        kind = next(kind for kind in get_args(ControlKind) if PREFIX + kind == control)
        self.control_problems[kind] = ControlProblem(str(problem), DAMAGED)

    def modules(self, device: torch.device, dtype: torch.dtype) -> Modules:
        """All components with weights."""
        return {name: self.module(name, device, dtype) for name in (*MODEL_CLASSES[self.family], *self.controls)}

    def tokenizer(self, cls: Any, name: str) -> Any:
        """Read once, and kept."""
        if name not in self._tokenizers:
            folder = self.layout.tokenizers[name]
            try:
                self._tokenizers[name] = cls.from_pretrained(folder, local_files_only=True)
            except Exception as error:
                raise CheckpointProblem(f"{folder} holds no tokenizer that can be read") from error
        return self._tokenizers[name]

    def sampler(self) -> SamplerSource:
        config = read_json(self.layout.scheduler) | self.layout.sampler_changes
        return SamplerSource(sampler_class(self.index["scheduler"][1]), config)


def sdxl_parts(opened: Opened, modules: Modules, device: torch.device, dtype: torch.dtype) -> SdxlComponents:
    """Raises CheckpointProblem when a tokenizer or the sampler's configuration is not sound."""
    return SdxlComponents(
        **without_controls(modules),
        tokenizer=opened.tokenizer(CLIPTokenizer, "tokenizer"),
        tokenizer_2=opened.tokenizer(CLIPTokenizer, "tokenizer_2"),
        sampler=opened.sampler(),
        force_zeros_for_empty_prompt=bool(opened.index.get("force_zeros_for_empty_prompt", True)),
        device=device,
        dtype=dtype,
        controls=by_kind(modules, opened.control_problems),
    )


def sd21_parts(opened: Opened, modules: Modules, device: torch.device, dtype: torch.dtype) -> Sd21Components:
    """Raises CheckpointProblem when the tokenizer or the sampler's configuration is not sound."""
    tokenizer = opened.tokenizer(CLIPTokenizer, "tokenizer")
    return Sd21Components(
        **without_controls(modules),
        tokenizer=tokenizer,
        sampler=opened.sampler(),
        device=device,
        dtype=dtype,
        controls=by_kind(modules, opened.control_problems),
    )


def flux_parts(opened: Opened, modules: Modules, device: torch.device, dtype: torch.dtype) -> FluxComponents:
    """Raises CheckpointProblem when a tokenizer or the sampler's configuration is not sound."""
    return FluxComponents(
        **modules,
        tokenizer=opened.tokenizer(CLIPTokenizer, "tokenizer"),
        tokenizer_2=opened.tokenizer(T5TokenizerFast, "tokenizer_2"),
        sampler=opened.sampler(),
        device=device,
        dtype=dtype,
    )


def load_sdxl(source: Source | Path, device: torch.device, dtype: torch.dtype) -> SdxlComponents:
    """Raises CheckpointProblem when a file is not sound or weights do not fit their configuration."""
    opened = Opened(source, "sdxl")
    return sdxl_parts(opened, opened.modules(device, dtype), device, dtype)


def load_sd21(source: Source | Path, device: torch.device, dtype: torch.dtype) -> Sd21Components:
    """Raises CheckpointProblem when a file is not sound or weights do not fit their configuration."""
    opened = Opened(source, "sd21")
    return sd21_parts(opened, opened.modules(device, dtype), device, dtype)


def load_flux(source: Source | Path, device: torch.device, dtype: torch.dtype) -> FluxComponents:
    """Raises CheckpointProblem when a file is not sound or weights do not fit their configuration."""
    opened = Opened(source, "flux")
    return flux_parts(opened, opened.modules(device, dtype), device, dtype)


def sampler_class(name: str) -> type:
    """The diffusers scheduler class of this name. Raises CheckpointProblem when there is none."""
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise CheckpointProblem(f"the checkpoint's scheduler class {name} is not one that diffusers has")
    return found
