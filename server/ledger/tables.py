"""The tables, as the newest migration leaves them.

Knows columns and their types on both databases; runs no statement.
Invariant: equal to what the migrations make; tests/server/ledger/test_migrations.py compares them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

SEED_LIMIT = 2**64


class Seed(TypeDecorator[int]):
    """An unsigned 64-bit number as decimal text. Both databases' integers end at 2**63, and SQLite would keep a larger
    one as a rounded float."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        if value is None:
            return None
        if not 0 <= value < SEED_LIMIT:
            raise OverflowError(value)
        return str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else int(value)


METADATA = MetaData()
# SQLite gives row numbers by itself to INTEGER PRIMARY KEY alone.
ROW_NUMBER = BigInteger().with_variant(Integer, "sqlite")

ENTRIES = Table(
    "ledger_entries",
    METADATA,
    Column("id", ROW_NUMBER, primary_key=True),
    Column("request_id", String(100), nullable=False),
    Column("image_index", Integer, nullable=False, key="index"),
    Column("key_id", String(100)),
    Column("operation", String(10), nullable=False),
    Column("requested_model", String(100), nullable=False),
    Column("size", String(20), nullable=False),
    Column("began_unix_ms", BigInteger, nullable=False),
    Column("work_units", Double, nullable=False),
    Column("reserved_microusd", BigInteger, nullable=False, server_default=text("0")),
    # null while it is open
    Column("outcome", String(11)),
    # closed by a later start, as its server seemed to be gone; a server that is there after all may still settle it
    Column("is_presumed", Boolean, nullable=False, server_default=false()),
    Column("error_code", String(100)),
    Column("served_model", String(100)),
    Column("backend", String(100)),
    Column("attempts", Integer),
    Column("steps", Integer),
    Column("seed", Seed),
    Column("queue_ms", BigInteger),
    Column("device_ms", BigInteger),
    Column("latency_ms", BigInteger),
    Column("cost_microusd", BigInteger),
    Column("served_size", String(20)),
    UniqueConstraint("request_id", "index", name="ledger_entries_once"),
    CheckConstraint("image_index >= 0", name="ledger_entries_index"),
    CheckConstraint("operation IN ('generation', 'edit', 'variation')", name="ledger_entries_operation"),
    CheckConstraint("length(requested_model) <= 100", name="ledger_entries_model"),
    # A NaN is no number to SQLite and the largest one to PostgreSQL.
    CheckConstraint("work_units >= 0 AND work_units < 1e300", name="ledger_entries_work"),
    CheckConstraint("outcome IN ('succeeded', 'failed', 'cancelled', 'interrupted')", name="ledger_entries_outcome"),
    CheckConstraint("cost_microusd >= 0", name="ledger_entries_cost"),
    CheckConstraint(
        "(outcome IS NULL) = (cost_microusd IS NULL) AND (outcome IS NULL) = (latency_ms IS NULL)",
        name="ledger_entries_settled",
    ),
)
Index("ledger_entries_by_time", ENTRIES.c.began_unix_ms, ENTRIES.c.id)
Index("ledger_entries_by_key", ENTRIES.c.key_id, ENTRIES.c.began_unix_ms, ENTRIES.c.id)
Index(
    "ledger_entries_open",
    ENTRIES.c.id,
    sqlite_where=ENTRIES.c.outcome.is_(None),
    postgresql_where=ENTRIES.c.outcome.is_(None),
)

ATTEMPTS = Table(
    "ledger_attempts",
    METADATA,
    Column("attempt_id", String(100), primary_key=True),
    Column("request_id", String(100), nullable=False),
    Column("number", Integer, nullable=False),
    Column("backend", String(100), nullable=False),
    Column("model", String(100), nullable=False),
    Column("count", Integer, nullable=False),
    Column("reserved_microusd", BigInteger, nullable=False),
    Column("began_unix_ms", BigInteger, nullable=False),
    # what it cost; null while it is open
    Column("cost_microusd", BigInteger),
    Column("is_presumed", Boolean, nullable=False, server_default=false()),
    Column("cause", String(100)),
    Column("status", Integer),
    Column("latency_ms", BigInteger),
    CheckConstraint("number >= 1", name="ledger_attempts_number"),
    CheckConstraint("count >= 1", name="ledger_attempts_count"),
    CheckConstraint("reserved_microusd >= 0", name="ledger_attempts_reserved"),
    CheckConstraint("cost_microusd >= 0", name="ledger_attempts_cost"),
)
# Holds all that a cap is reckoned from, so that the table itself is not read for it.
Index(
    "ledger_attempts_spent",
    ATTEMPTS.c.began_unix_ms,
    ATTEMPTS.c.backend,
    ATTEMPTS.c.cost_microusd,
    ATTEMPTS.c.reserved_microusd,
)
Index(
    "ledger_attempts_open",
    ATTEMPTS.c.attempt_id,
    sqlite_where=ATTEMPTS.c.cost_microusd.is_(None),
    postgresql_where=ATTEMPTS.c.cost_microusd.is_(None),
)

DECISIONS = Table(
    "policy_decisions",
    METADATA,
    Column("id", ROW_NUMBER, primary_key=True),
    Column("request_id", String(100), nullable=False),
    Column("number", Integer, nullable=False),
    Column("image_index", Integer, key="index"),
    Column("key_id", String(100)),
    Column("check_name", String(40), nullable=False),
    Column("stage", String(10), nullable=False),
    Column("level", String(10), nullable=False),
    Column("decision", String(10), nullable=False),
    Column("problem", String(40)),
    Column("ms", BigInteger, nullable=False),
    Column("prompt_characters", Integer, nullable=False),
    Column("prompt_digest", String(64), nullable=False),
    Column("prompt", Text),
    Column("began_unix_ms", BigInteger, nullable=False),
    UniqueConstraint("request_id", "number", name="policy_decisions_once"),
    CheckConstraint("stage IN ('prompt', 'result')", name="policy_decisions_stage"),
    CheckConstraint("decision IN ('allow', 'refuse')", name="policy_decisions_decision"),
)
Index("policy_decisions_by_time", DECISIONS.c.began_unix_ms, DECISIONS.c.id)
