"""The image and the mask of a request: from base64 text to pixels of the size that is drawn.

Knows the wire's two forms and a model's limits; fetches nothing and reads no file. Blocking: pictures are decoded.
Invariant: the mask was as large as the image, is placed as the image is, and leaves something to change.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL.Image import Image

from server.core import errors
from server.core.catalogue import Limits
from server.core.request import Size
from server.images.decode import (
    MAY_CHANGE,
    UnusablePicture,
    cover_image,
    cover_mask,
    decode_image,
    decode_mask,
    size_of,
)

MAX_FILE_BYTES = 50 * 1024 * 1024
MAX_BASE64_CHARACTERS = MAX_FILE_BYTES * 4 // 3 + 4
DATA_HEADER = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,", re.IGNORECASE | re.ASCII)
# A colon that ends the name of a scheme; base64 has none. Longer names do not exist.
SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]{0,30}:", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """The size to draw; RGB of that size, row by row; and one byte a pixel, 255 where it may change."""

    size: Size
    image: bytes
    mask: bytes | None


def read_inputs(image_text: str, mask_text: str | None, asked_size: Size | None, limits: Limits) -> ImageInputs:
    """Without an asked size it is the image's own, made to fit the limits. Raises SafelightError."""
    image = _decoded("image", image_text, decode_image)
    own_size = size_of(image)
    _check_sides(own_size, limits)
    size = asked_size or limits.nearest(own_size)
    pixels = cover_image(image, size)
    del image  # up to a quarter of a gigabyte, before the mask takes as much
    return ImageInputs(size, pixels, None if mask_text is None else _mask(mask_text, own_size, size))


def content_of(param: str, text: str) -> bytes:
    """The file that a parameter carries. Raises SafelightError."""
    if len(text) > MAX_BASE64_CHARACTERS:
        raise _refusal(param, f"a file may have at most {MAX_FILE_BYTES} bytes")
    try:
        return _strictly_decoded(_base64_part(param, text))
    except ValueError:
        reason = "it is not base64 of the standard alphabet (A-Z a-z 0-9 + /) with its padding and without line breaks"
        raise _refusal(param, reason) from None


def _strictly_decoded(text: str) -> bytes:
    """Raises ValueError. Python's own strict mode overlooks padding at the end that is too long."""
    if len(text) % 4 or text.endswith("==="):
        raise ValueError("padding")
    return base64.b64decode(text, validate=True)


def _base64_part(param: str, text: str) -> str:
    header = DATA_HEADER.match(text)
    if header is not None:
        return text[header.end() :]
    scheme = SCHEME.match(text)
    if scheme is None:
        return text
    if scheme[0].strip().lower() == "data:":
        begin = "'data:image/png;base64,', 'data:image/jpeg;base64,' or 'data:image/webp;base64,'"
        raise _refusal(param, f"a data URL must begin with {begin}")
    raise _refusal(param, "URLs are not fetched by this server; send the file itself, as base64 or as a data URL")


def _decoded(param: str, text: str, decode: Callable[[bytes], Image]) -> Image:
    try:
        return decode(content_of(param, text))
    except UnusablePicture as problem:
        raise _refusal(param, f"the file {problem.reason}") from None


def _check_sides(size: Size, limits: Limits) -> None:
    if min(size.width_px, size.height_px) < limits.min_side_px:
        reason = f"it has {size} pixels, and each side must have at least {limits.min_side_px}"
        raise _refusal("image", reason)


def _mask(text: str, image_size: Size, size: Size) -> bytes:
    mask = _decoded("mask", text, decode_mask)
    if size_of(mask) != image_size:
        raise _refusal("mask", f"it has {size_of(mask)} pixels, and must have {image_size} as the image has")
    pixels = cover_mask(mask, size)
    if MAY_CHANGE not in pixels:
        reason = (
            f"nothing may change in the part that is drawn ({size}, the middle of the image); white may change, or "
            "what is transparent where the mask has transparency"
        )
        raise _refusal("mask", reason)
    return pixels


def _refusal(param: str, reason: str) -> errors.SafelightError:
    return errors.invalid_parameter(param, f"Invalid value for '{param}': {reason}.")
