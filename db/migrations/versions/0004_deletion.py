"""Deletion: idempotency keys are found by what they made, whose answers go with it

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_idempotency_made"), "idempotency", ["made"])


def downgrade() -> None:
    op.drop_index(op.f("ix_idempotency_made"), table_name="idempotency")
