"""Models of the Hugging Face Hub: which commit a name means, and its files, from the local cache where they are there.

Knows huggingface_hub. Must not know what the files mean. Weights are fetched by workers only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from httpx2 import HTTPError
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from catalog.description import INDEX, WEIGHTS
from catalog.files import DirectoryFiles, encoder_folder, load_json
from corpusmill.errors import UnknownModel

_COMMIT = re.compile(r"[0-9a-f]{40}")
#: A branch, tag or commit; longer or stranger names are nobody's.
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_SHORT = re.compile(r"[0-9a-f]{7,39}")
#: What a worker downloads; never pickled weights, never code, and no other copies of the weights.
FETCHED = ["*.safetensors", "*.json", "*.txt", "*.spm", "*.model", "*.jinja"]
NOT_FETCHED = ["*.bin", "*.py", "onnx/*", "openvino/*", "checkpoint-*/*"]
_TIMEOUT = 10.0  # seconds to answer what commit a name means
_UNREACHABLE = (HTTPError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A Hub and the cache of what was fetched from it; by default those that huggingface_hub's environment names."""

    cache: Path | None = None
    endpoint: str | None = None

    def locate(self, model_id: str, revision: str | None) -> tuple[str, DirectoryFiles | HubFiles]:
        """The commit that a revision means, and the model's files.

        A commit, whole or short, is looked for in the cache first, since it cannot have moved; a branch or tag is asked
        of the Hub, and looked for in the cache only where the Hub cannot be reached. Raises UnknownModel where neither
        knows it.
        """
        wanted = revision or "main"
        if not _REVISION.fullmatch(wanted):
            raise UnknownModel("A revision of a Hub model is a branch, a tag or a commit.")
        if (_COMMIT.fullmatch(wanted) or _SHORT.fullmatch(wanted)) and (found := self._cached(model_id, wanted)):
            return found
        try:
            info = self._api().model_info(model_id, revision=wanted, timeout=_TIMEOUT)
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise UnknownModel(
                f"The Hub has no model {model_id} that may be read here: check the spelling, or give the worker and "
                "the "
                "API a token (HF_TOKEN) that may read it."
            ) from error
        except RevisionNotFoundError as error:
            raise UnknownModel(
                f"{model_id} has no revision {wanted} on the Hub: give a branch, tag or commit."
            ) from error
        except HFValidationError as error:
            raise UnknownModel(f"{model_id} is no Hub id: give owner/name.") from error
        except _UNREACHABLE as error:
            if found := self._cached(model_id, wanted):
                return found
            raise UnknownModel(_unreachable(model_id, revision)) from error
        names = frozenset(sibling.rfilename for sibling in info.siblings or ())
        return str(info.sha), HubFiles(hub=self, model_id=model_id, commit=str(info.sha), listed=names)

    def fetch(self, model_id: str, commit: str) -> Path:
        """The directory holding the model's files at a commit, downloaded where they are not in the cache.

        Raises UnknownModel where they cannot be had.
        """
        if found := self._cached(model_id, commit):
            return self._snapshots(model_id) / found[0]
        try:
            # asked first because it fails at once where the Hub is out of reach; a download retries for half a minute
            self._api().model_info(model_id, revision=commit, timeout=_TIMEOUT)
            folder = huggingface_hub.snapshot_download(
                model_id,
                revision=commit,
                cache_dir=self.cache,
                endpoint=self.endpoint,
                allow_patterns=FETCHED,
                ignore_patterns=NOT_FETCHED,
            )
        except _UNREACHABLE as error:
            raise UnknownModel(_unreachable(model_id, commit)) from error
        return Path(folder)

    def _api(self) -> huggingface_hub.HfApi:
        return huggingface_hub.HfApi(endpoint=self.endpoint)

    def _snapshots(self, model_id: str) -> Path:
        cache = self.cache or Path(huggingface_hub.constants.HF_HUB_CACHE)
        return cache / repo_folder_name(repo_id=model_id, repo_type="model") / "snapshots"

    def _cached(self, model_id: str, revision: str) -> tuple[str, DirectoryFiles] | None:
        """The commit and files of a model that is whole in the cache."""
        snapshots = self._snapshots(model_id)
        reference = snapshots.parent / "refs" / revision
        if _COMMIT.fullmatch(revision):
            commits = [revision]
        elif reference.is_file():
            commits = [reference.read_text(encoding="ascii").strip()]
        elif _SHORT.fullmatch(revision) and snapshots.is_dir():
            commits = [entry.name for entry in snapshots.iterdir() if entry.name.startswith(revision)]
        else:
            commits = []
        if len(commits) != 1 or not _COMMIT.fullmatch(commits[0]):
            return None
        files = DirectoryFiles(snapshots / commits[0])
        return (commits[0], files) if files.path.is_dir() and _is_whole(files) else None


def _is_whole(files: DirectoryFiles) -> bool:
    """Whether weights are there beside the configuration; what is missing beyond them, `describe` says."""
    folder = encoder_folder(files)
    names = files.names()
    if f"{folder}config.json" not in names:
        return False
    shards = files.json(folder + INDEX).get("weight_map") if folder + INDEX in names else None
    wanted = {folder + str(name) for name in shards.values()} if isinstance(shards, dict) else {folder + WEIGHTS}
    return wanted <= names


def _unreachable(model_id: str, revision: str | None) -> str:
    which = f" --revision {revision}" if revision else ""
    return (
        f"{model_id} is not below the models root, the Hub cannot be reached from here, and the model is not in the "
        "local "
        "cache: put its directory below CORPUSMILL_MODELS_ROOT, or warm the cache with `hf download "
        f"{model_id}{which}` "
        "and copy it here (HF_HOME)."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFiles:
    """The files of a commit on the Hub: their names as listed there, their contents fetched as they are asked for."""

    hub: Hub
    model_id: str
    commit: str
    listed: frozenset[str]

    def names(self) -> frozenset[str]:
        return self.listed

    def json(self, name: str) -> dict[str, Any]:
        value = self._load(name)
        return value if isinstance(value, dict) else {}

    def array(self, name: str) -> list[Any]:
        value = self._load(name)
        return value if isinstance(value, list) else []

    def _load(self, name: str) -> Any:
        if name not in self.listed:
            return None
        try:
            path = huggingface_hub.hf_hub_download(
                self.model_id, name, revision=self.commit, cache_dir=self.hub.cache, endpoint=self.hub.endpoint
            )
        except (*_UNREACHABLE, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise UnknownModel(_unreachable(self.model_id, self.commit)) from error
        return load_json(Path(path), name)
