"""A later version of the product, made of this one: its tables are expanded, and its programs use what is new.

Knows where tables, migrations and the doorbell stand in the code. Must not run anything.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .processes import ROOT

#: Its revision: of the same thousand as this version's, so one that only expands.
REVISION = "0999"
_ROOMS = ("api", "catalog", "cli", "client", "corpora", "corpusmill", "demo", "evaluation", "tests", "worker")
_MIGRATION = f'''"""A later version: a column that it writes, columns that may be left out, a table."""

import sqlalchemy as sa
from alembic import op

revision = "{REVISION}"
down_revision = "{{before}}"
branch_labels = depends_on = None


def upgrade() -> None:
    op.add_column("shards", sa.Column("later", sa.Text(), nullable=True))
    op.create_index("ix_shards_later", "shards", ["later"])
    for table in ("jobs", "results", "corpora", "workers"):
        op.add_column(table, sa.Column("later", sa.Integer(), server_default="7", nullable=False))
    op.create_table("later", sa.Column("key", sa.Integer(), primary_key=True))
'''
#: Every statement of it that writes a shard writes the new column too.
_TABLES = f'''
shards.append_column(Column("later", Text, default="{REVISION}", onupdate="{REVISION}"))
'''


def later_version(folder: Path, before: str) -> Path:
    """Make it in `folder`, a new directory, with `before` as the revision that it follows; the directory."""
    folder.mkdir()
    for room in _ROOMS:
        (folder / room).symlink_to(ROOT / room)
    for room in ("broker", "db"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "db" / "migrations" / "versions" / f"{REVISION}_later.py").write_text(
        _MIGRATION.format(before=before), encoding="utf-8"
    )
    with (folder / "db" / "tables.py").open("a", encoding="utf-8") as tables:
        tables.write(_TABLES)
    doorbell = folder / "broker" / "doorbell.py"
    plain, more = "args=[shard_id],", f'args=[shard_id, "{REVISION}"], kwargs={{"later": True}},'
    code = doorbell.read_text(encoding="utf-8")
    assert plain in code, "the doorbell is where it was"
    doorbell.write_text(code.replace(plain, more), encoding="utf-8")
    return folder
