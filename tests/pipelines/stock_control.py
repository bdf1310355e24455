"""Diffusers' own ControlNet and Flux control pipelines, called as their users call them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from pipelines.denoise.sampler import SAMPLER_CLASSES
from pipelines.families.contract import Family, FamilyOptions
from pipelines.families.registry import load_family
from pipelines.messages import DrawParams, FamilyName
from pipelines.weights.layout import Source
from tests.pipelines.stock import Result, _arguments, _with_adapters, some_picture

# The stock classes by family, for text, image to image and inpainting.
PIPELINES: dict[FamilyName, tuple[str, str, str]] = {
    "sdxl": (
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
    ),
    "sd21": (
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
    ),
    "flux": ("FluxControlPipeline", "FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline"),
}


def load_controlled(
    folder: Path, family: FamilyName, controls: Mapping[Any, Path | None], options: FamilyOptions | None = None
) -> Family:
    source = Source(folder, controls=controls)
    return load_family(family, source, torch.device("cpu"), torch.float32, options)


def some_hint(width_px: int, height_px: int, seed: int = 5) -> bytes:
    """RGB bytes of white edges on black."""
    picture = Image.frombytes("RGB", (width_px, height_px), some_picture(width_px, height_px, seed)).convert("L")
    edges = np.abs(np.diff(np.asarray(picture, dtype=np.int64), axis=1, prepend=0)) > 16
    return Image.fromarray((edges * 255).astype(np.uint8)).convert("RGB").tobytes()


def stock_controlled(
    folder: Path,
    family: FamilyName,
    asked: DrawParams,
    network: Path | None = None,
    adapters: Sequence[tuple[Path, float]] = (),
) -> Result:
    """What diffusers draws with the job's hint. network: the ControlNet's folder; FLUX has none."""
    assert asked.control is not None
    task = 0 if asked.image is None else 1 if asked.mask is None else 2
    make = _pipeline.__wrapped__ if adapters else _pipeline
    pipeline = make(folder, PIPELINES[family][task], network)
    if adapters:
        pipeline = _with_adapters(pipeline, adapters)
    own = pipeline.scheduler
    chosen: Any
    chosen, changes = SAMPLER_CLASSES.get(asked.sampler, (type(own), {}))
    pipeline.scheduler = chosen.from_config(own.config, **changes)
    try:
        latents = pipeline(**_all_arguments(pipeline, family, asked, task), output_type="latent").images
        shares = pipeline(**_all_arguments(pipeline, family, asked, task), output_type="np").images[0]
    finally:
        pipeline.scheduler = own
    return Result(latents, (shares * 255).round().astype(np.int64))


@functools.cache
def _pipeline(folder: Path, name: str, network: Path | None) -> Any:
    extra: dict[str, Any] = {}
    if network is not None:
        extra["controlnet"] = diffusers.ControlNetModel.from_pretrained(network, torch_dtype=torch.float32)
    pipeline = getattr(diffusers, name).from_pretrained(folder, dtype=torch.float32, **extra)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _all_arguments(pipeline: Any, family: FamilyName, asked: DrawParams, task: int) -> dict[str, Any]:
    control = asked.control
    assert control is not None
    hint = Image.frombytes("RGB", (asked.width_px, asked.height_px), control.hint)
    arguments = _arguments(pipeline, family, asked)
    arguments["image" if task == 0 and family != "flux" else "control_image"] = hint
    if family != "flux":
        arguments |= {
            "controlnet_conditioning_scale": control.scale,
            "control_guidance_start": control.start,
            "control_guidance_end": control.end,
        }
    return arguments
