"""Planted leaks, for tests only: what a soak must notice, or it would notice nothing.

Knows no models and no requests. Off unless SAFELIGHT_LEAKS is set: JSON, such as {"server": ["bytes"], "worker": []}.
Invariant: nothing planted, nothing lost.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

VARIABLE = "SAFELIGHT_LEAKS"
LeakKind = Literal["bytes", "descriptors", "threads"]
LEAKED_BYTES = 32 * 1024


class Planted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which process loses what."""

    server: tuple[LeakKind, ...] = ()
    worker: tuple[LeakKind, ...] = ()

    @classmethod
    def in_environment(cls, environment: Mapping[str, str] = os.environ) -> Planted:
        """Raises msgspec.MsgspecError when the variable holds something else."""
        return msgspec.json.decode(environment.get(VARIABLE, "{}"), type=cls)


class Leaks:
    """Those of one process."""

    def __init__(self, kinds: Sequence[LeakKind] = ()) -> None:
        self._kinds = tuple(kinds)
        self._lost: list[object] = []

    def lose(self) -> None:
        """One of each kind, for good."""
        for kind in self._kinds:
            match kind:
                case "bytes":
                    self._lost.append(b"\1" * LEAKED_BYTES)
                case "descriptors":
                    self._lost.append(os.open(os.devnull, os.O_RDONLY))
                case "threads":
                    threading.Thread(target=threading.Event().wait, daemon=True, name="lost").start()
