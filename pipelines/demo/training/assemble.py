"""Writes the trained parts as one checkpoint in the standard diffusers layout, half precision, safetensors only.

Knows the folder layout; knows no training.
Invariant: stock `DiffusionPipeline.from_pretrained` loads what is written, and so does our own loader.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel

from pipelines.demo.training.denoiser import sampler
from pipelines.demo.training.text import TextEncoders, write_tokenizer


def write_checkpoint(vae: AutoencoderKL, text: TextEncoders, unet: UNet2DConditionModel, folder: Path) -> None:
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
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for tokenizer in ("tokenizer", "tokenizer_2"):
        write_tokenizer(text.tokenizer, folder / tokenizer)
