"""The recipes are run as they stand: cron's by a shell with no more than cron gives it, the others in environments of their
own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.environments import environment

from .stack import ROOT, Stack, started

RECIPES = ROOT / "docs" / "recipes"
CRON = (RECIPES / "cron.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^<!-- (file|run): (\S+) -->\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = {name: text for _, name, text in BLOCK.findall(CRON)}
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe's files, an inbox with two of somebody's, and gold labels for one of them."""
    folder = tmp_path_factory.mktemp("desk")
    for kind, name, text in BLOCK.findall(CRON):
        if kind == "file":
            (folder / name).write_text(text, encoding="utf-8")
    for name in ("inbox", "labels"):
        (folder / name).mkdir()
    places = (folder / "places.toml").read_text(encoding="utf-8")
    (folder / "places.toml").write_text(places.replace('path = "', f'path = "{folder}/'), encoding="utf-8")
    put(folder, "monday", ["A warm and funny film.", "The plot is dull."])
    (folder / "gold.jsonl").write_text('{"position": 0, "reference": "positive"}\n', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def nights(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {"sweep_seconds": "1", "places_file": str(desk / "places.toml")}
    with started(tmp_path_factory.mktemp("nights"), **settings) as running:
        yield running


def put(desk: Path, day: str, texts: list[str]) -> None:
    lines = [json.dumps({"id": f"{day}-{number}", "text": text}) + "\n" for number, text in enumerate(texts)]
    (desk / "inbox" / f"{day}.jsonl").write_text("".join(lines), encoding="utf-8")


def shell(command: str, desk: Path, url: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`/bin/sh -c` with what cron gives a job, the crontab's own variables, and the address of this test's server."""
    given = {"HOME": str(desk), "LOGNAME": "cron", "SHELL": "/bin/sh", "PATH": f"{BIN}:/usr/bin:/bin"}
    given |= {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "CORPUSMILL_URL": url, "TMPDIR": str(desk)}
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=desk,
        env=given | environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def crontab() -> tuple[dict[str, str], str]:
    """The variables of the recipe's crontab, and the command of its line."""
    *variables, line = BLOCKS["crontab"].strip().splitlines()
    return dict(each.split("=", 1) for each in variables), line.split(maxsplit=5)[5]


def fired(desk: Path, url: str) -> subprocess.CompletedProcess[str]:
    """What cron does at half past two."""
    _, command = crontab()
    return shell(command.replace("/srv/nights", str(desk)), desk, url)


def test_cron_has_a_night_done_and_says_nothing_where_all_is_well(nights: Stack, desk: Path) -> None:
    for _ in range(2):
        applied = shell(BLOCKS["apply"], desk, nights.url)
        assert applied.returncode == 0, applied.stderr
    assert "unchanged" in applied.stderr
    first = fired(desk, nights.url)
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    [labels] = (desk / "labels").glob("*.csv")
    assert labels.read_text(encoding="utf-8").count("monday-") == 2
    put(desk, "tuesday", ["I would gladly see it again."])
    assert fired(desk, nights.url).returncode == 0
    morning = shell(BLOCKS["morning"], desk, nights.url)
    assert morning.returncode == 0, morning.stderr
    assert [line.split("\t")[3] for line in morning.stdout.splitlines()[1:3]] == ["succeeded", "succeeded"]
    assert morning.stdout.count("# reviews: ") == 2


def test_gold_labels_that_come_later_give_the_night_its_metrics(nights: Stack, desk: Path) -> None:
    found = shell(BLOCKS["gold"], desk, nights.url)
    assert found.returncode == 0, found.stderr
    accuracy = next(line.split("\t") for line in found.stdout.splitlines() if line.startswith("accuracy"))
    assert accuracy[4] == "1"


def test_cron_mails_what_is_wrong_with_a_night(nights: Stack, desk: Path) -> None:
    put(desk, "wednesday", ["Good.", " "])
    failed = fired(desk, nights.url)
    assert failed.returncode == 1, failed.stdout
    assert "reviews: the night is not well (exit code 1)" in failed.stdout
    assert "failed_share is 0.5, above 0.05." in failed.stdout
    away = fired(desk, "http://127.0.0.1:1")
    assert (away.returncode, "not well (exit code 1)" in away.stdout) == (1, True)


def test_every_block_of_the_cron_recipe_is_used() -> None:
    variables, command = crontab()
    assert set(BLOCKS) == {"places.toml", "reviews.toml", "nightly.sh", "crontab", "apply", "morning", "gold"}
    assert variables.keys() == {"MAILTO", "CRON_TZ", "PATH"}
    assert command == "cd /srv/nights && sh nightly.sh reviews"


def labelled(desk: Path, document: str) -> bool:
    """Whether a night's file has a label for a document."""
    return any(f"{document}," in path.read_text(encoding="utf-8") for path in (desk / "labels").glob("*.csv"))


def python_recipe(python: Path, desk: Path, url: str, *arguments: str, **environ: str) -> Any:
    """Run something in an environment of its own, without our packages on its path."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CORPUSMILL_", "PYTHON"))}
    return subprocess.run(
        [str(python), *arguments], cwd=desk, env=plain | {"CORPUSMILL_URL": url} | environ, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_prefect_runs_a_night_and_fails_with_it(nights: Stack, desk: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", "prefect>=3", str(ROOT / "client"))
    assert shell(BLOCKS["apply"], desk, nights.url).returncode == 0
    settings = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "DO_NOT_TRACK": "1",
    }
    put(desk, "prefect", ["A splendid cast.", "Well worth it.", "Fine."])
    well = python_recipe(python, desk, nights.url, str(RECIPES / "prefect_flow.py"), "reviews", **settings)
    assert well.returncode == 0, well.stderr
    assert "documents labelled" in well.stderr, well.stderr
    assert labelled(desk, "prefect-2")
    put(desk, "prefect-blank", [" "] * 10)
    broken = python_recipe(python, desk, nights.url, str(RECIPES / "prefect_flow.py"), "reviews", **settings)
    assert broken.returncode != 0
    assert "failed_share is 1, above 0.05." in broken.stderr


#: Two tries of one instance of a task, of which the first was lost after its run had broken a rule; and it, cleared.
AIRFLOW_TRIES = """
import json, pathlib
from types import SimpleNamespace
from airflow.exceptions import AirflowFailException
from airflow_dag import CorpusmillSchedule

lines = [json.dumps({"id": f"tries-{number}", "text": " "}) + "\\n" for number in range(10)]
pathlib.Path("inbox/tries.jsonl").write_text("".join(lines))

def tried(max_tries):
    instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=max_tries)
    try:
        CorpusmillSchedule(task_id="label", schedule="reviews").execute({"ti": instance})
    except AirflowFailException:
        return "failed"
    return "succeeded"

print(tried(3), tried(3), tried(7))
"""


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_airflow_runs_a_night_and_fails_with_it(nights: Stack, desk: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", "apache-airflow>=3", str(ROOT / "client"))
    assert shell(BLOCKS["apply"], desk, nights.url).returncode == 0
    settings = {
        "AIRFLOW_HOME": str(tmp_path / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(RECIPES), "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }  # fmt: skip
    migrated = python_recipe(python, desk, nights.url, "-m", "airflow", "db", "migrate", **settings)
    assert migrated.returncode == 0, migrated.stderr
    put(desk, "airflow", ["A splendid cast."])
    test = ("-m", "airflow", "dags", "test", "corpusmill_reviews")
    well = python_recipe(python, desk, nights.url, *test, **settings)
    assert well.returncode == 0, well.stderr
    assert labelled(desk, "airflow-0")
    put(desk, "airflow-blank", [" "] * 10)
    broken = python_recipe(python, desk, nights.url, *test, **settings)
    assert "failed_share is 1, above 0.05." in broken.stdout + broken.stderr
    assert broken.returncode != 0 or "state=failed" in broken.stdout + broken.stderr
    retried = python_recipe(python, desk, nights.url, "-c", AIRFLOW_TRIES, PYTHONPATH=str(RECIPES), **settings)
    assert retried.returncode == 0, retried.stderr
    assert retried.stdout.splitlines()[-1] == "failed failed succeeded"
