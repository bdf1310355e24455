"""Looks for words or patterns in texts, beside the event loop.

Knows lists; knows no wire and no books.
Invariant: the loop never waits for a list, however long the text.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from server.policy.question import Question


class Finds(Protocol):
    """A list of what must not stand in a text."""

    def finds(self, text: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Searching:
    """listed: what nobody may ask for."""

    listed: Finds

    async def allows(self, question: Question) -> bool:
        """Whether none of the texts holds anything of the list."""
        return await asyncio.to_thread(self._is_free, question.texts)

    def _is_free(self, texts: tuple[str, ...]) -> bool:
        return not any(self.listed.finds(text) for text in texts)
