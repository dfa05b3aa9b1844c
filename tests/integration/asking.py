"""What the tests of reviews ask people: rows of a night, and the tools as a definition opens them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from corpusmill.places import Places, parse_places
from corpusmill.schedules import Review
from pipeline.review import Chosen, Reviewers, open_reviewers
from pipeline.sinks import Delivered
from tests.integration.labelling_peers import ArgillaPeer, LabelStudioPeer


def row(number: int = 0, **more: Any) -> Delivered:
    values: dict[str, Any] = {
        "document_id": f"d{number}", "text": f"text {number}", "status": "succeeded", "error": None, "score": 0.6,
        "label": "positive", "output": {"label": "positive", "score": 0.6, "scores": {"positive": 0.6, "negative": 0.4}},
        "model_id": "demo/classifier", "model_revision": "abc", "run_id": "run_1", "labelled_at": 1.0,
    }  # fmt: skip
    return Delivered(**values | more)


def chosen(rows: Iterable[Delivered]) -> list[Chosen]:
    return [Chosen(row=each, why="threshold") for each in rows]


def places(folder: Path, **urls: str) -> Places:
    text = f'[folders.out]\npath = "{folder}"\n'
    if "studio" in urls:
        text += f'[label_studio.team]\nurl = "{urls["studio"]}"\ntoken = "{urls.get("token", "legacy")}"\n'
    if "argilla" in urls:
        text += f'[argilla.team]\nurl = "{urls["argilla"]}"\napi_key = {{ env = "KEY" }}\n'
    return parse_places(text, {"KEY": urls.get("key", "key")})


def opened(target: dict[str, Any], there: Places) -> Reviewers:
    review = Review.model_validate({"default": 0.7, "to": target})
    return open_reviewers(review, there, run="run_1", date="2026-01-02")


def studio(peer: LabelStudioPeer, tmp_path: Path, token: str = "legacy") -> Reviewers:
    target = {"type": "label_studio", "place": "team", "project": 1}
    return opened(target, places(tmp_path, studio=peer.url, token=token))


def argilla(peer: ArgillaPeer, tmp_path: Path, **more: Any) -> Reviewers:
    target = {"type": "argilla", "place": "team", "dataset": "reviews", "workspace": "team", **more}
    return opened(target, places(tmp_path, argilla=peer.url))
