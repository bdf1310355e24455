"""Digests of weights: equal for equal content, whatever the files and folders are called.

Knows files and manifests; imports no torch.
Invariant: a changed byte of any weight or configuration changes them; no file is read twice while it is not written to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pipelines.weights.files import CheckpointProblem, read_json
from pipelines.weights.layout import Layout, Weights
from pipelines.weights.manifest import find_damage, is_single_file, manifest_path, read_manifest, sha256_of

# Of a configuration: who wrote it and with what, which changes nothing that is drawn.
NOTES = ("transformers_version", "torch_dtype", "dtype")
_Stamp = tuple[str, int, int]


class FileDigests:
    """The SHA-256 of files, hexadecimal, from a manifest where one vouches for them, else read once and remembered."""

    def __init__(self) -> None:
        self._known: dict[_Stamp, str] = {}

    def trust(self, place: Path) -> None:
        """Learn what the manifest of a folder or single file says, if there is one.

        Hashes only what was written to since the model was last found good. Raises CheckpointProblem when a file of the
        manifest is missing or differs from it.
        """
        if not manifest_path(place).exists():
            return
        manifest = read_manifest(place)
        damages = [damage for damage in find_damage(place, manifest) if damage.kind != "extra"]
        if damages:
            raise CheckpointProblem(damages[0].sentence)
        root = place.parent if is_single_file(place) else place
        for entry in manifest.files:
            self._known[_stamp(root / entry.name)] = entry.sha256

    def of(self, path: Path) -> str:
        """Raises CheckpointProblem when the file cannot be read."""
        try:
            stamp = _stamp(path)
            if stamp not in self._known:
                self._known[stamp] = sha256_of(path)
            return self._known[stamp]
        except OSError as error:
            raise CheckpointProblem(f"{path} cannot be read: {error.strerror}") from error


def model_digest(layout: Layout, digests: FileDigests) -> str:
    """Of all that decides what a model draws, by the files' own names; hexadecimal."""
    return _digest(f"{path.name}\0{digests.of(path)}" for path in layout.files())


def component_digest(part: Weights, class_name: str, treatment: str, digests: FileDigests) -> str:
    """Of one component as it is held: the same for two models with equal files, treated alike; hexadecimal."""
    config = {name: value for name, value in read_json(part.config).items() if not _is_note(name)}
    written = msgspec.json.encode(config, order="deterministic").decode()
    return _digest([class_name, treatment, part.prefix, written, *(digests.of(file) for file in part.files)])


def _is_note(name: str) -> bool:
    return name.startswith("_") or name in NOTES


def _stamp(path: Path) -> _Stamp:
    facts = path.stat()
    return (os.path.realpath(path), facts.st_size, facts.st_mtime_ns)


def _digest(texts: Iterable[str]) -> str:
    total = hashlib.sha256()
    for text in sorted(texts):
        total.update(text.encode() + b"\0")
    return total.hexdigest()
