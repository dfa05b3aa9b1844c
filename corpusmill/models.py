"""What is known of a model before it is loaded.

Knows names, tasks and labels. Must not know files (`catalog` reads them) or tensors (`worker` holds them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from corpusmill.tasks import Task

Family = Literal["echo", "sequence-classification", "seq2seq", "sentence-encoder", "causal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that may be run here.

    `revision` is the Hub commit, or the content hash of a directory (`sha256:…`). `path` is the directory holding it, or
    None where it has none (`echo`) or is not yet on this machine (a Hub model that the worker will fetch). `labels` are in
    the order of the logits, and empty where they are unknown or there are none. `prefixes` pairs the name of a use
    (`summarization`, `translation_en_to_de`) with what its texts begin with, where the model says so (T5).
    """

    id: str
    revision: str
    family: Family
    tasks: tuple[Task, ...]
    architecture: str | None = None
    path: str | None = None
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    source_langs: tuple[str, ...] = ()
    target_langs: tuple[str, ...] = ()
    prefixes: tuple[tuple[str, str], ...] = ()
