"""Keeps the keys on the disk: one file of records, and beside it one with the secret that they are hashed with.

Knows paths, locks and modes; knows no caller and no clock.
Invariant: a file is whole at every moment, or not there; whoever changes it does so alone, on top of all that was
changed before; nobody can read either file but its owner and, where that is root, the group that root lets in; nobody
but the owner can write them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from server.access.key_text import CHECKED_WORD, SECRET_BYTES, hashed
from server.access.records import VERSION, KeysFile, KeysProblem, decoded, encoded

OWNERS_ALONE, GROUPS_TOO = 0o600, 0o640
ROOT = 0
OTHERS = stat.S_IRWXG | stat.S_IRWXO
MAX_FILE_BYTES = 64 * 1024**2
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Keys:
    """What the disk holds. secret: of the hashes; it is shown and logged nowhere."""

    file: KeysFile
    secret: bytes

    def __repr__(self) -> str:
        return f"Keys({len(self.file.keys)})"

    @property
    def hash_of(self) -> Callable[[bytes], str]:
        return partial(hashed, self.secret)


def secret_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.secret")


def read_keys(path: Path) -> Keys:
    """Raises KeysProblem."""
    place = _real(path)
    content = _own_content(place)
    secret = _read_secret(secret_path(place))
    try:
        file = decoded(content)
    except KeysProblem as problem:
        raise KeysProblem(f"{place} cannot be used: {problem}.") from None
    if not hmac.compare_digest(file.secret_check, hashed(secret, CHECKED_WORD)):
        raise KeysProblem(f"{secret_path(place)} is not the secret that the keys of {place} were hashed with.")
    return Keys(file, secret)


def change_keys(path: Path, change: Callable[[Keys], tuple[KeysFile, T]], *, may_begin: bool = False) -> T:
    """Do it alone, and write what it makes of the keys; its other result. may_begin: where there is no file yet, it
    is begun, and a secret made. Raises KeysProblem, and then nothing was changed."""
    place = _real(path)
    try:
        with _locked(place):
            keys = _begun(place) if may_begin and not place.exists() else read_keys(place)
            file, result = change(keys)
            content = encoded(file)
            decoded(content)  # nothing is written that could not be read again
            _write(place, content)
            return result
    except OSError as error:
        raise KeysProblem(f"{place} cannot be written: {error.strerror}.") from None


def _begun(place: Path) -> Keys:
    """The secret is there before any key that was hashed with it."""
    beside = secret_path(place)
    if not beside.exists():
        _write(beside, secrets.token_bytes(SECRET_BYTES).hex().encode() + b"\n")
    secret = _read_secret(beside)
    return Keys(KeysFile(VERSION, hashed(secret, CHECKED_WORD)), secret)


def _real(path: Path) -> Path:
    """Where links lead, so that what they lead to is replaced and not they."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # the latter of links that lead in a circle
        raise KeysProblem(f"{path} cannot be read: its links lead nowhere.") from None


def _read_secret(path: Path) -> bytes:
    text = _own_content(path).strip()
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise KeysProblem(f"{path} does not hold a secret of {SECRET_BYTES} bytes in hexadecimal.")
    return secret


def _own_content(path: Path) -> bytes:
    """Of a file that none but its owner may touch. It is judged once it is open, so that what is judged is read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor is no path)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeysProblem(f"{path} is no file.")
            _refuse_others(path, status)
            if status.st_size > MAX_FILE_BYTES:
                raise KeysProblem(f"{path} is larger than {MAX_FILE_BYTES} bytes.")
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise KeysProblem(f"{path} cannot be read: {error.strerror}.") from None


def _refuse_others(path: Path, status: os.stat_result) -> None:
    """What root owns may be read by a group: so Kubernetes lays secrets down (fsGroup), and nobody but root can have
    chosen the group. Source: PostgreSQL asks the same of its server's private key."""
    refused = OTHERS & ~stat.S_IRGRP if status.st_uid == ROOT else OTHERS
    if status.st_mode & refused:
        raise KeysProblem(f"Others than its owner may read or write {path}: chmod 600 it.")


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """The lock is a file of its own, as what it protects is replaced. It stays: to delete it would let two in."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(place.with_name(f"{place.name}.lock"), flags, OWNERS_ALONE)
    try:
        _give_to_owner_of(place.parent, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(place: Path, content: bytes) -> None:
    """All of it or none, also when the machine stops at any moment. Raises OSError."""
    draft = place.with_name(f"{place.name}.{secrets.token_hex(8)}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNERS_ALONE)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor is no path)
            _give_to_owner_of(place.parent, descriptor)
            _lend_as_before(place, descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        draft.replace(place)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(place.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_to_owner_of(folder: Path, descriptor: int) -> None:
    """What root writes into a service's folder, the service must be able to read."""
    if os.geteuid() == ROOT:
        status = folder.stat()
        os.fchown(descriptor, status.st_uid, status.st_gid)


def _lend_as_before(place: Path, descriptor: int) -> None:
    """The group that root let read the file that is replaced reads the new one."""
    if os.geteuid() != ROOT or not place.exists():
        return
    status = place.stat()
    if status.st_uid == ROOT and status.st_mode & stat.S_IRGRP:
        os.fchown(descriptor, ROOT, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & GROUPS_TOO)
