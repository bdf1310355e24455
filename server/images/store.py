"""Keeps result files for their hour: random names, no keys, gone when their time is over.

Knows one folder and a clock; knows no HTTP and no pictures' contents.
Invariant: a name is matched against the pattern before the file system is touched; a file is never served late.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{22}\.png", re.ASCII)
RANDOM_BYTES = 16
# How long an expired name is answered with "expired" rather than "unknown".
TOMBSTONE_SECONDS = 24 * 3600


class UnknownFile(Exception):
    """There never was such a file, or it is long gone."""


class ExpiredFile(Exception):
    """The file was there and its time is over."""


class FileStore:
    """Result files in one folder. Blocking; call it off the event loop.

    lifetime_seconds: how long a file is served. clock: seconds that never go back.
    """

    def __init__(self, folder: Path, lifetime_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._lifetime_seconds, self._clock = folder, lifetime_seconds, clock
        self._expires: dict[str, float] = {}

    def open(self) -> None:
        """Make the folder and remove what an earlier server left: its expiry times went with it. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._folder.iterdir():
            if NAME_PATTERN.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def save(self, content: bytes) -> str:
        """Store a PNG file under a fresh random name of 128 bits. Raises OSError when it cannot be written."""
        name = f"{secrets.token_urlsafe(RANDOM_BYTES)}.png"
        path = self._folder / name
        try:
            path.write_bytes(content)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._expires[name] = self._clock() + self._lifetime_seconds
        return name

    def read(self, name: str) -> bytes:
        """Raises UnknownFile or ExpiredFile."""
        if not NAME_PATTERN.fullmatch(name) or name not in self._expires:
            raise UnknownFile
        if self._clock() >= self._expires[name]:
            raise ExpiredFile
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise UnknownFile from None

    def sweep(self) -> None:
        """Delete what has expired; forget names that expired long ago. Raises OSError when a file stays."""
        now = self._clock()
        self._delete([name for name, expires in self._expires.items() if now >= expires])
        for name, expires in list(self._expires.items()):
            if now >= expires + TOMBSTONE_SECONDS:
                del self._expires[name]

    def close(self) -> None:
        """Delete every file: nobody would know their names after a restart."""
        self._delete(list(self._expires))
        self._expires.clear()

    def _delete(self, names: list[str]) -> None:
        """Delete what can be deleted; the first failure is raised after the last file was tried."""
        failures: list[OSError] = []
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                failures.append(error)
        if failures:
            raise failures[0]
