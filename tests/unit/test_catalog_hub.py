"""Models of the Hub: pinned at submission, from the cache where they are there, with a message that helps where not.

The Hub is one that speaks its protocol on the loopback interface, to the real client.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest

from catalog import Catalog
from catalog.hub import Hub
from corpusmill.errors import UnknownModel, UnsuitableModel
from tests.model_files import BERT, write_model

COMMIT, OLDER = "a1b2c3d4" * 5, "0f0f0f0f" * 5
UNUSED_PORT = "http://127.0.0.1:9"


class FakeHub(ThreadingHTTPServer):
    """Serves the directories in `models` (by id) as commit `COMMIT`, and counts what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, Path] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        for model_id, directory in self.server.models.items():
            files = sorted(entry for entry in directory.iterdir())
            if path == f"/{model_id}/resolve/{COMMIT}/{path.rsplit('/', 1)[-1]}":
                self._file(directory / path.rsplit("/", 1)[-1], head=head)
                return
            if path in {f"/api/models/{model_id}/revision/{name}" for name in ("main", "v1", COMMIT)}:
                siblings = [{"rfilename": entry.name} for entry in files]
                self._send(json.dumps({"id": model_id, "sha": COMMIT, "siblings": siblings}).encode(), {})
                return
            if path == f"/api/models/{model_id}/tree/{COMMIT}":
                tree = [
                    {"type": "file", "oid": "0" * 40, "size": entry.stat().st_size, "path": entry.name}
                    for entry in files
                ]
                self._send(json.dumps(tree).encode(), {})
                return
        code = "RevisionNotFound" if any(f"/{model_id}/" in path for model_id in self.server.models) else "RepoNotFound"
        self._send(b"", {"X-Error-Code": code}, status=404)

    def _file(self, path: Path, *, head: bool) -> None:
        if not path.is_file():
            self._send(b"", {"X-Error-Code": "EntryNotFound"}, status=404)
            return
        content = path.read_bytes()
        etag = hashlib.sha1(content).hexdigest()
        self._send(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, head=head)

    def _send(self, body: bytes, headers: dict[str, str], *, status: int = 200, head: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    server = FakeHub()
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def cached(cache: Path, model_id: str, commit: str, *, branch: str | None = None) -> Path:
    """A model as it stands in the Hub's cache on disk."""
    folder = cache / f"models--{model_id.replace('/', '--')}"
    if branch:
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / branch).write_text(commit)
    return write_model(folder / "snapshots" / commit, BERT)


def catalog_of(tmp_path: Path, endpoint: str = UNUSED_PORT, allowed: str = "*", root: Path | None = None) -> Catalog:
    return Catalog(root, allowed, tmp_path / "digests", Hub(cache=tmp_path / "hub", endpoint=endpoint))


def test_a_branch_is_pinned_to_the_commit_it_means_now(tmp_path: Path, hub_server: FakeHub) -> None:
    hub_server.models["acme/reviews"] = write_model(tmp_path / "served", BERT)
    cached(tmp_path / "hub", "acme/reviews", OLDER, branch="main")
    for revision in (None, "main", "v1"):
        info = catalog_of(tmp_path, hub_server.url).resolve("acme/reviews", revision)
        assert (info.revision, info.path, info.labels) == (COMMIT, None, ("negative", "positive"))


def test_submission_reads_the_configuration_and_downloads_no_weights(tmp_path: Path, hub_server: FakeHub) -> None:
    hub_server.models["acme/reviews"] = write_model(tmp_path / "served", BERT)
    catalog_of(tmp_path, hub_server.url).resolve("acme/reviews")
    assert any("config.json" in asked for asked in hub_server.asked)
    assert not any("safetensors" in asked for asked in hub_server.asked)


def test_the_worker_fetches_weights_and_tokenizer_but_no_pickle_and_no_code(
    tmp_path: Path, hub_server: FakeHub
) -> None:
    served = write_model(tmp_path / "served", BERT, pytorch_model__bin="x", modeling__py="x", README__md="x")
    hub_server.models["acme/reviews"] = served
    catalog = catalog_of(tmp_path, hub_server.url)
    info = catalog.fetch(catalog.resolve("acme/reviews"))
    names = {path.name for path in Path(info.path or "").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert info.revision == COMMIT


def test_a_model_of_the_hub_with_pickled_weights_only_is_refused_at_submission(
    tmp_path: Path, hub_server: FakeHub
) -> None:
    hub_server.models["acme/reviews"] = write_model(
        tmp_path / "served", BERT, model__safetensors=None, pytorch_model__bin="x"
    )
    with pytest.raises(UnsuitableModel, match="pickle"):
        catalog_of(tmp_path, hub_server.url).resolve("acme/reviews")


def test_an_unknown_model_and_an_unknown_revision_are_told_apart(tmp_path: Path, hub_server: FakeHub) -> None:
    hub_server.models["acme/reviews"] = write_model(tmp_path / "served", BERT)
    catalog = catalog_of(tmp_path, hub_server.url)
    with pytest.raises(UnknownModel, match="has no revision v9"):
        catalog.resolve("acme/reviews", "v9")
    with pytest.raises(UnknownModel, match="no model acme/nothing"):
        catalog.resolve("acme/nothing")


def test_a_commit_in_the_cache_needs_no_hub(tmp_path: Path) -> None:
    snapshot = cached(tmp_path / "hub", "acme/reviews", COMMIT)
    for revision in (COMMIT, COMMIT[:7]):
        info = catalog_of(tmp_path).resolve("acme/reviews", revision)
        assert (info.revision, info.path) == (COMMIT, str(snapshot))
        assert catalog_of(tmp_path).fetch(info) == info


def test_a_branch_is_looked_for_in_the_cache_where_the_hub_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path / "hub", "acme/reviews", COMMIT, branch="main")
    for offline in (True, False):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        assert catalog_of(tmp_path).resolve("acme/reviews").revision == COMMIT


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("revision", [None, "main", COMMIT, COMMIT[:8]])
def test_what_is_neither_reachable_nor_cached_is_refused_with_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool, revision: str | None
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(
        UnknownModel, match=r"cannot be reached.*cache.*CORPUSMILL_MODELS_ROOT.*hf download acme/reviews"
    ):
        catalog_of(tmp_path).resolve("acme/reviews", revision)


def test_half_a_model_in_the_cache_counts_as_none(tmp_path: Path) -> None:
    snapshot = cached(tmp_path / "hub", "acme/reviews", COMMIT, branch="main")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UnknownModel, match="cannot be reached"):
        catalog_of(tmp_path).resolve("acme/reviews")


def test_a_worker_without_hub_and_cache_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = cached(tmp_path / "hub", "acme/reviews", COMMIT)
    info = catalog_of(tmp_path).resolve("acme/reviews", COMMIT)
    shutil.rmtree(snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UnknownModel, match="cannot be reached"):
        Hub(cache=tmp_path / "hub", endpoint=UNUSED_PORT).fetch(info.id, info.revision)


def test_a_directory_below_the_root_comes_before_a_model_of_the_same_name_on_the_hub(tmp_path: Path) -> None:
    cached(tmp_path / "hub", "acme/reviews", COMMIT, branch="main")
    write_model(tmp_path / "root" / "acme" / "reviews", BERT)
    info = catalog_of(tmp_path, root=tmp_path / "root").resolve("acme/reviews")
    assert info.revision.startswith("sha256:")


@pytest.mark.parametrize(
    ("allowed", "taken"),
    [
        ("*", True),
        ("acme/*", True),
        ("other/x, acme/reviews", True),
        ("acme/review", False),
        ("acme/[a-z]*", False),
        ("", False),
    ],
)
def test_only_models_that_the_operator_allows_are_taken_from_the_hub(tmp_path: Path, allowed: str, taken: bool) -> None:
    cached(tmp_path / "hub", "acme/reviews", COMMIT, branch="main")
    catalog = catalog_of(tmp_path, allowed=allowed)
    if taken:
        assert catalog.resolve("acme/reviews").revision == COMMIT
    else:
        with pytest.raises(UnknownModel, match="CORPUSMILL_HUB_MODELS"):
            catalog.resolve("acme/reviews")


def test_a_revision_cannot_name_a_file_outside_the_cache(tmp_path: Path) -> None:
    cached(tmp_path / "hub", "acme/reviews", COMMIT, branch="main")
    (tmp_path / "hub" / "secret").write_text(COMMIT)
    for revision in ("../../secret", "refs/../../../secret", "/etc/passwd", "a\0b", "x" * 5000):
        with pytest.raises(UnknownModel, match="a branch, a tag or a commit"):
            catalog_of(tmp_path).resolve("acme/reviews", revision)
