"""Diffusers' own pipelines, called as their users call them: what every picture of ours is compared with."""

from __future__ import annotations

import functools
import io
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from pipelines.denoise.sampler import SAMPLER_CLASSES
from pipelines.denoise.state import DenoiseState
from pipelines.families.contract import Family, FamilyOptions
from pipelines.families.registry import load_family
from pipelines.messages import DrawParams, FamilyName

Pixels = npt.NDArray[np.int64]
# The stock classes by family, for text, image to image and inpainting.
PIPELINES: dict[FamilyName, tuple[str, str, str]] = {
    "sdxl": ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    "sd21": ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    "flux": ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"),
}
LATENT_TOLERANCE, PIXEL_TOLERANCE = 1e-4, 1
# A forward of several rows rounds the last bit of float32 otherwise than one of a single job. Guidance of 12 multiplies
# that at every step, and so does DDIM's first one: of the mixes in docs/benchmarks/parity.md a few come to 1.7e-4.
MIXED_LATENT_TOLERANCE = 2e-4


@dataclass(frozen=True, slots=True)
class Result:
    """Finished latents, and their pixels (H, W, 3) from 0 to 255."""

    latents: torch.Tensor
    pixels: Pixels


def load(folder: Path, family: FamilyName, options: FamilyOptions | None = None) -> Family:
    return load_family(family, folder, torch.device("cpu"), torch.float32, options)


def params(**changes: object) -> DrawParams:
    values: dict[str, object] = {
        "prompt": "a large red circle on a blue background",
        "negative_prompt": None,
        "width_px": 128,
        "height_px": 128,
        "steps": 4,
        "guidance_scale": 5.0,
        "sampler": "checkpoint",
        "seed": 7,
    }
    return DrawParams(**{**values, **changes})  # type: ignore[arg-type]  # a test's shorthand


def some_picture(width_px: int, height_px: int, seed: int = 1) -> bytes:
    """RGB bytes of a picture with edges and gradients."""
    rng = random.Random(seed)
    picture = Image.linear_gradient("L").resize((width_px, height_px)).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for _ in range(4):
        left, top = rng.randrange(width_px // 2), rng.randrange(height_px // 2)
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        pen.ellipse((left, top, left + width_px // 3, top + height_px // 3), fill=colour)
    return picture.tobytes()


def some_mask(width_px: int, height_px: int) -> bytes:
    """White in the right half, black in the left."""
    mask = Image.new("L", (width_px, height_px))
    mask.paste(255, (width_px // 2, 0, width_px, height_px))
    return mask.tobytes()


def ours(family: Family, asked: DrawParams) -> Result:
    (state,) = family.prepare([asked])
    while not state.is_done:
        family.denoise_step([state])
    return finished(family, state)


def finished(family: Family, state: DenoiseState) -> Result:
    return Result(state.latents.cpu(), family.decode([state])[0].cpu().numpy().astype(np.int64))


def stock(folder: Path, family: FamilyName, asked: DrawParams, adapters: Sequence[tuple[Path, float]] = ()) -> Result:
    """What diffusers draws, with the sampler that the name stands for. adapters: files and scales, for peft."""
    task = 0 if asked.image is None else 1 if asked.mask is None else 2
    pipeline = _pipeline(folder, PIPELINES[family][task])
    if adapters:
        pipeline = _with_adapters(_pipeline.__wrapped__(folder, PIPELINES[family][task]), adapters)
    own = pipeline.scheduler
    chosen: Any
    chosen, changes = SAMPLER_CLASSES.get(asked.sampler, (type(own), {}))
    pipeline.scheduler = chosen.from_config(own.config, **changes)
    try:
        latents = pipeline(**_arguments(pipeline, family, asked), output_type="latent").images
        shares = pipeline(**_arguments(pipeline, family, asked), output_type="np").images[0]
    finally:
        pipeline.scheduler = own
    return Result(latents, (shares * 255).round().astype(np.int64))


@functools.cache
def _pipeline(folder: Path, name: str) -> Any:
    pipeline = getattr(diffusers, name).from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _with_adapters(pipeline: Any, adapters: Sequence[tuple[Path, float]]) -> Any:
    """As their users put them on."""
    names = [f"adapter_{place}" for place, _ in enumerate(adapters)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)  # of the second adapter
        for name, (path, _) in zip(names, adapters, strict=True):
            pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    pipeline.set_adapters(names, [scale for _, scale in adapters])
    return pipeline


def _arguments(pipeline: Any, family: FamilyName, asked: DrawParams) -> dict[str, Any]:
    size = {"width": asked.width_px, "height": asked.height_px}
    arguments: dict[str, Any] = {
        "prompt": asked.prompt,
        "num_inference_steps": asked.steps,
        "guidance_scale": asked.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(asked.seed),
    }
    if family == "flux":
        arguments["max_sequence_length"] = 512 if pipeline.transformer.config.guidance_embeds else 256
    else:
        arguments["negative_prompt"] = asked.negative_prompt
    if asked.image is not None:
        arguments["image"] = Image.frombytes("RGB", (asked.width_px, asked.height_px), asked.image)
        arguments["strength"] = asked.strength
    if asked.mask is not None:
        arguments["mask_image"] = Image.frombytes("L", (asked.width_px, asked.height_px), asked.mask)
    # Image to image takes its size from the picture, except with FLUX.
    if asked.image is None or asked.mask is not None or family == "flux":
        arguments.update(size)
    return arguments


def differences(one: Result, other: Result) -> tuple[float, int]:
    """The largest difference in latents and in pixels."""
    if one.pixels.shape != other.pixels.shape:
        raise AssertionError(f"{one.pixels.shape} is not {other.pixels.shape}")
    return float((one.latents - other.latents).abs().max()), int(np.abs(one.pixels - other.pixels).max())


def read_pixels(png: bytes) -> Pixels:
    """Pixels (H, W, 3) of a PNG file."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.int64)


def assert_same(one: Result, other: Result, tolerance: float = LATENT_TOLERANCE) -> None:
    assert one.pixels.std() > 1, "a flat picture would prove nothing"
    latents, pixels = differences(one, other)
    scale = max(1.0, float(other.latents.abs().max()))
    assert latents <= tolerance * scale
    assert pixels <= PIXEL_TOLERANCE
