"""Writes a picture into a file, with the same options whoever writes it: the worker, and the server's decoder process.

Knows Pillow and file formats; knows no pixels' origin, no facts and no torch.
Invariant: the same picture and the same options give the same bytes.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from pipelines.messages import OutputFormat

# zlib's "Huffman only": on photographs several times quicker than Pillow's default, and no larger.
PNG_LEVEL, PNG_HUFFMAN_ONLY = 1, 2
# "Values above 95 should be avoided; 100 disables portions of the JPEG compression algorithm, and results in large
# files with hardly any gain in image quality": Pillow's handbook, on saving JPEG.
MAX_JPEG_QUALITY = 95
FULL_COLOUR_COMPRESSION = 90


def write(image: Image.Image, output_format: OutputFormat, compression: int = 100, **further: Any) -> bytes:
    """A file of an image in RGB, or for png and webp in RGBA. compression: 0 to 100, as `Output` has it.

    further: Pillow's options beside those of `options`, or in place of them. Raises ValueError when the file cannot
    hold the picture.
    """
    file = io.BytesIO()
    image.save(file, output_format, **options(output_format, compression) | further)
    return file.getvalue()


def options(output_format: OutputFormat, compression: int) -> dict[str, Any]:
    """Pillow's. WebP of 100 is not lossless: a step of one on this scale would make files several times larger and ten
    times slower to write; who wants no loss asks for PNG."""
    match output_format:
        case "png":
            return {"compress_level": PNG_LEVEL, "compress_type": PNG_HUFFMAN_ONLY}
        case "jpeg":
            subsampling = "4:4:4" if compression >= FULL_COLOUR_COMPRESSION else "4:2:0"
            return {"quality": min(compression, MAX_JPEG_QUALITY), "subsampling": subsampling}
        case "webp":
            return {"quality": compression}
