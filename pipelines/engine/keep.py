"""Keeps what a mask protects: those pixels of a result are the image's own.

Knows pixels and parameters; knows no tensors and no models.
Invariant: where nothing may change, not one value changes. A model alone cannot promise that: its mask is as coarse as
its latents, and its autoencoder gives no picture back exactly.
"""

from __future__ import annotations

import numpy as np

from pipelines.engine.encode import Pixels
from pipelines.messages import DrawParams

MAY_CHANGE_FROM = 128


def with_kept(pixels: Pixels, params: DrawParams) -> Pixels:
    """The drawn pixels (H, W, 3) with the image's own where the mask is below 128; as they are without a mask."""
    if params.image is None or params.mask is None:
        return pixels
    height, width, _ = pixels.shape
    image = np.frombuffer(params.image, np.uint8).reshape(height, width, 3)
    mask = np.frombuffer(params.mask, np.uint8).reshape(height, width, 1)
    return np.where(mask >= MAY_CHANGE_FROM, pixels, image)
