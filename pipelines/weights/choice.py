"""Which files of a repository make a model, and whether two sources mean the same files.

Knows names, sizes and digests as sources state them; knows no network and no disk. Imports no torch.
Invariant: nothing that can hold code is ever chosen, and what was stated of a file once is what it must be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pipelines.weights.files import CheckpointProblem
from pipelines.weights.manifest import Manifest

WEIGHT_SUFFIX = ".safetensors"
SUFFIXES = (WEIGHT_SUFFIX, ".json", ".txt", ".model")
WITH_WEIGHTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2")
COMPONENTS = (*WITH_WEIGHTS, "tokenizer", "tokenizer_2", "scheduler")
INDEX_FILE = "model_index.json"
WEIGHTS = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors"
    r"(?:\.(\w+))?(?:\.index(?:\.(\w+))?\.json)?"
)


class SourceProblem(CheckpointProblem):
    """One source that cannot serve; the next one is tried."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What the hub says of a file: a sha256 of large files, of small ones git's own digest."""

    name: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch. files: these alone; otherwise the diffusers folder, its weights in this variant if it has it."""

    variant: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pins:
    """What every file must be, whichever source sends it. said_by: the manifest or the source that said so."""

    files: dict[str, Stated]
    said_by: str


def choose(url: str, names: Sequence[str], wanted: Wanted) -> list[str]:
    """Which of a repository's files make the model. Raises SourceProblem when they are not there."""
    for name in wanted.files:
        if name not in names:
            raise SourceProblem(f"{url} has no file {name} of a kind that is fetched ({', '.join(SUFFIXES)})")
    if wanted.files:
        return sorted({*wanted.files})
    if INDEX_FILE not in names:
        raise SourceProblem(f"{url} is no diffusers folder (it has no {INDEX_FILE}): name the file that is meant")
    inside = sorted(name for name in names if name.count("/") == 1)
    _refuse_unknown_variant(url, inside, wanted.variant)
    chosen = [INDEX_FILE]
    for component in COMPONENTS:
        files = [name for name in inside if name.startswith(f"{component}/")]
        taken = [*_of_one_variant(files, wanted.variant)]
        if taken and component in WITH_WEIGHTS and not any(name.endswith(WEIGHT_SUFFIX) for name in taken):
            raise SourceProblem(f"{url} has no plain safetensors weights in {component}/: name a variant, or a mirror")
        chosen += taken
    return chosen


def _refuse_unknown_variant(url: str, names: list[str], variant: str | None) -> None:
    there = {variant_of(name) for name in names if name.split("/")[0] in WITH_WEIGHTS}
    if variant and variant not in there:
        have = ", ".join(sorted(one for one in there if one)) or "none"
        raise SourceProblem(f"{url} has no variant {variant!r} of its weights; there is: {have}")


def _of_one_variant(names: list[str], variant: str | None) -> Iterator[str]:
    """Without weights in any other form; a component that has no such variant keeps its plain weights."""
    chosen = variant if variant and any(variant_of(name) == variant for name in names) else ""
    for name in names:
        if variant_of(name) in (None, chosen):
            yield name


def variant_of(name: str) -> str | None:
    """The variant of a weight file or of its index, "" for the plain one; None for what is neither.

    Weights under a name that diffusers does not know have a variant of their own, and so are never taken.
    """
    file = PurePosixPath(name).name
    match = WEIGHTS.fullmatch(file)
    if match is None:
        return file if ".safetensors" in file else None
    return next((group for group in match.groups() if group), "")


def pins_of(manifest: Manifest, said_by: str) -> Pins:
    """The bytes of an earlier pull, for this one."""
    stated = (Stated(entry.name, entry.size_bytes, entry.sha256, None) for entry in manifest.files)
    return Pins({file.name: file for file in stated}, said_by)


def held_to(pins: Pins, url: str, chosen: Sequence[Stated]) -> list[Stated]:
    """The chosen files with all that is known of them. Raises SourceProblem when a source states anything else."""
    for name in sorted(pins.files.keys() ^ {file.name for file in chosen}):
        has, says = ("has", "names none") if name not in pins.files else ("has no", "does")
        raise SourceProblem(f"{url} {has} file {name}, and {pins.said_by} {says}: it is not the same model")
    return [_merged(file, pins.files[file.name], url, pins.said_by) for file in chosen]


def _merged(file: Stated, pinned: Stated, url: str, said_by: str) -> Stated:
    facts = (
        (file.size_bytes, pinned.size_bytes),
        (file.sha256, pinned.sha256),
        (file.git_sha1, pinned.git_sha1),
    )
    if any(stated != known for stated, known in facts if stated is not None and known is not None):
        raise SourceProblem(f"{url} has {file.name} with other bytes than {said_by} says")
    return replace(file, sha256=file.sha256 or pinned.sha256, git_sha1=file.git_sha1 or pinned.git_sha1)
