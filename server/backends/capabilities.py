"""What each kind of model upstream can do, as data: the one place that a request is judged by before it is sent.

Knows forms, sizes and limits; knows no wire and no requests.
Sources: OpenAI's API reference of November 2026 and its SDK 3.52 for the GPT image and DALL-E models; AWS's user guide,
"Amazon Titan Image Generator models" and "Stability AI models", for Bedrock's.
Invariant: what stands here as taken is sent; what does not is refused, or named as ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.core.catalogue import Limits, parse_size
from server.core.providers import Form
from server.core.request import MaskColours, Size

# text: from a prompt alone. image: from a picture and a prompt. mask: where a mask says. variation: from a picture
# alone.
Task = Literal["text", "image", "mask", "variation"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One form's.

    sizes: all that it draws; where `fits_sizes`, any other within `limits` is drawn in the nearest of these shapes and
    resized. limits: what may be asked for; where `sizes` is empty, what it draws. default_size: where a request names
    none. takes: those of our parameters that reach it. max_count: pictures in one call. seed_limit: seeds below it.
    """

    tasks: frozenset[Task]
    sizes: tuple[Size, ...]
    limits: Limits
    default_size: Size
    takes: frozenset[str]
    max_count: int
    max_prompt_characters: int
    max_negative_characters: int = 0
    fits_sizes: bool = False
    seed_limit: int = 0
    guidance_range: tuple[float, float] | None = None
    mask_colours: MaskColours = "alpha"
    max_image_bytes: int = 50_000_000

    def drawn_size(self, size: Size) -> Size | None:
        """The size to ask for where `size` is wanted; None where it cannot be had.

        Of the sizes the nearest shape counts, and among those of a shape the one with the least pixels that are still
        enough, else the largest.
        """
        if not self.sizes:
            return size if self.limits.allows(size) else None
        if size in self.sizes:
            return size
        return min(self.sizes, key=lambda one: _distance(one, size)) if self.fits_sizes else None


def _distance(offered: Size, wanted: Size) -> tuple[float, bool, int]:
    """How badly an offered size stands for a wanted one. Shapes count as their long side over their short one does,
    whichever lies."""
    ratios = sorted((offered.width_px * wanted.height_px, wanted.width_px * offered.height_px))
    pixels, enough = offered.width_px * offered.height_px, wanted.width_px * wanted.height_px
    is_short = pixels < enough
    return round(ratios[1] / ratios[0], 3), is_short, -pixels if is_short else pixels


def _sizes(*texts: str) -> tuple[Size, ...]:
    return tuple(map(parse_size, texts))


_ANY = frozenset[Task](("text", "image", "mask", "variation"))
_SQUARE = Size(1024, 1024)
_OF_GPT = frozenset({"quality", "background", "input_fidelity", "moderation"})
_OF_SAFELIGHT = _OF_GPT | {
    "style",
    "seed",
    "negative_prompt",
    "steps",
    "guidance_scale",
    "sampler",
    "strength",
}
# Permitted pairs of Titan v1 and v2, as AWS's table lists them.
TITAN_SIZES = _sizes(
    *("1024x1024", "768x768", "512x512", "768x1152", "384x576", "1152x768", "576x384", "768x1280", "384x640"),
    *("1280x768", "640x384", "896x1152", "448x576", "1152x896", "576x448", "768x1408", "384x704", "1408x768"),
    *("704x384", "640x1408", "320x704", "1408x640", "704x320", "1152x640", "1173x640"),
)
# Stability's models take a shape, not a size; these are about what they draw for each, a megapixel.
STABILITY_SIZES = {
    "1:1": Size(1024, 1024),
    "16:9": Size(1344, 768),
    "21:9": Size(1536, 640),
    "2:3": Size(832, 1216),
    "3:2": Size(1216, 832),
    "4:5": Size(896, 1088),
    "5:4": Size(1088, 896),
    "9:16": Size(768, 1344),
    "9:21": Size(640, 1536),
}
_FITTED = Limits(min_side_px=64, max_side_px=2048, side_multiple_px=8, max_pixels=2048 * 2048)

CAPABILITIES: dict[Form, Capabilities] = {
    "gpt-image": Capabilities(
        tasks=frozenset({"text", "image", "mask"}),
        sizes=(),
        limits=Limits(min_side_px=512, max_side_px=3840, side_multiple_px=16, max_pixels=8_294_400),
        default_size=_SQUARE,
        takes=_OF_GPT,
        max_count=10,
        max_prompt_characters=32_000,
    ),
    "dall-e-3": Capabilities(
        tasks=frozenset({"text"}),
        sizes=_sizes("1024x1024", "1792x1024", "1024x1792"),
        limits=_FITTED,
        default_size=_SQUARE,
        takes=frozenset({"quality", "style"}),
        max_count=1,
        max_prompt_characters=4000,
    ),
    "dall-e-2": Capabilities(
        tasks=_ANY,
        sizes=_sizes("256x256", "512x512", "1024x1024"),
        limits=_FITTED,
        default_size=_SQUARE,
        takes=frozenset(),
        max_count=10,
        max_prompt_characters=1000,
        max_image_bytes=4_000_000,
    ),
    "compatible": Capabilities(
        tasks=_ANY,
        sizes=(),
        limits=Limits(),
        default_size=_SQUARE,
        takes=_OF_SAFELIGHT,
        max_count=10,
        max_prompt_characters=32_000,
        max_negative_characters=32_000,
        seed_limit=2**64,
        guidance_range=(0.0, 30.0),
    ),
    "titan": Capabilities(
        tasks=_ANY,
        sizes=TITAN_SIZES,
        limits=_FITTED,
        default_size=_SQUARE,
        takes=frozenset({"quality", "negative_prompt", "seed", "guidance_scale", "strength"}),
        max_count=5,
        max_prompt_characters=512,
        max_negative_characters=512,
        fits_sizes=True,
        seed_limit=2_147_483_647,
        guidance_range=(1.1, 10.0),
        mask_colours="black",
        max_image_bytes=5_000_000,
    ),
    "stability": Capabilities(
        tasks=frozenset({"text", "image"}),
        sizes=tuple(STABILITY_SIZES.values()),
        limits=_FITTED,
        default_size=_SQUARE,
        takes=frozenset({"negative_prompt", "seed", "strength"}),
        max_count=1,
        max_prompt_characters=10_000,
        max_negative_characters=10_000,
        fits_sizes=True,
        seed_limit=4_294_967_295,
        mask_colours="white",
    ),
}
