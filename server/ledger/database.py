"""Makes connections to SQLite or PostgreSQL that are durable, bounded in time, and alike in what they promise.

Knows URLs, both drivers and their switches; knows no tables.
Invariant: what a transaction has committed is on the disk, and no statement waits longer than it may.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from server.ledger.problem import BAD_URL, NO_DRIVER, LedgerProblem

SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"
# Names of advisory locks are numbers that all users of a database share: any two that nobody else is likely to take.
CAPS_LOCK, MIGRATION_LOCK = 0x5AFE_1164_0001, 0x5AFE_1164_0002
# What SQLite's log is cut back to once it is written into the file.
LOG_BYTES = 64 * 1024**2


class _Socket(Protocol):
    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """deadline_seconds: after it a caller is answered, whatever the database does. statement_seconds: what a statement
    may take, locks included; less than half, so that who comes while a group waits in vain is answered by its own."""

    deadline_seconds: float

    @property
    def statement_seconds(self) -> float:
        return 0.4 * self.deadline_seconds


def sqlite_file(url: str) -> Path | None:
    """Where SQLite keeps the ledger; None for another database. Raises LedgerProblem for a URL that is none."""
    return _file_of(_parsed(url))


def _file_of(url: URL) -> Path | None:
    return Path(str(url.database)) if url.drivername == SQLITE else None


class Database:
    """Where the ledger is. Connects when asked, not before. Raises LedgerProblem for a URL that it cannot use."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url = _parsed(url)
        self.is_sqlite = self._url.drivername == SQLITE
        self._patience = patience

    def make_file(self) -> None:
        """SQLite's file, readable by its owner alone, as SQLite itself would not make it. Raises OSError."""
        path = _file_of(self._url)
        if path is not None and not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))

    def engine(self, *, may_write: bool) -> Engine:
        """Keeps no connections itself. Raises LedgerProblem without PostgreSQL's driver."""
        timeout = self._patience.statement_seconds
        if self.is_sqlite:
            engine = create_engine(self._url, poolclass=NullPool, connect_args={"timeout": timeout})
        else:
            engine = _postgresql(self._url, timeout)
        event.listen(
            engine, "connect", _sqlite_switches(may_write) if self.is_sqlite else _switches(may_write, timeout)
        )
        if self.is_sqlite:
            # The lock for writing is taken at once: one that is asked for later is refused without waiting.
            begin = "BEGIN IMMEDIATE" if may_write else "BEGIN"
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine

    def lock(self, connection: Connection, number: int) -> None:
        """Until the transaction ends, no other holds this lock. On SQLite whoever writes is alone already. PostgreSQL
        lets transactions run side by side, and each would see a sum without the other's part."""
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def interrupt(connection: Connection) -> None:
    """Break off what another thread is doing with this connection; it gets an error."""
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.interrupt()
        return
    # libpq's own way of cancelling asks the server, which may be what is silent.
    with suppress(OSError), socket.socket(fileno=os.dup(cast(_Socket, driver).fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise LedgerProblem(BAD_URL) from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername=POSTGRESQL)
    in_memory = parsed.drivername == SQLITE and parsed.database in (None, "", ":memory:")
    if parsed.drivername not in (SQLITE, POSTGRESQL) or in_memory or (parsed.drivername == SQLITE and parsed.query):
        raise LedgerProblem(BAD_URL)
    return parsed


def _postgresql(url: URL, timeout_seconds: float) -> Engine:
    # What the URL says itself is kept. psycopg waits at least two seconds for a connection.
    bounds: dict[str, Any] = {
        "connect_timeout": max(2, round(timeout_seconds)),
        "tcp_user_timeout": round(timeout_seconds * 1000),
        "application_name": "safelight",
    }
    arguments = {name: value for name, value in bounds.items() if name not in url.query}
    try:
        # Others' defaults may differ; with this level a statement after a lock sees what the lock's last holder wrote.
        return create_engine(url, poolclass=NullPool, connect_args=arguments, isolation_level="READ COMMITTED")
    except ModuleNotFoundError as error:
        raise LedgerProblem(NO_DRIVER) from error


def _sqlite_switches(may_write: bool) -> Any:
    def switch(connection: sqlite3.Connection, _: object) -> None:
        # Python's own transactions begin too late, and not before a savepoint.
        connection.isolation_level = None
        if may_write:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        else:
            connection.execute("PRAGMA query_only = ON")

    return switch


def _switches(may_write: bool, timeout_seconds: float) -> Any:
    milliseconds = round(timeout_seconds * 1000)
    settings = (
        f"statement_timeout = {milliseconds}, lock_timeout = {max(1, milliseconds - 100)}, synchronous_commit = on, "
        f"default_transaction_read_only = {'off' if may_write else 'on'}"
    )

    def switch(connection: Any, _: object) -> None:
        connection.autocommit = True
        for setting in settings.split(", "):
            connection.execute(f"SET {setting}")
        connection.autocommit = False

    return switch
