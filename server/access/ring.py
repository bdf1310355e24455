"""Finds the caller of a key. Frozen: changed keys are a new ring.

Knows records and hashes; knows no file and no header, and is told the time.
Invariant: whatever has a key's form, known or not, costs one hash and one look-up by that hash: nothing here depends on
how much of a key was guessed right.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from server.access.key_text import is_key
from server.access.keys_file import Keys
from server.access.records import KeyRecord, KeysFile, is_over
from server.core.caller import Caller


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: str
    caller: Caller
    ends_unix_seconds: int | None


class KeyRing:
    """hash_of: from a key's text to what is kept of it."""

    def __init__(self, file: KeysFile, hash_of: Callable[[bytes], str]) -> None:
        self._hash_of = hash_of
        self._entries = {entry.digest: entry for key in file.keys for entry in _entries(key)}

    def find(self, text: bytes, now_unix_seconds: float) -> Caller | None:
        """None for what is no key, or no key here, or one no more."""
        if not is_key(text):
            return None
        digest = self._hash_of(text)
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            return None
        return None if is_over(entry.ends_unix_seconds, now_unix_seconds) else entry.caller

    def has_usable(self, now_unix_seconds: float) -> bool:
        """Whether anybody could come in."""
        return any(not is_over(entry.ends_unix_seconds, now_unix_seconds) for entry in self._entries.values())


def ring_of(keys: Keys) -> KeyRing:
    return KeyRing(keys.file, keys.hash_of)


def _entries(key: KeyRecord) -> list[_Entry]:
    """One for each text of the key that may still work."""
    if key.revoked_unix_seconds is not None:
        return []
    caller = key.caller()
    return [
        _Entry(kept.hmac_sha256, caller, _first(kept.until_unix_seconds, key.expires_unix_seconds)) for kept in key.kept
    ]


def _first(*moments: int | None) -> int | None:
    return min((moment for moment in moments if moment is not None), default=None)
