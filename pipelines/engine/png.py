"""Encodes finished pixels as PNG, off the thread that owns the device.

Knows pixels; knows no jobs.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

# zlib's "Huffman only": on photographs several times quicker than Pillow's default, and no larger.
PNG_LEVEL, PNG_HUFFMAN_ONLY = 1, 2
Pixels = npt.NDArray[np.uint8]


def encode_png(pixels: Pixels) -> bytes:
    """PNG of uint8 pixels (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=PNG_LEVEL, compress_type=PNG_HUFFMAN_ONLY)
    return file.getvalue()
