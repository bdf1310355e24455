"""One plain tar file that carries models to a machine without a network, and the way back out of it.

Knows segments and manifests; knows no tensors, no network and nothing of the tar format. Imports no torch.
Invariant: writing goes on where it stopped, and no model appears of an archive of which a byte is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from pipelines.weights.archive_layout import (
    ArchiveProblem,
    Index,
    Packed,
    Segment,
    layout,
    read_layout,
    refuse_unsafe_index,
)
from pipelines.weights.arrival import (
    PART_SUFFIX,
    ArrivalProblem,
    Free,
    arriving,
    free_bytes,
    locked,
    publish,
    refuse_without_room,
    staging_of,
    sync_folder,
)
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.manifest import (
    BLOCK_BYTES,
    Advance,
    Manifest,
    ManifestProblem,
    Origin,
    describe,
    files_of,
    find_damage,
    ignore,
    manifest_path,
    read_manifest,
    stamped,
    write_manifest,
)


def export_models(
    models: Sequence[tuple[str, Path]], target: Path, advance: Advance = ignore, free: Free = free_bytes
) -> Index:
    """Write the models into one archive, which appears when all of it was written and read back.

    What an interruption left is gone on with.

    Raises:
        CheckpointProblem: a model is not sound, or the archive cannot be written; there is no archive then.
    """
    index = Index(tuple(_packed(model_id, place) for model_id, place in models))
    refuse_unsafe_index(index)
    content = msgspec.json.encode(index)
    segments = layout(index, content)
    with locked(target):
        if target.exists() or target.is_symlink():
            raise ArrivalProblem(f"{target} is there already")
        part = target.with_name(target.name + PART_SUFFIX)
        try:
            begun_bytes = _begun(part, segments)
            refuse_without_room(target.parent, segments[-1].end - begun_bytes, free)
            advance(begun_bytes)
            _write(part, begun_bytes, segments, dict(models), advance)
            _read_back(part)
            part.rename(target)
        except OSError as error:
            raise ArchiveProblem(f"{target} cannot be written: {error.strerror}") from error
        sync_folder(target.parent)
    return index


def _packed(model_id: str, place: Path) -> Packed:
    if not manifest_path(place).exists():
        return Packed(model_id, describe(place, Origin()).without_times())
    manifest = read_manifest(place)
    for damage in find_damage(place, manifest):
        raise ArchiveProblem(f"{model_id} is not exported: {damage.sentence}")
    return Packed(model_id, manifest.without_times())


def _begun(part: Path, segments: list[Segment]) -> int:
    """How much of exactly this archive was written before. The index comes first, so it tells this from others."""
    if not part.exists() or part.is_symlink():
        return 0
    with part.open("rb") as file:
        own = all(file.read(one.size_bytes) == one.content for one in segments[:3])
    return part.stat().st_size if own and part.stat().st_size <= segments[-1].end else 0


def _write(part: Path, begun_bytes: int, segments: list[Segment], places: dict[str, Path], advance: Advance) -> None:
    with part.open("r+b" if begun_bytes else "wb") as out:
        out.seek(begun_bytes)
        for segment in segments:
            if segment.end > begun_bytes:
                _write_segment(out, segment, max(begun_bytes - segment.start, 0), places, advance)
        out.flush()
        os.fsync(out.fileno())


def _write_segment(out: BinaryIO, segment: Segment, skip: int, places: dict[str, Path], advance: Advance) -> None:
    if segment.file is None:
        out.write(segment.content[skip:])
        advance(segment.size_bytes - skip)
        return
    model, entry = segment.file
    source = files_of(places[model.id])[entry.name]
    with source.open("rb") as file:
        file.seek(skip)
        for block in _blocks(file, segment.size_bytes - skip, source):
            out.write(block)
            advance(len(block))


def _blocks(file: BinaryIO, size_bytes: int, path: Path) -> Iterator[bytes]:
    """So many bytes from here on. Raises ArchiveProblem when the file ends before."""
    while size_bytes:
        block = file.read(min(BLOCK_BYTES, size_bytes))
        if not block:
            raise ArchiveProblem(f"{path} was cut short while it was read")
        size_bytes -= len(block)
        yield block


def _read_back(part: Path) -> None:
    """What was written before an interruption may have been lost with the power, so nothing is believed."""
    try:
        check_archive(part)
    except CheckpointProblem as problem:
        part.unlink()
        raise ArchiveProblem(f"not exported: {problem}. Verify the models, then export again") from None


def check_archive(path: Path, advance: Advance = ignore) -> Index:
    """Read all of an archive. Raises CheckpointProblem when a byte is wrong."""
    with _opened(path) as file:
        index, segments = read_layout(file, path)
        for segment in segments:
            if segment.file and _digest(file, segment, path, advance) != segment.file[1].sha256:
                raise ArchiveProblem(_damaged(path, segment))
    return index


def _digest(file: BinaryIO, segment: Segment, path: Path, advance: Advance) -> str:
    total = hashlib.sha256()
    file.seek(segment.start)
    for block in _blocks(file, segment.size_bytes, path):
        total.update(block)
        advance(len(block))
    return total.hexdigest()


def _damaged(path: Path, segment: Segment) -> str:
    return f"{path}: {segment.what} is damaged (its sha256 differs from the archive's index)"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise ArchiveProblem(f"{path} is missing") from None


def import_archive(path: Path, into: Path, advance: Advance = ignore, free: Free = free_bytes) -> list[Path]:
    """Unpack all models of an archive into folders of their own; they appear together, when all were verified.

    What an interruption left is gone on with. A model that is there already, and the same, is left as it is.

    Raises:
        CheckpointProblem: the archive is not sound, or a place is taken or too small; no model appears then.
    """
    with _opened(path) as file, contextlib.ExitStack() as stack:
        index, segments = read_layout(file, path)
        absent = [model for model in index.models if not _is_there(into / model.folder, model.manifest)]
        needed_bytes = sum(model.manifest.size_bytes - _gathered_bytes(into / model.folder) for model in absent)
        refuse_without_room(into, max(needed_bytes, 0), free)
        stagings = {model.folder: stack.enter_context(arriving(into / model.folder)) for model in absent}
        try:
            for segment in segments:
                if segment.file and segment.file[0].folder in stagings:
                    _unpack(file, segment, stagings[segment.file[0].folder], path, advance)
            for model in absent:
                _complete(stagings[model.folder], model.manifest)
        except ArchiveProblem:
            for staging in stagings.values():
                shutil.rmtree(staging, ignore_errors=True)
            raise
        except OSError as error:
            raise ArrivalProblem(
                f"the import into {into} stopped: {error.strerror}. What was unpacked waits there; "
                "import again to go on, or remove the folders whose names end in .arriving"
            ) from error
        _publish_all(stagings, into)
    return [into / model.folder for model in index.models]


def _is_there(target: Path, manifest: Manifest) -> bool:
    if not target.exists() and not target.is_symlink():
        return False
    try:
        is_same = read_manifest(target).without_times() == manifest
    except ManifestProblem:
        is_same = False
    if is_same and not find_damage(target, read_manifest(target)):
        return True
    raise ArrivalProblem(f"{target} is there already, and is not the model of the archive")


def _gathered_bytes(target: Path) -> int:
    staging = staging_of(target)
    return sum(path.stat().st_size for path in files_of(staging).values()) if staging.exists() else 0


def _unpack(file: BinaryIO, segment: Segment, staging: Path, path: Path, advance: Advance) -> None:
    """Copy one file, going on where an earlier try stopped; once more from its start when that was no good."""
    assert segment.file is not None  # noqa: S101 (for the type checker)
    entry = segment.file[1]
    final = staging / entry.name
    part = final.with_name(final.name + PART_SUFFIX)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        final.replace(part)
    for _attempt in range(2):
        had_bytes = part.stat().st_size if part.exists() else 0
        if _copy(file, segment, part, path, advance) == entry.sha256:
            part.rename(final)
            return
        part.unlink()
        advance(-segment.size_bytes)
        if not had_bytes:
            break
    raise ArchiveProblem(_damaged(path, segment))


def _copy(file: BinaryIO, segment: Segment, part: Path, path: Path, advance: Advance) -> str:
    """Fill the part file up to its size; the sha256 of all of it."""
    total = hashlib.sha256()
    with part.open("a+b") as out:
        out.truncate(min(out.seek(0, os.SEEK_END), segment.size_bytes))
        out.seek(0)
        while block := out.read(BLOCK_BYTES):
            total.update(block)
            advance(len(block))
        begun_bytes = out.tell()
        file.seek(segment.start + begun_bytes)
        for block in _blocks(file, segment.size_bytes - begun_bytes, path):
            out.write(block)
            total.update(block)
            advance(len(block))
        out.flush()
        os.fsync(out.fileno())
    return total.hexdigest()


def _complete(staging: Path, manifest: Manifest) -> None:
    """Every file of the manifest was verified; remove what else an earlier try left, and write the manifest."""
    known = {entry.name for entry in manifest.files}
    for name, stray in files_of(staging).items():
        if name not in known:
            stray.unlink()
    write_manifest(staging, stamped(staging, manifest))


def _publish_all(stagings: dict[str, Path], into: Path) -> None:
    """All or none."""
    done: list[tuple[Path, Path]] = []
    try:
        for folder, staging in stagings.items():
            publish(staging, into / folder)
            done.append((into / folder, staging))
    except ArrivalProblem:
        for target, staging in done:
            target.rename(staging)
        raise
