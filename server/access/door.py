"""Who asks: from a request's headers to its caller, or to the refusal.

Knows two headers and the live keys; knows no route, no scope and no body.
Invariant: whatever is not exactly one well-formed, usable key is refused in the same words, with no part of it in them.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

from server.access.live import LiveKeys
from server.access.records import KeysProblem
from server.core import errors
from server.core.caller import ANYBODY, Caller
from server.core.settings import Settings

RawHeaders = Iterable[tuple[bytes, bytes]]
# RFC 6750; the scheme's case does not matter (RFC 9110, section 11.1).
BEARER = re.compile(rb"bearer +(\S+)", re.IGNORECASE)


class Door:
    """keys: None where there are none, and anybody may come in."""

    def __init__(self, keys: LiveKeys | None) -> None:
        self._keys = keys

    @property
    def asks_for_keys(self) -> bool:
        return self._keys is not None

    def admit(self, headers: RawHeaders) -> Caller:
        """headers: as ASGI has them, their names in lower case. Raises SafelightError: 401."""
        if self._keys is None:
            return ANYBODY
        caller = self._keys.find(presented(headers))
        if caller is None:
            raise errors.invalid_key()
        return caller

    async def watch(self) -> None:
        """Keep up with the keys' file, until cancelled."""
        if self._keys is not None:
            await self._keys.watch()

    def look(self) -> None:
        """Take over changed keys now. Blocks."""
        if self._keys is not None:
            self._keys.look()


# Of a server that only its own machine can reach.
OPEN_DOOR = Door(None)


def door_of(settings: Settings) -> Door:
    """With `keys` set, even where no key is left in the file, nobody comes in without one. Raises KeysProblem, also
    where others than this machine could reach a server that anybody, or nobody at all, may use."""
    if settings.keys is None:
        if not settings.is_loopback:
            raise KeysProblem(
                f"refusing to listen on {settings.host}: there are no keys, so anybody who reaches this address could "
                "draw. Make one with `safelight keys create` and set SAFELIGHT_KEYS, or use 127.0.0.1."
            )
        return OPEN_DOOR
    keys = LiveKeys(settings.keys)
    if not settings.is_loopback and not keys.has_usable():
        raise KeysProblem(
            f"refusing to listen on {settings.host}: {settings.keys} holds no usable key. Make one with "
            "`safelight keys create`."
        )
    return Door(keys)


def presented(headers: RawHeaders) -> bytes:
    """The key that was sent: `Authorization: Bearer KEY`, or Azure's `api-key: KEY`; in both, if they agree. Raises
    SafelightError when there is none, or several."""
    sent: dict[bytes, list[bytes]] = {b"authorization": [], b"api-key": []}
    for name, value in headers:
        if name in sent:
            sent[name].append(value)
    if not any(sent.values()):
        raise errors.missing_key()
    if max(map(len, sent.values())) > 1:
        raise errors.invalid_key()
    texts = [*map(_token, sent[b"authorization"]), *sent[b"api-key"]]
    if not hmac.compare_digest(texts[0], texts[-1]):
        raise errors.invalid_key()
    return texts[0]


def _token(value: bytes) -> bytes:
    found = BEARER.fullmatch(value)
    if found is None:
        raise errors.invalid_key()
    return found[1]
