"""What each kind of model upstream can do, as data: the one place that a request is judged by before it is sent.

Knows forms, sizes and limits; knows no wire and no requests.
Sources: OpenAI's API reference of November 2026 and its SDK 3.52 for the GPT image and DALL-E models; AWS's user guide,
"Amazon Titan Image Generator models" and "Stability AI models", for Bedrock's.
Invariant: what stands here as taken is sent; what does not is refused, or named as ignored.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from server.core.model_entry import Limits, parse_size
from server.core.providers import Form, RemoteKind, RemoteModel, form_of
from server.core.request import MaskColours, Size

# text: from a prompt alone. image: from a picture and a prompt. mask: where a mask says. variation: from a picture
# alone.
Task = Literal["text", "image", "mask", "variation"]
GPT_IMAGE_VERSION = re.compile(r"gpt-image-([1-9][0-9]?)(?:\.([0-9]{1,2}))?(?![0-9.])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Canvas:
    """What a model draws that has no list of sizes. max_ratio: the long side over the short one, a whole number."""

    side_multiple_px: int
    max_side_px: int
    min_pixels: int
    max_pixels: int
    max_ratio: int

    def holds(self, size: Size) -> bool:
        short_px, long_px = sorted((size.width_px, size.height_px))
        return (
            short_px > 0
            and short_px % self.side_multiple_px == long_px % self.side_multiple_px == 0
            and long_px <= min(self.max_side_px, self.max_ratio * short_px)
            and self.min_pixels <= short_px * long_px <= self.max_pixels
        )

    def nearest(self, size: Size) -> Size:
        """A size that it holds, in about this shape: little more than what covers this one, or the largest there is."""
        short_px, long_px = (float(side) for side in sorted((size.width_px, size.height_px)))
        short_px = max(short_px, long_px / self.max_ratio)
        grown = max(1.0, math.sqrt(self.min_pixels / (short_px * long_px)))
        scale = min(grown, self.max_side_px / long_px, math.sqrt(self.max_pixels / (short_px * long_px)))
        pairs = itertools.product(self._around(short_px * scale), self._around(long_px * scale))
        held = [one for one in itertools.starmap(Size, pairs) if self.holds(one)]
        best = min(held, key=lambda one: _excess(one, short_px, long_px))
        return best if size.width_px <= size.height_px else Size(best.height_px, best.width_px)

    def _around(self, side_px: float) -> tuple[int, int]:
        """The multiples below and above. A side that is one already, to the last bits of its reckoning, is both."""
        multiples = side_px / self.side_multiple_px
        return (
            math.floor(multiples + 1e-6) * self.side_multiple_px,
            math.ceil(multiples - 1e-6) * self.side_multiple_px,
        )


def _excess(offered: Size, short_px: float, long_px: float) -> tuple[bool, float, int]:
    """How badly an upright size stands for a wanted one: too small is worst, then its shape counts, then its pixels."""
    is_short = offered.width_px < math.floor(short_px) or offered.height_px < math.floor(long_px)
    ratios = sorted((offered.width_px * long_px, offered.height_px * short_px))
    pixels = offered.width_px * offered.height_px
    return is_short, round(ratios[1] / ratios[0], 3), -pixels if is_short else pixels


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One form's, or one model's.

    sizes: all that it draws; canvas: what it draws where it has no such list. Where `fits_sizes`, any other size
    within `limits` is drawn in the nearest of them and resized. limits: what may be asked for; without sizes and a
    canvas, what it draws. default_size: where a request names none. takes: those of our parameters that reach it.
    max_count: pictures in one call. chooses_quality: whether it draws as well as it sees fit where it is told nothing.
    seed_limit: seeds below it. max_image_bytes, max_mask_bytes: of the files to start from.
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
    canvas: Canvas | None = None
    chooses_quality: bool = False
    seed_limit: int = 0
    guidance_range: tuple[float, float] | None = None
    mask_colours: MaskColours = "alpha_only"
    max_image_bytes: int = 50_000_000
    max_mask_bytes: int = 50_000_000

    def drawn_size(self, size: Size) -> Size | None:
        """The size to ask for where `size` is wanted; None where it cannot be had.

        Of the sizes the nearest shape counts, and among those of a shape the one with the least pixels that are still
        enough, else the largest.
        """
        if self._draws(size):
            return size
        if not self.fits_sizes or not self.limits.allows(size):
            return None
        if self.sizes:
            return min(self.sizes, key=lambda one: _distance(one, size))
        return None if self.canvas is None else self.canvas.nearest(size)

    def _draws(self, size: Size) -> bool:
        if self.sizes:
            return size in self.sizes
        return self.limits.allows(size) if self.canvas is None else self.canvas.holds(size)


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
# Parts of the names of those that start from a picture, too.
STABILITY_WITH_IMAGES = ("stable-image-ultra", "sd3-5-large")
_FITTED = Limits(min_side_px=64, max_side_px=2048, side_multiple_px=8, max_pixels=2048 * 2048)
# The SDK's words on `size`; the pixels are those of 2.5 and 2.6, which gpt-image-2 is taken to share.
_GPT_CANVAS = Canvas(side_multiple_px=16, max_side_px=3840, min_pixels=655_360, max_pixels=8_294_400, max_ratio=3)
_GPT_SIZES = _sizes("1024x1024", "1536x1024", "1024x1536")

CAPABILITIES: dict[Form, Capabilities] = {
    "gpt-image": Capabilities(
        tasks=frozenset({"text", "image", "mask"}),
        sizes=(),
        limits=Limits(min_side_px=64, max_side_px=3840, side_multiple_px=8, max_pixels=8_294_400),
        default_size=_SQUARE,
        takes=_OF_GPT,
        max_count=10,
        max_prompt_characters=32_000,
        fits_sizes=True,
        canvas=_GPT_CANVAS,
        chooses_quality=True,
        max_mask_bytes=4_000_000,
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
        # Without a mask it changes what is transparent in a picture, and ours are not.
        tasks=frozenset({"text", "mask", "variation"}),
        sizes=_sizes("256x256", "512x512", "1024x1024"),
        limits=_FITTED,
        default_size=_SQUARE,
        takes=frozenset(),
        max_count=10,
        mask_colours="alpha",
        max_prompt_characters=1000,
        max_image_bytes=4_000_000,
        max_mask_bytes=4_000_000,
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


def gpt_image_version(model: str) -> tuple[int, int] | None:
    """(2, 5) of gpt-image-2.5-flare, or of a gateway's openai/gpt-image-2.5-flare. None of a name that tells none: it
    is taken for gpt-image-2's."""
    name = model.rpartition("/")[2]
    if name.startswith("chatgpt-image"):
        return 1, 5
    found = GPT_IMAGE_VERSION.match(name)
    return None if found is None else (int(found[1]), int(found[2] or 0))


def capabilities_of(model: str, entry: RemoteModel, kind: RemoteKind) -> Capabilities:
    """What one model of models.yaml can do: its form's row, as far as its name and its entry say more.

    Raises ValueError where the entry names a size that the model cannot draw, or no size.
    """
    form = form_of(model, entry, kind)
    if form is None:
        raise ValueError(f"nothing says how to speak to the model '{model}': give it a form")
    row = row_of(form, model)
    return _restricted(row, model, entry.sizes) if entry.sizes else row


def row_of(form: Form, model: str) -> Capabilities:
    """The form's row, as far as the model's name says more."""
    row = CAPABILITIES[form]
    if form == "gpt-image":
        return _of_gpt_image(row, model)
    return _of_stability(row, model) if form == "stability" else row


def _of_stability(row: Capabilities, model: str) -> Capabilities:
    """A name that nobody knows is taken to draw from words alone, as Core does."""
    if any(part in model for part in STABILITY_WITH_IMAGES):
        return row
    return replace(row, tasks=row.tasks - {"image"}, takes=row.takes - {"strength"})


def _of_gpt_image(row: Capabilities, model: str) -> Capabilities:
    """The models before gpt-image-2 know three sizes; from it on, the fidelity to an image is not to be asked for."""
    version = gpt_image_version(model)
    if version is not None and version < (2, 0):
        return replace(row, sizes=_GPT_SIZES, limits=_FITTED, canvas=None)
    return replace(row, takes=row.takes - {"input_fidelity"})


def _restricted(row: Capabilities, model: str, names: tuple[str, ...]) -> Capabilities:
    """With the operator's sizes alone; any other is drawn in the nearest of them."""
    sizes = _sizes(*names)
    for size in sizes:
        if row.drawn_size(size) != size:
            raise ValueError(f"the model '{model}' cannot draw {size}")
    default = row.default_size if row.default_size in sizes else sizes[0]
    return replace(row, sizes=sizes, canvas=None, fits_sizes=True, default_size=default)
