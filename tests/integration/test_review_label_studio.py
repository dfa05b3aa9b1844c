"""The real Label Studio, installed into an environment of its own and started: what goes there, and what comes back."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pipeline.review import Reviewers
from tests.environments import environment
from tests.integration.asking import chosen, opened, places, row

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]
TOKEN = "0123456789abcdef0123456789abcdef01234567"
CONFIG = """<View><Text name="review" value="$body"/><Choices name="sentiment" toName="review">
  <Choice value="positive"/><Choice value="bad" alias="negative"/></Choices></View>"""


@dataclass
class Server:
    """A running Label Studio of one user, and a project in it."""

    url: str
    http: httpx2.Client
    project: int = 0

    def reviewers(self, folder: Path) -> Reviewers:
        target = {"type": "label_studio", "place": "team", "project": self.project}
        return opened(target, places(folder, studio=self.url, token=TOKEN))

    def annotate(self, task: str | None, choice: str | None, *, was_cancelled: bool = False) -> None:
        region = {"from_name": "sentiment", "to_name": "review", "type": "choices", "value": {"choices": [choice]}}
        body = {"result": [region] if choice else [], "was_cancelled": was_cancelled}
        assert self.http.post(f"/api/tasks/{task}/annotations/", json=body).status_code == 201


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("label-studio")
    python = environment(folder / "venv", "label-studio>=1.20", timeout=2_400)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"), "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "1",
        "LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(python.with_name("label-studio")), "start", "--no-browser", "--host", "127.0.0.1", "--port", str(port),
             "--username", "us@example.org", "--password", "a-long-password", "--user-token", TOKEN],
            env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        with httpx2.Client(base_url=url, headers={"Authorization": f"Token {TOKEN}"}, timeout=120) as http:
            try:
                _wait(http, process, folder / "log")
                yield Server(url, http)
            finally:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _wait(http: httpx2.Client, process: subprocess.Popen[Any], log: Path) -> None:
    """Until the server answers: it makes its database first, which takes minutes."""
    deadline = time.monotonic() + 1_200
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3_000:]
        try:
            if http.get("/api/version").status_code == 200:
                return
        except httpx2.RequestError:
            pass
        time.sleep(1)
    raise AssertionError(f"not up in time: {log.read_text()[-3_000:]}")


@pytest.fixture
def project(server: Server) -> Server:
    answer = server.http.post("/api/projects/", json={"title": "reviews", "label_config": CONFIG})
    assert answer.status_code == 201, answer.text
    return replace(server, project=answer.json()["id"])


def test_documents_go_there_once_with_the_predictions_of_every_model(project: Server, tmp_path: Path) -> None:
    negative = {"label": "negative", "score": 0.55, "scores": {"negative": 0.55, "positive": 0.45}}
    rows = [row(0), row(1, label="negative", score=0.55, output=negative), *(row(number) for number in range(2, 45))]
    once = list(project.reviewers(tmp_path).push(chosen(rows)))
    assert len({each.remote_id for each in once}) == 45
    assert list(project.reviewers(tmp_path).push(chosen(rows))) == once
    later = [replace(each, model_revision="def") for each in rows[:3]]
    again = [each.remote_id for each in project.reviewers(tmp_path).push(chosen(later))]
    assert again == [each.remote_id for each in once[:3]]
    shown = project.http.get(f"/api/projects/{project.project}/").json()
    assert (shown["task_number"], shown["total_predictions_number"]) == (45, 48)


def test_annotations_come_back_and_skipped_ones_do_not(project: Server, tmp_path: Path) -> None:
    pushed = list(project.reviewers(tmp_path).push(chosen(row(number) for number in range(3))))
    project.annotate(pushed[0].remote_id, "negative")
    project.annotate(pushed[1].remote_id, None, was_cancelled=True)
    answers = list(project.reviewers(tmp_path).pull())
    assert [(each.document_id, each.model_revision, each.label) for each in answers] == [("d0", "abc", "negative")]
    assert (answers[0].remote or {})["id"] == pushed[0].remote_id
    project.annotate(pushed[0].remote_id, "positive")
    assert [each.label for each in project.reviewers(tmp_path).pull()] == ["positive"]
