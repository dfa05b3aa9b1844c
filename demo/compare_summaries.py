"""Compare the demo summarizer with LEAD-3 by ROUGE on the papers of the demo corpus, without and with abstracts.

Knows the corpus, the service's own engine, sentences and ROUGE. Must not know how the engine chooses.

    python -m demo.compare_summaries

LEAD-3 is a document's first three sentences: the baseline that extractive methods often fail to beat, because authors
begin with what matters. Both get the same sentences, the service's. Writes `models/summarizer.figures.json` and fills
the card beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catalog.resolution import Catalog
from corpusmill.documents import Document
from corpusmill.tasks import Task, parse_params
from demo import CORPORA, MODELS
from demo.cards import fill_cards
from evaluation.rouge import TYPES, f_measure, statistics
from worker.device import pick_device
from worker.engines.base import Usage
from worker.models.table import load_engine
from worker.segments import sentences

SENTENCES = 3
RESAMPLES = 10_000
SEED = 20_26


def extractive(documents: Sequence[Document], threads: int) -> list[str]:
    """Summaries of `SENTENCES` sentences by `demo/summarizer`, in the order of the documents."""
    with tempfile.TemporaryDirectory() as cache:
        catalog = Catalog(None, "", Path(cache))
        info = catalog.resolve("demo/summarizer")
    asked = parse_params(Task.SUMMARIZATION, {"method": "extractive", "max_sentences": SENTENCES})
    params = catalog.check(info, Task.SUMMARIZATION, asked)
    engine = load_engine(info, Task.SUMMARIZATION, params, pick_device("cpu", threads=threads))
    usage = Usage()
    prepared = engine.prepare(documents, params, usage)
    summaries: dict[int, str] = {}
    for batch in engine.run(prepared, usage, lambda: False):
        for result in batch:
            if result.output is None:
                raise RuntimeError(f"{result.document_id} failed: {result.error}")
            summaries[result.position] = str(result.output["summary"])
    return [summaries[document.position] for document in documents]


def lead(document: Document) -> str:
    """The document's first sentences, a line each."""
    return "\n".join(segment.text.strip() for segment in sentences(document.text).segments[:SENTENCES])


def rouge(references: Sequence[str], outputs: Sequence[str]) -> np.ndarray:
    """F-measures (0 to 100) as (documents, types), with the service's own ROUGE."""
    rows = []
    for reference, output in zip(references, outputs, strict=True):
        counts = statistics([reference], output)
        assert counts is not None, "the demo's texts are within ROUGE's bounds"
        rows.append([100 * f_measure(counts[start : start + 3]) for start in range(0, len(counts), 3)])
    return np.array(rows)


def compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, dict[str, float]]:
    """By ROUGE type: both means and the paired difference with its 95 % bootstrap interval over documents."""
    picks = np.random.default_rng(SEED).integers(len(ours), size=(RESAMPLES, len(ours)))
    differences = (ours - theirs)[picks].mean(axis=1)
    low, high = np.percentile(differences, [2.5, 97.5], axis=0)
    return {
        name: {
            "extractive": round(float(ours[:, k].mean()), 4),
            "lead": round(float(theirs[:, k].mean()), 4),
            "difference": round(float((ours - theirs)[:, k].mean()), 4),
            "ci_low": round(float(low[k]), 4),
            "ci_high": round(float(high[k]), 4),
        }
        for k, name in enumerate(TYPES)
    }


def words(texts: Sequence[str]) -> float:
    """Mean words of a text."""
    return round(sum(len(text.split()) for text in texts) / len(texts), 1)


def measure(rows: Sequence[dict[str, str]], texts: Sequence[str], threads: int) -> dict[str, Any]:
    """Both methods' figures on one text for each row."""
    documents = [Document(position=k, id=row["id"], text=texts[k]) for k, row in enumerate(rows)]
    references = [row["reference"] for row in rows]
    started = time.monotonic()
    ours = extractive(documents, threads)
    seconds = time.monotonic() - started
    theirs = [lead(document) for document in documents]
    return {
        "rouge": compared(rouge(references, ours), rouge(references, theirs)),
        "words_extractive": words(ours),
        "words_lead": words(theirs),
        "words_reference": words(references),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=CORPORA / "papers.jsonl")
    parser.add_argument("--out", type=Path, default=MODELS / "summarizer.figures.json")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    lines = arguments.corpus.read_text(encoding="utf-8").rstrip("\n").split("\n")
    rows = [json.loads(line) for line in lines]
    texts = {
        "papers of the corpus": [row["text"] for row in rows],
        "papers with abstracts": [f"{row['abstract']}\n\n{row['text']}" for row in rows],
        "abstracts alone": [row["abstract"] for row in rows],
    }
    figures = {
        "documents": len(rows),
        "sentences": SENTENCES,
        "resamples": RESAMPLES,
        "threads": arguments.threads,
        "on": {name: measure(rows, own, arguments.threads) for name, own in texts.items()},
    }
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    fill_cards()


if __name__ == "__main__":
    main()
