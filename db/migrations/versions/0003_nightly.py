"""The nightly pipeline: schedules, runs, the ledger, reviews; answers for reuse; versions of references

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reuse_scopes",
        sa.Column("key", KEY, nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("description", JSON, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_reuse_scopes")),
        sa.UniqueConstraint("hash", name=op.f("uq_reuse_scopes_hash")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "schedules",
        sa.Column("key", KEY, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("definition", JSON, nullable=False),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("next_fire_at", sa.Float(), nullable=True),
        sa.Column("position", JSON, nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_schedules")),
        sa.UniqueConstraint("id", name=op.f("uq_schedules_id")),
        sa.UniqueConstraint("name", name=op.f("uq_schedules_name")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_schedules_next_fire_at"), "schedules", ["next_fire_at"], unique=False)
    op.create_table(
        "corpus_references",
        sa.Column("corpus_key", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("file", sa.String(length=40), nullable=False),
        sa.Column("documents", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["corpus_key"], ["corpora.key"], name=op.f("fk_corpus_references_corpus_key_corpora"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("corpus_key", "version", name=op.f("pk_corpus_references")),
    )
    op.create_table(
        "labelled_documents",
        sa.Column("schedule_key", KEY, nullable=False),
        sa.Column("document_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("text_hash", sa.LargeBinary(length=16), nullable=True),
        sa.Column("scope_hash", sa.LargeBinary(length=16), nullable=True),
        sa.Column("run_key", KEY, nullable=True),
        sa.Column("status", sa.String(length=12), nullable=True),
        sa.Column("wanted_by", KEY, nullable=True),
        sa.Column("wanted_hash", sa.LargeBinary(length=16), nullable=True),
        sa.ForeignKeyConstraint(
            ["schedule_key"],
            ["schedules.key"],
            name=op.f("fk_labelled_documents_schedule_key_schedules"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("schedule_key", "document_id", name=op.f("pk_labelled_documents")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_labelled_documents_schedule_key_number", "labelled_documents", ["schedule_key", "number"], unique=True
    )
    op.create_index("ix_labelled_documents_wanted_by", "labelled_documents", ["wanted_by"], unique=False)
    op.create_table(
        "reused_outputs",
        sa.Column("scope_key", KEY, nullable=False),
        sa.Column("text_hash", sa.LargeBinary(), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
        sa.Column("n_segments", sa.Integer(), nullable=False),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["scope_key"],
            ["reuse_scopes.key"],
            name=op.f("fk_reused_outputs_scope_key_reuse_scopes"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("scope_key", "text_hash", name=op.f("pk_reused_outputs")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "runs",
        sa.Column("key", KEY, nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("schedule_key", KEY, nullable=False),
        sa.Column("fire_time", sa.Float(), nullable=False),
        sa.Column("trigger", sa.String(length=8), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("stage", sa.String(length=8), nullable=False),
        sa.Column("owner", sa.String(length=96), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.Float(), server_default="0", nullable=False),
        sa.Column("corpus_id", sa.String(length=40), nullable=True),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("definition", JSON, nullable=False),
        sa.Column("position", JSON, nullable=True),
        sa.Column("counts", JSON, nullable=True),
        sa.Column("report", JSON, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("cancel", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint("stage in ('read', 'label', 'deliver', 'review', 'report')", name=op.f("ck_runs_stage")),
        sa.CheckConstraint(
            "status in ('waiting', 'running', 'paused', 'succeeded', 'failed', 'skipped', 'cancelled')",
            name=op.f("ck_runs_status"),
        ),
        sa.CheckConstraint("trigger in ('cron', 'tick', 'manual')", name=op.f("ck_runs_trigger")),
        sa.ForeignKeyConstraint(
            ["schedule_key"], ["schedules.key"], name=op.f("fk_runs_schedule_key_schedules"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_runs")),
        sa.UniqueConstraint("id", name=op.f("uq_runs_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_schedule_key_fire_time", "runs", ["schedule_key", "fire_time"], unique=True)
    op.create_index("ix_runs_status", "runs", ["status"], unique=False)
    op.create_table(
        "reviews",
        sa.Column("key", KEY, nullable=False),
        sa.Column("schedule_key", KEY, nullable=False),
        sa.Column("document_id", sa.Text(), nullable=False),
        sa.Column("model_revision", sa.Text(), nullable=False),
        sa.Column("run_key", KEY, nullable=False),
        sa.Column("why", sa.String(length=16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("pushed_at", sa.Float(), nullable=True),
        sa.Column("remote_id", sa.Text(), nullable=True),
        sa.Column("answer", JSON, nullable=True),
        sa.Column("answered_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], name=op.f("fk_reviews_run_key_runs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["schedule_key"], ["schedules.key"], name=op.f("fk_reviews_schedule_key_schedules"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_reviews")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_reviews_run_key"), "reviews", ["run_key"], unique=False)
    op.create_index(
        "ix_reviews_schedule_key_document_id_model_revision",
        "reviews",
        ["schedule_key", "document_id", "model_revision"],
        unique=True,
    )
    op.add_column("corpora", sa.Column("references_version", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("reuse", sa.Boolean(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("reused", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("references_version", sa.Integer(), server_default="0", nullable=False))
    op.add_column("shards", sa.Column("references_version", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("shards", "references_version")
    op.drop_column("jobs", "references_version")
    op.drop_column("jobs", "reused")
    op.drop_column("jobs", "reuse")
    op.drop_column("corpora", "references_version")
    op.drop_index("ix_reviews_schedule_key_document_id_model_revision", table_name="reviews")
    op.drop_index(op.f("ix_reviews_run_key"), table_name="reviews")
    op.drop_table("reviews")
    op.drop_index("ix_runs_status", table_name="runs")
    op.drop_index("ix_runs_schedule_key_fire_time", table_name="runs")
    op.drop_table("runs")
    op.drop_table("reused_outputs")
    op.drop_index("ix_labelled_documents_wanted_by", table_name="labelled_documents")
    op.drop_index("ix_labelled_documents_schedule_key_number", table_name="labelled_documents")
    op.drop_table("labelled_documents")
    op.drop_table("corpus_references")
    op.drop_index(op.f("ix_schedules_next_fire_at"), table_name="schedules")
    op.drop_table("schedules")
    op.drop_table("reuse_scopes")
