"""What creating, revoking and rotating make of a keys file. Pure, but for the random bits of a new key.

Knows records; knows no disk and is told the time.
Invariant: a record is never taken out, and its id never changes; of a key's text only the hash goes into the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from server.access.key_text import new_id, new_key
from server.access.records import NAME, Kept, KeyLimits, KeyRecord, KeysFile, KeysProblem, is_over
from server.core.caller import Scope

# From a key's text to what is kept of it.
Hash = Callable[[bytes], str]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a new key may do. models: None: all."""

    name: str
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] | None = None
    limits: KeyLimits = field(default_factory=KeyLimits)
    local_only: bool = False
    expires_unix_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A key's text, which is shown once and then exists nowhere here, and its record."""

    text: str
    record: KeyRecord


def created(file: KeysFile, hash_of: Hash, wish: Wish, now_unix_seconds: int) -> tuple[KeysFile, Issued]:
    """Raises KeysProblem where a key that is not revoked has the name, or no key can have it."""
    if NAME.search(wish.name) is None:
        raise KeysProblem("a key's name is up to 64 letters, digits, spaces and ._@/+-, a letter or digit first")
    if any(key.name == wish.name and key.revoked_unix_seconds is None for key in file.keys):
        raise KeysProblem(f"a key named {wish.name!r} exists: rotate or revoke it, or take another name")
    _refuse_past(wish.expires_unix_seconds, now_unix_seconds)
    key_id = new_id()
    text = new_key(key_id)
    record = KeyRecord(
        id=key_id,
        name=wish.name,
        scopes=wish.scopes,
        created_unix_seconds=now_unix_seconds,
        kept=(Kept(hash_of(text.encode())),),
        models=wish.models,
        limits=wish.limits,
        local_only=wish.local_only,
        expires_unix_seconds=wish.expires_unix_seconds,
    )
    return msgspec.structs.replace(file, keys=(*file.keys, record)), Issued(text, record)


def revoked(file: KeysFile, named: str, now_unix_seconds: int) -> tuple[KeysFile, KeyRecord]:
    """Raises KeysProblem where there is no such key. One that is revoked already stays as it is."""
    record = found(file, named)
    if record.revoked_unix_seconds is not None:
        return file, record
    gone = msgspec.structs.replace(record, revoked_unix_seconds=now_unix_seconds, kept=())
    return _with(file, gone), gone


def rotated(
    file: KeysFile,
    hash_of: Hash,
    named: str,
    now_unix_seconds: int,
    grace_seconds: int,
    expires_unix_seconds: int | None,
) -> tuple[KeysFile, Issued]:
    """A new text for the same key; the old one works for the grace. expires_unix_seconds: None: as before. Raises
    KeysProblem where there is no such key, or it works no more."""
    record = found(file, named)
    if record.revoked_unix_seconds is not None:
        raise KeysProblem(f"the key {record.id} is revoked: create a new one")
    _refuse_past(expires_unix_seconds or record.expires_unix_seconds, now_unix_seconds)
    text = new_key(record.id)
    ends = (now_unix_seconds + grace_seconds, record.expires_unix_seconds)
    older = (_until(kept, *ends) for kept in record.kept)
    still = tuple(kept for kept in older if not is_over(kept.until_unix_seconds, now_unix_seconds))
    renewed = msgspec.structs.replace(
        record,
        kept=(Kept(hash_of(text.encode())), *still),
        expires_unix_seconds=expires_unix_seconds or record.expires_unix_seconds,
    )
    return _with(file, renewed), Issued(text, renewed)


def found(file: KeysFile, named: str) -> KeyRecord:
    """By its id, or by the name of the one that is not revoked. Raises KeysProblem."""
    by_id = (key for key in file.keys if key.id == named)
    by_name = (key for key in file.keys if key.name == named and key.revoked_unix_seconds is None)
    record = next(by_id, None) or next(by_name, None)
    if record is None:
        raise KeysProblem(f"there is no key with the id {named!r}, and none with this name that is not revoked")
    return record


def _with(file: KeysFile, record: KeyRecord) -> KeysFile:
    return msgspec.structs.replace(file, keys=tuple(record if key.id == record.id else key for key in file.keys))


def _until(kept: Kept, *moments: int | None) -> Kept:
    ends = [moment for moment in (kept.until_unix_seconds, *moments) if moment is not None]
    return Kept(kept.hmac_sha256, min(ends))


def _refuse_past(expires_unix_seconds: int | None, now_unix_seconds: int) -> None:
    if is_over(expires_unix_seconds, now_unix_seconds):
        raise KeysProblem("a key that expires in the past would never work: name a later moment")
