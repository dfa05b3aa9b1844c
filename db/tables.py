"""The tables. Times are seconds since 1970 (UTC) by the database's clock; ids in messages and URLs are never keys.

`migrations/` holds how they came to be; a test holds that both say the same.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)  # fmt: skip
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
#: SQLite numbers rows by itself only where the key is INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")

corpora = Table(
    "corpora",
    metadata,
    Column("key", Key, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("name", Text),
    Column("status", String(16), nullable=False),
    Column("format", String(16), nullable=False),
    Column("encoding", String(8)),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("documents", BigInteger, nullable=False, server_default="0"),
    Column("invalid", BigInteger, nullable=False, server_default="0"),
    Column("fields", Json, nullable=False),
    Column("options", Json, nullable=False),
    # Inline documents of a job: a corpus like any other, but not listed and deleted with its job.
    Column("inline", Boolean, nullable=False, server_default="0"),
    Column("error", Json),
    Column("owner", String(64)),
    Column("lease_until", Float),
    Column("created_at", Float, nullable=False),
    # After this it is deleted with its files, once no job that has not ended uses it.
    Column("expires_at", Float, index=True),
    CheckConstraint("status in ('validating', 'ready', 'rejected')", name="status"),
    # A key is never used again: a late message or a worker's memory of a deleted job must not meet another one.
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("key", Key, primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("name", Text),
    Column("task", String(32), nullable=False),
    Column("model_id", Text, nullable=False),
    Column("model_revision", Text, nullable=False),
    Column("model", Json, nullable=False),
    Column("corpus_key", Key, ForeignKey("corpora.key", ondelete="SET NULL"), index=True),
    Column("corpus_id", String(40), nullable=False),
    Column("corpus_invalid", BigInteger, nullable=False, server_default="0"),
    Column("params", Json, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("metadata", Json, nullable=False),
    Column("intent", String(8), nullable=False),
    Column("error", Json),
    # Documents in all, once the shards are planned: a corpus may still be validating.
    Column("total", BigInteger),
    # The status it ended with, or none while it has not ended.
    Column("outcome", String(24)),
    Column("runtime", Json),
    # What a reader of an ended job needs without summing its shards; written with the last shard.
    Column("summary", Json),
    Column("confusion_matrix", Json),
    Column("evaluated", Boolean, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    # Seconds for which it is kept after its end, and when these are over.
    Column("ttl", Float),
    Column("expires_at", Float, index=True),
    # When a shard of it was last claimed: jobs of one priority take turns by it.
    Column("claimed_at", Float),
    CheckConstraint("intent in ('run', 'pause', 'cancel')", name="intent"),
    Index("ix_jobs_outcome_priority", "outcome", "priority"),
    sqlite_autoincrement=True,
)

shards = Table(
    "shards",
    metadata,
    Column("key", Key, primary_key=True),
    Column("job_key", Key, ForeignKey("jobs.key", ondelete="CASCADE"), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("stop", BigInteger, nullable=False),
    Column("state", String(12), nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("owner", String(96)),
    Column("lease_until", Float),
    Column("not_before", Float, nullable=False, server_default="0"),
    Column("published_at", Float),
    Column("succeeded", BigInteger, nullable=False, server_default="0"),
    Column("failed", BigInteger, nullable=False, server_default="0"),
    Column("cancelled", BigInteger, nullable=False, server_default="0"),
    Column("usage", Json),
    Column("partial", Json),
    Column("started_at", Float),
    Column("finished_at", Float),
    CheckConstraint("state in ('pending', 'running', 'done', 'cancelled', 'failed')", name="state"),
    CheckConstraint("stop > start", name="slice"),
    Index("ix_shards_job_key_start", "job_key", "start", unique=True),
    Index("ix_shards_state_job_key", "state", "job_key"),
    sqlite_autoincrement=True,
)

results = Table(
    "results",
    metadata,
    Column("job_key", Key, ForeignKey("jobs.key", ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("document_id", Text, nullable=False),
    Column("status", String(12), nullable=False),
    Column("output", Json),
    Column("error", Json),
    Column("label", Text),
    Column("score", Float),
    Column("n_tokens", BigInteger, nullable=False),
    Column("n_segments", Integer, nullable=False),
    Column("truncated", Boolean, nullable=False),
    # Sufficient statistics of the metrics, so that intervals and comparisons never need the texts again.
    Column("statistics", Json),
    sqlite_with_rowid=False,
)

metrics = Table(
    "metrics",
    metadata,
    Column("job_key", Key, ForeignKey("jobs.key", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Float),
    Column("ci_low", Float),
    Column("ci_high", Float),
    Column("n", BigInteger),
    Column("coverage", Float),
    Column("signature", Text),
    Column("ordinal", Integer, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("hostname", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("models", Json, nullable=False),
    Column("shard_key", Key),
    Column("memory", Json),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", String(255), primary_key=True),
    # Of the request that came with the key first: another request with the same key is a mistake.
    Column("fingerprint", String(64), nullable=False),
    # The id of what the request made, and its answer where that is kept word for word.
    Column("made", String(40), nullable=False),
    Column("answer", Json),
    Column("created_at", Float, nullable=False, index=True),
)
