"""What the families of models on Bedrock share: how much one call draws, and how an untrusted reply is read.

Knows JSON, base64 and what moderation sounds like; knows no family's words and no wire.
Invariant: whatever a reply holds, it becomes data of the expected shape or Trouble.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from server.backends.provider import Answer
from server.backends.trouble import Cause, Facts, Trouble
from server.core.request import RemoteRequest

T = TypeVar("T")
OK = 200
# "This request has been blocked by our content filters ... may conflict our AUP or AWS Responsible AI Policy", and what
# guardrails and Stability's models say.
MODERATION = re.compile(
    r"content filter|responsible ai|content polic|moderation|guardrail|filter reason|blocked by our", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a request that one call draws. seed: what is sent; None leaves it to the model."""

    count: int
    seed: int | None


class Family(Protocol):
    """The words of one kind of model."""

    def share_of(self, request: RemoteRequest, first: int, count: int, spare_seed: int) -> Share:
        """What of pictures `first` to `first + count - 1` one call can draw as it was asked: at least the first.
        spare_seed: a random one below 2**31 - 1, for models that would always draw the same without."""

    def body(self, request: RemoteRequest, share: Share) -> dict[str, Any]:
        """What is sent, as JSON."""

    def answer(self, reply: bytes, share: Share) -> Answer:
        """What a reply with status 200 means. Raises Trouble."""


def decoded(reply: bytes, kind: type[T]) -> T:
    """Raises Trouble."""
    try:
        return msgspec.json.decode(reply, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise broken("no JSON, or not of the form of a reply") from None


def files_of(images: Sequence[str]) -> list[bytes]:
    """Raises Trouble for what is no base64, and for nothing at all."""
    try:
        files = [base64.b64decode(text, validate=True) for text in images]
    except ValueError:
        raise broken("a picture that is no base64") from None
    if not all(files):
        raise broken("a picture without bytes")
    return files


def is_moderation(text: str) -> bool:
    return MODERATION.search(text) is not None


def undrawn(reason: str) -> Trouble:
    """Of a reply with status 200 that says why it holds no picture."""
    cause: Cause = "policy" if is_moderation(reason) else "failed"
    return Trouble(cause, Facts(OK, "a reason instead of pictures", is_charged=True))


def broken(what: str) -> Trouble:
    """`what` is of our own words. Whoever answers with a 200 may also bill it."""
    return Trouble("broken", Facts(OK, what, is_charged=True))
