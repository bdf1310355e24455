"""Packs a caller's fitted image and mask as the files that a provider is sent: in its size, its colours, its limit.

Knows pixels and Pillow; knows no provider by name and no wire. Blocking; call it in the decoder process.
Invariant: the mask lies on the image pixel by pixel, says yes or no everywhere and yes somewhere; no file is longer
than allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL import Image

from pipelines.picture_file import write
from server.core.request import MaskColours, Size
from server.images.decode import MAY_CHANGE, UnusablePicture, cover_mask, covering
from server.images.inputs import ImageInputs

# What else is tried with a picture that is too long as our writer writes it: zlib's hardest level with Pillow's own
# strategy, then these qualities of JPEG.
SMALLEST_PNG = {"compress_level": 9, "compress_type": -1}
JPEG_QUALITIES = (95, 85, 75)
TOO_LONG = "cannot be written in as few bytes as are allowed"
NOTHING_MAY_CHANGE = "leaves nothing to change in the part that is drawn"
# Tables for Image.point: what a mask's bytes become.
TRANSPARENT_INSIDE = BLACK_INSIDE = [255] * MAY_CHANGE + [0]
WHITE_INSIDE = [0] * MAY_CHANGE + [255]


@dataclass(frozen=True, slots=True)
class Packed:
    """Files of one size. image: PNG; JPEG only where no PNG was short enough and the colours are `black` or `white`.
    mask: PNG."""

    image: bytes
    mask: bytes | None


def pack(inputs: ImageInputs, drawn_size: Size, colours: MaskColours, max_bytes: int) -> Packed:
    """Raises UnusablePicture where a file would be longer than max_bytes, or the mask leaves nothing to change.

    Of another size than drawn_size, the image is scaled (Lanczos) until it covers that and cropped to its middle, and
    the mask is placed alike with nothing between yes and no. Where the image may change, the mask is

    alpha: transparent, elsewhere opaque, in RGBA with the image's own colours everywhere;
    alpha_only: the same in black, which takes far fewer bytes;
    black: black, elsewhere white, in RGB;
    white: white, elsewhere black, in RGB.
    """
    own_size = (inputs.size.width_px, inputs.size.height_px)
    image = covering(Image.frombytes("RGB", own_size, inputs.image), drawn_size)
    # With `alpha` the mask is the image once more, and must be of its format.
    image_file = _short_enough(_files(image, may_be_jpeg=colours not in ("alpha", "alpha_only")), max_bytes)
    if inputs.mask is None:
        return Packed(image_file, None)
    mask = _placed(Image.frombytes("L", own_size, inputs.mask), drawn_size)
    return Packed(image_file, _short_enough(_mask_files(mask, image, colours), max_bytes))


def _placed(mask: Image.Image, size: Size) -> Image.Image:
    pixels = cover_mask(mask, size)
    if MAY_CHANGE not in pixels:
        raise UnusablePicture(NOTHING_MAY_CHANGE)
    return Image.frombytes("L", (size.width_px, size.height_px), pixels)


def _mask_files(mask: Image.Image, image: Image.Image, colours: MaskColours) -> Iterator[bytes]:
    if colours == "alpha":
        return _files(Image.merge("RGBA", (*image.split(), mask.point(TRANSPARENT_INSIDE))), may_be_jpeg=False)
    if colours == "alpha_only":
        flat = Image.new("L", mask.size)
        clear = Image.merge("RGBA", (flat, flat, flat, mask.point(TRANSPARENT_INSIDE)))
        return iter([write(clear, "png", **SMALLEST_PNG)])
    two_colours = mask.point(BLACK_INSIDE if colours == "black" else WHITE_INSIDE).convert("RGB")
    # Huffman codes spend a bit on every byte; the search for what repeats is as quick here, and the file far smaller.
    return iter([write(two_colours, "png", **SMALLEST_PNG)])


def _files(image: Image.Image, may_be_jpeg: bool) -> Iterator[bytes]:
    """Best first; each is written when it is asked for."""
    yield write(image, "png")
    yield write(image, "png", **SMALLEST_PNG)
    for quality in JPEG_QUALITIES if may_be_jpeg else ():
        yield write(image, "jpeg", quality)


def _short_enough(files: Iterable[bytes], max_bytes: int) -> bytes:
    for file in files:
        if len(file) <= max_bytes:
            return file
    raise UnusablePicture(TOO_LONG)
