"""What an archive of models holds, byte for byte: a plain tar file, and first in it the index of all that follows.

Knows the tar format and manifests; writes nothing. Imports no torch.
Invariant: the bytes of an archive follow from its index alone; what differs from them by a link, a name or a byte is
refused.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec

from pipelines.weights.files import CheckpointProblem
from pipelines.weights.manifest import (
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    ManifestProblem,
    decode,
    folder_name,
    refuse_unsafe_manifest,
)

INDEX_NAME = "safelight-archive-{sha256}.json"
END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


class ArchiveProblem(CheckpointProblem):
    """An archive that cannot be written, or not be trusted."""


class Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model in an archive."""

    id: str
    manifest: Manifest

    @property
    def folder(self) -> str:
        return folder_name(self.id)


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first member of an archive: all that follows."""

    models: Annotated[tuple[Packed, ...], msgspec.Meta(min_length=1)]
    format: Literal[1] = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the archive: bytes that the index decides, or those of a file. what: for people."""

    start: int
    size_bytes: int
    what: str
    content: bytes = b""
    file: tuple[Packed, FileEntry] | None = None

    @property
    def end(self) -> int:
        return self.start + self.size_bytes


def layout(index: Index, index_content: bytes) -> list[Segment]:
    """The whole archive, stretch by stretch."""
    segments: list[Segment] = []

    def add(what: str, content: bytes, file: tuple[Packed, FileEntry] | None = None) -> None:
        start = segments[-1].end if segments else 0
        size_bytes = file[1].size_bytes if file else len(content)
        segments.append(Segment(start, size_bytes, what, content, file))

    def add_member(name: str, size_bytes: int, content: bytes, file: tuple[Packed, FileEntry] | None) -> None:
        add(name, header(name, size_bytes))
        add(name, content, file)
        add(f"the end of {name}", bytes(-size_bytes % tarfile.BLOCKSIZE))

    add_member(index_name(index_content), len(index_content), index_content, None)
    for model in index.models:
        for entry in model.manifest.files:
            add_member(f"{model.folder}/{entry.name}", entry.size_bytes, b"", (model, entry))
    add("the end of the archive", END_OF_ARCHIVE)
    return segments


def index_name(index_content: bytes) -> str:
    """Holds the digest of what all other digests hang on."""
    return INDEX_NAME.format(sha256=hashlib.sha256(index_content).hexdigest())


def header(name: str, size_bytes: int) -> bytes:
    """A regular file of nobody, from no time."""
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def refuse_unsafe_index(index: Index) -> None:
    """Raises ManifestProblem unless every file has a place of its own, inside its own model."""
    folders = [model.folder for model in index.models]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ManifestProblem(f"the model {folder} is there twice")
    for model in index.models:
        refuse_unsafe_manifest(model.manifest)


def read_layout(file: BinaryIO, path: Path) -> tuple[Index, list[Segment]]:
    """The index, and where everything stands; every header was compared. Raises CheckpointProblem."""
    content = _index_content(file, path)
    index = decode(content, Index, f"{path}: its index")
    refuse_unsafe_index(index)
    segments = layout(index, content)
    for segment in segments:
        _compare(file, segment, path)
    has_bytes = file.seek(0, os.SEEK_END)
    if has_bytes > segments[-1].end:
        raise ArchiveProblem(f"{path} holds {has_bytes - segments[-1].end} bytes more than its index says")
    return index, segments


def _index_content(file: BinaryIO, path: Path) -> bytes:
    member = _member_at(file, 0)
    is_ours = member is not None and member.name.startswith(INDEX_NAME.partition("{")[0]) and member.isreg()
    if member is None or not is_ours or member.size > MAX_MANIFEST_BYTES:
        raise ArchiveProblem(f"{path} is no archive that `safelight models export` wrote")
    content = file.read(member.size)
    if member.name != index_name(content):
        raise ArchiveProblem(f"{path}: its index is damaged or was cut short. Copy it again")
    return content


def _member_at(file: BinaryIO, start: int) -> tarfile.TarInfo | None:
    file.seek(start)
    try:
        return tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "backslashreplace")
    except tarfile.HeaderError:
        return None


def _compare(file: BinaryIO, segment: Segment, path: Path) -> None:
    """Raises ArchiveProblem when the archive is cut short here, or holds what the index does not name."""
    if file.seek(0, os.SEEK_END) < segment.end:
        raise ArchiveProblem(f"{path} was cut short: it ends before the end of {segment.what}. Copy it again")
    file.seek(segment.start)
    if segment.file is not None or file.read(segment.size_bytes) == segment.content:
        return
    member = _member_at(file, segment.start)
    found = "damaged bytes" if member is None else f"{_kind(member)} {member.name!r}"
    raise ArchiveProblem(f"{path} holds {found} where its index says {segment.what}; nothing was written")


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "the link"
    return "the file" if member.isreg() else "the folder" if member.isdir() else "the device or special file"
