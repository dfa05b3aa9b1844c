"""The commands that fetch what jobs made: results, export, metrics.

Knows the client and how answers are shown. Must not know HTTP, databases or models.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.failures import failed
from cli.options import JobId, Json, Limit, Url, connect
from cli.output import print_json, print_table, say
from cli.progress import bars

if TYPE_CHECKING:
    from corpusmill_client import Job


def results(
    job_id: JobId,
    *,
    status: Annotated[
        Literal["succeeded", "failed", "cancelled"] | None, typer.Option(help="Only these.", show_default="all")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Only documents with this label.", show_default="all")] = None,
    limit: Limit = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the first results, also while the job runs; `export` gives them all."""
    from dataclasses import asdict

    with connect(url) as client:
        found = list(client.job(job_id).results(status=status, label=label, limit=limit, follow=False))
    if as_json:
        print_json({"data": [asdict(result) for result in found]})
        return
    print_table(
        ("POSITION", "ID", "STATUS", "TOKENS", "OUTPUT"),
        [
            (each.position, each.id, each.status, each.n_tokens, output_text(each.output) or _why(each.error))
            for each in found
        ],
    )  # fmt: skip


def export(
    job_id: JobId,
    *,
    format: Annotated[
        str | None, typer.Option(help="jsonl, csv or parquet.", show_default="by the name of --output, else jsonl")
    ] = None,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="File to write.", show_default="stdout")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Export what is there before the job has ended.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Write the documents with their outputs, in order, to a file or to stdout."""
    check_output(output, format)
    if output is None and format == "parquet":
        raise typer.BadParameter("Parquet is no text: give --output FILE.", param_hint="--format")
    if output is None and as_json and format == "csv":
        raise typer.BadParameter("--json on stdout is JSON Lines: give --output FILE or leave --json out.")
    with connect(url) as client:
        job = client.job(job_id)
        if output is not None:
            save(job, output, format, partial=partial)
            if as_json:
                print_json({"job": job.id, "path": str(output), "bytes": output.stat().st_size})
            return
        for block in job.stream(format or "jsonl", partial=partial):
            sys.stdout.buffer.write(block)


def metrics(job_id: JobId, *, url: Url = None, as_json: Json = False) -> None:
    """Show a job's evaluation metrics with their 95 % intervals."""
    with connect(url) as client:
        found = client.job(job_id).metrics()
    if as_json:
        print_json(found.data)
        return
    print_table(
        ("METRIC", "VALUE", "LOW", "HIGH", "DOCUMENTS", "COVERAGE"),
        [
            (metric.name, metric.value, metric.ci_low, metric.ci_high, metric.n, metric.coverage)
            for metric in found
        ],
    )  # fmt: skip
    matrix = found.confusion_matrix
    if matrix:
        print()
        print_table(
            ("REFERENCE", *(f"as {label}" for label in matrix["labels"])),
            [(label, *counts) for label, counts in zip(matrix["labels"], matrix["counts"], strict=True)],
        )


def output_text(output: Any) -> str:
    """A document's output in words."""
    if not output:
        return ""
    if "label" in output:
        labels = output.get("labels")
        return ", ".join(labels) if labels else f"{output['label']} {output.get('score', 0.0):.3f}"
    return str(output.get("summary") or output.get("translation") or "")


def save(job: Job, output: Path, format: str | None, *, partial: bool) -> None:
    """Exports to a file, with a bar."""
    try:
        with bars() as shown:
            job.export(output, format=format, partial=partial, progress=lambda done: shown.bytes("export", done, None))
    except OSError as error:
        again = f"`corpusmill export {job.id} --output FILE` writes the results elsewhere"
        raise failed(f"{output} could not be written ({error.strerror or error}); {again}.") from None
    say(f"Wrote {output}.")


def check_output(output: Path | None, format: str | None = None) -> None:
    """Refuses as wrong usage, before anything is done, what could not be written in the end."""
    from corpusmill_client.exports import export_format

    try:
        if output is not None or format is not None:
            export_format(str(output or ""), format)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if output is not None and not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"There is no directory {output.parent}.", param_hint="--output")


def _why(error: Any) -> str:
    return f"{error['code']}: {error['message']}" if error else ""
