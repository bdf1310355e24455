"""Reads models.yaml, and says what is wrong with it.

Knows YAML and the catalogue's shape; knows no requests.
Invariant: every mistake is reported with its line, its key and a suggestion.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from server.core.catalogue import Catalogue, CatalogueFile
from server.core.errors import did_you_mean
from server.core.model_entry import LoraEntry, ModelEntry
from server.core.providers import route_problems

# Beside models.yaml, where no other folder is named for what is pulled.
MODELS_FOLDER = "models"
ADAPTER_SUFFIX, MAX_NAME_CHARACTERS = ".safetensors", 100
# What the YAML loader raises: impossible dates and numbers, and deep nesting, have errors of their own.
UNREADABLE_YAML = (yaml.YAMLError, ValueError, AttributeError, RecursionError)


class CatalogueProblem(Exception):
    """models.yaml cannot be used; `problems` are complete sentences, each with its line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_catalogue(path: Path, models_folder: Path | None = None) -> Catalogue:
    """Read and check models.yaml. Raises CatalogueProblem with every mistake found."""
    root, value = _read(path)
    try:
        file = CatalogueFile.model_validate(value)
    except ValidationError as error:
        raise CatalogueProblem([_sentence(path, root, entry) for entry in error.errors()]) from error
    folder = path.resolve().parent
    problems = _route_problems(path, root, file)
    models = {}
    for model, entry in file.models.items():
        found, problem = _with_folder(entry, folder)
        models[model] = found
        if problem is not None:
            line = _line_of(root, ["models", model, "loras_folder"])
            problems.append(f"{path}:{line}: models.{model}.loras_folder: {problem}")
    if problems:
        raise CatalogueProblem(problems)
    pulled = (models_folder or folder / MODELS_FOLDER).expanduser().resolve()
    return Catalogue(file.model_copy(update={"models": models}), folder, pulled)


def _read(path: Path) -> tuple[yaml.Node | None, dict[Any, Any]]:
    """The file's nodes, which know their lines, and what it says. Raises CatalogueProblem."""
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
    return root, value


def _route_problems(path: Path, root: yaml.Node | None, file: CatalogueFile) -> list[str]:
    return [
        f"{path}:{_line_of(root, ['names', name, 'route', place])}: names.{name}.route.{place}: {problem}"
        for name, entry in file.names.items()
        for place, problem in route_problems(entry, file.models, file.backends)
    ]


def _with_folder(entry: ModelEntry, base: Path) -> tuple[ModelEntry, str | None]:
    """The entry with the adapters of its folder, or what is wrong with them. An adapter's own entry wins."""
    if entry.loras_folder is None:
        return entry, None
    folder = base / Path(entry.loras_folder).expanduser()
    try:
        files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix == ADAPTER_SUFFIX}
    except OSError as error:
        return entry, f"{folder} cannot be read: {error.strerror}"
    unnamable = next((name for name in files if not _can_be_named(name)), None)
    if unnamable is not None:
        return entry, f"{folder} holds a file whose name nobody can write: {unnamable!a}"
    loras = {name: LoraEntry(source=str(path)) for name, path in files.items()}
    for name, lora in entry.loras.items():
        if lora.source is None and name not in files:
            return entry, f"{folder} holds no {name}{ADAPTER_SUFFIX}, which loras names without a source"
        loras[name] = lora if lora.source else lora.model_copy(update={"source": str(files[name])})
    return entry.model_copy(update={"loras": loras}), None


def _can_be_named(name: str) -> bool:
    """Whether a request could name this file: text that JSON can carry."""
    return name.isprintable() and len(name) <= MAX_NAME_CHARACTERS


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
    place: Any = CatalogueFile
    for part in location[:-1]:
        place = _inside(place, part)
    return list(place.model_fields)


def _inside(place: Any, part: str | int) -> Any:
    """The type of what stands under a key: of a form's field, or of what a mapping or a list holds."""
    if isinstance(place, type) and issubclass(place, BaseModel):
        return _bare(place.model_fields[str(part)].annotation)
    return _bare(get_args(place)[-1 if get_origin(place) is dict else 0])


def _bare(annotation: Any) -> Any:
    """Without the constraints, and without the None that it may be instead."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _bare(next(one for one in get_args(annotation) if one is not NoneType))
    return annotation


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
