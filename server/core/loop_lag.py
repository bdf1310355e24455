"""How late the event loop is, and what ran meanwhile.

Knows one loop and a clock; knows nothing of what the loop is used for.
Invariant: measuring costs a timer and a thread that sleeps; it never holds the loop itself.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

log = logging.getLogger("safelight.loop")
TICK_SECONDS = 0.02
# Lag that callers notice is told in the log, and not more often than so.
WARN_SECONDS, PAUSE_SECONDS = 0.25, 10.0
LagListener = Callable[[float], None]


def unheard(_: float) -> None:
    """Nobody measures."""


class LoopLag:
    """Run `run` as a task of the loop. tell: hears, for each tick, by how many seconds its timer was late."""

    def __init__(self, tell: LagListener = unheard) -> None:
        self._tell = tell
        self._beat_seconds = time.monotonic()
        self._seen: str | None = None
        self._told_seconds = -PAUSE_SECONDS
        self._is_over = threading.Event()

    async def run(self) -> None:
        """Until cancelled."""
        looker = threading.Thread(target=self._look, args=(threading.get_ident(),), name="loop-watch", daemon=True)
        looker.start()
        try:
            while True:
                self._beat_seconds = began_seconds = time.monotonic()
                await asyncio.sleep(TICK_SECONDS)
                lag_seconds = max(0.0, time.monotonic() - began_seconds - TICK_SECONDS)
                self._tell(lag_seconds)
                if lag_seconds > WARN_SECONDS:
                    self._warn(lag_seconds)
        finally:
            self._is_over.set()

    def _warn(self, lag_seconds: float) -> None:
        seen, self._seen = self._seen, None
        if time.monotonic() - self._told_seconds < PAUSE_SECONDS:
            return
        self._told_seconds = time.monotonic()
        log.warning("event loop late", extra={"lag_seconds": round(lag_seconds, 3), "ran": seen or "unknown"})

    def _look(self, loop_thread: int) -> None:
        """In a thread of its own: see what holds the loop while it is late."""
        while not self._is_over.wait(WARN_SECONDS / 2):
            if time.monotonic() - self._beat_seconds > TICK_SECONDS + WARN_SECONDS / 2:
                frame = sys._current_frames().get(loop_thread)
                self._seen = None if frame is None else place_of(frame)


def place_of(frame: FrameType) -> str:
    """The function that runs, and the innermost of this program's own that called it; names alone, no values."""
    own: FrameType | None = frame
    while own is not None and not own.f_globals.get("__name__", "").startswith("server."):
        own = own.f_back
    places = [frame] if own is None or own is frame else [frame, own]
    return " in ".join(f"{one.f_globals.get('__name__', '?')}.{one.f_code.co_qualname}" for one in places)
