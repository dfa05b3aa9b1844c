"""The model `echo`: deterministic and without weights, for trying out and testing everything around a model.

Knows documents and time. Must not know torch.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from corpusmill.documents import Document, Result, failed, unusable
from corpusmill.models import ModelInfo
from corpusmill.tasks import ClassificationParams, Params, SummarizationParams
from worker.engines.base import Usage

_BATCH = 1_024
#: Longest sleep between two looks at whether to stop, and longest wait for results while sleeping, in seconds.
_PATIENCE = 0.05
#: Up to the first sentence end before white space, or the line's or text's end.
_FIRST_SENTENCE = re.compile(r"""[^\n]*?(?:[.!?…]+["'”’»)\]]*(?=\s)|[。！？]+|(?=\n)|$)""")


@dataclass(frozen=True, slots=True)
class Said:
    """The documents to be answered, and how."""

    documents: Sequence[Document]
    params: Params


class EchoEngine:
    """Answers each document from its text alone: a label from its checksum, its first sentence, or itself reversed."""

    def __init__(self, info: ModelInfo) -> None:
        self.weight_bytes = 0
        self.runtime: dict[str, Any] = {"engine": "echo", "revision": info.revision, "device": "cpu"}

    def prepare(self, documents: Sequence[Document], params: Params, usage: Usage) -> Said:  # noqa: ARG002
        """Nothing is to be prepared; the outputs are made as they are asked for."""
        return Said(documents, params)

    def run(self, prepared: Said, usage: Usage, stopped: Callable[[], bool]) -> Iterator[list[Result]]:
        """Results in order, by batches of about a thousand documents, or of a twentieth of a second where it sleeps."""
        answer = _answer_of(prepared.params)
        delay = (prepared.params.delay_ms or 0.0) / 1000
        size = max(1, int(_PATIENCE / delay)) if delay else _BATCH
        documents = prepared.documents
        for start in range(0, len(documents), size):
            if stopped():
                return
            batch = documents[start : start + size]
            with usage.phase("model"):
                if not _sleep(delay * len(batch), stopped):
                    return
                results = [_result(document, answer) for document in batch]
            tokens = sum(result.n_tokens for result in results)
            usage.tokens += tokens
            usage.padded_tokens += tokens
            usage.batches += 1
            yield results


def _sleep(seconds: float, stopped: Callable[[], bool]) -> bool:
    """Sleep for a while in slices; False where it was stopped."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _PATIENCE))
        if stopped():
            return False
    return True


def _result(document: Document, answer: Callable[[str], dict[str, Any]]) -> Result:
    if error := unusable(document):
        return failed(document, error)
    return Result(
        position=document.position,
        document_id=document.id,
        output=answer(document.text),
        n_tokens=len(document.text.split()),
    )


def _answer_of(params: Params) -> Callable[[str], dict[str, Any]]:
    if isinstance(params, ClassificationParams):
        return _several_labels if params.multi_label else _label
    return _summary if isinstance(params, SummarizationParams) else _translation


def _label(text: str) -> dict[str, Any]:
    label = str(crc32(text.encode()) % 4)
    return {"label": label, "score": 1.0, "scores": {label: 1.0}}


def _several_labels(text: str) -> dict[str, Any]:
    output = _label(text)
    return {**output, "labels": [output["label"]]}


def _summary(text: str) -> dict[str, Any]:
    found = _FIRST_SENTENCE.match(text.strip())
    return {"summary": found[0].strip() if found else ""}


def _translation(text: str) -> dict[str, Any]:
    return {"translation": text[::-1]}
