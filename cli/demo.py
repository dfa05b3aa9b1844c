"""`corpusmill demo`: three real corpora through a server, with their metrics and a few real outputs.

Knows which corpora and models make the demonstration, and how to show it. Must not know how a server works.
"""

from __future__ import annotations

import shutil
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.failures import failed
from cli.jobs import exit_code
from cli.options import Json, Url, connect
from cli.output import cell, print_json, print_table, say
from cli.progress import Bars, bars
from cli.results import output_text

if TYPE_CHECKING:
    from corpusmill_client import Client, Job, Metrics

PAIRS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One corpus of the demonstration: its file, what is done with it, and the metrics that matter."""

    file: str
    task: str
    model: str
    metrics: Sequence[str]
    params: Mapping[str, Any] = field(default_factory=dict)


PARTS = (
    Part(
        file="reviews.jsonl",
        task="classification",
        model="demo/classifier",
        metrics=("accuracy", "f1_macro"),
    ),
    Part(
        file="papers.jsonl",
        task="summarization",
        model="demo/summarizer",
        metrics=("rouge1", "rouge2", "rougeL"),
        params={"method": "extractive"},
    ),
    Part(
        file="sentences.en-de.jsonl",
        task="translation",
        model="demo/translator",
        metrics=("bleu", "chrf"),
    ),
)


def demo(
    *,
    url: Url = None,
    data: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Start a server of its own that keeps its data here.", show_default="temporary"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Label, summarize and translate three small corpora; starts a server for it where none answers."""
    if url is not None and data is not None:
        raise typer.BadParameter("--data is for a server of the demo's own; leave --url and CORPUSMILL_URL out.")
    paths = [_corpus(part) for part in PARTS]
    with _server(url, data) as address, connect(address) as client, bars() as shown:
        jobs = _submit(client, paths, shown)
        _wait(jobs, shown)
        shown.close()
        found = [(part, job, job.metrics()) for part, job in zip(PARTS, jobs, strict=True)]
        if as_json:
            print_json({"jobs": [{**job.data, **metrics.data, "examples": examples(job)} for _, job, metrics in found]})
        else:
            _show(found)
    codes = {exit_code(job) for job in jobs}
    if codes != {0}:
        # A job that failed (1) weighs more than one in which documents did (3).
        raise failed("not every document of the demonstration succeeded.", 1 if 1 in codes else 3)


@contextmanager
def _server(url: str | None, data: Path | None) -> Iterator[str]:
    """The address of the server to use: the one that was named, one that answers, or one of our own."""
    from cli.own_server import own_server

    if url is not None or (data is None and _answers()):
        with connect(url) as client:
            say(f"Using the server at {client.url}.")
            yield client.url
        return
    say(f"Starting a server in {data or 'a temporary directory'} …")
    with own_server(data) as address:
        say(f"The server is ready at {address}.")
        try:
            yield address
        finally:
            say("Stopping the server …")


def _answers() -> bool:
    """Whether a Corpusmill server answers at the default address."""
    from corpusmill_client import DEFAULT_URL, ConnectionFailed, CorpusmillError

    with connect(DEFAULT_URL) as client:
        try:
            client.models()
        except ConnectionFailed:
            return False
        except CorpusmillError as error:
            if error.code == "unexpected_answer":
                return False
            raise
    return True


def _corpus(part: Part) -> Path:
    import demo

    path = demo.CORPORA / part.file
    if not path.is_file():
        raise failed(f"The demonstration's corpus {path} is not there: this installation is not whole.")
    return path


def _submit(client: Client, paths: Sequence[Path], shown: Bars) -> list[Job]:
    jobs = []
    for part, path in zip(PARTS, paths, strict=True):
        job = client.submit(part.task, path, model=part.model, name=f"demo {part.task}", **part.params)
        shown.job(job, part.task)
        jobs.append(job)
    return jobs


def _wait(jobs: Sequence[Job], shown: Bars) -> None:
    """Follows the jobs together, a bar each."""
    while True:
        for part, job in zip(PARTS, jobs, strict=True):
            if not job.ended:
                job.refresh()
            shown.job(job, part.task)
        if all(job.ended for job in jobs):
            return
        time.sleep(0.3)


def _show(found: Sequence[tuple[Part, Job, Metrics]]) -> None:
    print_table(
        ("TASK", "MODEL", "DOCUMENTS", "FAILED", "DOCUMENTS/S", "METRICS, 95 % INTERVALS"),
        [
            (
                job.task, job.model, job.counts.total, job.counts.failed, job.documents_per_second,
                metric_lines(metrics, part.metrics),
            )
            for part, job, metrics in found
        ],
        drawn=True,
    )  # fmt: skip
    for _, job, _ in found:
        print(f"\n{job.task}, {job.model}" + (f": {job.error}" if job.error else ""))
        for example in examples(job):
            print()
            for name, text in example.items():
                summary = job.task == "summarization"
                # The sentences of a summary come from different places of its document: a line each shows that.
                parts = text.splitlines() if summary and name == "output" else [text]
                print_text(name, parts, lines=3 if summary and name != "output" else 2)


def metric_lines(metrics: Metrics, names: Sequence[str]) -> tuple[str, ...]:
    """The metrics of these names, a line each: `accuracy 0.843 (0.812 to 0.871)`."""
    shown = []
    for metric in (metrics.get(name) for name in names):
        if metric is None or metric.value is None:
            continue
        # Shares have three decimals, scores of 0 to 100 one.
        digits = 1 if metric.name.startswith(("rouge", "bleu", "chrf", "ter")) else 3
        interval = ""
        if metric.ci_low is not None and metric.ci_high is not None:
            interval = f" ({metric.ci_low:.{digits}f} to {metric.ci_high:.{digits}f})"
        shown.append(f"{metric.name} {metric.value:.{digits}f}{interval}")
    return tuple(shown)


def examples(job: Job, count: int = PAIRS) -> list[dict[str, str]]:
    """Inputs with their outputs, and references where there are any, evenly spread over the job's documents."""
    if job.status == "failed" or not job.counts.total:
        return []
    wanted = [job.counts.total * (2 * each + 1) // (2 * count) for each in range(count)]
    found: list[dict[str, str]] = []
    for position, row in enumerate(job.rows(partial=True)):
        if len(found) == count:
            break
        output = output_text(row.get("output") or row)
        if position >= wanted[len(found)] and output:
            reference = row.get("reference")
            reference = reference[0] if isinstance(reference, list) and reference else reference
            found.append({"input": str(row.get("text", "")), "output": output, "reference": str(reference or "")})
    return [{name: text for name, text in each.items() if text} for each in found]


def print_text(name: str, parts: Sequence[str], *, lines: int) -> None:
    """A name and a text beside it, each part from a new line, broken at the terminal's width, cut after so many lines."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    for number, part in enumerate(parts):
        wrapped = textwrap.wrap(
            cell(part), width, initial_indent=f"  {'' if number else name:<11}", subsequent_indent=" " * 13,
            max_lines=lines, placeholder=" …",
        )  # fmt: skip
        print("\n".join(wrapped))
