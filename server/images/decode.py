"""Decodes pictures from outside: bounded, upright, eight bits a channel, without metadata, in the size that is wanted.

Knows bytes and Pillow; knows no HTTP, no base64 and no model. Blocking; call it off the event loop.
Invariant: no pixel is decoded before the declared size was judged, and bytes that are no whole picture give
UnusablePicture and nothing else.
"""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageOps

from server.core.request import Size

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000
# A progressive JPEG draws the whole picture once a scan; encoders make about ten, attackers thousands in a small file.
MAX_JPEG_SCANS, JPEG_SCAN = 100, b"\xff\xda"
# EXIF's tag for how the camera was held, and what brings each of its values upright.
ORIENTATION_TAG = 0x0112
UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAY_CHANGE = 255
# Tables for Image.point: what each of 256 values becomes.
WHERE_LIGHT = [0] * 128 + [MAY_CHANGE] * 128
WHERE_TRANSPARENT = [MAY_CHANGE] * 128 + [0] * 128


class UnusablePicture(Exception):
    """No picture that can be worked with; `reason` follows "the file" in a sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def size_of(image: Image.Image) -> Size:
    return Size(image.width, image.height)


def decode_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A whole picture in RGB or RGBA, upright. Raises UnusablePicture.

    Grey, palette and CMYK become RGB; of 16 bits the upper 8 are kept. Colour profiles and other metadata are dropped.
    """
    _judge(content, max_pixels)
    image = _open(content, max_pixels)
    try:
        image.load()
        return _bare(_upright(image))
    except MemoryError:
        raise
    except Exception:  # Pillow raises whatever its decoders stumble over
        raise UnusablePicture("is damaged or incomplete") from None


def decode_mask(content: bytes) -> Image.Image:
    """One channel, upright: MAY_CHANGE where the picture may change, else 0. Raises UnusablePicture.

    Where any of it is transparent, the transparent half of the scale may change (OpenAI's rule); else the light half.
    """
    image = decode_image(content)
    if image.mode == "RGBA":
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha.point(WHERE_TRANSPARENT)
    return image.convert("L").point(WHERE_LIGHT)


def cover_image(image: Image.Image, size: Size) -> bytes:
    """RGB, row by row: scaled to cover the size, cropped to its middle, laid on white where it is transparent."""
    return on_white(covering(image, size)).tobytes()


def cover_mask(mask: Image.Image, size: Size) -> bytes:
    """One byte a pixel, placed as `cover_image` places the picture, with nothing between yes and no."""
    return covering(mask, size, Image.Resampling.NEAREST).tobytes()


def covering(image: Image.Image, size: Size, resampling: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """Scaled until it covers the size, then cropped to its middle; a picture of that size already is left as it is."""
    return ImageOps.fit(image, (size.width_px, size.height_px), resampling)


def on_white(image: Image.Image) -> Image.Image:
    """RGB, of RGB or RGBA."""
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _judge(content: bytes, max_pixels: int) -> None:
    """Refuse by what the file declares, before anything is decoded."""
    image = _open(content, max_pixels)
    if image.width * image.height > max_pixels:
        raise _too_large(max_pixels)
    if getattr(image, "n_frames", 1) > 1:
        raise UnusablePicture("holds more than one frame; send a single picture")
    if image.format == "JPEG" and content.count(JPEG_SCAN) > MAX_JPEG_SCANS:
        raise UnusablePicture(f"is a JPEG of more than {MAX_JPEG_SCANS} scans")
    try:
        image.verify()  # the checksums of a PNG; Pillow's decoder overlooks a missing end
    except MemoryError:
        raise
    except Exception:
        raise UnusablePicture("is damaged or incomplete") from None


def _open(content: bytes, max_pixels: int) -> Image.Image:
    """Reads the header only."""
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(max_pixels) from None
    except MemoryError:
        raise
    except Exception:
        raise UnusablePicture("is no PNG, JPEG or WebP picture that can be read") from None


def _too_large(max_pixels: int) -> UnusablePicture:
    return UnusablePicture(f"holds more than {max_pixels // 1_000_000} megapixels")


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    image = _plain(_eight_bits(image))
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Data that is no EXIF turns nothing: viewers show such a picture as it is."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG))
    except Exception:
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """The upper byte of 16-bit grey, with its transparent value; Pillow's own conversion clips at 255."""
    if image.mode != "I;16":
        return image
    narrow = Image.frombytes("L", image.size, image.tobytes()[1::2])
    if "transparency" in image.info:
        narrow.info["transparency"] = image.info["transparency"] >> 8
    return narrow


def _plain(image: Image.Image) -> Image.Image:
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode and "transparency" not in image.info else image.convert(mode)


def _bare(image: Image.Image) -> Image.Image:
    """Without what Pillow would write into the next file: colour profiles, comments, texts."""
    image.info = {}
    return image
