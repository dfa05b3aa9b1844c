"""The README's examples run as they stand, and what it and the documents beside it name is there."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from .stack import ROOT, Stack

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "CHANGELOG.md", "docs/design.md", "docs/operations.md", "docs/pipeline.md")
#: A block is run where this comment stands on the line before it.
BLOCK = re.compile(r"^<!-- run -->\n```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Variables of docker-compose.yml, which the service never sees.
COMPOSE_VARIABLES = {"CORPUSMILL_BIND"}


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every block to be run, in order."""
    return BLOCK.findall(README)


def texts() -> dict[str, str]:
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}


def run(language: str, block: str, url: str, folder: Path) -> str:
    """What a block prints. Variables of the service are left out, as on the machine of somebody who begins."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CORPUSMILL_")}
    environ |= {
        "CORPUSMILL_URL": url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    program = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-W", "error", "-c"]
    ended = subprocess.run(
        [*program, block.replace("http://127.0.0.1:8000", url)],
        cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"{block}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def outputs(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Where the examples were run, one after another in one folder as a reader would, and what each printed."""
    folder = tmp_path_factory.mktemp("reader")
    return folder, [run(language, block, stack.url, folder) for language, block in blocks()]


def test_the_examples_speak_three_languages() -> None:
    curl, python, command_line = blocks()
    assert curl[0] == "sh"
    assert "curl -sSf" in curl[1]
    assert python[0] == "python"
    assert "corpusmill_client" in python[1]
    assert command_line[0] == "sh"
    assert "corpusmill submit" in command_line[1]


def test_the_curl_example_ends_with_labels_and_metrics(outputs: tuple[Path, list[str]]) -> None:
    folder, (printed, _, _) = outputs
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert {row["label"] for row in rows} <= {"negative", "positive"}
    assert '"accuracy"' in printed


def test_the_python_example_prints_status_labels_and_a_summary(outputs: tuple[Path, list[str]]) -> None:
    _, (_, printed, _) = outputs
    lines = printed.splitlines()
    assert lines[0].split()[0] == "completed"
    assert lines[1].split() == ["id", "label", "score"]
    assert lines[-1] == "The first sentence."


def test_the_command_line_example_writes_its_files(outputs: tuple[Path, list[str]]) -> None:
    folder, (_, _, printed) = outputs
    labels = pq.read_table(folder / "labels.parquet").to_pydict()["label"]
    assert len(labels) == 3
    with (folder / "echo.csv").open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["a", "b", "c"]
    assert "demo/classifier" in printed
    assert '"accuracy"' in printed


def test_every_command_that_is_named_exists() -> None:
    environ = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    shown = subprocess.run(
        [sys.executable, "-m", "cli", "--help"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    ).stdout
    known = set(re.findall(r"[a-z-]+", shown))
    for name, text in texts().items():
        named = set(re.findall(r"(?<![\w/.-])corpusmill ((?!-)[a-z]+)", text))
        assert named <= known, (name, named - known)


def test_every_verb_of_make_that_is_named_exists() -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name, text in texts().items():
        named = set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE))
        assert named <= verbs, (name, named - verbs)


def test_every_variable_that_is_named_is_a_setting() -> None:
    table = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `(CORPUSMILL_[A-Z_]+)`", table, re.MULTILINE)) | COMPOSE_VARIABLES
    for name, text in texts().items():
        named = set(re.findall(r"CORPUSMILL_[A-Z][A-Z_]+", text))
        assert named <= known, (name, named - known)


def test_every_link_within_the_project_leads_somewhere() -> None:
    for name, text in texts().items():
        for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", text):
            assert ((ROOT / name).parent / target).exists(), (name, target)


def test_every_path_of_the_api_that_is_named_is_answered(stack: Stack) -> None:
    known = {path.replace("/api/v1", "") for path in stack.http.get("/openapi.json").json()["paths"]}
    for name, text in texts().items():
        named = re.findall(r"(?:GET|POST|DELETE) (/(?:corpora|jobs|models)(?:/[a-z{}]+)*)", text)
        wanted = {path.replace("{id}", f"{{{path.split('/')[1].rstrip('s')}_id}}") for path in named}
        wanted = {path.replace("{corpora_id}", "{corpus_id}") for path in wanted}
        assert wanted <= known, (name, wanted - known)


def test_the_demo_models_figures_are_those_that_were_measured() -> None:
    classifier = figures("classifier/figures.json")
    for row in (
        classifier["source_not_trained_on"]["restaurants"],
        classifier["siblings_without_one_source"]["films"],
    ):
        assert f"{row['accuracy']:.1f} % ({row['ci_low']:.1f}–{row['ci_high']:.1f})" in README
    compared = figures("summarizer.figures.json")["on"]
    for name in ("papers of the corpus", "papers with abstracts"):
        rouge = compared[name]["rouge"]["rouge1"]
        interval = f"{rouge['difference']:+.1f}, {rouge['ci_low']:+.1f} to {rouge['ci_high']:+.1f}"
        stated = (
            f"ROUGE-1 {rouge['extractive']:.1f}; the first three sentences {rouge['lead']:.1f} (difference {interval})"
        )
        assert stated in README
    for stated in re.findall(r"\| BLEU ([\d.]+) greedy", README):
        assert stated == f"{figures('translator/figures.json')['greedy']['bleu']:.1f}"


def figures(name: str) -> dict[str, Any]:
    """A demo model's measured figures."""
    found: dict[str, Any] = json.loads((ROOT / "demo" / "models" / name).read_text(encoding="utf-8"))
    return found
