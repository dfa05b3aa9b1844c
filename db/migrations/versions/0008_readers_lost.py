"""Readers: how many were killed over an upload, whoever had started them

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("corpora", sa.Column("readers_lost", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("corpora", "readers_lost")
