"""A model's files, read by name: in a directory, or wherever else something answers the same two questions.

Knows paths and JSON. Must not know what the files mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from corpusmill.errors import UnsuitableModel

#: What shapes a model's outputs; anything else in a directory (cards, checkpoints, logs) leaves its revision as it is.
RELEVANT = (".json", ".safetensors", ".txt", ".spm", ".model", ".jinja")
#: JSON and text that speak of a model and are never read with it: its measured figures, and how it was trained.
ASIDE = frozenset({
    "figures.json", "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "requirements.txt",
})  # fmt: skip


class ModelFiles(Protocol):
    """The files of one model. Names are relative, with `/` between folder and file."""

    def names(self) -> frozenset[str]:
        """Every file that is there."""

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; empty where there is no such file or it holds none. Raises UnsuitableModel "
        "where it is
        not JSON."""

    def array(self, name: str) -> list[Any]:
        """The array in a JSON file, likewise."""


class DirectoryFiles:
    """The files of a directory and of its immediate subfolders. `root`, where given, bounds what links may point to."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        self.path = path
        self._root = root

    def names(self) -> frozenset[str]:
        found = set()
        for entry in _entries(self.path):
            if entry.is_dir():
                found |= {f"{entry.name}/{file.name}" for file in _entries(entry) if file.is_file()}
            elif entry.is_file():
                found.add(entry.name)
        return frozenset(found)

    def json(self, name: str) -> dict[str, Any]:
        value = self._load(name)
        return value if isinstance(value, dict) else {}

    def array(self, name: str) -> list[Any]:
        value = self._load(name)
        return value if isinstance(value, list) else []

    def _load(self, name: str) -> Any:
        path = self.path / name
        return load_json(path, name) if path.is_file() else None

    def relevant(self) -> list[str]:
        """Names, sorted, of the files that shape outputs: the directory's own and those of its sentence-transformers
        modules. Raises UnsuitableModel for a link that leaves the root."""
        folders = {"", *(f"{folder}/" for folder in module_folders(self))}
        names = sorted(
            name
            for name in self.names()
            if name.endswith(RELEVANT) and name not in ASIDE and name[: name.rfind("/") + 1] in folders
        )
        for name in names:
            if self._root and not (self.path / name).resolve().is_relative_to(self._root):
                raise UnsuitableModel(
                    f"The file {name} is a link that leaves the models root: copy the file itself into the directory."
                )
        return names


def _entries(path: Path) -> Iterable[Path]:
    return (entry for entry in path.iterdir() if not entry.name.startswith("."))


def load_json(path: Path, name: str) -> Any:
    """The value in a JSON file. Raises UnsuitableModel, naming the file as `name`, where it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UnsuitableModel(f"The file {name} is not readable JSON: copy the model again.") from error


def module_folders(files: ModelFiles) -> list[str]:
    """The folders of a sentence-transformers model's modules, in order; empty for any other model. The first module is
    the encoder, whose folder may be the model's own (an empty name)."""
    entries = files.array("modules.json")
    folders = [str(entry.get("path", "")) for entry in entries if isinstance(entry, dict)]
    return [folder.strip("/") for folder in folders if ".." not in folder]


def encoder_folder(files: ModelFiles) -> str:
    """The folder that holds `config.json` and the weights, ending in `/`; empty where they stand in the model's own."""
    folders = module_folders(files)
    return f"{folders[0]}/" if folders and folders[0] else ""
