"""Controls: idempotency keys, times to live, memory of workers

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("made", sa.String(length=40), nullable=False),
        sa.Column("answer", JSON, nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency")),
    )
    op.create_index(op.f("ix_idempotency_created_at"), "idempotency", ["created_at"])
    op.add_column("jobs", sa.Column("ttl", sa.Float(), nullable=True))
    op.create_index(op.f("ix_jobs_expires_at"), "jobs", ["expires_at"])
    op.add_column("corpora", sa.Column("expires_at", sa.Float(), nullable=True))
    op.create_index(op.f("ix_corpora_expires_at"), "corpora", ["expires_at"])
    op.add_column("workers", sa.Column("memory", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "memory")
    op.drop_index(op.f("ix_corpora_expires_at"), table_name="corpora")
    op.drop_column("corpora", "expires_at")
    op.drop_index(op.f("ix_jobs_expires_at"), table_name="jobs")
    op.drop_column("jobs", "ttl")
    op.drop_index(op.f("ix_idempotency_created_at"), table_name="idempotency")
    op.drop_table("idempotency")
