"""The keys file as it is written: its version, and a record for each key that was ever made.

Knows the form; knows no disk, no clock and no secret.
Invariant: what was decoded is complete, in range and free of doubles; what it does not know is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from server.core.caller import Caller, Limits, Scope

VERSION: Literal[1] = 1
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
KEY_ID = re.compile(r"\A[0-9a-f]{12}\Z")
KeyId = Annotated[str, Meta(pattern=KEY_ID.pattern)]
NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9 ._@/+-]{0,63}\Z")
KeyName = Annotated[str, Meta(pattern=NAME.pattern)]
# A public name, an id of a model of ours, or BACKEND:MODEL.
ModelName = Annotated[str, Meta(min_length=1, max_length=200)]
# Up to the year 9999, the last that dates can be written of.
Moment = Annotated[int, Meta(ge=0, le=253402300799)]
Count = Annotated[int, Meta(ge=1)]


class KeysProblem(Exception):
    """The keys cannot be used, or not be changed so; the text is for the operator, and holds no part of a key."""


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Takes no field that it does not know, and never changes."""


class Kept(Strict, frozen=True):
    """What is kept of one key's text. until_unix_seconds: when it stops working, after its key was rotated."""

    hmac_sha256: Digest
    until_unix_seconds: Moment | None = None


class KeyLimits(Strict, frozen=True):
    """As `server.core.caller.Limits`, with its ranges. A limit of 0 USD leaves what costs nothing."""

    requests_per_minute: Count | None = None
    images_per_minute: Count | None = None
    concurrent_images: Count | None = None
    work_units_per_day: Annotated[float, Meta(gt=0)] | None = None
    usd_per_day: Annotated[float, Meta(ge=0)] | None = None


class KeyRecord(Strict, frozen=True):
    """One key. models: None: all. A revoked one stays, as the books go on naming it."""

    id: KeyId
    name: KeyName
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    created_unix_seconds: Moment
    kept: tuple[Kept, ...]
    models: Annotated[tuple[ModelName, ...], Meta(min_length=1)] | None = None
    limits: KeyLimits = KeyLimits()
    local_only: bool = False
    expires_unix_seconds: Moment | None = None
    revoked_unix_seconds: Moment | None = None

    def is_usable(self, now_unix_seconds: float) -> bool:
        return self.revoked_unix_seconds is None and not is_over(self.expires_unix_seconds, now_unix_seconds)

    def caller(self) -> Caller:
        return Caller(
            key_id=self.id,
            name=self.name,
            scopes=frozenset(self.scopes),
            models=None if self.models is None else frozenset(self.models),
            limits=Limits(**msgspec.structs.asdict(self.limits)),
            local_only=self.local_only,
        )


class KeysFile(Strict, frozen=True):
    """All of the file. secret_check: tells which secret its keys were hashed with."""

    version: Literal[1]
    secret_check: Digest
    keys: tuple[KeyRecord, ...] = ()


def is_over(moment_unix_seconds: int | None, now_unix_seconds: float) -> bool:
    return moment_unix_seconds is not None and moment_unix_seconds <= now_unix_seconds


def decoded(content: bytes) -> KeysFile:
    """Raises KeysProblem."""
    try:
        file = msgspec.json.decode(content, type=KeysFile)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise KeysProblem(f"it is no keys file of version {VERSION}: {error}") from None
    _refuse_doubles("the id", (key.id for key in file.keys))
    _refuse_doubles("a hash of the key", (kept.hmac_sha256 for key in file.keys for kept in key.kept))
    return file


def _refuse_doubles(what: str, values: Iterable[str]) -> None:
    value, count = next(iter(Counter(values).most_common(1)), ("", 0))
    if count > 1:
        raise KeysProblem(f"{what} {value[:12]} stands in it {count} times")


def encoded(file: KeysFile) -> bytes:
    """To be read by people too."""
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
