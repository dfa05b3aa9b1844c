"""Which of a shard's documents need no model: those whose text it, or another job, has been through before.

Knows what shapes an output besides the text, and puts it into one hash, the scope. Must not know how outputs are kept
(`db.reuse`), nor leases. A scope holds too much rather than too little: what differs in a name alone is run again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from corpusmill import __version__
from corpusmill.documents import Document, Result
from corpusmill.tasks import Params
from corpusmill.texts import text_hash
from db import reuse
from db.engine import Engine as Database
from db.engine import reading
from db.jobs import Job
from db.reuse import Keeping, Output, Scope
from worker.engines.base import Engine, RuntimeForParams

#: Libraries whose versions may show in an output: they compute, tokenize, or cut texts into sentences.
_LIBRARIES = (
    "torch", "transformers", "tokenizers", "sentencepiece", "sentencex", "regex", "numpy", "ctranslate2", "vllm",
)  # fmt: skip
#: Our own code that has a part in an output, seen from the directory that holds the rooms.
_SOURCES = (
    "worker/engines/**/*.py", "worker/models/*.py", "worker/segments.py", "worker/device.py", "catalog/*.py",
    "corpusmill/documents.py", "corpusmill/models.py", "corpusmill/prompts.py", "corpusmill/tasks.py", "corpusmill/texts.py",
)  # fmt: skip
#: What of a runtime says how a job went.
_ASIDE = frozenset({"agreement"})


def scope_of(job: Job, params: Params, engine: Engine[Any]) -> Scope:
    """All that shapes the outputs of a job on an engine, besides the texts.

    What is drawn at random is drawn with a seed, the job's or 0, and each document by itself. The tokenizer, the labels, the
    generation settings and the chat template are files of the model, and the revision is theirs.
    """
    runtime = engine.runtime_for(params) if isinstance(engine, RuntimeForParams) else engine.runtime
    description = {
        "task": str(job.task),
        "model": job.model.id,
        "revision": job.model.revision,
        "params": dict(job.params),
        "runtime": _shaping(runtime),
        "libraries": _versions(),
        "corpusmill": {"version": __version__, "code": _code()},
    }
    whole = json.dumps(description, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return Scope(hash=hashlib.sha256(whole.encode()).hexdigest(), description=json.loads(whole))


def _shaping(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """What of an engine's runtime shapes outputs, as JSON gives it back."""
    shaping = {name: value for name, value in runtime.items() if name not in _ASIDE}
    found: dict[str, Any] = json.loads(json.dumps(shaping))
    return found


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def _code() -> str:
    """A hash over our own code that has a part in an output: a version's number is not raised with each change."""
    root = Path(__file__).parent.parent
    whole = hashlib.sha256()
    for path in sorted({path for pattern in _SOURCES for path in root.glob(pattern)}):
        whole.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


@dataclass(slots=True, kw_only=True)
class Reuse:
    """What was found for a shard: `results` of its documents that need no model, `waiting` those that do.

    `used` are the hashes whose use is to be noted.
    """

    scope: Scope
    results: list[Result]
    waiting: list[Document]
    used: list[bytes]
    hashes: dict[int, bytes] = field(default_factory=dict)

    def keeping(self, results: Sequence[Result], runtime: Mapping[str, Any]) -> Keeping:
        """What is to be kept of the results when the shard ends. Failed results never stay.

        `runtime` is the engine's after the run: one that had to go another way than it said leaves no output behind.
        """
        if self.waiting and _shaping(runtime) != _shaping(self.scope.description["runtime"]):
            return Keeping(scope=self.scope, used=self.used)
        fresh = {
            self.hashes[result.position]: Output(
                output=result.output, n_tokens=result.n_tokens, n_segments=result.n_segments,
                truncated=result.truncated,
            )
            for result in results
            if result.position in self.hashes and result.output is not None and result.error is None
        }  # fmt: skip
        return Keeping(scope=self.scope, outputs=fresh, used=self.used)


def look_up(database: Database, scope: Scope, documents: Sequence[Document], *, stale: float) -> Reuse:
    """What is kept of the documents' texts. A use is noted again once the last note is older than `stale` seconds.

    Raises DatabaseUnavailable.
    """
    hashes = {document.position: text_hash(document.text, document.text_pair) for document in documents}
    with reading(database) as connection:
        found = reuse.find(connection, scope, hashes.values())
    results, waiting = [], []
    for document in documents:
        kept = found.get(hashes[document.position])
        if kept is None:
            waiting.append(document)
        else:
            results.append(_result(document, kept))
    return Reuse(
        scope=scope, results=results, waiting=waiting,
        used=[each for each, kept in found.items() if kept.age > stale],
        hashes={document.position: hashes[document.position] for document in waiting},
    )  # fmt: skip


def _result(document: Document, kept: Output) -> Result:
    return Result(
        position=document.position, document_id=document.id, output=dict(kept.output), n_tokens=kept.n_tokens,
        n_segments=kept.n_segments, truncated=kept.truncated,
    )  # fmt: skip
