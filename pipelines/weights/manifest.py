"""The manifest of a model's files: which there are, how long and with which digest; and what differs from it.

Knows files, sizes and digests; knows no tensors, no network and no archive format. Imports no torch.
Invariant: a manifest is on disk whole or not at all, and names no file outside of its model.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, TypeVar

import msgspec

from pipelines.weights.arrival import PART_SUFFIX, sync_folder
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.verify import UNSAFE_SUFFIXES

# Not .json: what reads a model's configurations must not take it for one of them.
MANIFEST_NAME = "safelight.manifest"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
BLOCK_BYTES = 1024 * 1024
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")

DamageKind = Literal["missing", "truncated", "grown", "changed", "touched", "extra", "unreadable"]
Reading = Literal["nothing", "touched", "all"]
Advance = Callable[[int], None]
Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
T = TypeVar("T")


class ManifestProblem(CheckpointProblem):
    """A manifest that cannot be made, read or trusted."""


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file. modified_ns: its time of change when it was last found good, on this machine alone."""

    name: str
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    sha256: Digest
    modified_ns: int | None = None


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model comes from, and under which licence, as far as anybody said."""

    source: str | None = None
    revision: str | None = None
    licence: str | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All files of one model, by name."""

    files: tuple[FileEntry, ...]
    origin: Origin = Origin()
    format: Literal[1] = 1

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)

    def without_times(self) -> Manifest:
        """The same for every machine."""
        bare = tuple(FileEntry(entry.name, entry.size_bytes, entry.sha256) for entry in self.files)
        return Manifest(bare, self.origin)


@dataclass(frozen=True, slots=True)
class Damage:
    """One way in which the files differ from their manifest. `touched` alone is a doubt and no certainty."""

    kind: DamageKind
    name: str
    sentence: str


def folder_name(model_id: str) -> str:
    """One name for an id that may hold slashes. Raises ManifestProblem when it is no id."""
    if not MODEL_ID.fullmatch(model_id):
        raise ManifestProblem(
            f"{model_id!r} is no model id: up to 100 letters, digits and ._/-, a letter or digit first"
        )
    return model_id.replace("/", "--")


def ignore(_bytes: int) -> None:
    """An `Advance` for those who do not watch."""


def manifest_path(place: Path) -> Path:
    """Inside a model's folder; beside a model that is a single file."""
    return place.with_name(f"{place.name}.manifest") if is_single_file(place) else place / MANIFEST_NAME


def is_single_file(place: Path) -> bool:
    """Whether a model is one file, there or not, rather than a folder."""
    return place.suffix.lower() == ".safetensors" and not place.is_dir()


def files_of(place: Path) -> dict[str, Path]:
    """The files of a model, a folder or a single file, by their name in the manifest.

    Raises:
        ManifestProblem: something there is no file that can be hashed and copied.
    """
    if is_single_file(place):
        return {place.name: place} if place.exists() else {}
    if not place.is_dir():
        raise ManifestProblem(f"the folder {place} does not exist")
    own = {MANIFEST_NAME, MANIFEST_NAME + PART_SUFFIX}
    found = {_name_in(place, path): path for path in sorted(_walk(place, place.resolve()))}
    return {name: path for name, path in found.items() if name not in own}


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    try:
        inside = list(folder.iterdir())
    except OSError as error:
        raise ManifestProblem(f"{folder} cannot be read: {error.strerror}") from error
    for path in inside:
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, root)
        else:
            _refuse_no_file(path, root)
            yield path


def _refuse_no_file(path: Path, root: Path) -> None:
    try:
        mode, real = path.stat().st_mode, path.resolve()
    except (OSError, RuntimeError):  # a link to nothing, or to itself
        raise ManifestProblem(f"{path} is a link to nothing") from None
    if not real.is_relative_to(root):
        raise ManifestProblem(f"{path} is a link that leaves the model's folder")
    if not stat.S_ISREG(mode):
        kind = "a link to a folder" if stat.S_ISDIR(mode) else "neither a file nor a folder"
        raise ManifestProblem(f"{path} is {kind}")


def _name_in(folder: Path, path: Path) -> str:
    name = path.relative_to(folder).as_posix()
    try:
        refuse_unsafe_name(name)
    except ManifestProblem as problem:
        raise ManifestProblem(f"{folder}: {problem}") from None
    return name


def refuse_unsafe_name(name: str) -> None:
    """Raises ManifestProblem unless the name stays in its folder, everywhere, and can hold no code."""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise ManifestProblem(f"the file name {name!r} is not allowed: it could lead out of the model's folder")
    if PurePosixPath(name).suffix.lower() in UNSAFE_SUFFIXES:
        raise ManifestProblem(f"{name}: only safetensors and JSON are loaded; remove files that can hold code")


def refuse_unsafe_manifest(manifest: Manifest) -> None:
    """Raises ManifestProblem unless all names are safe and every file has a place of its own."""
    names: set[str] = set()
    for entry in manifest.files:
        refuse_unsafe_name(entry.name)
        if entry.name in names:
            raise ManifestProblem(f"the file {entry.name} is named twice")
        names.add(entry.name)
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    for name in sorted(folders & names):
        raise ManifestProblem(f"{name} is named as a file and as a folder")


def describe(place: Path, origin: Origin, advance: Advance = ignore) -> Manifest:
    """Hash every file of a model. Raises ManifestProblem when one cannot be read."""
    entries = tuple(_entry(name, path, advance) for name, path in files_of(place).items())
    if not entries:
        raise ManifestProblem(f"{place} holds no files")
    return Manifest(entries, origin)


def _entry(name: str, path: Path, advance: Advance) -> FileEntry:
    try:
        before = path.stat()
        digest = sha256_of(path, advance)
    except OSError as error:
        raise ManifestProblem(f"{path} cannot be read: {error.strerror}") from error
    return FileEntry(name, before.st_size, digest, before.st_mtime_ns)


def sha256_of(path: Path, advance: Advance = ignore) -> str:
    """Raises OSError."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            total.update(block)
            advance(len(block))
    return total.hexdigest()


def read_manifest(place: Path) -> Manifest:
    """Raises ManifestProblem when there is none, or none that can be trusted."""
    return read_manifest_file(manifest_path(place))


def read_manifest_file(path: Path) -> Manifest:
    """One that may lie apart from its model. Raises ManifestProblem."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise ManifestProblem(f"{path} is missing") from None
    except OSError as error:
        raise ManifestProblem(f"{path} cannot be read: {error.strerror}") from error
    manifest = decode(content, Manifest, str(path))
    refuse_unsafe_manifest(manifest)
    return manifest


def decode(content: bytes, kind: type[T], name: str) -> T:
    """Raises ManifestProblem when the JSON is too long, damaged or of another form."""
    if len(content) > MAX_MANIFEST_BYTES:
        raise ManifestProblem(f"{name} is longer than {MAX_MANIFEST_BYTES} bytes")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestProblem(f"{name} is damaged, or of a later version: it is not the JSON of a manifest") from error


def write_manifest(place: Path, manifest: Manifest) -> None:
    """Replace the manifest in one step. Raises OSError; the old one stays then."""
    path = manifest_path(place)
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        with part.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def find_damage(
    place: Path, manifest: Manifest, reading: Reading = "touched", advance: Advance = ignore
) -> tuple[Damage, ...]:
    """Every difference between a model and its manifest.

    reading: which files of the right size are hashed. `all` proves every byte; `touched` only those that were written
    to since they were last found good; `nothing` names those as `touched` instead.
    """
    try:
        present = files_of(place)
    except ManifestProblem as problem:
        return (Damage("unreadable", place.name, str(problem)),)
    root = place.parent if is_single_file(place) else place
    found = [_damage_of(entry, root / entry.name, reading, advance) for entry in manifest.files]
    known = {entry.name for entry in manifest.files}
    extra = [
        Damage("extra", name, f"{path} is not in the manifest") for name, path in present.items() if name not in known
    ]
    return (*(damage for damage in found if damage), *extra)


def _damage_of(entry: FileEntry, path: Path, reading: Reading, advance: Advance) -> Damage | None:
    try:
        facts = path.stat()
        if facts.st_size != entry.size_bytes:
            return _wrong_size(entry, path, facts.st_size)
        is_touched = facts.st_mtime_ns != entry.modified_ns
        if reading == "all" or (reading == "touched" and is_touched):
            return None if sha256_of(path, advance) == entry.sha256 else _changed(entry, path)
    except (FileNotFoundError, NotADirectoryError):
        return Damage("missing", entry.name, f"{path} is missing")
    except OSError as error:
        return Damage("unreadable", entry.name, f"{path} cannot be read: {error.strerror}")
    if not is_touched:
        return None
    return Damage("touched", entry.name, f"{path} was written to since it was last verified")


def _wrong_size(entry: FileEntry, path: Path, size_bytes: int) -> Damage:
    kind: DamageKind = "truncated" if size_bytes < entry.size_bytes else "grown"
    what = "was cut short" if kind == "truncated" else "has grown"
    sentence = f"{path} {what}: it has {size_bytes} bytes, its manifest says {entry.size_bytes}"
    return Damage(kind, entry.name, sentence)


def _changed(entry: FileEntry, path: Path) -> Damage:
    sentence = f"{path} has changed: as long as its manifest says, but with other bytes (its sha256 differs)"
    return Damage("changed", entry.name, sentence)


def stamped(place: Path, manifest: Manifest) -> Manifest:
    """The manifest with the present times of its files, which were found good just now. Raises OSError."""
    root = place.parent if is_single_file(place) else place
    files = (msgspec.structs.replace(e, modified_ns=(root / e.name).stat().st_mtime_ns) for e in manifest.files)
    return msgspec.structs.replace(manifest, files=tuple(files))
