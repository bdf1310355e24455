"""What a caller asked for, after the only parse, and what was drawn for it. Frozen: nothing here ever changes.

Knows the vocabulary of pictures; knows no wire format and no process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipelines.messages import Control, Lora, OutputFormat, SamplerName

ResponseFormat = Literal["url", "b64_json"]
Operation = Literal["generation", "edit", "variation"]
# The words for quality that strict clients accept in an answer.
EchoedQuality = Literal["low", "medium", "high", "xhigh", "max"]
SEED_LIMIT = 2**64


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width_px: int
    height_px: int

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}"


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A request for `count` pictures, complete: every default is filled in and every value is in range.

    prompt: what is drawn; sent_prompt: what was sent, before a style. quality: as it may be told in the answer.
    price_usd: of one picture. partial_images: how often an unfinished picture is shown. image: the picture to start
    from, RGB of `size`, row by row. mask: one byte a pixel of it, 255 where it may change. strength: in (0, 1], how
    far the image may be left; without an image it means nothing. loras: in the order in which they were named.
    control: a hint beside the prompt, whose pixels come last of all.
    """

    operation: Operation
    model: str
    prompt: str
    sent_prompt: str
    negative_prompt: str | None
    count: int
    size: Size
    steps: int
    guidance_scale: float
    sampler: SamplerName
    seed: int
    response_format: ResponseFormat
    output_format: OutputFormat = "png"
    output_compression: int = 100
    quality: EchoedQuality | None = None
    price_usd: float = 0.0
    partial_images: int = 0
    image: bytes | None = field(default=None, repr=False)
    mask: bytes | None = field(default=None, repr=False)
    strength: float = 1.0
    loras: tuple[Lora, ...] = ()
    control: Control | None = field(default=None, repr=False)

    def seed_of(self, index: int) -> int:
        """Picture i is drawn with seed + i, so that each can be drawn again alone. Wraps at 2**64."""
        return (self.seed + index) % SEED_LIMIT


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture: the encoded file, its seed, and the seconds that the device worked on it."""

    file: bytes
    seed: int
    device_seconds: float
