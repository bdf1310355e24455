"""The first tables: an entry for each image, an attempt for each call that may cost money."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    make_entries()
    make_attempts()


def make_entries() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("id", ROW_NUMBER, primary_key=True),
        sa.Column("request_id", sa.String(100), nullable=False),
        sa.Column("image_index", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(100)),
        sa.Column("operation", sa.String(10), nullable=False),
        sa.Column("requested_model", sa.String(100), nullable=False),
        sa.Column("size", sa.String(20), nullable=False),
        sa.Column("began_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("work_units", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(11)),
        sa.Column("is_presumed", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("error_code", sa.String(100)),
        sa.Column("served_model", sa.String(100)),
        sa.Column("backend", sa.String(100)),
        sa.Column("attempts", sa.Integer()),
        sa.Column("steps", sa.Integer()),
        sa.Column("seed", sa.String(20)),
        sa.Column("queue_ms", sa.BigInteger()),
        sa.Column("device_ms", sa.BigInteger()),
        sa.Column("latency_ms", sa.BigInteger()),
        sa.Column("cost_microusd", sa.BigInteger()),
        sa.Column("served_size", sa.String(20)),
        sa.UniqueConstraint("request_id", "image_index", name="ledger_entries_once"),
        sa.CheckConstraint("image_index >= 0", name="ledger_entries_index"),
        sa.CheckConstraint("operation IN ('generation', 'edit', 'variation')", name="ledger_entries_operation"),
        sa.CheckConstraint("length(requested_model) <= 100", name="ledger_entries_model"),
        sa.CheckConstraint("work_units >= 0 AND work_units < 1e300", name="ledger_entries_work"),
        sa.CheckConstraint(
            "outcome IN ('succeeded', 'failed', 'cancelled', 'interrupted')", name="ledger_entries_outcome"
        ),
        sa.CheckConstraint("cost_microusd >= 0", name="ledger_entries_cost"),
        sa.CheckConstraint(
            "(outcome IS NULL) = (cost_microusd IS NULL) AND (outcome IS NULL) = (latency_ms IS NULL)",
            name="ledger_entries_settled",
        ),
    )
    op.create_index("ledger_entries_by_time", "ledger_entries", ["began_unix_ms", "id"])
    op.create_index("ledger_entries_by_key", "ledger_entries", ["key_id", "began_unix_ms", "id"])
    is_open = sa.text("outcome IS NULL")
    op.create_index("ledger_entries_open", "ledger_entries", ["id"], sqlite_where=is_open, postgresql_where=is_open)


def make_attempts() -> None:
    op.create_table(
        "ledger_attempts",
        sa.Column("attempt_id", sa.String(100), primary_key=True),
        sa.Column("request_id", sa.String(100), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("backend", sa.String(100), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("reserved_microusd", sa.BigInteger(), nullable=False),
        sa.Column("began_unix_ms", sa.BigInteger(), nullable=False),
        sa.Column("cost_microusd", sa.BigInteger()),
        sa.Column("is_presumed", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("cause", sa.String(100)),
        sa.Column("status", sa.Integer()),
        sa.Column("latency_ms", sa.BigInteger()),
        sa.CheckConstraint("number >= 1", name="ledger_attempts_number"),
        sa.CheckConstraint("count >= 1", name="ledger_attempts_count"),
        sa.CheckConstraint("reserved_microusd >= 0", name="ledger_attempts_reserved"),
        sa.CheckConstraint("cost_microusd >= 0", name="ledger_attempts_cost"),
    )
    spent = ["began_unix_ms", "backend", "cost_microusd", "reserved_microusd"]
    op.create_index("ledger_attempts_spent", "ledger_attempts", spent)
    is_open = sa.text("cost_microusd IS NULL")
    op.create_index(
        "ledger_attempts_open", "ledger_attempts", ["attempt_id"], sqlite_where=is_open, postgresql_where=is_open
    )
