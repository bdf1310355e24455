"""What an image may cost, until it is settled: the day's quota of a key counts it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("reserved_microusd", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    op.add_column("ledger_entries", column)
