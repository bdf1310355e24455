"""Diffusers' own pipelines over the very components of a loaded family: the rival in the same run."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from pipelines.families.contract import Family
from pipelines.messages import DrawParams, FamilyName
from tests.gpu.timing import seconds_of


def image_seconds(family: Family, name: FamilyName, asked: DrawParams, device: torch.device) -> float:
    """One image from prompt to PIL picture, after one that does not count."""
    pipeline = _pipeline(family, name)
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"max_sequence_length": 256} if name == "flux" else {}

    def draw() -> None:
        pipeline(
            asked.prompt,
            width=asked.width_px,
            height=asked.height_px,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(asked.seed),
            **options,
        )

    return seconds_of(device, draw, repeats=1)


def _pipeline(family: Family, name: FamilyName) -> Any:
    parts: Any = family.parts  # type: ignore[attr-defined]  # the rival gets the very same weights
    sampler = parts.sampler.own_class.from_config(parts.sampler.config)
    if name == "flux":
        return FluxPipeline(
            sampler,
            parts.vae,
            parts.text_encoder,
            parts.tokenizer,
            parts.text_encoder_2,
            parts.tokenizer_2,
            parts.transformer,
        )
    if name == "sdxl":
        return StableDiffusionXLPipeline(
            parts.vae,
            parts.text_encoder,
            parts.text_encoder_2,
            parts.tokenizer,
            parts.tokenizer_2,
            parts.unet,
            sampler,
            add_watermarker=False,
        )
    return StableDiffusionPipeline(
        parts.vae, parts.text_encoder, parts.tokenizer, parts.unet, sampler, None, None, requires_safety_checker=False
    )
