"""The catalogue: which models exist, what each allows, and which of other people's names mean them.

Knows models.yaml's content; knows no weights, no requests and no YAML.
Invariant: a catalogue that exists is consistent.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

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
    ModelSpec,
    SamplerName,
)
from server.core.errors import did_you_mean
from server.core.hub import Hub
from server.core.providers import LOCAL, BackendEntry, BackendName, NameEntry, Target
from server.core.request import Size

SIZE_PATTERN = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
NAMED_SIZES = ("256x256", "512x512", "1024x1024", "1024x1792", "1792x1024", "1024x1536", "1536x1024")
# An image, its mask and a hint are seven bytes a pixel, and have to fit into one frame to the worker.
MAX_PIXELS = 50_000_000
QualityName = Literal["low", "standard", "hd"]
StyleName = Literal["natural", "vivid"]
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")]
# Other people's names hold colons too, and here * stands for anything.
PublicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9*][A-Za-z0-9._/:*-]{0,99}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Limits(_Strict):
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


class Defaults(_Strict):
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


class QualityPreset(_Strict):
    """What takes the place of the defaults when a request asks for this quality."""

    steps: int | None = Field(default=None, ge=1)
    guidance_scale: Guidance | None = None
    sampler: SamplerName | None = None


class StylePreset(_Strict):
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


class Presets(_Strict):
    """What `quality` and `style` mean for a model; what is absent has no effect there."""

    quality: dict[QualityName, QualityPreset] = {}
    style: dict[StyleName, StylePreset] = {}


PathText = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]


LoraName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class LoraEntry(_Strict):
    """An adapter of a model. source: a .safetensors file; the one of this name in the model's loras_folder if absent.
    scale: where a request does not say. defaults: steps, guidance_scale and sampler, for adapters that draw in few
    steps; they win over the model's presets and defaults, and lose against the request's own."""

    source: PathText | None = None
    scale: float = Field(default=1.0, allow_inf_nan=False)
    description: str = ""
    defaults: QualityPreset = QualityPreset()


class ControlEntry(_Strict):
    """A kind of hint that requests may bring. source: the folder of a diffusers ControlNet; absent where the checkpoint
    itself was made for the hint, as FLUX.1-Canny and -Depth."""

    source: PathText | None = None
    description: str = ""


class ModelEntry(_Strict):
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
    parts: dict[str, PathText] = {}
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
    loras: dict[LoraName, LoraEntry] = {}
    loras_folder: PathText | None = None
    lora_cache_bytes: int = Field(default=1024 * 1024 * 1024, ge=0)
    controls: dict[ControlKind, ControlEntry] = {}

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


class CatalogueFile(_Strict):
    # Before default_model, whose check needs it.
    models: dict[ModelId, ModelEntry] = Field(min_length=1)
    default_model: ModelId
    default_aliases: tuple[str, ...] = Field(default=(), strict=False)
    backends: dict[BackendName, BackendEntry] = {}
    # Their routes `server.core.catalogue_file` checks, as each has a line of its own.
    names: dict[PublicName, NameEntry] = {}
    never_together: tuple[Annotated[tuple[str, ...], Field(min_length=2, strict=False)], ...] = Field(
        default=(), strict=False
    )

    @field_validator("never_together")
    @classmethod
    def _exist(cls, groups: tuple[tuple[str, ...], ...], info: ValidationInfo) -> tuple[tuple[str, ...], ...]:
        models = info.data.get("models")
        for name in (name for group in groups for name in group):
            if models is not None and name not in models:
                raise ValueError(f"'{name}' is none of the models.{did_you_mean(name, models)}")
        return groups

    @field_validator("default_model")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo) -> str:
        models = info.data.get("models")
        if models is not None and name not in models:
            raise ValueError(f"'{name}' is none of the models.{did_you_mean(name, models)}")
        return name

    @field_validator("backends")
    @classmethod
    def _local_is_ours(cls, backends: dict[str, BackendEntry]) -> dict[str, BackendEntry]:
        if LOCAL in backends:
            raise ValueError(f"'{LOCAL}' is this server's own: name the provider otherwise")
        return backends

    @field_validator("models")
    @classmethod
    def _folders_differ(cls, models: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        pulled: dict[str, str] = {}
        for model, entry in models.items():
            other = pulled.setdefault(folder_name(model), model) if entry.hub else model
            if other != model:
                raise ValueError(f"'{other}' and '{model}' would be pulled into the same folder: rename one")
        return models


class Catalogue:
    """A loaded models.yaml. Immutable. folder: where the file lies. models_folder: where what is pulled lies."""

    def __init__(self, file: CatalogueFile, folder: Path, models_folder: Path) -> None:
        self._file, self._folder, self.models_folder = file, folder, models_folder

    @property
    def default_model(self) -> str:
        return self._file.default_model

    @property
    def never_together(self) -> tuple[tuple[str, ...], ...]:
        """Groups of models of which one at a time may be on a device."""
        return self._file.never_together

    @property
    def models(self) -> dict[str, ModelEntry]:
        return dict(self._file.models)

    @property
    def backends(self) -> dict[str, BackendEntry]:
        """The providers that requests may be handed on to, by the operator's names for them."""
        return dict(self._file.backends)

    def targets(self, name: str | None) -> tuple[Target, ...]:
        """Who may serve a name, in the operator's order; nobody knows it: empty. None means the default model."""
        wanted = self.default_model if name is None else name
        entry = self.name_entry(wanted)
        if entry is not None and entry.route:
            return entry.targets
        model = self._own_model(wanted)
        return () if model is None else (Target(LOCAL, model),)

    def resolve(self, name: str | None) -> str | None:
        """The model of ours that a name means: an id, an alias, or what its route names first of ours."""
        return next((target.model for target in self.targets(name) if target.backend == LOCAL), None)

    def name_entry(self, name: str) -> NameEntry | None:
        """What `names` says of a name. Patterns give way to whatever names it in full."""
        names = self._file.names
        if name in names:
            return names[name]
        if self._is_named_in_full(name):
            return None
        return next((entry for pattern, entry in names.items() if _matches(name, (pattern,))), None)

    def _is_named_in_full(self, name: str) -> bool:
        models = self._file.models
        return name in models or any(name in entry.aliases for entry in models.values())

    def _own_model(self, name: str) -> str | None:
        if name in self._file.models:
            return name
        for model, entry in self._file.models.items():
            if _matches(name, entry.aliases):
                return model
        is_default = _matches(name, self._file.default_aliases) or self.name_entry(name) is not None
        return self._file.default_model if is_default else None

    def names(self) -> list[str]:
        """Every name that can be listed: ids first, then aliases and names without patterns."""
        aliases = [alias for entry in self._file.models.values() for alias in entry.aliases]
        plain = [alias for alias in [*aliases, *self._file.names, *self._file.default_aliases] if "*" not in alias]
        return list(dict.fromkeys([*self._file.models, *plain]))

    def specs(self) -> tuple[ModelSpec, ...]:
        """What a worker is told, with absolute paths."""
        return tuple(self._spec(model, entry) for model, entry in self._file.models.items())

    def _spec(self, model: str, entry: ModelEntry) -> ModelSpec:
        config = entry.config
        return ModelSpec(
            model,
            entry.family,
            self._place(model, entry),
            None if entry.rest is None else self._absolute(entry.rest),
            # The name of a published configuration has no slash; a folder is written with one.
            config if config is None or "/" not in config else self._absolute(config),
            entry.variant,
            {name: self._absolute(path) for name, path in entry.parts.items()},
            entry.hub is not None,
            entry.loading,
            entry.dtype,
            entry.fit,
            entry.attention,
            entry.compile,
            {name: self._absolute(lora.source) for name, lora in entry.loras.items() if lora.source is not None},
            entry.lora_cache_bytes,
            {
                kind: None if control.source is None else self._absolute(control.source)
                for kind, control in entry.controls.items()
            },
        )

    def _place(self, model: str, entry: ModelEntry) -> str:
        if entry.source is not None:
            return self._absolute(entry.source)
        single_file = entry.hub.single_file if entry.hub else None
        return str(self.models_folder / folder_name(model) / (single_file or ""))

    def pinned_manifest(self, model: str) -> str | None:
        """Where the manifest lies that a model's sources are held to."""
        hub = self._file.models[model].hub
        return None if hub is None or hub.manifest is None else self._absolute(hub.manifest)

    def _absolute(self, path: str) -> str:
        """Relative to models.yaml; ~ is the home folder where there is one."""
        return str((self._folder / os.path.expanduser(path)).resolve())  # noqa: PTH111 (the other one raises)


def folder_name(model: str) -> str:
    """The folder that `safelight models pull` makes for an id, as `pipelines.weights.manifest` names it."""
    return model.replace("/", "--")


def parse_size(text: str) -> Size:
    """Raises ValueError when the text is no WIDTHxHEIGHT in ASCII digits."""
    match = SIZE_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError("a size is written WIDTHxHEIGHT, such as 1024x1024")
    return Size(int(match[1]), int(match[2]))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) for pattern in patterns)
