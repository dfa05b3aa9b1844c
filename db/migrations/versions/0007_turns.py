"""Turns: a job's next shard is found without a look at all that wait

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_shards_state_job_key_losses_start"), "shards", ["state", "job_key", "losses", "start"])
    op.drop_index(op.f("ix_shards_state_job_key"), table_name="shards")


def downgrade() -> None:
    op.create_index(op.f("ix_shards_state_job_key"), "shards", ["state", "job_key"])
    op.drop_index(op.f("ix_shards_state_job_key_losses_start"), table_name="shards")
