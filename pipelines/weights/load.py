"""Loads a verified diffusers folder into components on one device, and nothing else than its own files.

Knows diffusers and transformers classes by name; knows no jobs.
Invariant: only safetensors are read, nothing is fetched, no code from the folder runs.
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
from pipelines.weights.verify import CheckpointProblem, read_json, verify


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


class Folder:
    """A verified diffusers folder, from which components are loaded one by one onto one device.

    Raises CheckpointProblem when the folder is not sound.
    """

    def __init__(self, path: Path, family: FamilyName, device: torch.device, dtype: torch.dtype) -> None:
        verify(path, family)
        self.index = read_json(path / "model_index.json")
        self._path, self._device, self._dtype = path, device, dtype

    def model(self, cls: Any, name: str) -> Any:
        """A component with weights. Convolutions on a CUDA device run in channels_last, which tensor cores want."""
        loaded = _load(cls, self._path, name, self._dtype).to(self._device).eval().requires_grad_(False)
        if self._device.type == "cuda" and cls in (UNet2DConditionModel, AutoencoderKL):
            loaded = loaded.to(memory_format=torch.channels_last)
        return loaded

    def tokenizer(self, cls: Any, name: str) -> Any:
        try:
            return cls.from_pretrained(self._path / name, local_files_only=True)
        except Exception as error:
            raise CheckpointProblem(f"{self._path / name} holds no tokenizer that can be read") from error

    def sampler(self) -> SamplerSource:
        config = read_json(self._path / "scheduler" / "scheduler_config.json")
        return SamplerSource(sampler_class(self.index["scheduler"][1]), config)


def load_sdxl(path: Path, device: torch.device, dtype: torch.dtype) -> SdxlComponents:
    """Raises CheckpointProblem when the folder is not sound or its weights do not fit its configuration."""
    folder = Folder(path, "sdxl", device, dtype)
    return SdxlComponents(
        unet=folder.model(UNet2DConditionModel, "unet"),
        vae=folder.model(AutoencoderKL, "vae"),
        text_encoder=folder.model(CLIPTextModel, "text_encoder"),
        text_encoder_2=folder.model(CLIPTextModelWithProjection, "text_encoder_2"),
        tokenizer=folder.tokenizer(CLIPTokenizer, "tokenizer"),
        tokenizer_2=folder.tokenizer(CLIPTokenizer, "tokenizer_2"),
        sampler=folder.sampler(),
        force_zeros_for_empty_prompt=bool(folder.index.get("force_zeros_for_empty_prompt", True)),
        device=device,
        dtype=dtype,
    )


def load_sd21(path: Path, device: torch.device, dtype: torch.dtype) -> Sd21Components:
    """Raises CheckpointProblem when the folder is not sound or its weights do not fit its configuration."""
    folder = Folder(path, "sd21", device, dtype)
    return Sd21Components(
        unet=folder.model(UNet2DConditionModel, "unet"),
        vae=folder.model(AutoencoderKL, "vae"),
        text_encoder=folder.model(CLIPTextModel, "text_encoder"),
        tokenizer=folder.tokenizer(CLIPTokenizer, "tokenizer"),
        sampler=folder.sampler(),
        device=device,
        dtype=dtype,
    )


def load_flux(path: Path, device: torch.device, dtype: torch.dtype) -> FluxComponents:
    """Raises CheckpointProblem when the folder is not sound or its weights do not fit its configuration."""
    folder = Folder(path, "flux", device, dtype)
    return FluxComponents(
        transformer=folder.model(FluxTransformer2DModel, "transformer"),
        vae=folder.model(AutoencoderKL, "vae"),
        text_encoder=folder.model(CLIPTextModel, "text_encoder"),
        text_encoder_2=folder.model(T5EncoderModel, "text_encoder_2"),
        tokenizer=folder.tokenizer(CLIPTokenizer, "tokenizer"),
        tokenizer_2=folder.tokenizer(T5TokenizerFast, "tokenizer_2"),
        sampler=folder.sampler(),
        device=device,
        dtype=dtype,
    )


def sampler_class(name: str) -> type:
    """The diffusers scheduler class of this name. Raises CheckpointProblem when there is none."""
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise CheckpointProblem(f"the checkpoint's scheduler class {name} is not one that diffusers has")
    return found


def _load(cls: Any, folder: Path, name: str, dtype: torch.dtype) -> Any:
    try:
        return cls.from_pretrained(folder / name, dtype=dtype, use_safetensors=True, local_files_only=True)
    except Exception as error:
        raise CheckpointProblem(f"{folder / name} does not load: its weights do not fit its configuration") from error
