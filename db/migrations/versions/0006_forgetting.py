"""Deleted corpora of whose texts outputs are kept that are still to be forgotten

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "forgetting",
        sa.Column("corpus_id", sa.String(length=40), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("corpus_id", name=op.f("pk_forgetting")),
    )


def downgrade() -> None:
    op.drop_table("forgetting")
