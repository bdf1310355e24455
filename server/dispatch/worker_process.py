"""One worker process as the server sees it: started, fed, listened to, ended.

Knows a socket and a process id; knows no jobs.
Invariant: when `run` returns, the process is gone, whatever became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pipelines.framing import FRAME_HEADER, FramingError, frame_length
from pipelines.messages import Command, EngineOptions, Event, Hung, ModelSpec, Shutdown, Start, to_body, to_event

log = logging.getLogger("safelight.worker")
HEARTBEAT_SECONDS = 0.5
STOP_SECONDS = 2.0
# A worker that is still importing its libraries is silent for longer than one that works.
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker process is started with. `silence_seconds`: without an event for so long, it counts as hung.
    compile_cache: a folder that keeps compiled code for the next start; None: it goes with the worker."""

    models: tuple[ModelSpec, ...]
    device: str
    threads: int
    silence_seconds: float
    options: EngineOptions
    compile_cache: str | None = None


class WorkerProcess:
    """Use `start`, then iterate `events` until it ends, then `stop`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        # torch makes a folder for compiled code as soon as it is imported; this one goes with the worker.
        self._scratch = tempfile.TemporaryDirectory(prefix="safelight-worker-", ignore_cleanup_errors=True)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Spawn the process and send it its settings. Raises OSError when it cannot be spawned."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pipelines.worker",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                # Signals to the server's group (Ctrl-C) must not reach the worker: the server ends it in good order.
                start_new_session=True,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": str(self._settings.threads),
                    "TORCHINDUCTOR_CACHE_DIR": self._settings.compile_cache or self._scratch.name,
                },
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self.send(self._greeting())

    def _greeting(self) -> Start:
        settings = self._settings
        return Start(settings.models, settings.device, settings.threads, HEARTBEAT_SECONDS, settings.options)

    def send(self, command: Command) -> None:
        """Queue a command for the worker. One that is already gone takes nothing; its end shows in `events`."""
        if self._writer is not None and not self._writer.is_closing():
            # Apart, as pictures are large and joining copies them.
            body = to_body(command)
            self._writer.write(FRAME_HEADER.pack(len(body)))
            self._writer.write(body)

    async def events(self) -> AsyncIterator[Event]:
        """The worker's events, until it ends, falls silent, hangs, or talks nonsense; the reason is logged."""
        limit_seconds = START_SECONDS
        try:
            while True:
                async with asyncio.timeout(limit_seconds):
                    event = await self._next_event()
                limit_seconds = self._settings.silence_seconds
                if isinstance(event, Hung):
                    extra = {"pid": self.pid, "seconds": event.seconds, "limit_seconds": event.limit_seconds}
                    log.error("worker hangs", extra=extra)
                    return
                yield event
        except TimeoutError:
            log.error("worker silent", extra={"pid": self.pid, "seconds": limit_seconds})  # noqa: TRY400
        except (asyncio.IncompleteReadError, ConnectionError):
            log.warning("worker ended", extra={"pid": self.pid})
        except FramingError:
            log.exception("worker sent no frame of ours", extra={"pid": self.pid})

    async def _next_event(self) -> Event:
        if self._reader is None:
            raise ConnectionError
        length = frame_length(await self._reader.readexactly(FRAME_HEADER.size))
        return to_event(await self._reader.readexactly(length))

    def kill(self) -> None:
        """End the process without a word, and what it has written; returns at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._scratch.cleanup()

    async def stop(self) -> None:
        """End the process: politely first, then for certain. Safe to call twice."""
        process = self._process
        if process is None:
            self._scratch.cleanup()
            return
        self.send(Shutdown())
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._writer is not None:
            self._writer.close()
        self._scratch.cleanup()
        log.info("worker stopped", extra={"pid": process.pid, "status": process.returncode})
