"""First tables

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "corpora",
        sa.Column("key", KEY, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("encoding", sa.String(length=8), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("documents", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("invalid", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("fields", JSON, nullable=False),
        sa.Column("options", JSON, nullable=False),
        sa.Column("inline", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("error", JSON, nullable=True),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.CheckConstraint("status in ('validating', 'ready', 'rejected')", name=op.f("ck_corpora_status")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_corpora")),
        sa.UniqueConstraint("id", name=op.f("uq_corpora_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("models", JSON, nullable=False),
        sa.Column("shard_key", KEY, nullable=True),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "jobs",
        sa.Column("key", KEY, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("task", sa.String(length=32), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("model_revision", sa.Text(), nullable=False),
        sa.Column("model", JSON, nullable=False),
        sa.Column("corpus_key", KEY, nullable=True),
        sa.Column("corpus_id", sa.String(length=40), nullable=False),
        sa.Column("corpus_invalid", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("params", JSON, nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("intent", sa.String(length=8), nullable=False),
        sa.Column("error", JSON, nullable=True),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=24), nullable=True),
        sa.Column("runtime", JSON, nullable=True),
        sa.Column("summary", JSON, nullable=True),
        sa.Column("confusion_matrix", JSON, nullable=True),
        sa.Column("evaluated", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("claimed_at", sa.Float(), nullable=True),
        sa.CheckConstraint("intent in ('run', 'pause', 'cancel')", name=op.f("ck_jobs_intent")),
        sa.ForeignKeyConstraint(
            ["corpus_key"], ["corpora.key"], name=op.f("fk_jobs_corpus_key_corpora"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", name=op.f("uq_jobs_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_jobs_corpus_key"), ["corpus_key"], unique=False)
        batch_op.create_index("ix_jobs_outcome_priority", ["outcome", "priority"], unique=False)

    op.create_table(
        "metrics",
        sa.Column("job_key", KEY, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("ci_low", sa.Float(), nullable=True),
        sa.Column("ci_high", sa.Float(), nullable=True),
        sa.Column("n", sa.BigInteger(), nullable=True),
        sa.Column("coverage", sa.Float(), nullable=True),
        sa.Column("signature", sa.Text(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["job_key"], ["jobs.key"], name=op.f("fk_metrics_job_key_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_key", "name", name=op.f("pk_metrics")),
    )
    op.create_table(
        "results",
        sa.Column("job_key", KEY, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("document_id", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("output", JSON, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
        sa.Column("n_segments", sa.Integer(), nullable=False),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.Column("statistics", JSON, nullable=True),
        sa.ForeignKeyConstraint(["job_key"], ["jobs.key"], name=op.f("fk_results_job_key_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_key", "position", name=op.f("pk_results")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "shards",
        sa.Column("key", KEY, nullable=False),
        sa.Column("job_key", KEY, nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("stop", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("owner", sa.String(length=96), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("not_before", sa.Float(), server_default="0", nullable=False),
        sa.Column("published_at", sa.Float(), nullable=True),
        sa.Column("succeeded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cancelled", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("usage", JSON, nullable=True),
        sa.Column("partial", JSON, nullable=True),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "state in ('pending', 'running', 'done', 'cancelled', 'failed')", name=op.f("ck_shards_state")
        ),
        sa.CheckConstraint("stop > start", name=op.f("ck_shards_slice")),
        sa.ForeignKeyConstraint(["job_key"], ["jobs.key"], name=op.f("fk_shards_job_key_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_shards")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("shards", schema=None) as batch_op:
        batch_op.create_index("ix_shards_job_key_start", ["job_key", "start"], unique=True)
        batch_op.create_index("ix_shards_state_job_key", ["state", "job_key"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("shards", schema=None) as batch_op:
        batch_op.drop_index("ix_shards_state_job_key")
        batch_op.drop_index("ix_shards_job_key_start")

    op.drop_table("shards")
    op.drop_table("results")
    op.drop_table("metrics")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_outcome_priority")
        batch_op.drop_index(batch_op.f("ix_jobs_corpus_key"))

    op.drop_table("jobs")
    op.drop_table("workers")
    op.drop_table("corpora")
