"""What a request with an Idempotency-Key claims to be: whose it is, which one of theirs, and what it asks for.

Knows keys, the header that they come in, and parsed bodies; knows no HTTP, no clock and no answers. Pure.
Invariant: two claims share a caller and a key only where the same caller used the same key for the same operation, and
a fingerprint only where the bodies held the same values. Neither the key nor the body can be read out of a claim.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.core.long_text import LongText

HEADER = "Idempotency-Key"
# Stripe takes up to 255 characters. The IETF's draft (draft-ietf-httpapi-idempotency-key-header-07) writes the key as a
# string in quotes; here the quotes would be two characters of it.
KEY = re.compile(r"[!-~]{1,255}", re.ASCII)
ALLOWED = "1 to 255 visible ASCII characters, without spaces"


@dataclass(frozen=True, slots=True)
class Claim:
    """caller, key: digests, in hexadecimal. fingerprint: a digest of what the body held."""

    caller: str
    key: str
    fingerprint: bytes


def claim_of(key_id: str | None, operation: str, key: str, values: Mapping[str, Any]) -> Claim:
    """key_id: the caller's; None where the server has no keys: then all share theirs. values: the body, parsed: JSON's
    values, and bytes where a form held files."""
    return Claim(*place_of(key_id, operation, key), fingerprint_of(values))


def place_of(key_id: str | None, operation: str, key: str) -> tuple[str, str]:
    """A claim's caller and key, whatever the body."""
    caller, scope = hashlib.sha256(), hashlib.sha256()
    _add(caller, key_id)
    _add(scope, [key_id, operation, key])
    return caller.hexdigest(), scope.hexdigest()


def fingerprint_of(values: Mapping[str, Any]) -> bytes:
    """SHA-256 over the values, whatever the order of names, the spacing or a form's boundary was. 32 bytes. What JSON
    tells apart stays apart: 1, 1.0, true and "1"."""
    digest = hashlib.sha256()
    _add(digest, values)
    return digest.digest()


def _add(digest: hashlib._Hash, value: Any) -> None:
    """Each value with its type and length before it, so that no two can be written alike."""
    match value:
        case Mapping():
            digest.update(b"m%d:" % len(value))
            for name in sorted(value):
                _add(digest, name)
                _add(digest, value[name])
        case list() | tuple():
            digest.update(b"l%d:" % len(value))
            for item in value:
                _add(digest, item)
        case bytes():
            digest.update(b"b%d:" % len(value))
            digest.update(value)
        case LongText():  # as if it were a str; the digest lets Python's lock go meanwhile
            digest.update(b"s%d:" % len(value))
            digest.update(value.view)
        case str():
            text = value.encode("utf-8", "surrogatepass")
            digest.update(b"s%d:" % len(text))
            digest.update(text)
        case _:  # null, truth values and numbers
            text = f"{type(value).__name__}{value!r}".encode()
            digest.update(b"o%d:" % len(text))
            digest.update(text)
