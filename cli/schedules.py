"""`corpusmill schedule …`: what is done every night, and how the nights went.

Knows the client, definitions in TOML, and how answers are shown. Must not know HTTP or databases, but for `tick`, which is
the operator's and works on the database itself.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.failures import INTERRUPTED, failed
from cli.options import Data, Json, Limit, Url, connect
from cli.output import print_json, print_pairs, print_table, say

if TYPE_CHECKING:
    from corpusmill_client import Client, Run, Schedule

schedule = typer.Typer(add_completion=False, no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The schedule's name or id.", show_default=False)]
_ENDED = "Exit codes: 0 well; 1 a run failed or broke a rule of fail_if; 3 documents failed."


@schedule.callback()
def _schedule() -> None:
    """Label what is new, every night."""


@schedule.command()
def apply(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Definitions in TOML.", show_default=False, dir_okay=False, exists=True),
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make the schedules of a file, or bring them to what it says; shows what changes. Done twice, it is done once."""
    from cli.definitions import definitions_of, difference

    wanted = definitions_of(file)
    done: list[dict[str, Any]] = []
    with connect(url) as client:
        for definition in wanted:
            there = next(client.schedules(name=definition["name"], limit=1), None)
            change = difference(there.definition if there else None, definition)
            what = "unchanged" if not change else "changed" if there else "created"
            if change and not as_json:
                print("\n".join(change))
            if change and not dry_run:
                there = there.change(**definition) if there else client.create_schedule(definition)
            fires = [fire.isoformat() for fire in there.next_fires] if there else []
            done.append({"name": definition["name"], "id": there.id if there else None, "what": what,
                         "diff": change, "next_fires": fires})  # fmt: skip
            say(_applied(definition["name"], what, fires, dry_run=dry_run))
    if as_json:
        print_json({"data": done})


def _applied(name: str, what: str, fires: list[str], *, dry_run: bool) -> str:
    would = " (not done: --dry-run)" if dry_run and what != "unchanged" else ""
    after = f"; fires {', '.join(fires)}" if fires and not would else ""
    return f"{name}: {what}{would}{after}"


@schedule.command("list")
def list_schedules(*, limit: Limit = 50, url: Url = None, as_json: Json = False) -> None:
    """List the schedules."""
    with connect(url) as client:
        found = list(client.schedules(limit=limit))
    if as_json:
        print_json({"data": [one.data for one in found]})
        return
    print_table(
        ("SCHEDULE", "NAME", "CRON", "ZONE", "ENABLED", "NEXT FIRE"),
        [
            (one.id, one.name, one.data["cron"], one.data["timezone"], one.enabled,
             one.next_fires[0].strftime("%Y-%m-%d %H:%M:%SZ") if one.next_fires else "")
            for one in found
        ],
    )  # fmt: skip


@schedule.command()
def show(name: Name, *, url: Url = None, as_json: Json = False) -> None:
    """Show a schedule, as the file that would make it."""
    from cli.definitions import lines_of

    with connect(url) as client:
        found = _find(client, name)
    if as_json:
        print_json(found.data)
        return
    print("\n".join(lines_of(found.definition)))
    say(f"fires {', '.join(fire.isoformat() for fire in found.next_fires) or 'at no time: it is not enabled'}")


@schedule.command(epilog=_ENDED)
def run(
    name: Name,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; the exit code is then the run's.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run a schedule now, beside its clock."""
    with connect(url) as client:
        started = _find(client, name).run()
        if not wait:
            print_json(started.data) if as_json else print(started.id)
            return
        say(f"Started {started.id}.")
        try:
            started.wait(progress=_tell)
        except KeyboardInterrupt:
            say(f"The run goes on. `corpusmill schedule runs {name}` shows it.")
            raise typer.Exit(INTERRUPTED) from None
        _show_run(started, as_json=as_json)
    raise typer.Exit(started.exit_code)


@schedule.command()
def runs(name: Name, *, limit: Limit = 20, url: Url = None, as_json: Json = False) -> None:
    """List the runs of a schedule, newest first."""
    with connect(url) as client:
        found = list(_find(client, name).runs(limit=limit))
    if as_json:
        print_json({"data": [one.data for one in found]})
        return
    print_table(
        ("RUN", "FIRE TIME", "TRIGGER", "STATUS", "STAGE", "NEW", "REUSED", "FAILED", "JOB", "ERROR"),
        [
            (one.id, one.data["fire_time"], one.data["trigger"], one.status, one.stage, one.new_documents,
             one.reused_documents, one.failed_documents, one.job, one.error)
            for one in found
        ],
    )  # fmt: skip


@schedule.command()
def enable(name: Name, *, url: Url = None, as_json: Json = False) -> None:
    """Let a schedule fire; it makes up for nothing of the time between."""
    _switch(name, url, enabled=True, as_json=as_json)


@schedule.command()
def disable(name: Name, *, url: Url = None, as_json: Json = False) -> None:
    """Let a schedule fire no more; a run that has begun goes on."""
    _switch(name, url, enabled=False, as_json=as_json)


@schedule.command()
def delete(name: Name, *, url: Url = None, as_json: Json = False) -> None:
    """Delete a schedule with its runs; jobs that have ended and what the sinks hold stay."""
    with connect(url) as client:
        found = _find(client, name)
        found.delete()
    print_json({"id": found.id, "deleted": True}) if as_json else print(f"{found.id} deleted")


@schedule.command(epilog=_ENDED)
def tick(
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Another clock's time, such as 2026-03-29T02:30:00+01:00.", show_default="now"
        ),
    ] = None,
    *,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Fire, and leave the runs to the sweeper.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Fire what is due, at any hour and whatever the policies, and go on with the runs until they have ended. For the
    operator: works on the database that CORPUSMILL_DATABASE_URL names; workers run the jobs."""
    from cli.ticking import sentence_of, tick_and_wait, view_of

    moment = _moment(at)
    ended = tick_and_wait(moment, data, wait=not no_wait)
    if as_json:
        print_json({"data": [view_of(one) for one in ended]})
    else:
        for one in ended:
            print(sentence_of(one))
    codes = {one.exit_code for one in ended}
    raise typer.Exit(1 if 1 in codes else max(codes, default=0))


def _moment(at: str | None) -> float | None:
    if at is None:
        return None
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise typer.BadParameter(f"{at!r} is no time such as 2026-03-29T02:30:00+01:00.", param_hint="--at") from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{at} has no offset: write {at}Z for UTC, or {at}+01:00.", param_hint="--at")
    return moment.timestamp()


def _switch(name: str, url: str | None, *, enabled: bool, as_json: bool) -> None:
    with connect(url) as client:
        found = _find(client, name).change(enabled=enabled)
    fires = f"; fires {found.next_fires[0].isoformat()}" if found.next_fires else ""
    print_json(found.data) if as_json else print(f"{found.id} {'enabled' if enabled else 'disabled'}{fires}")


def _find(client: Client, name: str) -> Schedule:
    """The schedule of that name, or of that id."""
    found = next(client.schedules(name=name, limit=1), None)
    if found is None and name.startswith("sched_"):
        return client.schedule(name)
    if found is None:
        raise failed(f"There is no schedule named {name!r}; `corpusmill schedule list` has those there are.")
    return found


def _tell(one: Run) -> None:
    say(f"{one.id} {one.status}, {one.stage}" + (f": {one.error}" if one.error else ""))


def _show_run(one: Run, *, as_json: bool) -> None:
    if as_json:
        print_json(one.data)
    else:
        print_pairs([
            ("run", one.id), ("status", one.status), ("job", one.job), ("error", one.error),
            ("new documents", one.new_documents), ("reused documents", one.reused_documents),
            ("failed documents", one.failed_documents or None),
        ])  # fmt: skip
    for sentence in one.broken:
        say(sentence)
