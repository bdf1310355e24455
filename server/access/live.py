"""The keys of a running server: read when it starts, and again soon after their file has changed.

Knows the file's path and when it was last written; knows no header.
Invariant: no request waits for a disk; a file that cannot be used changes nothing, and is told in the log.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path

from server.access.keys_file import read_keys, secret_path
from server.access.records import KeysProblem
from server.access.ring import ring_of
from server.core.caller import Caller

log = logging.getLogger("safelight.access")
LOOK_SECONDS = 1.0
# Which file it was, and when it or its mode last changed.
Stamp = tuple[int, int, int, int]


class LiveKeys:
    """Raises KeysProblem when the file cannot be used at the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamps = _stamps(path)
        self._ring = ring_of(read_keys(path))
        self._looking = threading.Lock()
        self._told: str | None = None

    def find(self, text: bytes) -> Caller | None:
        """Whose key it is; None: nobody's. Quick: for the event loop."""
        return self._ring.find(text, time.time())

    def has_usable(self) -> bool:
        return self._ring.has_usable(time.time())

    def look(self) -> None:
        """Take over the file if it has changed. Blocks. What cannot be used is looked at again the next time."""
        with self._looking:
            stamps = _stamps(self._path)
            if stamps == self._stamps:
                return
            try:
                self._ring = ring_of(read_keys(self._path))
            except KeysProblem as problem:
                self._tell(str(problem))
                return
            self._stamps, self._told = stamps, None
            log.info("keys taken over")

    def _tell(self, problem: str) -> None:
        """Once, and not every second."""
        if problem != self._told:
            log.error("the keys cannot be read; those of before stay", extra={"detail": problem})
        self._told = problem

    async def watch(self) -> None:
        """Until cancelled, whatever happens: who does not look would let a revoked key in."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.look)
            except Exception:
                log.exception("the keys could not be looked at; trying again")


def _stamps(path: Path) -> tuple[Stamp | None, Stamp | None]:
    """Taken before the files are read, so that whatever changes meanwhile is seen the next time."""
    return _stamp(path), _stamp(secret_path(path))


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
