"""The commands by name, each loaded when it is asked for.

Knows their names and where each lives: `corpusmill submit` starts without a database, a web server or torch. Must not
know what a command does.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

#: Each command and the function, or group of commands, that it is.
COMMANDS = {
    "up": "cli.up:up",
    "demo": "cli.demo:demo",
    "submit": "cli.jobs:submit",
    "jobs": "cli.jobs:jobs",
    "status": "cli.jobs:status",
    "results": "cli.results:results",
    "export": "cli.results:export",
    "metrics": "cli.results:metrics",
    "pause": "cli.jobs:pause",
    "resume": "cli.jobs:resume",
    "cancel": "cli.jobs:cancel",
    "retry": "cli.jobs:retry",
    "delete": "cli.jobs:delete",
    "schedule": "cli.schedules:schedule",
    "corpora": "cli.lists:corpora",
    "references": "cli.lists:references",
    "models": "cli.lists:models",
    "api": "cli.up:api",
    "worker": "cli.up:worker",
    "sweep": "cli.up:sweep",
    "db": "cli.operate:db",
    "reuse": "cli.reuse:reuse",
    "doctor": "cli.operate:doctor",
}
_HELP = {"help_option_names": ["-h", "--help"]}


class _Commands(TyperGroup):
    """The commands by name, loaded when needed; here an error becomes a sentence and an exit code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The names alone: they are what a misspelt one is compared with.
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        return _load(cmd_name) if cmd_name in COMMANDS else None

    def invoke(self, ctx: Any) -> Any:
        from cli.failures import guarded

        return guarded(lambda: super(_Commands, self).invoke(ctx))


def _load(name: str) -> Any:
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command: Any = get_group(found)
        command.name = name
        return command
    alone = typer.Typer(pretty_exceptions_enable=False, add_completion=False, context_settings=_HELP)
    alone.command(name)(found)
    return get_command(alone)


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=_HELP, rich_markup_mode="rich"
)


def _version(wanted: bool) -> None:
    if wanted:
        from corpusmill import __version__

        typer.echo(f"corpusmill {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 every document succeeded, or the command was done; 1 the job failed, or the command could "
    "not be done; 2 wrong usage; 3 completed with failed documents or with lines that could not be read; 130 "
    "interrupted. CORPUSMILL_URL says which server, CORPUSMILL_API_KEY holds its key."
)
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Labels, summaries and translations of whole corpora."""


def run() -> None:
    """Do what the command line says; ends by SystemExit."""
    get_command(app)(prog_name="corpusmill")
