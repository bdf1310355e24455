"""A text of many megabytes, left where it was received.

Knows memory that holds ASCII; knows neither JSON nor base64.
Invariant: nothing is copied but the part that is asked for. To copy or free all of it takes milliseconds with Python's
lock held, and many times that where the machine takes the core away meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class LongText:
    """view: bytes of ASCII, which nobody changes any more."""

    view: memoryview

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, part: slice) -> str:
        return str(self.view[part], "ascii")

    def __str__(self) -> str:
        return self[:]
