"""The catalogue: which models exist, what each allows, and which of other people's names mean them.

Knows models.yaml; knows no weights and no requests.
Invariant: a catalogue that loads is consistent; every mistake is reported with its line, its key and a suggestion.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from pipelines.messages import MAX_LCM_STEPS, SAMPLERS_BY_FAMILY, FamilyName, ModelSpec, SamplerName
from server.core.errors import did_you_mean
from server.core.request import Size

SIZE_PATTERN = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
NAMED_SIZES = ("256x256", "512x512", "1024x1024", "1024x1792", "1792x1024", "1024x1536", "1536x1024")
# An image and its mask are four bytes a pixel, and have to fit into one frame to the worker.
MAX_PIXELS = 50_000_000
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")]


# What the YAML loader raises: impossible dates and numbers, and deep nesting, have errors of their own.
UNREADABLE_YAML = (yaml.YAMLError, ValueError, AttributeError, RecursionError)


class CatalogueProblem(Exception):
    """models.yaml cannot be used; `problems` are complete sentences, each with its line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


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


class Defaults(_Strict):
    """What a request gets that does not say. guidance_scale of 1 or less draws without guidance; strength is for
    requests that start from an image."""

    size: str = "1024x1024"
    steps: int = Field(default=30, ge=1)
    guidance_scale: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    sampler: SamplerName = "checkpoint"
    strength: float = Field(default=0.8, gt=0, le=1, allow_inf_nan=False)

    @field_validator("size")
    @classmethod
    def _is_size(cls, value: str) -> str:
        parse_size(value)
        return value


class ModelEntry(_Strict):
    """One model. `source` is a diffusers folder, relative to models.yaml; `aliases` may hold * patterns."""

    family: FamilyName
    source: str = Field(min_length=1, pattern=r"^[^\x00]+$")
    description: str = ""
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    aliases: tuple[str, ...] = Field(default=(), strict=False)

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
        sampler, allowed = self.defaults.sampler, SAMPLERS_BY_FAMILY[self.family]
        if sampler not in allowed:
            names = ", ".join(f"'{name}'" for name in allowed)
            raise ValueError(
                f"the default sampler '{sampler}' cannot draw the family {self.family}; these can: {names}"
            )
        if sampler == "lcm" and self.defaults.steps > MAX_LCM_STEPS:
            raise ValueError(
                f"the default sampler 'lcm' takes at most {MAX_LCM_STEPS} steps, not {self.defaults.steps}"
            )
        return self


class _File(_Strict):
    # Before default_model, whose check needs it.
    models: dict[ModelId, ModelEntry] = Field(min_length=1)
    default_model: ModelId
    default_aliases: tuple[str, ...] = Field(default=(), strict=False)

    @field_validator("default_model")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo) -> str:
        models = info.data.get("models")
        if models is not None and name not in models:
            raise ValueError(f"'{name}' is none of the models.{did_you_mean(name, models)}")
        return name


class Catalogue:
    """A loaded models.yaml. Immutable."""

    def __init__(self, file: _File, folder: Path) -> None:
        self._file, self._folder = file, folder

    @property
    def default_model(self) -> str:
        return self._file.default_model

    @property
    def models(self) -> dict[str, ModelEntry]:
        return dict(self._file.models)

    def resolve(self, name: str | None) -> str | None:
        """The model id that a name means: an id, an entry's alias, a default alias; None means the default model."""
        if name is None:
            return self._file.default_model
        if name in self._file.models:
            return name
        for model, entry in self._file.models.items():
            if _matches(name, entry.aliases):
                return model
        return self._file.default_model if _matches(name, self._file.default_aliases) else None

    def names(self) -> list[str]:
        """Every name that can be listed: ids first, then aliases without patterns."""
        aliases = [alias for entry in self._file.models.values() for alias in entry.aliases]
        plain = [alias for alias in [*aliases, *self._file.default_aliases] if "*" not in alias]
        return list(dict.fromkeys([*self._file.models, *plain]))

    def specs(self) -> tuple[ModelSpec, ...]:
        """What a worker is told, with absolute folders."""
        return tuple(
            ModelSpec(model, entry.family, str(self._folder_of(entry))) for model, entry in self._file.models.items()
        )

    def _folder_of(self, entry: ModelEntry) -> Path:
        """Relative to models.yaml; ~ is the home folder where there is one."""
        return (self._folder / os.path.expanduser(entry.source)).resolve()  # noqa: PTH111 (the other one raises)


def parse_size(text: str) -> Size:
    """Raises ValueError when the text is no WIDTHxHEIGHT in ASCII digits."""
    match = SIZE_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError("a size is written WIDTHxHEIGHT, such as 1024x1024")
    return Size(int(match[1]), int(match[2]))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) for pattern in patterns)


def load_catalogue(path: Path) -> Catalogue:
    """Read and check models.yaml. Raises CatalogueProblem with every mistake found."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogueProblem([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise CatalogueProblem([f"{path}: is not UTF-8 text"]) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except UNREADABLE_YAML as error:
        raise CatalogueProblem([_yaml_problem(path, error)]) from error
    doubled = _doubled_keys(path, root, set())
    if doubled:
        raise CatalogueProblem(doubled)
    if not isinstance(value, dict):
        raise CatalogueProblem([f"{path}:1: the file: must hold the keys default_model and models"])
    try:
        return Catalogue(_File.model_validate(value), path.resolve().parent)
    except ValidationError as error:
        raise CatalogueProblem([_sentence(path, root, entry) for entry in error.errors()]) from error


def _yaml_problem(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f":{mark.line + 1}" if mark else ""
    return f"{path}{place}: not valid YAML: {getattr(error, 'problem', None) or 'unreadable'}"


def _doubled_keys(path: Path, node: yaml.Node | None, visited: set[int]) -> list[str]:
    """YAML forbids equal keys; the parser takes the last one in silence. visited: nodes that aliases lead back to."""
    if node is None or id(node) in visited:
        return []
    visited.add(id(node))
    problems: list[str] = []
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for position, (key, child) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in keys[:position]:
                problems.append(f"{path}:{key.start_mark.line + 1}: {key.value}: stands here for the second time")
            problems += _doubled_keys(path, child, visited)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            problems += _doubled_keys(path, child, visited)
    return problems


def _sentence(path: Path, root: yaml.Node | None, error: Any) -> str:
    """One validation error as "file:line: key: what is wrong, and what was probably meant"."""
    location = [part for part in error["loc"] if part != "[key]"]
    line = _line_of(root, location)
    key = ".".join(str(part) for part in location) or "the file"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key.{did_you_mean(str(location[-1]), _known_keys(location))}"
    elif error["type"] == "literal_error":
        allowed = re.findall(r"'([^']+)'", message)
        message = f"{message}.{did_you_mean(str(error['input']), allowed)}"
    return f"{path}:{line}: {key}: {message}"


def _known_keys(location: list[str | int]) -> list[str]:
    """The keys allowed beside the last part of a location."""
    at_depth: dict[int, type[BaseModel]] = {1: _File, 3: ModelEntry}
    inner: dict[str, type[BaseModel]] = {"defaults": Defaults, "limits": Limits}
    return list((at_depth.get(len(location)) or inner[str(location[-2])]).model_fields)


def _line_of(node: yaml.Node | None, location: list[str | int]) -> int:
    """The line, from 1, of the deepest part of a location that is in the file."""
    line = node.start_mark.line if node is not None else 0
    for part in location:
        child = _child(node, part)
        if child is None:
            break
        line, node = child[0].start_mark.line, child[1]
    return line + 1


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None
