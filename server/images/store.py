"""Keeps result files for their hour: random names, no keys, gone when their time is over.

Knows one folder and a clock; knows no HTTP and no pictures' contents.
Invariant: a name is matched against the pattern before the file system is touched; a file is never served late; all
files together never take more than the quota.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipelines.messages import OutputFormat

EXTENSIONS: dict[OutputFormat, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
FORMATS = {extension: output_format for output_format, extension in EXTENSIONS.items()}
NAME_PATTERN = re.compile(rf"[A-Za-z0-9_-]{{22}}\.({'|'.join(FORMATS)})", re.ASCII)
RANDOM_BYTES = 16
# How long an expired name is answered with "expired" rather than "unknown".
TOMBSTONE_SECONDS = 24 * 3600


class UnknownFile(Exception):
    """There never was such a file, or it is long gone."""


class ExpiredFile(Exception):
    """The file was there and its time is over."""


class FullStore(Exception):
    """The file does not fit into the quota."""


class ResultStore(Protocol):
    """Where results live for their hour. Its methods block; call them off the event loop."""

    def open(self) -> None:
        """Begin empty. Raises OSError."""
        ...

    @property
    def held_bytes(self) -> int:
        """What all results together take now. Quick; may be called on the event loop."""
        ...

    def has_room(self) -> bool:
        """Whether another result is likely to fit. Quick; may be called on the event loop."""
        ...

    def save(self, content: bytes, output_format: OutputFormat) -> str:
        """The name that it can be read by. Raises FullStore, or OSError when it cannot be written."""
        ...

    def read(self, name: str) -> bytes:
        """Raises UnknownFile or ExpiredFile."""
        ...

    def seconds_left(self, name: str) -> float:
        """How long it can still be read; 0 where it cannot. Quick; may be called on the event loop."""
        ...

    def discard(self, name: str) -> None:
        """Delete a file that nobody was told of. Raises OSError."""
        ...

    def sweep(self) -> None:
        """Delete what has expired. Raises OSError when a file stays."""
        ...

    def close(self) -> None:
        """Delete everything. Raises OSError when a file stays."""
        ...


@dataclass(slots=True)
class _Kept:
    """expires: on the store's clock. held_bytes: on the disk, 0 once the file is deleted."""

    expires: float
    held_bytes: int


class FileStore:
    """Result files in one folder.

    lifetime_seconds: how long a file is served. quota_bytes: what all files together may take. clock: seconds that
    never go back.
    """

    def __init__(
        self, folder: Path, lifetime_seconds: float, quota_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._lifetime_seconds, self._clock = folder, lifetime_seconds, clock
        self._quota_bytes, self._held_bytes = quota_bytes, 0
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()  # results are saved in several threads at once

    def open(self) -> None:
        """Make the folder and remove what an earlier server left: its expiry times went with it. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._folder.iterdir():
            if NAME_PATTERN.fullmatch(path.name):
                path.unlink(missing_ok=True)

    @property
    def held_bytes(self) -> int:
        """What all files together take now."""
        return self._held_bytes

    def has_room(self) -> bool:
        return self._held_bytes < self._quota_bytes

    def save(self, content: bytes, output_format: OutputFormat = "png") -> str:
        """Under a fresh random name of 128 bits. Raises FullStore, or OSError when it cannot be written."""
        name = f"{secrets.token_urlsafe(RANDOM_BYTES)}.{EXTENSIONS[output_format]}"
        kept = self._reserve(name, len(content))
        path = self._folder / name
        try:
            path.write_bytes(content)
        except OSError:
            path.unlink(missing_ok=True)
            with self._lock:
                self._release(kept)
                del self._kept[name]
            raise
        return name

    def _reserve(self, name: str, length_bytes: int) -> _Kept:
        with self._lock:
            if self._held_bytes + length_bytes > self._quota_bytes:
                raise FullStore
            self._held_bytes += length_bytes
            kept = self._kept[name] = _Kept(self._clock() + self._lifetime_seconds, length_bytes)
            return kept

    def _release(self, kept: _Kept) -> None:
        self._held_bytes -= kept.held_bytes
        kept.held_bytes = 0

    def read(self, name: str) -> bytes:
        """Raises UnknownFile or ExpiredFile."""
        kept = self._kept.get(name) if NAME_PATTERN.fullmatch(name) else None
        if kept is None:
            raise UnknownFile
        if self._clock() >= kept.expires:
            raise ExpiredFile
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise UnknownFile from None

    def seconds_left(self, name: str) -> float:
        kept = self._kept.get(name)
        return 0.0 if kept is None else max(0.0, kept.expires - self._clock())

    def discard(self, name: str) -> None:
        """Delete a file that nobody was told of, and forget it. Raises OSError."""
        kept = self._kept.get(name)
        if kept is not None:
            self._delete({name: kept})
            with self._lock:
                self._kept.pop(name, None)

    def sweep(self) -> None:
        """Delete what has expired; forget names that expired long ago. Raises OSError when a file stays."""
        now = self._clock()
        with self._lock:
            expired = {name: kept for name, kept in self._kept.items() if now >= kept.expires}
        try:
            self._delete(expired)
        finally:
            with self._lock:
                for name, kept in expired.items():
                    if now >= kept.expires + TOMBSTONE_SECONDS and not kept.held_bytes:
                        del self._kept[name]

    def close(self) -> None:
        """Delete every file: nobody would know their names after a restart."""
        self._delete(dict(self._kept))
        self._kept.clear()

    def _delete(self, files: dict[str, _Kept]) -> None:
        """Delete what can be deleted; the first failure is raised after the last file was tried."""
        failures: list[OSError] = []
        for name, kept in files.items():
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                failures.append(error)
            else:
                with self._lock:
                    self._release(kept)
        if failures:
            raise failures[0]
