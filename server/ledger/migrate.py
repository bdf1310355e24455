"""Brings the tables to this version's form, and refuses those of a newer one.

Knows revisions; knows no entries.
Invariant: called inside a transaction that no other server can be in at the same time; all or nothing is changed.
"""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from server.ledger.problem import NEWER, LedgerProblem

FOLDER = Path(__file__).parent / "migrations"
# A database may be shared with others that use Alembic too.
VERSION_TABLE = "ledger_revision"
# Alembic's scripts find their connection in a variable that the whole process has once.
_one_at_a_time = threading.Lock()


def bring_up_to_date(connection: Connection) -> None:
    """Raises LedgerProblem for a database of a newer version, which stays as it is."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    present = set(MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_heads())
    if not present <= {revision.revision for revision in scripts.walk_revisions()}:
        raise LedgerProblem(NEWER)
    if present != set(scripts.get_heads()):
        with _one_at_a_time:
            command.upgrade(config, "head")
