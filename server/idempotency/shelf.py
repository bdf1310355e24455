"""Keeps answers for a day: a file for each, found by the claim of the request that they answer.

Knows one folder, a quota and a clock; knows no HTTP and no pictures.
Invariant: all files together never take more than the quota, and so are never too many to remember; where something
must go, it is the oldest answer of whoever holds most. What cannot be kept harms nobody: it is not kept.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from server.idempotency.answer import HEAD_BYTES, Answer, Damaged, head_of, packed, unpacked
from server.idempotency.claim import Claim

log = logging.getLogger("safelight.idempotency")
DAY_SECONDS = 24 * 3600.0
# A disk gives whole blocks; and so the quota bounds the number of files, too.
BLOCK_BYTES = 4096
MOST_OF_A_CALLER = 10_000
SUFFIX, UNFINISHED, LOCK = ".answer", ".part", ".lock"


class ShelfProblem(Exception):
    """The folder cannot be used; says why."""


@dataclass(slots=True, eq=False)
class Kept:
    """One answer's place. urls: where its pictures were last to be had, if no longer where it says. renewing: held by
    whoever looks whether they still are."""

    claim: Claim
    path: Path
    expires_unix_seconds: float
    held_bytes: int
    urls: tuple[str, ...] = ()
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Shelf:
    """Call `open` once, `close` once; all but `find` may block. quota_bytes: 0 keeps nothing. clock: Unix seconds, as
    answers outlive the process."""

    def __init__(self, folder: Path, quota_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._quota_bytes, self._clock = folder, quota_bytes, clock
        # By caller and by key, the oldest first.
        self._kept: dict[str, dict[str, Kept]] = {}
        # By caller: files, and what is about to be written.
        self._held_bytes: dict[str, int] = {}
        self._total_bytes = 0
        self._lock = threading.Lock()  # answers are saved in several threads at once
        self._owned: int | None = None

    @property
    def held_bytes(self) -> int:
        return self._total_bytes

    def open(self) -> None:
        """Find again what an earlier server kept. Raises ShelfProblem, also where another server uses the folder."""
        try:
            self._own()
            found = sorted(self._found(), key=lambda kept: kept.expires_unix_seconds)
        except BlockingIOError:
            self.close()
            raise ShelfProblem(f"another server keeps its answers in {self._folder}.") from None
        except OSError as error:
            self.close()
            raise ShelfProblem(f"{self._folder} cannot be used: {error.strerror}.") from error
        with self._lock:
            for kept in found:
                self._hold(kept.claim.caller, kept.held_bytes)
            gone = [older for kept in found if (older := self._put(kept)) is not None]
            gone += self._made_room()
        _delete(gone)

    def _own(self) -> None:
        """Until it is closed, or the process ends. Two would delete each other's files."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._owned = os.open(self._folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in self._folder.glob(f"*{UNFINISHED}"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another server have the folder. The files stay."""
        if self._owned is not None:
            os.close(self._owned)
            self._owned = None

    def find(self, claim: Claim) -> Kept | None:
        """What was kept under this caller's key, whatever the request asked for."""
        kept = self._kept.get(claim.caller, {}).get(claim.key)
        return kept if kept is not None and self._clock() < kept.expires_unix_seconds else None

    def read(self, kept: Kept) -> Answer | None:
        """None where the file is gone or damaged; then the answer is forgotten."""
        try:
            return unpacked(kept.path.read_bytes())
        except (OSError, Damaged) as problem:
            log.warning("kept answer lost", extra={"cause": type(problem).__name__})
            self._forget([kept])
            return None

    def save(self, claim: Claim, answer: Answer) -> bool:
        """Whether it was kept. Replaces what this key had before."""
        expires = self._clock() + DAY_SECONDS
        file = packed(claim, expires, answer)
        path = self._folder / f"{secrets.token_hex(16)}{SUFFIX}"
        kept = Kept(claim, path, expires, _blocks(len(file)))
        if not self._reserve(kept):
            log.warning("answer not kept: too large", extra={"answer_bytes": len(file)})
            return False
        try:
            _write(path, file)
        except OSError as problem:
            with self._lock:
                self._hold(claim.caller, -kept.held_bytes)
            log.warning("answer not kept: not written", extra={"cause": type(problem).__name__})
            return False
        with self._lock:
            older = self._put(kept)
        _delete([older] if older is not None else [])
        return True

    def sweep(self) -> None:
        """Delete what has expired."""
        now = self._clock()
        with self._lock:
            expired = [kept for kept in self._all() if now >= kept.expires_unix_seconds]
        self._forget(expired)

    def _found(self) -> Iterator[Kept]:
        now = self._clock()
        for path in self._folder.glob(f"*{SUFFIX}"):
            try:
                file_bytes = path.stat().st_size
                with path.open("rb") as file:
                    head = head_of(file.read(HEAD_BYTES), file_bytes)
            except Damaged:
                path.unlink(missing_ok=True)
                continue
            if head.expires_unix_seconds <= now:
                path.unlink(missing_ok=True)
                continue
            # A clock that was ahead when it was written must not keep it for longer.
            expires = min(head.expires_unix_seconds, now + DAY_SECONDS)
            yield Kept(head.claim, path, expires, _blocks(file_bytes))

    def _reserve(self, kept: Kept) -> bool:
        """Whether there is room for it now."""
        caller = kept.claim.caller
        with self._lock:
            if kept.held_bytes > self._quota_bytes:
                return False
            self._hold(caller, kept.held_bytes)
            of_caller = self._kept.get(caller, {})
            gone = [self._taken(next(iter(of_caller.values())))] if len(of_caller) >= MOST_OF_A_CALLER else []
            gone += self._made_room()
            fits = self._total_bytes <= self._quota_bytes
            if not fits:
                self._hold(caller, -kept.held_bytes)
        _delete(gone)
        return fits

    def _made_room(self) -> list[Kept]:
        """What had to go; where nothing is left that could, the rest is being written at the moment."""
        gone: list[Kept] = []
        while self._total_bytes > self._quota_bytes and self._kept:
            most = max(self._kept, key=self._held_bytes.__getitem__)
            gone.append(self._taken(next(iter(self._kept[most].values()))))
        return gone

    def _put(self, kept: Kept) -> Kept | None:
        """What it takes the place of. Its bytes are held already."""
        older = self._kept.get(kept.claim.caller, {}).get(kept.claim.key)
        if older is not None:
            self._taken(older)
        self._kept.setdefault(kept.claim.caller, {})[kept.claim.key] = kept
        return older

    def _taken(self, kept: Kept) -> Kept:
        caller, key = kept.claim.caller, kept.claim.key
        del self._kept[caller][key]
        if not self._kept[caller]:
            del self._kept[caller]
        self._hold(caller, -kept.held_bytes)
        return kept

    def _hold(self, caller: str, more_bytes: int) -> None:
        self._total_bytes += more_bytes
        self._held_bytes[caller] = self._held_bytes.get(caller, 0) + more_bytes
        if not self._held_bytes[caller]:
            del self._held_bytes[caller]

    def _forget(self, some: list[Kept]) -> None:
        with self._lock:
            there = [kept for kept in some if self._kept.get(kept.claim.caller, {}).get(kept.claim.key) is kept]
            for kept in there:
                self._taken(kept)
        _delete(there)

    def _all(self) -> Iterator[Kept]:
        for of_caller in self._kept.values():
            yield from of_caller.values()


def _blocks(length_bytes: int) -> int:
    return -(-length_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _write(path: Path, file: bytes) -> None:
    """Whole or not at all. Not waited for until the disk has it: who reads it looks whether it is whole."""
    unfinished = path.with_suffix(UNFINISHED)
    try:
        with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as opened:
            opened.write(file)
        unfinished.rename(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def _delete(some: list[Kept]) -> None:
    for kept in some:
        try:
            kept.path.unlink(missing_ok=True)
        except OSError:
            log.exception("a kept answer could not be deleted")
