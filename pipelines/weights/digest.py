"""The digest of a checkpoint: equal for equal content, whatever the folder is called.

Knows files; imports no torch.
Invariant: a changed byte of any weight or configuration changes it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

SUFFIXES = (".safetensors", ".json", ".txt", ".model")


def digest_of(folder: Path) -> str:
    """SHA-256 over the names and contents of a diffusers folder, in hexadecimal. Reads all of it; raises OSError."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + content)
    return total.hexdigest()
