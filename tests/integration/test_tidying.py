"""What a sweeper clears away every ten minutes, however much there is, and whatever of it cannot be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from db import files
from db.engine import Engine, reading
from tests.integration.programs import sweep
from tests.integration.steps import a_corpus

#: More than a statement of PostgreSQL takes parameters.
MANY = 66_000


def left_long_ago(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
        os.utime(folder / name, (1, 1))


def test_files_without_a_row_are_found_among_any_number(database: Engine, tmp_path: Path) -> None:
    a_corpus(database)
    names = [f"corpus_{number:05}" for number in range(MANY)]
    left_long_ago(tmp_path / "uploads", "corpus_a", *names)
    with reading(database) as connection:
        files.remove_read(connection, tmp_path)
        assert files.orphans(connection, tmp_path) == names
    assert not (tmp_path / "uploads" / "corpus_a").exists()


@pytest.mark.parametrize("what", ["remove_partials", "forgetting.remove_strays", "references.remove_superseded"])
def test_a_directory_that_cannot_be_read_keeps_no_other_from_being_cleared(
    database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(f"worker.sweep.{what}", refused)
    left_long_ago(tmp_path / "uploads", "corpus_x")
    sweep(database, tmp_path)
    assert list((tmp_path / "uploads").iterdir()) == []


def test_files_that_cannot_be_removed_keep_no_others_from_being(
    database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = files.remove_corpus

    def refusing(data_dir: Path, corpus_id: str) -> None:
        if corpus_id == "corpus_x":
            raise PermissionError
        remove(data_dir, corpus_id)

    monkeypatch.setattr(files, "remove_corpus", refusing)
    left_long_ago(tmp_path / "uploads", "corpus_x", "corpus_y")
    sweep(database, tmp_path)
    assert [path.name for path in (tmp_path / "uploads").iterdir()] == ["corpus_x"]
