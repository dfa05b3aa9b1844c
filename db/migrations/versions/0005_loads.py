"""Models whose load takes the worker with it: which claim is loading, and how often it was the last that was heard

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("shards", sa.Column("loading", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("load_losses", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("load_lost_at", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "load_lost_at")
    op.drop_column("jobs", "load_losses")
    op.drop_column("shards", "loading")
