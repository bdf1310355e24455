"""A thread with one connection: takes what is queued and carries it out in groups, a transaction for each group.

Knows threads, transactions and deadlines; knows no tables.
Invariant: every operation is answered once: with its result after the commit that holds it, or with an error. One that
was withdrawn before its turn is never carried out.

A disk confirms some hundreds of commits a second, however little is in them, so all that waits shares the next one. And
every statement is a journey to PostgreSQL and back, so operations of one kind share their statement too. Only where one
of them is refused is the group undone and carried out again one by one, each within a savepoint.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError

from server.ledger.database import interrupt
from server.ledger.diagnosis import problem_of
from server.ledger.problem import OUT_OF_RANGE, SILENT, LedgerProblem, LedgerRefusal

log = logging.getLogger("safelight.ledger")
Result = TypeVar("Result")
Item = TypeVar("Item")
Way = Callable[[Connection, Sequence["Task"]], list[Any]]
# Operations in one transaction. More would not make a commit cheaper, and the first of them would wait for the last.
MOST_AT_ONCE = 500
# Where they are carried out one by one. Fewer, as those of one slow transaction would reach their deadlines together.
MOST_ONE_BY_ONE = 50
# How much of its deadline an operation that was broken off may take to end.
GRACE_SHARE, MOST_GRACE_SECONDS = 0.1, 1.0


@dataclass(slots=True, eq=False)
class Task:
    """One operation. work: statements, all or none of which are kept, given the items. can_join: whether the items of
    several operations with the same work can be given to it at once. before: run at the begin of its group, to lock;
    the same one only once. is_left: its caller was told that the database is silent."""

    work: Callable[[Connection, Sequence[Any]], Any]
    items: Sequence[Any] = ()
    can_join: bool = False
    before: Callable[[Connection], None] | None = None
    future: Future[Any] = field(default_factory=Future)
    is_left: bool = False


class Clerk:
    """Call `start` once, then `do` from any event loop, `stop` once. groups: how many were committed."""

    def __init__(self, name: str, engine: Engine) -> None:
        self._engine = engine
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._is_committing = False
        self._in_work: Sequence[Task] = ()
        self._lock = threading.Lock()  # an interruption must meet its own group
        # A daemon: a process that ends in haste is not kept by a database that is silent.
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self.groups = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, within_seconds: float) -> None:
        """After what is queued. Blocks."""
        self._tasks.put(None)
        self._thread.join(within_seconds)

    async def do(
        self,
        work: Callable[[Connection], Result],
        within_seconds: float,
        before: Callable[[Connection], None] | None = None,
    ) -> Result:
        """What `work` returns, once it is committed. Raises LedgerProblem or LedgerRefusal."""
        result: Result = await self._done(Task(lambda connection, _: work(connection), before=before), within_seconds)
        return result

    async def do_with(
        self, work: Callable[[Connection, Sequence[Item]], None], items: Sequence[Item], within_seconds: float
    ) -> None:
        """As `do`; the items may be given to `work` together with those of others."""
        await self._done(Task(work, items, can_join=True), within_seconds)

    async def _done(self, task: Task, within_seconds: float) -> Any:
        """What it returned.

        Cancelled before its turn, it is not carried out. Cancelled in its turn, it is, and returns: the cancellation
        comes at the caller's next await, so that whoever reserved knows that there is something to settle.
        """
        self._tasks.put(task)
        deadline = time.monotonic() + within_seconds
        was_cancelled = await self._ended(task, deadline - min(MOST_GRACE_SECONDS, GRACE_SHARE * within_seconds))
        if not task.future.done() and not task.future.cancel():
            self._break_off(task)
            was_cancelled |= await self._ended(task, deadline)
        if was_cancelled and (caller := asyncio.current_task()) is not None:
            caller.uncancel()  # or it would count twice
            caller.cancel()
        if task.future.cancelled() or not task.future.done():
            raise LedgerProblem(SILENT)
        return task.future.result()

    async def _ended(self, task: Task, deadline: float) -> bool:
        """Wait until it has ended or the deadline passed; whether the caller was cancelled meanwhile."""
        answered = asyncio.wrap_future(task.future)
        answered.add_done_callback(_looked_at)
        was_cancelled = False
        while True:
            try:
                await asyncio.wait((answered,), timeout=max(0.0, deadline - time.monotonic()))
            except asyncio.CancelledError:
                if task.future.cancel():
                    raise
                was_cancelled = True
            else:
                return was_cancelled

    def _break_off(self, task: Task) -> None:
        with self._lock:
            task.is_left = True
            if task in self._in_work and self._connection is not None:
                with suppress(Exception):  # it ends by itself meanwhile
                    interrupt(self._connection)

    def _live(self) -> None:
        is_open = True
        while is_open:
            waiting = [self._tasks.get()]
            while len(waiting) < MOST_AT_ONCE and not self._tasks.empty():
                waiting.append(self._tasks.get())
            is_open = None not in waiting
            group = [task for task in waiting if task is not None and task.future.set_running_or_notify_cancel()]
            if group:
                self._carry_out(group)
        self._drop()
        self._engine.dispose()

    def _carry_out(self, group: Sequence[Task], way: Way | None = None) -> None:
        way = way or _together
        try:
            outcomes = self._with_a_second_try(group, way)
        except Exception as error:  # whatever a database does, the next group must have its turn
            if way is _together and _is_own_fault(error):
                self._one_by_one(group)
                return
            outcomes = _problems(group, error)
        else:
            self.groups += 1
        for task, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                task.future.set_exception(outcome)
            else:
                task.future.set_result(outcome)

    def _one_by_one(self, group: Sequence[Task]) -> None:
        for first in range(0, len(group), MOST_ONE_BY_ONE):
            self._carry_out(group[first : first + MOST_ONE_BY_ONE], _each_alone)

    def _with_a_second_try(self, group: Sequence[Task], way: Way) -> list[Any]:
        """A database that was started anew shows only when the kept connection is used; nothing was written then."""
        was_kept = self._connection is not None
        try:
            return self._transaction(group, way)
        except DBAPIError as error:
            if not (was_kept and error.connection_invalidated) or self._is_committing or _is_left(group):
                raise
            return self._transaction(group, way)

    def _transaction(self, group: Sequence[Task], way: Way) -> list[Any]:
        self._is_committing = False
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._lock:
                self._in_work = group
            transaction = self._connection.begin()
            try:
                for before in {task.before for task in group if task.before is not None}:
                    before(self._connection)
                outcomes = way(self._connection, group)
            except Exception as error:
                if _is_own_fault(error):
                    transaction.rollback()
                raise
            self._decide(group)
            transaction.commit()
        except BaseException as error:
            if not (isinstance(error, Exception) and _is_own_fault(error)):
                self._drop()
            raise
        finally:
            with self._lock:
                self._in_work = ()
        return outcomes

    def _decide(self, group: Sequence[Task]) -> None:
        """From here on what was done is kept; not where a caller was told that it is not."""
        with self._lock:
            if _is_left(group):
                raise LedgerProblem(SILENT)
            self._is_committing = True

    def _drop(self) -> None:
        """The next group begins with a fresh connection: one that was opened while its file was read-only stays so."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()
            with suppress(Exception):
                connection.close()


def _together(connection: Connection, group: Sequence[Task]) -> list[Any]:
    """What their works returned. They are concurrent, so that any order is as good. Raises the first error."""
    kinds: dict[Any, list[Task]] = {}
    for task in group:
        kinds.setdefault(task.work if task.can_join else task, []).append(task)
    returned: dict[Task, Any] = {}
    for tasks in kinds.values():
        result = tasks[0].work(connection, [item for task in tasks for item in task.items])
        returned |= dict.fromkeys(tasks, result)
    return [returned[task] for task in group]


def _each_alone(connection: Connection, group: Sequence[Task]) -> list[Any]:
    return [_alone(connection, task) for task in group]


def _alone(connection: Connection, task: Task) -> Any:
    """What its work returned, or the error that is its own fault alone. Raises what ends the whole group."""
    # One name for all: SQLAlchemy's own savepoints have a new one each, and are compiled anew each time.
    connection.exec_driver_sql("SAVEPOINT alone")
    try:
        outcome = task.work(connection, task.items)
    except Exception as error:
        if not _is_own_fault(error):
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT alone")
        outcome = _refusal_of(error)
    connection.exec_driver_sql("RELEASE SAVEPOINT alone")
    return outcome


def _problems(group: Sequence[Task], error: Exception) -> list[Any]:
    cause = LedgerProblem(SILENT) if _is_left(group) else error
    log.warning("ledger problem", extra={"operations": len(group), "problem": str(problem_of(cause))})
    return [problem_of(cause) for _ in group]


def _refusal_of(error: Exception) -> LedgerRefusal:
    if isinstance(error, LedgerRefusal):
        return error
    refusal = LedgerRefusal(OUT_OF_RANGE)
    refusal.__cause__ = error
    return refusal


def _is_left(group: Sequence[Task]) -> bool:
    return any(task.is_left for task in group)


def _is_own_fault(error: Exception) -> bool:
    """Whether it comes of the operation's values, and not of the database."""
    if not isinstance(error, DBAPIError):
        return not isinstance(error, LedgerProblem)
    if error.connection_invalidated:
        return False
    if isinstance(error, (IntegrityError, DataError)):
        return True
    # What a driver refuses to send has no code of the server's.
    is_driver = isinstance(error, (ProgrammingError, InterfaceError))
    return is_driver and getattr(error.orig, "sqlstate", None) is None


def _looked_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # or asyncio would complain of an error that nobody took, once the caller is gone
