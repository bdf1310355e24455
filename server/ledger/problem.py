"""What the ledger raises: the database cannot be used, or what was asked contradicts what is written.

Invariant: texts are this file's constants. What a driver says may hold an address, a user's name or a value, so it
stays in the cause, for the log.
"""

from __future__ import annotations

from typing import Final

BAD_URL: Final = "The ledger's URL must be sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE."
NO_DRIVER: Final = (
    "The ledger's URL names PostgreSQL, whose driver is not installed: pip install 'safelight[postgresql]'."
)
NOT_OPEN: Final = "The ledger is not open."
LOCKED: Final = "The ledger's database is locked by another program."
FULL: Final = "The ledger's database has no room left."
READ_ONLY: Final = "The ledger's database cannot be written to."
UNREACHABLE: Final = "The ledger's database cannot be reached."
NOT_OPENED: Final = "The ledger's file cannot be opened: its folder must be there, and be writable for the server."
SILENT: Final = "The ledger's database does not answer."
DAMAGED: Final = "The ledger's file is damaged, or is no SQLite database."
NEWER: Final = "The ledger's database was made by a newer version of Safelight. It is left as it is."
UNUSABLE: Final = "The ledger's database refuses what the ledger does."

RESERVED_BEFORE: Final = "An entry of this request was reserved before, or holds a value outside its range."
NEVER_RESERVED: Final = "An entry is settled that was never reserved."
SETTLED_BEFORE: Final = "An entry is settled a second time."
BEGUN_BEFORE: Final = "This attempt was begun before, or holds a value outside its range."
NEVER_BEGUN: Final = "An attempt is ended that was never begun."
ENDED_BEFORE: Final = "An attempt is ended a second time."
DECIDED_BEFORE: Final = "This decision was written before, or holds a value outside its range."
OUT_OF_RANGE: Final = "A value is outside its range."


class LedgerProblem(Exception):
    """The database cannot be used now; the same call may work later. Nothing was written, unless the database fell
    silent during the commit itself: then the same call, made again, may raise LedgerRefusal."""


class LedgerRefusal(Exception):
    """A defect of the caller: what was asked contradicts the ledger, or cannot be held by it. Nothing was written."""
