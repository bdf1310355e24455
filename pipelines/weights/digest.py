"""The digest of a checkpoint: equal for equal content, whatever the folder is called.

Knows files; imports no torch.
Invariant: a changed byte of any weight or configuration changes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".safetensors", ".json", ".txt", ".model")


def digest_of(folder: Path) -> str:
    """SHA-256 over the names and contents of a diffusers folder, in hexadecimal. Reads all of it; raises OSError."""
    paths = (path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return _digest((path.relative_to(folder).as_posix(), path) for path in paths)


def digest_of_files(paths: Iterable[Path]) -> str:
    """The same for files from several places, by their own names."""
    return _digest((path.name, path) for path in paths)


def _digest(named: Iterable[tuple[str, Path]]) -> str:
    total = hashlib.sha256()
    for name, content in sorted((name, _content(path)) for name, path in named):
        total.update(name.encode() + b"\0" + content)
    return total.hexdigest()


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
