"""What a caller asked for, after the only parse, and what was drawn for it. Frozen: nothing here ever changes.

Knows the vocabulary of pictures; knows no wire format and no process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipelines.messages import Control, FamilyName, Lora, OutputFormat, SamplerName

ResponseFormat = Literal["url", "b64_json"]
Operation = Literal["generation", "edit", "variation"]
# The words for quality that strict clients accept in an answer.
EchoedQuality = Literal["low", "medium", "high", "xhigh", "max"]
Quality = Literal["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto"]
Style = Literal["natural", "vivid"]
Fidelity = Literal["high", "low"]
Background = Literal["opaque", "auto", "transparent"]
Moderation = Literal["low", "auto"]
# How a mask says "here" to a provider: a transparent pixel, of the image's own colours (DALL-E 2, where the mask is the
# picture) or of none (GPT image models), a black one (Titan), or a white one (Stability).
MaskColours = Literal["alpha", "alpha_only", "black", "white"]
SEED_LIMIT = 2**64


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width_px: int
    height_px: int

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """A request for `count` pictures, as far as it does not matter who draws them: complete, and every value in range.

    model: what draws, as its backend names it. prompt: what is drawn; sent_prompt: what was sent, before a style. size:
    of the pictures in the answer. quality: as it may be told in the answer. price_usd: of one picture, before it is
    drawn. partial_images: how often an unfinished picture is shown. image: the picture to start from, and mask: where
    it may change, both as whoever draws takes them.
    """

    operation: Operation
    model: str
    prompt: str
    sent_prompt: str
    negative_prompt: str | None
    count: int
    size: Size
    response_format: ResponseFormat
    output_format: OutputFormat = "png"
    output_compression: int = 100
    quality: EchoedQuality | None = None
    price_usd: float = 0.0
    partial_images: int = 0
    image: bytes | None = field(default=None, repr=False)
    mask: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRequest(ImageRequest):
    """One that a model of our own draws: every default is filled in.

    family: of the model. image: RGB of `size`, row by row. mask: one byte a pixel of it, 255 where it may change.
    strength: in (0, 1], how far the image may be left; 1 without an image. loras: in the order in which they were
    named. control: a hint beside the prompt, whose pixels come last of all. is_checked: whether the worker's safety
    checker sees the picture before anybody else does.
    """

    family: FamilyName
    steps: int
    guidance_scale: float
    sampler: SamplerName
    seed: int
    strength: float = 1.0
    loras: tuple[Lora, ...] = ()
    control: Control | None = field(default=None, repr=False)
    is_checked: bool = False

    def seed_of(self, index: int) -> int:
        """Picture i is drawn with seed + i, so that each can be drawn again alone. Wraps at 2**64."""
        return (self.seed + index) % SEED_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRequest(ImageRequest):
    """One that a provider draws. None leaves a choice to it; what its model has no words for is None too.

    backend: which of the operator's providers. drawn_size: the size that it is asked for, where it knows no `size`;
    what it draws is brought to `size`. image: a PNG file of `drawn_size`. mask: a PNG file of that size, in the colours
    that the provider reads.
    """

    backend: str
    drawn_size: Size
    asked_quality: Quality | None = None
    style: Style | None = None
    background: Background | None = None
    input_fidelity: Fidelity | None = None
    moderation: Moderation | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture: the encoded file, its seed where it is known, what it cost, the seconds that a device of ours
    worked on it, and the prompt that a provider drew instead of ours. check_ms: how long the worker's safety checker
    looked at it, if it did; is_refused: what it found must not leave, and file is empty. queue_seconds: how long it
    waited for its device, where that is known."""

    file: bytes
    seed: int | None
    cost_usd: float = 0.0
    device_seconds: float = 0.0
    revised_prompt: str | None = None
    check_ms: int | None = None
    is_refused: bool = False
    queue_seconds: float | None = None
