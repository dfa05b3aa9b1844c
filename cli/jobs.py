"""The commands that start, follow and end jobs: submit, jobs, status, pause, resume, cancel, retry, delete.

Knows the client and how answers are shown. Must not know HTTP, databases or models.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.failures import INTERRUPTED, failed
from cli.options import JobId, Json, Limit, StatusName, TaskName, Url, connect, params_of
from cli.output import print_json, print_pairs, print_table, say
from cli.progress import bars
from cli.results import check_output, save

if TYPE_CHECKING:
    from corpusmill_client import Job

_FIELDS = "Fields of the documents"


def submit(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="The corpus: a file, - for stdin, or the id of a corpus.", show_default=False
        ),
    ],
    *,
    task: Annotated[TaskName, typer.Option(help="What is to be done.", show_default=False)],
    model: Annotated[
        str, typer.Option(help="A model's id; `corpusmill models` lists those at hand.", show_default=False)
    ],
    revision: Annotated[str | None, typer.Option(help="The model's commit.", show_default="the newest")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A parameter of the task, as often as needed: top_k=3, generation.num_beams=4."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the job.")] = None,
    priority: Annotated[int, typer.Option(help="Jobs of higher priority run first.")] = 0,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take outputs kept of the same texts, and keep this job's for others.")
    ] = False,
    text_field: Annotated[
        str | None, typer.Option(help="The text.", show_default="text", rich_help_panel=_FIELDS)
    ] = None,
    text_pair_field: Annotated[
        str | None, typer.Option(help="The second text of a pair.", show_default="none", rich_help_panel=_FIELDS)
    ] = None,
    id_field: Annotated[
        str | None, typer.Option(help="The document's id.", show_default="id", rich_help_panel=_FIELDS)
    ] = None,
    reference_field: Annotated[
        str | None,
        typer.Option(help="The gold label or text.", show_default="reference", rich_help_panel=_FIELDS),
    ] = None,
    input_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="FILE's format where its name does not say it: jsonl, csv, tsv, parquet, txt, zip, or jsonl.gz.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; the exit code is then the job's.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Wait, then export to this .jsonl, .csv or .parquet file.", show_default=False
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Submit a job; without --wait, print its id and return."""
    check_output(output)
    fields: dict[str, Any] = {
        "text_field": text_field,
        "text_pair_field": text_pair_field,
        "id_field": id_field,
        "reference_field": reference_field,
    }
    source = _source(file, input_format, fields)
    params = params_of(param or [])
    with connect(url) as client:
        try:
            with bars() as shown:
                job = client.submit(
                    task, source, model=model, revision=revision, name=name, priority=priority, reuse=reuse,
                    format=input_format,
                    progress=lambda sent, size: shown.bytes("upload", sent, size), params=params, **fields,
                )  # fmt: skip
        except KeyboardInterrupt:
            raise failed("interrupted before the job was submitted.", INTERRUPTED) from None
        if not (wait or output):
            if job.corpus_invalid:
                say(f"{_lines(job.corpus_invalid)} could not be read; `corpusmill corpora {job.corpus}` lists them.")
            print_json(job.data) if as_json else print(job.id)
            return
        say(f"Submitted {job.id}.")
        wait_for(job)
        if output and not (job.status == "failed" and job.error):
            save(job, output, None, partial=False)
        _show_outcome(job, as_json=as_json)


def jobs(
    *,
    status: Annotated[StatusName | None, typer.Option(help="Only jobs of this status.", show_default="all")] = None,
    task: Annotated[TaskName | None, typer.Option(help="Only jobs of this task.", show_default="all")] = None,
    limit: Limit = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the jobs."""
    with connect(url) as client:
        found = list(client.jobs(status=status, task=task, limit=limit))
    if as_json:
        print_json({"data": [job.data for job in found]})
        return
    print_table(
        ("JOB", "NAME", "TASK", "MODEL", "STATUS", "DOCUMENTS", "ENDED", "FAILED", "CREATED"),
        [
            (
                job.id, job.name, job.task, job.model, job.status,
                job.counts.total, job.counts.ended, job.counts.failed, _minute(job),
            )
            for job in found
        ],
    )  # fmt: skip


def status(
    job_id: JobId,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show how a job stands; once it has ended, the exit code is the job's."""
    with connect(url) as client:
        job = client.job(job_id)
        if wait:
            wait_for(job)
        _show_outcome(job, as_json=as_json)


def cancel(job_id: JobId, *, url: Url = None, as_json: Json = False) -> None:
    """Stop a job; documents that have their result keep it."""
    with connect(url) as client:
        job = client.job(job_id).cancel()
    print_json(job.data) if as_json else print(f"{job.id} {job.status}")


def pause(job_id: JobId, *, url: Url = None, as_json: Json = False) -> None:
    """Hold a job; what is on a device goes back into the queue, unharmed."""
    with connect(url) as client:
        job = client.job(job_id).pause()
    print_json(job.data) if as_json else print(f"{job.id} {job.status}")


def resume(job_id: JobId, *, url: Url = None, as_json: Json = False) -> None:
    """Let a paused job go on."""
    with connect(url) as client:
        job = client.job(job_id).resume()
    print_json(job.data) if as_json else print(f"{job.id} {job.status}")


def retry(
    job_id: JobId,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; the exit code is then the job's.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run the failed documents of a job again; those that succeeded keep their results."""
    with connect(url) as client:
        job = client.job(job_id).retry()
        if wait:
            wait_for(job)
            _show_outcome(job, as_json=as_json)
    print_json(job.data) if as_json else print(f"{job.id} {job.status}")


def delete(job_id: JobId, *, url: Url = None, as_json: Json = False) -> None:
    """Delete a job with its results and metrics."""
    with connect(url) as client:
        client.job(job_id).delete()
    print_json({"id": job_id, "deleted": True}) if as_json else print(f"{job_id} deleted")


def wait_for(job: Job) -> None:
    """Waits with a bar until the job has ended. Ctrl-C leaves the job alone and says how to find it."""
    try:
        with bars() as shown:
            shown.job(job)
            job.wait(progress=shown.job)
    except KeyboardInterrupt:
        say(
            f"The job goes on. `corpusmill status {job.id}` shows it, `corpusmill status {job.id} --wait` waits again, "
            f"`corpusmill cancel {job.id}` stops it."
        )
        raise typer.Exit(INTERRUPTED) from None


def exit_code(job: Job) -> int:
    """0: all succeeded, or the job is on its way; 1: failed or cancelled; 3: some documents or lines failed."""
    if job.status in {"failed", "cancelled"}:
        return 1
    if job.status == "completed_with_errors":
        return 3
    return 3 if job.status == "completed" and job.corpus_invalid else 0


def _show_outcome(job: Job, *, as_json: bool) -> None:
    """How the job stands, and the exit code that this is."""
    if as_json:
        print_json(job.data)
    else:
        counts = job.counts
        print_pairs([
            ("job", job.id), ("name", job.name), ("task", job.task), ("model", job.model), ("revision", job.revision),
            ("status", job.status), ("queue position", job.queue_position), ("error", job.error),
            ("documents", counts.total), ("succeeded", counts.succeeded), ("failed", counts.failed or None),
            ("reused", job.reused or None),
            ("cancelled", counts.cancelled or None), ("pending", counts.pending or None),
            ("unreadable lines", job.corpus_invalid or None), ("documents/s", job.documents_per_second),
        ])  # fmt: skip
    code = exit_code(job)
    if job.error:
        say(f"{job.id} failed: {job.error}")
    elif job.ended and code == 3:
        failures = []
        if job.counts.failed:
            failed = f"{job.counts.failed:,} of {job.counts.total:,} documents failed"
            failures.append(f"{failed} (corpusmill results {job.id} --status failed)")
        if job.corpus_invalid:
            failures.append(f"{_lines(job.corpus_invalid)} could not be read (corpusmill corpora {job.corpus})")
        say(f"{' and '.join(failures)}.")
    raise typer.Exit(code)


def _source(file: str, format: str | None, fields: dict[str, str | None]) -> Any:
    """What to submit, refused as wrong usage where it is not there or its format is not known."""
    from corpusmill_client.content import format_of

    if file.startswith("corpus_") and not Path(file).exists():
        given = [f"--{name.replace('_', '-')}" for name, value in fields.items() if value]
        if given:
            raise typer.BadParameter(f"{file} was read when it was uploaded: {', '.join(given)} cannot change it.")
        return file
    if file != "-" and not Path(file).exists():
        raise typer.BadParameter(f"There is no file {file}.", param_hint="FILE")
    if Path(file).is_dir():
        raise typer.BadParameter(f"{file} is a directory: give one file, for example a .zip of it.", param_hint="FILE")
    if file == "-" and format is None:
        raise typer.BadParameter("Say what stdin holds: --format jsonl, csv, …", param_hint="--format")
    try:
        format_of(format or file)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return sys.stdin.buffer if file == "-" else Path(file)


def _lines(count: int) -> str:
    return f"{count:,} line{'s' if count != 1 else ''}"


def _minute(job: Job) -> str:
    return job.created_at.strftime("%Y-%m-%d %H:%M") if job.created_at else ""
