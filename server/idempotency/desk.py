"""Work that several requests wait for at once, each of them free to leave.

Knows claims, tasks and bytes; knows no HTTP and no pictures.
Invariant: under one claim's key at most one work is under way; it ends by itself, or is cancelled some seconds after
the last who waited for it has left, and everybody who is there sees the same end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from server.idempotency.claim import Claim, place_of
from server.idempotency.shelf import Shelf

# A client whose connection broke comes back within a second or two (openai-python and -node: after 0.5 s, then 1 s).
LINGER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Opened:
    """How an answer begins. body: all of it; None where it comes bit by bit. is_kept: whether it can be had again; of a
    stream nobody knows yet."""

    status: int
    headers: dict[str, str]
    body: bytes | None
    is_kept: bool = True


@dataclass(slots=True, eq=False)
class Work:
    """One request's, for all who claim the same. request_id: of the one that began it."""

    claim: Claim
    request_id: str
    opened: asyncio.Future[Opened]
    # Nobody misses the beginning of a stream: it is told once somebody listens.
    is_heard: asyncio.Event = field(default_factory=asyncio.Event)
    # From then on it is too late to stop it.
    is_done: bool = False
    _on_abandoned: Callable[[], None] = lambda: None
    _present: int = 0
    _leaving: asyncio.TimerHandle | None = None
    _lasting: list[bytes] = field(default_factory=list)
    _ears: set[asyncio.Queue[bytes | None]] = field(default_factory=set)
    _is_told: bool = False

    @contextmanager
    def present(self) -> Iterator[None]:
        """While somebody waits for it."""
        self._present += 1
        if self._leaving is not None:
            self._leaving.cancel()
        try:
            yield
        finally:
            self._present -= 1
            if not self._present:
                self._leaving = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._on_abandoned)

    def tell(self, bit: bytes, *, lasts: bool) -> None:
        """To all who listen; and to those who come later, if it lasts."""
        if lasts:
            self._lasting.append(bit)
        for ear in self._ears:
            ear.put_nowait(bit)

    def end(self) -> None:
        """Nothing more will be told."""
        self._is_told = True
        for ear in self._ears:
            ear.put_nowait(None)

    async def heard(self) -> AsyncGenerator[bytes, None]:
        """What is told, to its end."""
        ear: asyncio.Queue[bytes | None] = asyncio.Queue()
        for lasting in self._lasting:
            ear.put_nowait(lasting)
        if self._is_told:
            ear.put_nowait(None)
        self._ears.add(ear)
        self.is_heard.set()
        try:
            with self.present():
                while (bit := await ear.get()) is not None:
                    yield bit
        finally:
            self._ears.discard(ear)


class Desk:
    """shelf: where answers are kept; None keeps none, and only joins."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        self.shelf = shelf
        self._under_way: dict[tuple[str, str], tuple[Work, asyncio.Task[None]]] = {}

    def under_way(self, claim: Claim) -> Work | None:
        """The work of this caller's key, whatever it is for."""
        found = self._under_way.get((claim.caller, claim.key))
        return None if found is None else found[0]

    def is_under_way(self, key_id: str | None, operations: Iterable[str], key: str) -> bool:
        """Whether this caller's key has work, of any of the operations."""
        return any(place_of(key_id, operation, key) in self._under_way for operation in operations)

    def begin(self, claim: Claim, request_id: str, carry_out: Callable[[Work], Coroutine[Any, Any, None]]) -> Work:
        """carry_out: opens the work, tells what there is to tell, or raises; called at once, once."""
        work = Work(claim, request_id, asyncio.get_running_loop().create_future())
        task = asyncio.create_task(self._carried_out(work, carry_out), name="idempotent-work")
        work._on_abandoned = lambda: self._abandon(work, task)
        self._under_way[claim.caller, claim.key] = work, task
        return work

    async def open(self) -> None:
        """Find again what was kept. Raises ShelfProblem."""
        if self.shelf is not None:
            await asyncio.to_thread(self.shelf.open)

    async def sweep(self) -> None:
        """Delete what has expired."""
        if self.shelf is not None:
            await asyncio.to_thread(self.shelf.sweep)

    async def close(self) -> None:
        """Cancel what is still under way, and let the folder go."""
        tasks = [task for _, task in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.shelf is not None:
            self.shelf.close()

    async def _carried_out(self, work: Work, carry_out: Callable[[Work], Coroutine[Any, Any, None]]) -> None:
        try:
            await carry_out(work)
        except Exception as error:
            if work.opened.done():
                raise
            work.opened.set_exception(error)
            work.opened.exception()  # whoever waited for it may have left
        finally:
            work.opened.cancel()  # where there is none: nobody waits for what is abandoned
            work.end()
            self._remove(work)

    def _abandon(self, work: Work, task: asyncio.Task[None]) -> None:
        if not work.is_done:
            self._remove(work)
            task.cancel()

    def _remove(self, work: Work) -> None:
        if self.under_way(work.claim) is work:
            del self._under_way[work.claim.caller, work.claim.key]
