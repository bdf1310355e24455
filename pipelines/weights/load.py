"""Loads a verified model into components on one device, and nothing else than its own files.

Knows what each family is made of; knows no jobs, and of layouts only what was decided.
Invariant: only safetensors are read, nothing is fetched, no code from a model's folder runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from pipelines.denoise.sampler import SamplerSource
from pipelines.messages import FamilyName
from pipelines.weights.component import load_component
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


class Opened:
    """A verified model, from which components are loaded one by one onto one device.

    Raises CheckpointProblem when its files are not sound.
    """

    def __init__(self, source: Source | Path, family: FamilyName, device: torch.device, dtype: torch.dtype) -> None:
        self._layout = verify(source, family)
        self.index = read_json(self._layout.index)
        self._device, self._dtype = device, dtype

    def model(self, cls: Any, name: str) -> Any:
        """A component with weights. Convolutions on a CUDA device run in channels_last, which tensor cores want."""
        loaded = load_component(cls, self._layout.weights[name], self._device, self._dtype)
        if self._device.type == "cuda" and cls in (UNet2DConditionModel, AutoencoderKL):
            loaded = loaded.to(memory_format=torch.channels_last)
        return loaded

    def tokenizer(self, cls: Any, name: str) -> Any:
        folder = self._layout.tokenizers[name]
        try:
            return cls.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise CheckpointProblem(f"{folder} holds no tokenizer that can be read") from error

    def sampler(self) -> SamplerSource:
        config = read_json(self._layout.scheduler) | self._layout.sampler_changes
        return SamplerSource(sampler_class(self.index["scheduler"][1]), config)


def load_sdxl(source: Source | Path, device: torch.device, dtype: torch.dtype) -> SdxlComponents:
    """Raises CheckpointProblem when a file is not sound or weights do not fit their configuration."""
    opened = Opened(source, "sdxl", device, dtype)
    return SdxlComponents(
        unet=opened.model(UNet2DConditionModel, "unet"),
        vae=opened.model(AutoencoderKL, "vae"),
        text_encoder=opened.model(CLIPTextModel, "text_encoder"),
        text_encoder_2=opened.model(CLIPTextModelWithProjection, "text_encoder_2"),
        tokenizer=opened.tokenizer(CLIPTokenizer, "tokenizer"),
        tokenizer_2=opened.tokenizer(CLIPTokenizer, "tokenizer_2"),
        sampler=opened.sampler(),
        force_zeros_for_empty_prompt=bool(opened.index.get("force_zeros_for_empty_prompt", True)),
        device=device,
        dtype=dtype,
    )


def load_sd21(source: Source | Path, device: torch.device, dtype: torch.dtype) -> Sd21Components:
    """Raises CheckpointProblem when a file is not sound or weights do not fit their configuration."""
    opened = Opened(source, "sd21", device, dtype)
    return Sd21Components(
        unet=opened.model(UNet2DConditionModel, "unet"),
        vae=opened.model(AutoencoderKL, "vae"),
        text_encoder=opened.model(CLIPTextModel, "text_encoder"),
        tokenizer=opened.tokenizer(CLIPTokenizer, "tokenizer"),
        sampler=opened.sampler(),
        device=device,
        dtype=dtype,
    )


def load_flux(source: Source | Path, device: torch.device, dtype: torch.dtype) -> FluxComponents:
    """Raises CheckpointProblem when a file is not sound or weights do not fit their configuration."""
    opened = Opened(source, "flux", device, dtype)
    return FluxComponents(
        transformer=opened.model(FluxTransformer2DModel, "transformer"),
        vae=opened.model(AutoencoderKL, "vae"),
        text_encoder=opened.model(CLIPTextModel, "text_encoder"),
        text_encoder_2=opened.model(T5EncoderModel, "text_encoder_2"),
        tokenizer=opened.tokenizer(CLIPTokenizer, "tokenizer"),
        tokenizer_2=opened.tokenizer(T5TokenizerFast, "tokenizer_2"),
        sampler=opened.sampler(),
        device=device,
        dtype=dtype,
    )


def sampler_class(name: str) -> type:
    """The diffusers scheduler class of this name. Raises CheckpointProblem when there is none."""
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise CheckpointProblem(f"the checkpoint's scheduler class {name} is not one that diffusers has")
    return found
