"""What a provider's adapter is to everybody else: one call upstream, and its untrusted answer.

Knows requests and answers; knows no wire, no router and no money but what the answer names.
Invariant: an adapter makes exactly one HTTP call for each `ask`, with no retries, redirects or proxies of its own, and
raises nothing but Trouble and CancelledError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from server.core.request import RemoteRequest


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the provider bills, where it says so."""

    text_in: int = 0
    image_in: int = 0
    image_out: int = 0


@dataclass(frozen=True, slots=True)
class RawPicture:
    """One picture as it came: whatever the file holds. seed: where the provider names it."""

    file: bytes
    revised_prompt: str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """pictures: as many as were asked for, or fewer, never none. tokens: of the whole call."""

    pictures: tuple[RawPicture, ...]
    tokens: Tokens | None = None


class Provider(Protocol):
    """An upstream's wire."""

    async def ask(self, request: RemoteRequest, first: int, count: int, timeout_seconds: float) -> Answer:
        """Have pictures `first` to `first + count - 1` of the request drawn, in one call. A request's seed means
        picture 0. Raises Trouble."""

    async def close(self) -> None:
        """Let the connections go."""
