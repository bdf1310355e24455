"""The durable account: an entry for each image, written before its work, an attempt for each call that may cost money.

Knows what is written, read and forgotten; knows no HTTP, no models and no prices.
Invariant: what a call has returned from is on the disk; an entry is settled once, an attempt ended once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from sqlalchemy import Connection, text

from server.ledger import reading, writing
from server.ledger.clerk import Clerk
from server.ledger.database import CAPS_LOCK, MIGRATION_LOCK, Database, Patience
from server.ledger.decisions import Decision
from server.ledger.diagnosis import problem_of
from server.ledger.entries import Attempt, AttemptEnd, Cursor, Entry, Excess, Page, Quota, Settlement, Used
from server.ledger.migrate import bring_up_to_date
from server.ledger.problem import NOT_OPEN, LedgerProblem
from server.ledger.pulse import Pulse
from server.ledger.question import Group, Question, Sum
from server.ledger.tally import Tally

Result = TypeVar("Result")
Item = TypeVar("Item")
DEADLINE_SECONDS: Final = 10.0
# What a migration of large tables may take on PostgreSQL.
OPEN_SECONDS: Final = 300.0


class Ledger:
    """url: sqlite:///PATH or postgresql+psycopg://... deadline_seconds: within it every call but `open` has ended.

    Every method raises LedgerProblem while the database cannot be used, and works again once it can; those that write
    raise LedgerRefusal for what contradicts the ledger. May be used by one event loop at a time.
    """

    def __init__(self, url: str, *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """Raises LedgerProblem for a URL that cannot be used. Touches no file and no network."""
        self._deadline_seconds = deadline_seconds
        self._database = Database(url, Patience(deadline_seconds))
        self._writer: Clerk | None = None
        self._reader: Clerk | None = None
        self._tally = Tally()
        self._pulse = Pulse(lambda: self._write(writing.touch))

    @property
    def commits(self) -> int:
        """How many groups of writes were committed since `open`."""
        return 0 if self._writer is None else self._writer.groups

    async def open(self) -> int:
        """Make or migrate the tables, and close what a crash left open as `interrupted`: how many entries.

        Attempts that were open keep their reservation as their cost, since it may have been spent. If a server is alive
        after all whose entries these are, its own settlements replace what was presumed here.
        """
        writer = Clerk("ledger-writer", self._database.engine(may_write=True))
        writer.start()
        try:
            await asyncio.to_thread(self._make_file)
            closed = await writer.do(self._prepare, OPEN_SECONDS)
        except BaseException:
            writer.stop(0.0)
            raise
        self._writer, self._reader = writer, Clerk("ledger-reader", self._database.engine(may_write=False))
        self._reader.start()
        return closed

    async def close(self) -> None:
        """After what is under way. A ledger that was never opened is closed too."""
        writer, reader, self._writer, self._reader = self._writer, self._reader, None, None
        for clerk in (reader, writer):  # whoever closes SQLite's file last tidies up
            if clerk is not None:
                await asyncio.to_thread(clerk.stop, self._deadline_seconds)

    async def problem(self) -> str | None:
        """Why nothing can be written now, in words for anybody; None when it can. Answers within about a second, and
        raises nothing."""
        return await self._pulse.problem()

    async def reserve(self, entries: Sequence[Entry]) -> None:
        """All or none; durable when it returns."""
        if entries:
            await self._write_each(writing.reserve, entries)

    async def try_reserve(self, entries: Sequence[Entry], quotas: Sequence[Quota], since_unix_ms: int) -> Excess | None:
        """Reserve them only if all of the quotas have room for them beside what began since then; else the first that
        has not. Holds across servers."""
        return await self._write(
            lambda connection: writing.try_reserve(connection, self._tally, entries, quotas, since_unix_ms),
            self._lock_caps,
        )

    async def try_raise(self, entries: Sequence[Entry], quotas: Sequence[Quota], since_unix_ms: int) -> Excess | None:
        """Raise what open entries of one request reserve to what they now say, only if all of the quotas have room for
        it; else the first that has not. Holds across servers."""
        return await self._write(
            lambda connection: writing.try_raise(connection, self._tally, entries, quotas, since_unix_ms),
            self._lock_caps,
        )

    async def first_excess(
        self, entries: Sequence[Entry], quotas: Sequence[Quota], since_unix_ms: int
    ) -> Excess | None:
        """What `try_reserve` would answer; nothing is written."""

        def look(connection: Connection) -> Excess | None:
            keys = (quota.key_id for quota in quotas)
            used = {key: self._tally.used(connection, since_unix_ms, key, may_move=True) for key in keys}
            return writing.first_excess(entries, quotas, used)

        return await self._read(look)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """All or none, each entry exactly once."""
        if settlements:
            await self._write_each(writing.settle, settlements)

    async def begin_attempt(self, attempt: Attempt) -> None:
        await self._write_each(writing.begin_attempts, [attempt])

    async def try_attempt(self, attempt: Attempt, caps: Mapping[str | None, int], since_unix_ms: int) -> bool:
        """Begin it only if what its backend spent since then, with this reservation, stays within caps[backend], and
        what all backends spent within caps[None], where these are given. Whether it was begun. Holds across servers."""
        return await self._write(
            lambda connection: writing.try_attempt(connection, attempt, caps, since_unix_ms), self._lock_caps
        )

    async def end_attempt(self, end: AttemptEnd) -> None:
        await self._write_each(writing.end_attempts, [end])

    async def decide(self, decisions: Sequence[Decision]) -> None:
        """Write down what content checks decided: all or none."""
        if decisions:
            await self._write_each(writing.decide, decisions)

    async def decisions(self, request_id: str) -> tuple[Decision, ...]:
        """What was decided of one request, in order."""
        return await self._read(lambda connection: reading.decisions(connection, request_id))

    async def spent_microusd(self, since_unix_ms: int) -> dict[str, int]:
        """By backend, of the attempts that began since: ended ones' cost plus open ones' reservations."""
        return await self._read(lambda connection: reading.spent(connection, since_unix_ms))

    async def rows(self, asked: Question, *, after: Cursor | None, limit: int) -> Page:
        """The images asked for, oldest first. limit: 1 or more."""
        return await self._read(lambda connection: reading.page(connection, asked, after, limit))

    async def sums(self, asked: Question, *, stretch_ms: int, by: Collection[Group], most: int) -> list[Sum] | None:
        """Of the images asked for, over stretches of time counted from 1970, and by what they have in common, in that
        order; None if there are more than `most`. A stretch and a group without images have none."""
        return await self._read(lambda connection: reading.sums(connection, asked, stretch_ms, by, most))

    async def used(self, key_id: str | None, since_unix_ms: int) -> Used:
        """Of the day's quotas, by the images that began since: of one key; None: of all."""
        return await self._read(lambda connection: self._tally.used(connection, since_unix_ms, key_id, may_move=True))

    async def forget_before(self, unix_ms: int) -> int:
        """Delete settled entries, ended attempts and decisions that began earlier: how many. A part at a time, as
        others write meanwhile; a LedgerProblem on the way leaves the rest for the next time."""
        forgotten = 0
        while some := await self._write(lambda connection: writing.forget(connection, unix_ms)):
            forgotten += some
        return forgotten

    async def _write_each(self, work: Callable[[Connection, Sequence[Item]], None], items: Sequence[Item]) -> None:
        if self._writer is None:
            raise LedgerProblem(NOT_OPEN)
        await self._writer.do_with(work, items, self._deadline_seconds)

    async def _write(
        self, work: Callable[[Connection], Result], before: Callable[[Connection], None] | None = None
    ) -> Result:
        if self._writer is None:
            raise LedgerProblem(NOT_OPEN)
        return await self._writer.do(work, self._deadline_seconds, before)

    async def _read(self, work: Callable[[Connection], Result]) -> Result:
        if self._reader is None:
            raise LedgerProblem(NOT_OPEN)
        return await self._reader.do(work, self._deadline_seconds)

    def _make_file(self) -> None:
        try:
            self._database.make_file()
        except OSError as error:
            raise problem_of(error) from error

    def _prepare(self, connection: Connection) -> int:
        if not self._database.is_sqlite:
            for setting in ("statement_timeout", "lock_timeout"):
                connection.execute(text(f"SET LOCAL {setting} = {round(OPEN_SECONDS * 1000)}"))
        self._database.lock(connection, MIGRATION_LOCK)
        bring_up_to_date(connection)
        return writing.close_what_is_open(connection)

    def _lock_caps(self, connection: Connection) -> None:
        self._database.lock(connection, CAPS_LOCK)
