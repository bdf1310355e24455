"""The image and the mask of a request: from the bytes of two files to pixels of the size that is drawn.

Knows pictures and a model's limits; knows no wire format and no process. Blocking: pictures are decoded.
Invariant: the mask was as large as the image, is placed as the image is, and leaves something to change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL.Image import Image

from server.core import errors
from server.core.model_entry import Limits
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


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """The size to draw; RGB of that size, row by row; and one byte a pixel, 255 where it may change."""

    size: Size
    image: bytes
    mask: bytes | None


@dataclass(frozen=True, slots=True)
class FittedImage:
    """What a mask has to know of its image, and the image: `own_size` before it was fitted, `size` and RGB after."""

    own_size: Size
    size: Size
    pixels: bytes


def fit(image: bytes, mask: bytes | None, asked_size: Size | None, limits: Limits) -> ImageInputs:
    """Without an asked size it is the image's own, made to fit the limits. Raises SafelightError."""
    fitted = fit_image(image, asked_size, limits)
    placed = None if mask is None else fit_mask(mask, fitted.own_size, fitted.size)
    return ImageInputs(fitted.size, fitted.pixels, placed)


def fit_image(content: bytes, asked_size: Size | None, limits: Limits, param: str = "image") -> FittedImage:
    """param: whose picture it is. Raises SafelightError."""
    image = _decoded(param, content, decode_image)
    own_size = size_of(image)
    _check_sides(param, own_size, limits)
    size = asked_size or limits.nearest(own_size)
    return FittedImage(own_size, size, cover_image(image, size))


def fit_mask(content: bytes, image_size: Size, size: Size) -> bytes:
    """image_size: what the image had before it was fitted to `size`. Raises SafelightError."""
    mask = _decoded("mask", content, decode_mask)
    if size_of(mask) != image_size:
        raise refusal("mask", f"it has {size_of(mask)} pixels, and must have {image_size} as the image has")
    pixels = cover_mask(mask, size)
    if MAY_CHANGE not in pixels:
        reason = (
            f"nothing may change in the part that is drawn ({size}, the middle of the image); white may change, or "
            "what is transparent where the mask has transparency"
        )
        raise refusal("mask", reason)
    return pixels


def refusal(param: str, reason: str) -> errors.SafelightError:
    """The reason says of the file or of its text, as "it", what is wrong; no full stop."""
    return errors.invalid_parameter(param, f"Invalid value for '{param}': {reason}.")


def beyond_limits(param: str) -> errors.SafelightError:
    return refusal(param, "the file could not be decoded within limits of time and memory")


def _decoded(param: str, content: bytes, decode: Callable[[bytes], Image]) -> Image:
    try:
        return decode(content)
    except UnusablePicture as problem:
        raise refusal(param, f"the file {problem.reason}") from None


def _check_sides(param: str, size: Size, limits: Limits) -> None:
    if min(size.width_px, size.height_px) < limits.min_side_px:
        reason = f"it has {size} pixels, and each side must have at least {limits.min_side_px}"
        raise refusal(param, reason)
