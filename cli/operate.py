"""`corpusmill db upgrade|backup|restore` and `corpusmill doctor`: what an operator runs before and beside the service.

Knows how findings are shown and what exit code they are. Must not know how each is found: `cli.checks` does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Data
from corpusmill.settings import settings_from

if TYPE_CHECKING:
    from cli.checks import Finding

db = typer.Typer(add_completion=False, no_args_is_help=True)


@db.callback()
def _db() -> None:
    """Look after the database: its tables, backups."""


@db.command()
def upgrade(data: Data = None) -> None:
    """Bring the database's tables to this version; makes a SQLite file where there is none."""
    from cli.output import say
    from cli.tables import upgrade as upgrade_tables

    settings = settings_from(os.environ, data_dir=data)
    if not settings.database_url:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    upgrade_tables(settings)
    say("The database is up to date.")


FilesOnly = Annotated[
    bool, typer.Option("--files-only", help="Leave the database to other means, and look after the files alone.")
]


@db.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="TARGET_DIR", help="A new directory.", show_default=False)],
    data: Data = None,
    files_only: FilesOnly = False,
) -> None:
    """Write database and corpora into a new directory; the system may go on meanwhile."""
    from cli.failures import failed
    from cli.output import say
    from db.backup import back_up

    made = back_up(settings_from(os.environ, data_dir=data), target, files_only=files_only)
    what = "database and files" if made.database else "files, without the database,"
    say(f"Wrote {what} of {made.corpora:,} corpora ({made.bytes:,} bytes) to {target}.")
    if made.missing:
        raise failed(f"These corpora have no files any more, here or in the backup: {', '.join(made.missing)}.", 3)


@db.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="SOURCE_DIR", help="A backup.", show_default=False)],
    data: Data = None,
    files_only: FilesOnly = False,
) -> None:
    """Put a backup into an empty data directory and an empty database, with nothing running."""
    from cli.datadir import DataDirectory
    from cli.output import say
    from db.restore import restore as put_back

    settings = settings_from(os.environ, data_dir=data)
    directory = DataDirectory(settings.data_dir)
    try:
        made = put_back(settings, source, files_only=files_only)
    finally:
        directory.release()
    what = "Database and files" if made.database and not files_only else "Files"
    say(f"{what} are those of {made.made_at}, version {made.version}. Next: `corpusmill db upgrade`, then start.")


def doctor(
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check settings, data directory, database, broker, models and devices; exit code 1 where something is wrong."""
    from cli.checks import examine
    from cli.output import print_json

    findings = examine(os.environ, data)
    sound = all(finding.state != "fault" for finding in findings)
    if as_json:
        print_json({"ok": sound, "checks": [finding.as_dict() for finding in findings]})
    else:
        _show(findings)
    if not sound:
        raise typer.Exit(1)


def _show(findings: Sequence[Finding]) -> None:
    """A table whose sentences are never cut, because each is an instruction."""
    from cli.output import console, print_table

    rows = [(finding.check, finding.state, finding.found, finding.mend) for finding in findings]
    if not sys.stdout.isatty():
        print_table(("CHECK", "STATE", "FOUND", "MEND"), rows)
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("CHECK", "STATE", "FOUND", "MEND", box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row, style={"fault": "red", "warning": "yellow"}.get(row[1]))
    console().print(table)
