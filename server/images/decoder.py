"""Decodes strangers' pictures in processes that may die of them: started at need, watched, replaced.

Knows sockets, process ids and time; knows no HTTP and what no picture holds.
Invariant: a process that may still owe an answer is never asked again, so nobody gets another's picture; and
after `stop` there is no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import TypeVar

from pipelines.framing import FRAME_HEADER, FramingError, frame_length
from pipelines.messages import OutputFormat
from server.core import errors
from server.core.model_entry import Limits
from server.core.observer import DEAF, Observer
from server.core.request import MaskColours, Size
from server.core.settings import OFFLINE_VARIABLES
from server.core.tracing import hop
from server.images.decode import UnusablePicture
from server.images.decoder_process import (
    MEMORY_BYTES,
    Answer,
    FilesPacked,
    FitImage,
    FitMask,
    Fitting,
    ImageFitted,
    MaskFitted,
    Pack,
    Question,
    Ready,
    Recode,
    Recoded,
    Refused,
    param_of,
    to_answer,
    to_pieces,
    too_much,
)
from server.images.inputs import FittedImage, ImageInputs
from server.images.pack import Packed
from server.images.recode import judge_length

log = logging.getLogger("safelight.decoder")
A = TypeVar("A", bound=Answer)
START_SECONDS = 30.0
# All that the process gets of the server's environment: keys may stand in the rest.
KEPT_VARIABLES = ("PYTHONPATH", "LD_LIBRARY_PATH", *OFFLINE_VARIABLES)
# What a conversation ends with when the process is dead or talks nonsense.
LOST = (EOFError, ConnectionError, FramingError)


class Decoder:
    """Use from one event loop, whose thread must live as long as the server: a process ends with the thread that
    started it.

    processes: so many pictures at once; further callers wait in line. timeout_seconds: for the image and the mask of
    one request together, or for one picture recoded or packed, without the wait. pictures_per_process: then it makes
    way for a fresh one. memory_bytes: the address space of each process. observer: is told of each piece of work.
    """

    def __init__(
        self,
        processes: int = 1,
        timeout_seconds: float = 20.0,
        pictures_per_process: int = 100,
        memory_bytes: int = MEMORY_BYTES,
        observer: Observer = DEAF,
    ) -> None:
        self._observer = observer
        self._processes, self._timeout_seconds = processes, timeout_seconds
        self._pictures_per_process, self._memory_bytes = pictures_per_process, memory_bytes
        self._places = asyncio.Semaphore(processes)
        self._idle: list[_Process] = []
        # Each process with the task that sees its end.
        self._alive: dict[_Process, asyncio.Task[None]] = {}
        self._is_open = False

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that are there."""
        return tuple(process.pid for process in self._alive)

    async def start(self) -> None:
        """Take callers from now on. A process is started with the first of them."""
        self._is_open = True

    async def stop(self) -> None:
        """End everything at once: callers that are at work or in line get 503. Safe to call twice."""
        self._is_open = False
        for process in self._alive:
            process.kill()
        # Those at work notice, those in line are let in and turned away; then nobody holds a process.
        for _ in range(self._processes):
            await self._places.acquire()
        while self._idle:
            self._idle.pop().close()
        await asyncio.gather(*self._alive.values())
        for _ in range(self._processes):
            self._places.release()

    async def fit(
        self, image: bytes, mask: bytes | None, asked_size: Size | None, limits: Limits, param: str = "image"
    ) -> ImageInputs:
        """Without an asked size it is the image's own, made to fit the limits. param: whose picture the image is.

        Raises SafelightError.
        """
        question = FitImage(image, asked_size, limits.model_dump_json(), param)
        async with self._one() as process:
            return await self._fitted(process, question, mask)

    async def recoded(
        self, file: bytes, size: Size, output: OutputFormat, compression: int, *, keeps_alpha: bool = False
    ) -> bytes:
        """A provider's picture as a file of ours; `server.images.recode` says how.

        At most MAX_RECODED_BYTES and MAX_RECODED_PIXELS. Raises UnusablePicture, also where the process dies of it or
        is too slow: the file is not to be trusted, so it takes the blame, and the provider with it. Raises
        SafelightError, always a 503, only where no process can be started or the server stops.
        """
        judge_length(file)
        question = Recode(file, size, output, compression, keeps_alpha)
        return (await self._worked(question, Recoded)).file

    async def packed(self, inputs: ImageInputs, drawn_size: Size, colours: MaskColours, max_bytes: int) -> Packed:
        """What `fit` gave, as files for a provider; `server.images.pack` says how. Raises as `recoded` does."""
        return (await self._worked(Pack(inputs, drawn_size, colours, max_bytes), FilesPacked)).files

    async def _worked(self, question: Recode | Pack, kind: type[A]) -> A:
        async with self._one() as process:
            answer = await self._ask(process, question, kind, self._deadline())
        if isinstance(answer, Refused):
            raise UnusablePicture(answer.message)
        return answer

    @contextlib.asynccontextmanager
    async def _one(self) -> AsyncIterator[_Process]:
        """A process, for one caller at a time."""
        async with self._places:
            process = await self._take()
            try:
                self._check_open()
                yield process
            finally:
                self._give_back(process)

    def _check_open(self) -> None:
        if not self._is_open:
            raise errors.shutting_down()

    async def _take(self) -> _Process:
        """A process that owes nothing. Raises SafelightError when none can be started."""
        self._check_open()
        while self._idle:
            process = self._idle.pop()
            if process.is_usable():
                return process
            process.close()
        return await self._start_one()

    async def _start_one(self) -> _Process:
        try:
            process = await _spawn(self._memory_bytes, math.ceil(self._timeout_seconds) + 1)
        except OSError:
            log.exception("decoder not started")
            raise errors.worker_unavailable() from None
        # It outlives the request that it was started for.
        ending = asyncio.create_task(self._see_its_end(process), context=contextvars.Context())
        self._alive[process] = ending
        try:
            async with asyncio.timeout(START_SECONDS):
                await process.receive(Ready)
        except (TimeoutError, *LOST):
            self._check_open()
            log.exception("decoder not started", extra={"pid": process.pid})
            raise errors.worker_unavailable() from None
        finally:
            if not process.is_in_step:
                process.close()
        return process

    async def _see_its_end(self, process: _Process) -> None:
        status = await process.wait()
        del self._alive[process]
        log.info("decoder ended", extra={"pid": process.pid, "status": status, "pictures": process.pictures})

    def _give_back(self, process: _Process) -> None:
        """Keep it warm, if it is fit for another picture."""
        process.pictures += 1
        if self._is_open and process.is_in_step and process.pictures < self._pictures_per_process:
            self._idle.append(process)
        else:
            process.close()

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_seconds

    async def _fitted(self, process: _Process, question: FitImage, mask: bytes | None) -> ImageInputs:
        """Two questions, so that it is known which file a process dies of."""
        deadline = self._deadline()
        fitted = (await self._fit(process, question, ImageFitted, deadline)).image
        placed = None if mask is None else await self._placed(process, mask, fitted, deadline)
        return ImageInputs(fitted.size, fitted.pixels, placed)

    async def _placed(self, process: _Process, mask: bytes, fitted: FittedImage, deadline: float) -> bytes:
        question = FitMask(mask, fitted.own_size, fitted.size)
        return (await self._fit(process, question, MaskFitted, deadline)).pixels

    async def _fit(self, process: _Process, question: Fitting, kind: type[A], deadline: float) -> A:
        """Raises SafelightError."""
        answer = await self._ask(process, question, kind, deadline)
        if isinstance(answer, Refused):
            raise errors.invalid_parameter(param_of(question), answer.message)
        return answer

    async def _ask(self, process: _Process, question: Question, kind: type[A], deadline: float) -> A | Refused:
        """The process's refusal, or ours when it is too slow or dies. Raises SafelightError when the server stops."""
        work, began_seconds, is_lost = type(question).__name__, time.monotonic(), False
        try:
            with hop(f"decoder {work}"):
                async with asyncio.timeout_at(deadline):
                    return await process.ask(question, kind)
        except (TimeoutError, *LOST) as problem:
            is_lost = True
            self._check_open()
            reason = type(problem).__name__
            log.warning("decoder lost", extra={"pid": process.pid, "work": work, "reason": reason})
            return too_much(question)
        finally:
            self._observer.decoded(work, time.monotonic() - began_seconds, is_lost=is_lost)


class _Process:
    """One decoder process and the socket to it. `is_in_step`: it has answered everything, and in full."""

    def __init__(self, process: asyncio.subprocess.Process, connection: socket.socket) -> None:
        self._process, self._connection = process, connection
        self.pictures, self.is_in_step = 0, False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, question: Question, kind: type[A]) -> A | Refused:
        """Raises LOST. A caller who is cancelled leaves the process out of step."""
        self.is_in_step = False
        pieces = to_pieces(question)
        loop = asyncio.get_running_loop()
        for piece in (FRAME_HEADER.pack(sum(map(len, pieces))), *pieces):
            await loop.sock_sendall(self._connection, piece)
        return await self.receive(kind, Refused)

    async def receive(self, *kinds: type[A]) -> A:
        """Raises LOST."""
        length = frame_length(bytes(await self._exactly(FRAME_HEADER.size)))
        answer = to_answer(await self._exactly(length))
        if not isinstance(answer, kinds):
            raise FramingError(f"{type(answer).__name__} was not asked for")
        self.is_in_step = True
        return answer

    async def _exactly(self, count: int) -> bytearray:
        loop = asyncio.get_running_loop()
        received = bytearray(count)
        rest = memoryview(received)
        while rest:
            taken = await loop.sock_recv_into(self._connection, rest)
            if not taken:
                raise EOFError
            rest = rest[taken:]
        return received

    def is_usable(self) -> bool:
        """Not ended since its last picture, and silent."""
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        """End it. Only for whoever holds the process: nobody may be waiting at its socket."""
        self.kill()
        self._connection.close()


async def _spawn(memory_bytes: int, cpu_seconds: int) -> _Process:
    """Raises OSError."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    arguments = [str(number) for number in (theirs.fileno(), memory_bytes, cpu_seconds)]
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "server.images.decoder_process",
                *arguments,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                # Ctrl-C is the server's: it ends its processes in good order.
                start_new_session=True,
                env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
            )
    except BaseException:
        ours.close()
        raise
    return _Process(process, ours)
