"""What rounding costs: outputs in half precision and in int8 beside those in float32, of trained models on labelled texts.

    python -m bench agreement [--write-docs]

Runs the demo's classifier and translator over the demo's corpora on the CPU, once in each precision. Says how many outputs
are those of float32, how far scores are from it, and what the gold labels and translations make of each. Random weights,
which the other measurements have, would say nothing about that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from bench.answers import Answers, agreement_of_scores, agreement_of_texts
from bench.machine import machine, versions
from bench.ours import OurEngine
from bench.report import write_between_markers
from bench.tables import optional
from corpusmill.tasks import Task

DEMO = Path(__file__).parents[1] / "demo"
#: What a job's parameters say for each precision.
PRECISIONS: Mapping[str, Mapping[str, Any]] = {
    "float32": {"dtype": "float32"}, "bfloat16": {"dtype": "bfloat16"}, "float16": {"dtype": "float16"},
    "int8": {"engine": "int8"}, "CTranslate2 int8": {"engine": "ctranslate2", "dtype": "int8"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rounded:
    """A model's outputs in a precision: `same` of `n` as in float32, scores within `largest` of it, and the figures that
    the references give. `skipped` says why there are none."""

    precision: str
    n: int = 0
    same: int = 0
    largest: float | None = None
    figures: Mapping[str, float] | None = None
    skipped: str | None = None


def main(arguments: list[str]) -> int:
    """Measure and print; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bench agreement", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write-docs", action="store_true", help="write the section of docs/performance.md")
    options = parser.parse_args(arguments)
    parts = [_head()]
    print(parts[0], flush=True)
    for title, found in (
        ("Classifier, reviews", compare("classifier", Task.CLASSIFICATION, "reviews.jsonl", accuracy)),
        ("Translator, English to German", compare("translator", Task.TRANSLATION, "sentences.en-de.jsonl", quality)),
    ):
        parts.append(table(title, list(found)))
        print(parts[-1], flush=True)
    if options.write_docs:
        write_between_markers("agreement", "\n\n".join(parts))
    return 0


def compare(
    model: str, task: Task, corpus: str, figures_of: Callable[[Answers, Sequence[str]], dict[str, float]]
) -> Iterator[Rounded]:
    """Each precision in turn, float32 first."""
    lines = (DEMO / "corpora" / corpus).read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    texts, references = ([document[name] for document in documents] for name in ("text", "reference"))
    reference: Answers | None = None
    for precision, params in PRECISIONS.items():
        # A models root of its own: what is found out about a model is kept beside it.
        with tempfile.TemporaryDirectory(prefix="corpusmill-bench-") as root:
            shutil.copytree(DEMO / "models" / model, Path(root, model))
            engine, skipped = optional(precision, partial(OurEngine, Path(root), model, task, params))
            if skipped is not None:
                if reference is None:
                    raise RuntimeError(f"Without float32 there is nothing to compare with: {skipped.skipped}")
                yield Rounded(precision, skipped=skipped.skipped)
                continue
            answers = answers_of(engine, texts)
        reference = reference or answers
        same = (agreement_of_scores if answers.scores else agreement_of_texts)(reference, answers)
        yield Rounded(precision, same.n, same.same, same.largest_difference, figures_of(answers, references))


def answers_of(engine: OurEngine, texts: Sequence[str]) -> Answers:
    """Scores by label, or texts."""
    outputs = [result.output or {} for result in engine.run(texts).results]
    if engine.task is Task.CLASSIFICATION:
        return Answers(scores=[dict(output["scores"]) for output in outputs])
    return Answers(texts=[str(output["translation"]) for output in outputs])


def accuracy(answers: Answers, references: Sequence[str]) -> dict[str, float]:
    """Share of texts whose likeliest label is the gold one."""
    right = sum(max(one, key=one.__getitem__) == gold for one, gold in zip(answers.scores, references, strict=True))
    return {"accuracy": right / len(references)}


def quality(answers: Answers, references: Sequence[str]) -> dict[str, float]:
    """BLEU and chrF of the corpus, 0 to 100, by sacrebleu."""
    return {
        "BLEU": BLEU().corpus_score(list(answers.texts), [list(references)]).score,
        "chrF": CHRF().corpus_score(list(answers.texts), [list(references)]).score,
    }


def table(title: str, found: Sequence[Rounded]) -> str:
    """Markdown: a row for each precision."""
    names = list(next(one.figures for one in found if one.figures))
    lines = [f"### {title}", "", f"| precision | as in float32 | scores within | {' | '.join(names)} |"]
    lines.append("|---|---:|---:|" + "---:|" * len(names))
    for one in found:
        if one.figures is None:
            lines.append(f"| {one.precision} | {one.skipped} | |" + " |" * len(names))
            continue
        within = "" if one.largest is None else f"{one.largest:.0e}"
        figures = " | ".join(f"{one.figures[name]:.4g}" for name in names)
        lines.append(f"| {one.precision} | {one.same}/{one.n} | {within} | {figures} |")
    return "\n".join(lines)


def _head() -> str:
    told, used = machine(), versions()
    about = ", ".join(f"{name} {used[name]}" for name in ("torch", "transformers", "ctranslate2", "commit"))
    return f"`python -m bench agreement`, {told['processor']}; {about}."
