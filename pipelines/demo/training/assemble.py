"""Writes the trained parts as checkpoints in the standard diffusers layout, half precision, safetensors only.

Knows the folder layout; knows no training.
Invariant: stock `DiffusionPipeline.from_pretrained` loads what is written, and so does our own loader.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.demo.training import flux
from pipelines.demo.training.denoiser import sampler
from pipelines.demo.training.t5 import T5TextEncoder
from pipelines.demo.training.text import Sd21TextEncoder, TextEncoders, write_tokenizer


def write_sdxl(vae: AutoencoderKL, text: TextEncoders, unet: UNet2DConditionModel, folder: Path) -> None:
    """Replaces what is in the folder file by file."""
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text.narrow,
        text_encoder_2=text.wide,
        tokenizer=text.tokenizer,
        tokenizer_2=text.tokenizer,
        unet=unet,
        scheduler=sampler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    _write(pipeline, folder, {"tokenizer": text.tokenizer, "tokenizer_2": text.tokenizer})
    add_to_sampler(folder)


def write_sd21(vae: AutoencoderKL, text: Sd21TextEncoder, unet: UNet2DConditionModel, folder: Path) -> None:
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text.encoder,
        tokenizer=text.tokenizer,
        unet=unet,
        scheduler=DDIMScheduler.from_config(sampler().config, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    _write(pipeline, folder, {"tokenizer": text.tokenizer})


def write_flux(
    vae: AutoencoderKL,
    clip: CLIPTextModel,
    clip_tokenizer: CLIPTokenizer,
    t5: T5TextEncoder,
    transformer: FluxTransformer2DModel,
    folder: Path,
) -> None:
    """FLUX's pipelines want a shift in the autoencoder's configuration; here there is none to apply."""
    shifted = copy.deepcopy(vae)
    shifted.register_to_config(shift_factor=0.0)
    pipeline = FluxPipeline(
        scheduler=flux.sampler(),
        vae=shifted,
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5.encoder,
        tokenizer_2=t5.tokenizer,
        transformer=transformer,
    )
    _write(pipeline, folder, {"tokenizer": clip_tokenizer})


def _write(pipeline: Any, folder: Path, clip_tokenizers: dict[str, CLIPTokenizer]) -> None:
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name, tokenizer in clip_tokenizers.items():
        write_tokenizer(tokenizer, folder / name)


def add_to_sampler(folder: Path) -> None:
    """Euler's configuration also says what other samplers must know, as the published SDXL's does: clipping clean
    latents to [-1, 1], DDIM's default, is for models that draw in pixels."""
    file = folder / "scheduler" / "scheduler_config.json"
    config = {**json.loads(file.read_text(encoding="utf-8")), "clip_sample": False}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
