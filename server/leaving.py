"""How the server ends: in good order at the first signal, at once at the second, and whatever it was just doing.

Knows signals, the drain and uvicorn's two switches; knows no routes.
Invariant: from the first signal on nobody is told that the server is ready, and no process of it outlives it. Where
a second signal breaks requests off, its status says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from server.api.editions import Editions
from server.api.services import Services

log = logging.getLogger("safelight.leaving")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 0.05
# After the second signal: then the process ends, whatever still keeps it.
HASTE_SECONDS = 0.8
# What shells add to the number of the signal that ended a program. As an exit status of our own: systemd takes a death
# by SIGTERM for a clean end.
OF_SIGNALS = 128


class Stoppable(Protocol):
    """uvicorn's server."""

    should_exit: bool
    force_exit: bool


class Leaving:
    """Of one server. editions: what is on its way. own_folder: goes with the server. Call `signalled` for each
    signal."""

    def __init__(self, server: Stoppable, services: Services, editions: Editions, own_folder: Path) -> None:
        self._server, self._services, self._editions, self._own_folder = server, services, editions, own_folder
        self._has_begun, self._status = False, 0
        self._waiting: asyncio.Task[None] | None = None

    def signalled(self, number: signal.Signals) -> None:
        if self._has_begun:
            self._at_once(number)
            return
        self._has_begun = True
        drain_seconds = self._services.settings.drain_seconds
        log.info("stopping", extra={"requests": self._editions.requests, "drain_seconds": drain_seconds})
        self._services.dispatcher.drain()
        self._services.router.drain(drain_seconds)
        self._waiting = asyncio.create_task(self._until_done(drain_seconds), name="leaving")

    async def _until_done(self, drain_seconds: float) -> None:
        """Keep the door open meanwhile: those who come are told to come back, and those who look, that it closes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                while self._editions.requests:  # noqa: ASYNC110 (it goes up and down)
                    await asyncio.sleep(LOOK_SECONDS)
        self._server.should_exit = True

    def _at_once(self, number: signal.Signals) -> None:
        log.warning("stopping at once", extra={"requests": self._editions.requests})
        if self._editions.requests:
            self._status = OF_SIGNALS + number
        self._server.force_exit = self._server.should_exit = True
        self._services.dispatcher.kill()
        # A database that is silent, or a thread that computes, may keep what follows from ending.
        haste = threading.Timer(HASTE_SECONDS, self._now)
        haste.daemon = True
        haste.start()

    def finish(self) -> None:
        """Once all is tidied up. In haste the interpreter's own end, a second or two, is left out."""
        if self._server.force_exit:
            self._now()

    def _now(self) -> None:
        """The decoders end with this process, the workers have ended. What is open in the books is closed by the next
        start."""
        shutil.rmtree(self._own_folder, ignore_errors=True)
        os._exit(self._status)


@contextlib.contextmanager
def signals(numbers: tuple[signal.Signals, ...], act: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Have `act` called in the running loop at each of these signals, with its number."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, act, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
