"""What a failure of the database means, of either kind.

Knows SQLite's and PostgreSQL's codes and SQLAlchemy's exceptions; apart from the problems themselves, so that who only
hears of those loads no database library.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

from server.ledger.problem import (
    DAMAGED,
    FULL,
    LOCKED,
    NOT_OPENED,
    READ_ONLY,
    SILENT,
    UNREACHABLE,
    UNUSABLE,
    LedgerProblem,
)

# https://sqlite.org/rescode.html, the low byte
_SQLITE = {
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_PERM: READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: NOT_OPENED,
    sqlite3.SQLITE_INTERRUPT: SILENT,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html, by code or by class
_POSTGRESQL = {
    "55P03": LOCKED,
    "57014": SILENT,
    "53100": FULL,
    "25006": READ_ONLY,
    "42501": READ_ONLY,
    "53": UNREACHABLE,
    "08": UNREACHABLE,
    "28": UNREACHABLE,
    "3D": UNREACHABLE,
    "57": UNREACHABLE,
}


def problem_of(error: BaseException) -> LedgerProblem:
    """What a failed transaction means to the caller. The error is the problem's cause."""
    problem = LedgerProblem(str(error) if isinstance(error, LedgerProblem) else _text(error))
    problem.__cause__ = error
    return problem


def _text(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return _SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF, UNUSABLE)
    if isinstance(error, DBAPIError):
        # A connection that could not be made, or broke, has no code.
        state = getattr(cause, "sqlstate", None) or "08"
        return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2], UNUSABLE)
    if isinstance(error, OSError):
        return UNREACHABLE if error.filename is None else NOT_OPENED
    return UNUSABLE
