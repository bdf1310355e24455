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
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.weights.verify import CheckpointProblem, read_json, verify


@dataclass(frozen=True, slots=True)
class SdxlComponents:
    """The parts of Stable Diffusion XL, on one device and in one dtype. The sampler's class and configuration are
    kept apart: every job builds its own."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    sampler_class: type
    sampler_config: dict[str, Any]
    force_zeros_for_empty_prompt: bool
    device: torch.device
    dtype: torch.dtype


def load_sdxl(folder: Path, device: torch.device, dtype: torch.dtype) -> SdxlComponents:
    """Raises CheckpointProblem when the folder is not sound or its weights do not fit its configuration."""
    verify(folder, "sdxl")
    index = read_json(folder / "model_index.json")

    def model(cls: Any, name: str) -> Any:
        return _load(cls, folder, name, dtype).to(device).eval().requires_grad_(False)

    return SdxlComponents(
        unet=model(UNet2DConditionModel, "unet"),
        vae=model(AutoencoderKL, "vae"),
        text_encoder=model(CLIPTextModel, "text_encoder"),
        text_encoder_2=model(CLIPTextModelWithProjection, "text_encoder_2"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True),
        sampler_class=sampler_class(index["scheduler"][1]),
        sampler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
        force_zeros_for_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", True)),
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
