"""Reads models.yaml, and says what is wrong with it.

Knows YAML and the catalogue's shape; knows no requests.
Invariant: every mistake is reported with its line, its key and a suggestion.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from server.core.catalogue import (
    Catalogue,
    CatalogueFile,
    Defaults,
    Limits,
    ModelEntry,
    Presets,
    QualityPreset,
    StylePreset,
)
from server.core.errors import did_you_mean
from server.core.hub import Hub

# Beside models.yaml, where no other folder is named for what is pulled.
MODELS_FOLDER = "models"
# What the YAML loader raises: impossible dates and numbers, and deep nesting, have errors of their own.
UNREADABLE_YAML = (yaml.YAMLError, ValueError, AttributeError, RecursionError)


class CatalogueProblem(Exception):
    """models.yaml cannot be used; `problems` are complete sentences, each with its line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_catalogue(path: Path, models_folder: Path | None = None) -> Catalogue:
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
        folder = path.resolve().parent
        pulled = (models_folder or folder / MODELS_FOLDER).expanduser().resolve()
        return Catalogue(CatalogueFile.model_validate(value), folder, pulled)
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
    at_depth: dict[int, type[BaseModel]] = {1: CatalogueFile, 3: ModelEntry}
    inner: dict[str, type[BaseModel]] = {"defaults": Defaults, "limits": Limits, "presets": Presets, "hub": Hub}
    preset: dict[str, type[BaseModel]] = {"quality": QualityPreset, "style": StylePreset}
    model = at_depth.get(len(location)) or inner.get(str(location[-2])) or preset[str(location[-3])]
    return list(model.model_fields)


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
