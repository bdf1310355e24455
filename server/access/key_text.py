"""What a key looks like, and the only form in which it is kept.

Knows texts and hashes; knows no file and no caller.
Invariant: what is kept of a key cannot be turned back into it, and without the secret not even tried out.
"""

from __future__ import annotations

import hmac
import re
import secrets

ID_BYTES, RANDOM_BYTES, SECRET_BYTES = 6, 32, 32
# sl-<id>-<256 random bits in base64's letters for URLs>: a form of one length, which scanners for leaked keys can know.
KEY = re.compile(rb"sl-[0-9a-f]{12}-[A-Za-z0-9_-]{43}")
# Hashed with the secret in place of a key, it tells whether a file and a secret belong together. No key looks like it.
CHECKED_WORD = b"safelight keys"


def new_id() -> str:
    """What the books know a key by: no secret, and the same for as long as the key is rotated."""
    return secrets.token_hex(ID_BYTES)


def new_key(key_id: str) -> str:
    return f"sl-{key_id}-{secrets.token_urlsafe(RANDOM_BYTES)}"


def is_key(text: bytes) -> bool:
    """Whether it has a key's form; whether anybody's, is another question."""
    return KEY.fullmatch(text) is not None


def hashed(secret: bytes, text: bytes) -> str:
    """HMAC-SHA256, in hexadecimal. A key has 256 random bits, so that slow hashes for passwords would add nothing."""
    return hmac.digest(secret, text, "sha256").hex()
