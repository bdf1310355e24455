"""Where a next page begins, as text that clients hand back as they got it.

Knows numbers and the question that they belong to; knows no rows.
Invariant: a cursor is a place and no right: what a caller may see is decided anew for each page. What was altered, or
belongs to another question, is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

from server.core import errors

_PLACE = struct.Struct(">qq")
_SEAL_BYTES = 8
PARAM = "page"
# What may change from page to page.
_LEFT_OUT = {PARAM, "limit"}


def cursor_of(place: tuple[int, int], path: str, values: Mapping[str, Any]) -> str:
    """place: two numbers of 63 bits and a sign. values: what was asked, by parameter."""
    packed = _PLACE.pack(*place)
    return base64.urlsafe_b64encode(packed + _seal(packed, path, values)).decode().rstrip("=")


def place_of(cursor: str, path: str, values: Mapping[str, Any]) -> tuple[int, int]:
    """Raises SafelightError for what is no cursor of this question."""
    try:
        whole = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        whole = b""
    packed, seal = whole[: _PLACE.size], whole[_PLACE.size :]
    if len(packed) != _PLACE.size or seal != _seal(packed, path, values):
        message = f"'{PARAM}' must be the 'next_page' of an answer to the same question."
        raise errors.invalid_parameter(PARAM, message)
    first, second = _PLACE.unpack(packed)
    return first, second


def _seal(packed: bytes, path: str, values: Mapping[str, Any]) -> bytes:
    asked = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in values.items()
        if name not in _LEFT_OUT
    }
    question = json.dumps([path, asked], sort_keys=True).encode()
    return hashlib.sha256(packed + question).digest()[:_SEAL_BYTES]
