"""The commands about what a server holds besides jobs: corpora with their references, and models.

Knows the client and how answers are shown. Must not know HTTP, databases or files.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from cli.options import Json, Limit, Url, connect
from cli.output import print_json, print_table


def corpora(
    corpus: Annotated[
        str | None,
        typer.Argument(metavar="[CORPUS]", help="A corpus whose unreadable lines to list.", show_default=False),
    ] = None,
    *,
    limit: Limit = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the corpora, or the lines of one that could not be read."""
    with connect(url) as client:
        if corpus is not None:
            errors = list(client.corpus(corpus).errors(limit=limit))
            if as_json:
                print_json({"data": [asdict(error) for error in errors]})
                return
            rows = [(error.line, error.column, error.code, error.message) for error in errors]
            print_table(("LINE", "COLUMN", "CODE", "MESSAGE"), rows)
            return
        found = list(client.corpora(limit=limit))
    if as_json:
        print_json({"data": [each.data for each in found]})
        return
    print_table(
        ("CORPUS", "NAME", "STATUS", "FORMAT", "BYTES", "DOCUMENTS", "UNREADABLE"),
        [(each.id, each.name, each.status, each.format, each.bytes, each.documents, each.invalid) for each in found],
    )


def references(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="The corpus's id.", show_default=False)],
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]", show_default=False,
            help="JSON Lines with `id` or `position`, and `reference`; - is stdin. Without it the versions are listed.",
        ),
    ] = None,
    *,
    add: Annotated[
        bool, typer.Option("--add", help="Add to the references that the corpus has; else they are replaced.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Attach references to a corpus, so that its jobs' metrics are computed again; or list the versions that it has."""
    with connect(url) as client:
        found = client.corpus(corpus)
        if file is None:
            versions = [asdict(version) for version in found.references()]
        else:
            source = sys.stdin.buffer if file == "-" else file
            versions = [asdict(found.attach_references(source, add=add))]
    if as_json:
        print_json(versions[0] if file is not None else {"data": versions})
        return
    print_table(
        ("VERSION", "DOCUMENTS", "MADE", "SHA-256"),
        [(each["version"], each["documents"], each["created_at"], each["sha256"]) for each in versions],
    )


def models(*, url: Url = None, as_json: Json = False) -> None:
    """List the models that are at hand; any other that the server allows is fetched when a job asks for it."""
    with connect(url) as client:
        found = client.models()
    if as_json:
        print_json({"data": [asdict(model) for model in found]})
        return
    print_table(
        ("MODEL", "REVISION", "TASKS", "LABELS", "LOADED ON"),
        [
            (model.id, model.revision, ", ".join(model.tasks), ", ".join(model.labels), ", ".join(model.loaded_on))
            for model in found
        ],
    )
