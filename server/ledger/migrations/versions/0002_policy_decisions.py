"""What content checks decided."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "policy_decisions",
        sa.Column("id", ROW_NUMBER, primary_key=True),
        sa.Column("request_id", sa.String(100), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("image_index", sa.Integer()),
        sa.Column("key_id", sa.String(100)),
        sa.Column("check_name", sa.String(40), nullable=False),
        sa.Column("stage", sa.String(10), nullable=False),
        sa.Column("level", sa.String(10), nullable=False),
        sa.Column("decision", sa.String(10), nullable=False),
        sa.Column("problem", sa.String(40)),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.Column("prompt_characters", sa.Integer(), nullable=False),
        sa.Column("prompt_digest", sa.String(64), nullable=False),
        sa.Column("prompt", sa.Text()),
        sa.Column("began_unix_ms", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("request_id", "number", name="policy_decisions_once"),
        sa.CheckConstraint("stage IN ('prompt', 'result')", name="policy_decisions_stage"),
        sa.CheckConstraint("decision IN ('allow', 'refuse')", name="policy_decisions_decision"),
    )
    op.create_index("policy_decisions_by_time", "policy_decisions", ["began_unix_ms", "id"])
