"""Says whether a model's files are complete and sound, before anything is loaded from them.

Knows layouts, diffusers' model_index.json and the safetensors header; imports no torch, so that checking is quick.
Invariant: a model with a problem is never loaded, and the problem is a sentence that names the file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipelines.messages import FamilyName
from pipelines.weights.files import CheckpointProblem, read_json, tensor_names
from pipelines.weights.layout import (
    COMPONENTS_BY_FAMILY,
    FILE_SUFFIX,
    FLUX_COMPONENTS,
    SD21_COMPONENTS,
    SDXL_COMPONENTS,
    STEMS,
    Layout,
    Source,
    Weights,
    arrange,
)

__all__ = [
    "COMPONENTS_BY_FAMILY",
    "FLUX_COMPONENTS",
    "SD21_COMPONENTS",
    "SDXL_COMPONENTS",
    "UNSAFE_SUFFIXES",
    "WEIGHT_FILES",
    "CheckpointProblem",
    "as_source",
    "find_problem",
    "read_json",
    "refuse_unsafe_files",
    "verify",
    "verify_safetensors",
    "verify_weights",
]

WEIGHT_FILES = {name: stem + FILE_SUFFIX for name, stem in STEMS.items()}
# A tokenizer comes in one of two forms; the first that is there is read.
TOKENIZER_FILES = ("vocab.json", "tokenizer.json")
UNSAFE_SUFFIXES = {".py", ".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt"}
# Configurations of the whole models that a text encoder was taken out of describe it as well.
CONFIGURED_AS = {
    "CLIPTextModel": ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"),
    "CLIPTextModelWithProjection": ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"),
    "T5EncoderModel": ("T5EncoderModel", "T5ForConditionalGeneration", "T5Model"),
}


def find_problem(source: Source | Path, family: FamilyName) -> str | None:
    """The first thing wrong with a model, or None. A path is a source of its own."""
    try:
        verify(source, family)
    except CheckpointProblem as problem:
        return str(problem)
    return None


def verify(source: Source | Path, family: FamilyName) -> Layout:
    """Check the layout, the classes and every weight file's size against its header.

    Raises:
        CheckpointProblem: something is missing, damaged, unsafe or not of this family.
    """
    source = as_source(source)
    for folder in source.folders:
        refuse_unsafe_files(folder)
    layout = arrange(source, family)
    indexes = {folder: read_json(folder / "model_index.json") for folder in _indexed(source, layout)}
    for name, (library, classes) in COMPONENTS_BY_FAMILY[family].items():
        home = _home_of(layout, name)
        if home.parent in indexes and home.name == name:
            _verify_class(home.parent, indexes[home.parent], name, library, classes)
        _verify_component(layout, name, classes)
    _verify_hints(source, layout)
    return layout


def as_source(source: Source | Path) -> Source:
    return Source(source) if isinstance(source, Path) else source


def _verify_hints(source: Source, layout: Layout) -> None:
    """Whether the entry says of a hint what the denoiser's configuration says.

    A FLUX.1 transformer that takes one sees it as latents beside its own: twice the channels that it answers with.
    """
    if layout.family != "flux":
        return
    config = read_json(layout.weights["transformer"].config)
    channels, answered = config.get("in_channels", 64), config.get("out_channels") or config.get("in_channels", 64)
    place = f"{layout.weights['transformer'].config} takes {channels} channels and answers {answered}"
    if channels not in (answered, 2 * answered):
        raise CheckpointProblem(f"{place}: neither a FLUX.1 that takes a prompt alone nor one that takes a hint")
    takes_hint = channels != answered
    if takes_hint and not source.controls:
        raise CheckpointProblem(
            f"{place}, so it takes a hint: write which under controls, such as controls: {{canny: {{}}}}"
        )
    if source.controls and not takes_hint:
        raise CheckpointProblem(f"{place}, so it takes no hint: leave controls out of its entry")


def _indexed(source: Source, layout: Layout) -> list[Path]:
    """The diffusers folders that something is taken from."""
    homes = {_home_of(layout, name).parent for name in COMPONENTS_BY_FAMILY[layout.family]}
    folders = [source.path] if source.path.is_dir() else []
    folders += [source.rest] if source.rest in homes else []
    return folders


def _home_of(layout: Layout, name: str) -> Path:
    """The folder in which the component's files lie."""
    if name in layout.weights:
        return layout.weights[name].files[0].parent
    return layout.tokenizers.get(name, layout.scheduler.parent)


def refuse_unsafe_files(folder: Path) -> None:
    root = folder.resolve()
    for path in folder.rglob("*"):
        if path.suffix.lower() in UNSAFE_SUFFIXES:
            raise CheckpointProblem(f"{path}: only safetensors and JSON are loaded; remove files that can hold code")
        if path.is_symlink() and not _stays_in(path, root):
            raise CheckpointProblem(f"{path} is a link that leaves the model's folder")
        if path.name.endswith("config.json"):
            read_json(path)


def _stays_in(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to itself
        return False


def _verify_class(folder: Path, index: dict[str, Any], name: str, library: str, classes: tuple[str, ...]) -> None:
    named = index.get(name)
    if not (isinstance(named, list) and [type(part) for part in named] == [str, str]):
        raise CheckpointProblem(f"{folder / 'model_index.json'} names no {name}")
    if named[0] != library or (classes and named[1] not in classes):
        expected = " or ".join(classes) or f"a class of {library}"
        raise CheckpointProblem(f"{folder / 'model_index.json'}: {name} is {named[0]}.{named[1]}, expected {expected}")


def _verify_component(layout: Layout, name: str, classes: tuple[str, ...]) -> None:
    if name in layout.weights:
        verify_weights(layout.weights[name], classes)
    elif name in layout.tokenizers:
        forms = [layout.tokenizers[name] / file for file in TOKENIZER_FILES]
        read_json(next((form for form in forms if form.exists()), forms[0]))
    else:
        read_json(layout.index)
        read_json(layout.scheduler)


def verify_weights(part: Weights, classes: tuple[str, ...]) -> None:
    config = read_json(part.config)
    named = config.get("_class_name") or config.get("architectures")
    allowed = {known for one in classes for known in CONFIGURED_AS.get(one, (one,))}
    if named and allowed.isdisjoint(map(str, named if isinstance(named, list) else [named])):
        raise CheckpointProblem(f"{part.config} describes {named!s:.200}, expected {' or '.join(sorted(allowed))}")
    found = [tensor_names(file) for file in part.files]
    if part.index is not None:
        _verify_index(part.index, dict(zip(part.files, found, strict=True)))


def _verify_index(index: Path, shards: dict[Path, Collection[str]]) -> None:
    """An index and its shards say the same."""
    weight_map = read_json(index)["weight_map"]
    for tensor, file in weight_map.items():
        if tensor not in shards[index.parent / file]:
            raise CheckpointProblem(f"{index} looks for {tensor} in {file}, which does not hold it")
    for shard, tensors in shards.items():
        unnamed = set(tensors) - set(weight_map)
        if unnamed:
            raise CheckpointProblem(f"{shard} holds {min(unnamed)}, which {index.name} does not name")


def verify_safetensors(path: Path) -> None:
    """Check that the file is as long as its header says. Raises CheckpointProblem."""
    tensor_names(path)
