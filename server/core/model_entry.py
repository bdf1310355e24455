"""One model's entry: what it allows, what a request gets that does not say, and where its files are.

Knows the file's words for a model of ours; knows no other model and no names.
Invariant: an entry that exists is consistent in itself.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.messages import (
    MAX_LCM_STEPS,
    SAMPLERS_BY_FAMILY,
    Attention,
    Compile,
    ControlKind,
    DtypeName,
    FamilyName,
    Fit,
    Loading,
    SamplerName,
)
from server.core.hub import Hub
from server.core.request import Size
from server.core.strict import Strict

SIZE_PATTERN = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
NAMED_SIZES = ("256x256", "512x512", "1024x1024", "1024x1792", "1792x1024", "1024x1536", "1536x1024")
# An image, its mask and a hint are seven bytes a pixel, and have to fit into one frame to the worker.
MAX_PIXELS = 50_000_000
QualityName = Literal["low", "standard", "hd"]
StyleName = Literal["natural", "vivid"]


class Limits(Strict):
    """What a request may ask of a model. Sides in pixels."""

    min_side_px: int = Field(default=256, ge=8)
    max_side_px: int = Field(default=2048, le=16384)
    side_multiple_px: int = Field(default=8, ge=8)
    max_pixels: int = Field(default=2048 * 2048, ge=64, le=MAX_PIXELS)
    max_n: int = Field(default=10, ge=1, le=10)
    max_steps: int = Field(default=100, ge=1, le=1000)
    max_guidance_scale: float = Field(default=30.0, ge=1, allow_inf_nan=False)
    max_loras: int = Field(default=4, ge=0, le=32)
    max_lora_scale: float = Field(default=2.0, ge=0, le=100, allow_inf_nan=False)

    def allows(self, size: Size) -> bool:
        sides = (size.width_px, size.height_px)
        return (
            all(self.min_side_px <= side <= self.max_side_px and side % self.side_multiple_px == 0 for side in sides)
            and size.width_px * size.height_px <= self.max_pixels
        )

    def nearest(self, size: Size) -> Size:
        """The allowed size for a picture that has this one.

        It shrinks in its shape until its sides and its pixels are within the limits, and never grows. Then each side
        is cut to a multiple. A side that would fall below the least allowed one takes that, and the other gives way:
        so only a very long picture loses more of its shape than a part of one multiple.
        """
        short_px, long_px = sorted((size.width_px, size.height_px))
        shrunk_px = min(long_px, self.max_side_px, math.isqrt(self.max_pixels * long_px // short_px))
        short_px = max(self._cut(short_px * shrunk_px // long_px), self._least_side_px)
        long_px = max(self._cut(min(shrunk_px, self.max_pixels // short_px)), self._least_side_px)
        is_upright = size.width_px <= size.height_px
        return Size(short_px, long_px) if is_upright else Size(long_px, short_px)

    @property
    def _least_side_px(self) -> int:
        return -(-self.min_side_px // self.side_multiple_px) * self.side_multiple_px

    def _cut(self, side_px: int) -> int:
        return side_px // self.side_multiple_px * self.side_multiple_px

    def describe_sizes(self) -> str:
        """What is allowed, for error messages."""
        named = [name for name in NAMED_SIZES if self.allows(parse_size(name))]
        quoted = ", ".join(f"'{name}'" for name in [*named, "auto"])
        return (
            f"Supported values are: {quoted}, and any WIDTHxHEIGHT with sides from {self.min_side_px} to "
            f"{self.max_side_px} pixels, multiples of {self.side_multiple_px}, and at most {self.max_pixels} pixels."
        )


Strength = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Defaults(Strict):
    """What a request gets that does not say. guidance_scale of 1 or less draws without guidance. strength is for
    requests that start from an image, faithful_strength for those that ask for high fidelity to it, masked_strength
    for those with a mask (all of what may change is drawn anew), variation_strength for those that only ask for
    another one like it."""

    size: str = "1024x1024"
    steps: int = Field(default=30, ge=1)
    guidance_scale: Guidance = 5.0
    sampler: SamplerName = "checkpoint"
    strength: Strength = 0.8
    faithful_strength: Strength = 0.5
    masked_strength: Strength = 1.0
    variation_strength: Strength = 0.6

    @field_validator("size")
    @classmethod
    def _is_size(cls, value: str) -> str:
        parse_size(value)
        return value


class QualityPreset(Strict):
    """What takes the place of the defaults when a request asks for this quality."""

    steps: int | None = Field(default=None, ge=1)
    guidance_scale: Guidance | None = None
    sampler: SamplerName | None = None


class StylePreset(Strict):
    """What a style does to a request: {prompt} stands for the prompt that was sent."""

    prompt: str = "{prompt}"
    negative_prompt: str | None = None
    guidance_scale: Guidance | None = None

    @field_validator("prompt")
    @classmethod
    def _holds_the_prompt_once(cls, value: str) -> str:
        if value.count("{prompt}") != 1:
            raise ValueError("must hold {prompt} exactly once")
        return value


class Presets(Strict):
    """What `quality` and `style` mean for a model; what is absent has no effect there."""

    quality: dict[QualityName, QualityPreset] = Field(default_factory=dict)
    style: dict[StyleName, StylePreset] = Field(default_factory=dict)


PathText = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]


LoraName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class LoraEntry(Strict):
    """An adapter of a model. source: a .safetensors file; the one of this name in the model's loras_folder if absent.
    scale: where a request does not say. defaults: steps, guidance_scale and sampler, for adapters that draw in few
    steps; they win over the model's presets and defaults, and lose against the request's own."""

    source: PathText | None = None
    scale: float = Field(default=1.0, allow_inf_nan=False)
    description: str = ""
    defaults: QualityPreset = QualityPreset()


class ControlEntry(Strict):
    """A kind of hint that requests may bring. source: the folder of a diffusers ControlNet; absent where the checkpoint
    itself was made for the hint, as FLUX.1-Canny and -Depth."""

    source: PathText | None = None
    description: str = ""


class ModelEntry(Strict):
    """One model. All paths are relative to models.yaml.

    source: a diffusers folder, or a single .safetensors file in the community's names. hub: instead of a source, where
    `safelight models pull` fetches it from; it lies in the models folder then, under its id. rest: a diffusers folder
    for what the source does not hold, such as tokenizers. config: of weights in single files: the name of a published
    configuration, or a folder laid out like one, written with a slash. variant: which of a folder's weights, such as
    fp16. parts: component -> the file or folder that it comes from instead. loading: when it comes to the device, and
    whether it leaves: on_demand, at_start, keep or pin. dtype, fit, attention, compile: how it is held and computed,
    auto being what is best on the device. aliases: may hold * patterns. price_usd: of one picture, as it is told in
    `usage.cost`. loras: adapters that requests may name. loras_folder: every .safetensors file in it is one too, by its
    name; a folder is read once, when the server starts. lora_cache_bytes: how much the model keeps of adapters that are
    not in use. controls: the hints that requests may bring, canny and depth.
    """

    family: FamilyName
    source: PathText | None = None
    hub: Hub | None = None
    rest: PathText | None = None
    config: PathText | None = None
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,40}$")] | None = None
    parts: dict[str, PathText] = Field(default_factory=dict)
    loading: Loading = "on_demand"
    dtype: DtypeName | Literal["auto"] = "auto"
    fit: Fit | Literal["auto"] = "auto"
    attention: Attention | Literal["auto"] = "auto"
    compile: Compile = "off"
    description: str = ""
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    presets: Presets = Presets()
    price_usd: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    aliases: tuple[str, ...] = Field(default=(), strict=False)
    loras: dict[LoraName, LoraEntry] = Field(default_factory=dict)
    loras_folder: PathText | None = None
    lora_cache_bytes: int = Field(default=1024 * 1024 * 1024, ge=0)
    controls: dict[ControlKind, ControlEntry] = Field(default_factory=dict)

    @property
    def needs_control(self) -> bool:
        """Whether the checkpoint itself was made for a hint, and draws nothing without."""
        return self.family == "flux" and bool(self.controls)

    @model_validator(mode="after")
    def _controls_fit(self) -> ModelEntry:
        for kind, control in self.controls.items():
            if self.family == "flux" and control.source is not None:
                raise ValueError(
                    f"the control '{kind}' has a source: FLUX.1 models are made for a hint themselves, and have none"
                )
            if self.family != "flux" and control.source is None:
                raise ValueError(f"the control '{kind}' has no source: name the folder of its ControlNet")
        if self.family == "flux" and len(self.controls) > 1:
            raise ValueError("a FLUX.1 model is made for one kind of hint: name one under controls")
        return self

    @model_validator(mode="after")
    def _loras_fit(self) -> ModelEntry:
        for name, lora in self.loras.items():
            if lora.source is None and self.loras_folder is None:
                raise ValueError(f"the adapter '{name}' has neither a source nor a loras_folder to be found in")
            if abs(lora.scale) > self.limits.max_lora_scale:
                raise ValueError(f"the scale of the adapter '{name}' is beyond max_lora_scale")
            self._check_preset(f"adapter '{name}'", lora.defaults)
        return self

    @field_validator("source", "hub", mode="before")
    @classmethod
    def _says_something(cls, value: object) -> object:
        if value is None:
            raise ValueError("stands there without a value")
        return value

    @model_validator(mode="after")
    def _has_one_place(self) -> ModelEntry:
        if (self.source is None) == (self.hub is None):
            raise ValueError(
                "needs either source, a folder or file that is there, or hub, a repository that "
                "`safelight models pull` fetches"
            )
        return self

    @model_validator(mode="after")
    def _presets_within_limits(self) -> ModelEntry:
        for name, preset in self.presets.quality.items():
            self._check_preset(f"quality '{name}'", preset)
        if any((one.guidance_scale or 0) > self.limits.max_guidance_scale for one in self.presets.style.values()):
            raise ValueError("the guidance_scale of a preset is above max_guidance_scale")
        return self

    def _check_preset(self, place: str, preset: QualityPreset) -> None:
        if (preset.steps or 1) > self.limits.max_steps:
            raise ValueError(f"the {place} takes more steps than max_steps {self.limits.max_steps}")
        if preset.sampler is not None:
            _check_sampler(preset.sampler, preset.steps or self.defaults.steps, self.family)
        if (preset.guidance_scale or 0) > self.limits.max_guidance_scale:
            raise ValueError(f"the guidance_scale of the {place} is above max_guidance_scale")

    @model_validator(mode="after")
    def _defaults_within_limits(self) -> ModelEntry:
        if not self.limits.allows(parse_size(self.defaults.size)):
            raise ValueError(f"the default size {self.defaults.size} is outside the limits")
        if self.defaults.steps > self.limits.max_steps:
            raise ValueError(f"the default of {self.defaults.steps} steps is above max_steps {self.limits.max_steps}")
        if self.defaults.guidance_scale > self.limits.max_guidance_scale:
            raise ValueError("the default guidance_scale is above max_guidance_scale")
        return self

    @model_validator(mode="after")
    def _sampler_fits(self) -> ModelEntry:
        _check_sampler(self.defaults.sampler, self.defaults.steps, self.family)
        return self


def _check_sampler(sampler: SamplerName, steps: int, family: FamilyName) -> None:
    """Raises ValueError when the family has no such sampler, or it cannot take so many steps."""
    allowed = SAMPLERS_BY_FAMILY[family]
    if sampler not in allowed:
        names = ", ".join(f"'{name}'" for name in allowed)
        raise ValueError(f"the sampler '{sampler}' cannot draw the family {family}; these can: {names}")
    if sampler == "lcm" and steps > MAX_LCM_STEPS:
        raise ValueError(f"the sampler 'lcm' takes at most {MAX_LCM_STEPS} steps, not {steps}")


def parse_size(text: str) -> Size:
    """Raises ValueError when the text is no WIDTHxHEIGHT in ASCII digits."""
    match = SIZE_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError("a size is written WIDTHxHEIGHT, such as 1024x1024")
    return Size(int(match[1]), int(match[2]))
