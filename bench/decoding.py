"""Translation and summarization side by side: `generate()`, our engine and CTranslate2 on the same weights and texts.

Knows which variants there are and what each row tells. Must not know how a variant works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import corpora, ctranslate
from bench.answers import Answers, agreement_of_texts
from bench.models import TRANSLATORS, make_translator
from bench.names import CT2, CT2_INT8, INT8, OURS, generate_in
from bench.ours import LATER, OurEngine
from bench.plain import Generate
from bench.sizes import Size
from bench.tables import Group, Row, optional, row_of
from bench.timing import Variant, alternate
from corpusmill.tasks import Task


def decoding_groups(size: Size, root: Path) -> Iterator[Group]:
    """Greedy and beams at the size of an opus-mt model, and beams over long sources at the size of BART-base."""
    sentences = corpora.joined_sentences(size.greedy, 30, 0.7, 4, 256)
    yield _Decoder(root, "marian", Task.TRANSLATION, 1, 32).compare("greedy", sentences, size.rounds, others=True)
    sentences = corpora.joined_sentences(size.beams, 30, 0.7, 4, 256)
    yield _Decoder(root, "marian-beams", Task.TRANSLATION, 4, 32).compare("beams", sentences, size.rounds, others=True)
    if size.summaries:
        long = corpora.joined_sentences(size.summaries, 550, 0.4, 350, 999)
        yield _Decoder(root, "bart-base", Task.SUMMARIZATION, 4, 8).compare("summaries", long, size.rounds)


class _Decoder:
    """One model's variants for a number of beams; `batch` is that of the `generate()` a user would write."""

    def __init__(self, root: Path, kind: str, task: Task, beams: int, batch: int) -> None:
        self._directory = make_translator(kind, root / kind)
        self._kind, self._beams, self._batch = kind, beams, batch
        self._longest = TRANSLATORS[kind].longest
        self._plain = Generate(self._directory)
        self._settings: dict[str, Any] = {"num_beams": beams} | ({"early_stopping": True} if beams > 1 else {})
        generation = {"generation": self._settings}
        self._ours = OurEngine(root, kind, task, generation, threads=1)
        self._int8, skipped = optional(
            INT8, lambda: OurEngine(root, kind, task, {**generation, "engine": "int8"}, threads=1)
        )
        self._skipped = [skipped] if skipped else []
        self._others: dict[str, ctranslate.Translator] = {}

    @property
    def reference(self) -> str:
        return generate_in(self._batch)

    def compare(self, key: str, texts: corpora.Texts, rounds: int, *, others: bool = False) -> Group:
        """All variants on the texts; with `others` also CTranslate2's and int8."""
        if others:
            self._load_others()
        _ = [variant.run() for variant in self._variants(texts.texts[:2], others=others)]
        timed = alternate(self._variants(texts.texts, others=others), rounds)
        reference = timed[0].output
        tokens = reference.facts["generated_tokens"]
        rows = []
        for one in timed:
            agreement = agreement_of_texts(
                reference, one.output,
                lambda place, a, b: self._plain.near_tie(texts.texts[place], a, b, self._beams),
            )  # fmt: skip
            exact = one.name not in {INT8, CT2_INT8}
            facts = {} if "generated_tokens" in one.output.facts else {"generated_tokens": words_in(one.output)}
            rows.append(row_of(one, len(texts.texts), agreement, gated=exact, **facts))
        how = f"beam {self._beams}" if self._beams > 1 else "greedy"
        return Group(
            key=key, title=f"{self._kind}, {how}", reference=self.reference,
            corpus=outputs_described(texts, reference.texts, self._longest),
            rows=[*rows, *(self._skipped if others else [])], facts={"generated_tokens": tokens},
            notes=[f"our engine ran as {self._ours.runtime.get('engine')}"],
        )  # fmt: skip

    def _variants(self, texts: tuple[str, ...], *, others: bool) -> list[Variant[Answers]]:
        plain = partial(self._plain.run, texts, self._batch, **self._settings)
        found = [Variant(self.reference, plain), Variant(OURS, partial(written, self._ours, texts))]
        if others and self._int8:
            found.append(Variant(INT8, partial(written, self._int8, texts, first=LATER)))
        for name, one in self._others.items() if others else ():
            found.append(Variant(name, partial(one.run, texts, self._longest - 1, self._beams)))
        return found

    def _load_others(self) -> None:
        folder = self._directory.parent / ".others" / self._kind
        folder.parent.mkdir(parents=True, exist_ok=True)
        converted, fault = optional(CT2, lambda: ctranslate.convert(self._directory, folder))
        for name, compute in ((CT2, "float32"), (CT2_INT8, "int8")):
            if fault is not None:
                self._skipped.append(Row(name=name, skipped=fault.skipped))
            else:
                self._others[name] = ctranslate.Translator(self._directory, converted, compute)


def written(engine: OurEngine, texts: tuple[str, ...], first: int = 0) -> Answers:
    """Our engine's texts with its own counts."""
    ran = engine.run(texts, first)
    usage = ran.usage
    facts: dict[str, float] = {"generated_tokens": usage.generated_tokens}
    if usage.slot_steps:
        facts["slot_occupancy"] = usage.busy_slot_steps / usage.slot_steps
    outputs = [result.output for result in ran.results if result.output]
    return Answers(texts=[str(output.get("translation", output.get("summary"))) for output in outputs], facts=facts)


def words_in(answers: Answers) -> float:
    """Tokens of outputs whose tokens are words, with the end of each."""
    return float(sum(len(text.split()) + 1 for text in answers.texts))


def outputs_described(texts: corpora.Texts, outputs: Sequence[str], longest: int) -> str:
    """The texts in a sentence, with the lengths of sources and outputs in tokens."""
    sources, made = (sorted(len(text.split()) + 1 for text in some) for some in (texts.texts, outputs))
    return (
        f"{len(sources)} {texts.origin}: sources of {sources[0]} to {sources[-1]} tokens, median "
        f"{sources[len(sources) // 2]}; outputs of {made[0]} to {made[-1]}, median {made[len(made) // 2]}, longest "
        f"allowed {longest - 1}"
    )
