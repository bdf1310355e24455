"""Run by Alembic, inside the transaction that server.ledger.migrate is in."""

from __future__ import annotations

from alembic import context

from server.ledger.migrate import VERSION_TABLE
from server.ledger.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, version_table=VERSION_TABLE
)
context.run_migrations()
