"""Looks at finished pixels with the safety checker of the Stable Diffusion family, before they become a file.

Knows pixels, CLIP's way to look at them and the checker; knows no jobs and no families.
Invariant: without a sound checker there is no verdict, and never a good one. The verdict depends on the pixels alone:
it is reached on the CPU in float32, whatever device drew them.
Source: diffusers 0.42's StableDiffusionSafetyChecker, which is called; transformers' CLIPImageProcessor in the form
that Stable Diffusion publishes beside it, written out here, as it may ask for torchvision.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image

from pipelines.engine.encode import Pixels
from pipelines.weights.component import load_component
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.safety_file import verify_safety_checker

# It says that a black picture is returned, which is not what happens here.
logging.getLogger("diffusers.pipelines.stable_diffusion.safety_checker").setLevel(logging.ERROR)
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CPU = torch.device("cpu")


class CheckUnavailable(Exception):
    """There is no verdict."""


class SafetyCheck:
    """folder: of the checker, loaded for the first picture. May be asked from any thread; one is answered at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checker: Any = None
        self._asking = threading.Lock()

    def refuses(self, pixels: Pixels) -> bool:
        """Whether the picture, uint8 (H, W, 3), must not pass. Raises CheckUnavailable."""
        try:
            with self._asking:
                if self._checker is None:
                    part = verify_safety_checker(self._folder)
                    self._checker = load_component(StableDiffusionSafetyChecker, part, CPU, torch.float32)
                return _verdict(self._checker, pixels)
        except CheckpointProblem as problem:
            raise CheckUnavailable(str(problem)) from problem


def _verdict(checker: Any, pixels: Pixels) -> bool:
    """What it blackens in place is not the picture."""
    side_px = checker.config.vision_config.image_size
    nothing = [np.zeros(1)]
    _, found = checker(clip_input=seen_by_clip(pixels, side_px), images=nothing)
    return bool(found[0])


def seen_by_clip(pixels: Pixels, side_px: int) -> torch.Tensor:
    """(1, 3, side, side): the shorter side brought to `side_px` by cubic interpolation, the middle cut out, normalised.

    pixels: uint8 (H, W, 3).
    """
    height_px, width_px = pixels.shape[:2]
    short_px, long_px = sorted((height_px, width_px))
    longer = int(side_px * long_px / short_px)
    size = (longer, side_px) if width_px > height_px else (side_px, longer)
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    top, left = (small.shape[0] - side_px) // 2, (small.shape[1] - side_px) // 2
    middle = small[top : top + side_px, left : left + side_px].astype(np.float64) / 255
    normalised = ((middle - MEAN) / DEVIATION).astype(np.float32)
    return torch.from_numpy(normalised.transpose(2, 0, 1)[None].copy())
