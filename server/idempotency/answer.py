"""An answer as it is kept, and the file that it is kept in.

Knows bytes; knows no folder and no clock.
Invariant: what comes out of a file is what went in, or Damaged: a file that was cut short or changed is never read.
"""

from __future__ import annotations

import hashlib

import msgspec

from server.idempotency.claim import Claim

MAGIC = b"safelight answer 1\n"
LENGTH_BYTES = 4
# Room for every head; whoever wants no more reads only so much of a file.
HEAD_BYTES = 1024


class Damaged(Exception):
    """The file is no whole answer."""


class Answer(msgspec.Struct, frozen=True):
    """A complete 200. request_id: of the request that had it drawn. files: the pictures that the body names by URL, in
    its order; none where it holds them."""

    request_id: str
    headers: dict[str, str]
    body: bytes
    files: tuple[bytes, ...] = ()


class Head(msgspec.Struct, frozen=True):
    """What a file says first: whose answer it is, until when, and what follows."""

    caller: str
    key: str
    fingerprint: bytes
    expires_unix_seconds: float
    content_bytes: int
    content_digest: bytes

    @property
    def claim(self) -> Claim:
        return Claim(self.caller, self.key, self.fingerprint)


def packed(claim: Claim, expires_unix_seconds: float, answer: Answer) -> bytes:
    content = msgspec.msgpack.encode(answer)
    digest = hashlib.sha256(content).digest()
    head = msgspec.msgpack.encode(
        Head(claim.caller, claim.key, claim.fingerprint, expires_unix_seconds, len(content), digest)
    )
    return b"".join((MAGIC, len(head).to_bytes(LENGTH_BYTES, "big"), head, content))


def head_of(beginning: bytes, file_bytes: int) -> Head:
    """beginning: the first HEAD_BYTES of a file of file_bytes, or all of it. Raises Damaged."""
    head, begins = _head(beginning)
    if begins + head.content_bytes != file_bytes:
        raise Damaged
    return head


def unpacked(file: bytes) -> Answer:
    """Raises Damaged."""
    head, begins = _head(file)
    content = file[begins:]
    if hashlib.sha256(content).digest() != head.content_digest:
        raise Damaged
    try:
        return msgspec.msgpack.decode(content, type=Answer)
    except msgspec.MsgspecError as error:
        raise Damaged from error


def _head(file: bytes) -> tuple[Head, int]:
    """The head, and where the content begins."""
    begins = len(MAGIC) + LENGTH_BYTES
    if not file.startswith(MAGIC) or len(file) < begins:
        raise Damaged
    ends = begins + int.from_bytes(file[len(MAGIC) : begins], "big")
    try:
        return msgspec.msgpack.decode(file[begins:ends], type=Head), ends
    except msgspec.MsgspecError as error:
        raise Damaged from error
