"""What `python -m bench gpu` compares: classifiers and translators in half precision by rate, in float32 by their answers.

Knows which variants there are on a CUDA device and what each row tells. Must not know how a variant works.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import corpora, ctranslate
from bench.answers import Agreement, Answers, agreement_of_scores, agreement_of_texts
from bench.decoding import outputs_described, words_in, written
from bench.encoders import AS_PIPELINE, STANDARD, described, labelled, reads_one
from bench.models import TRANSLATORS, make_classifier, make_translator
from bench.names import COMPILED, CT2, CT2_HALF, OURS, generate_in, pipeline_of
from bench.ours import OurEngine
from bench.peak import device_peak, encoder_operations
from bench.plain import Generate, Pipeline, padding_share
from bench.sizes import FULL
from bench.tables import Group, optional, row_of
from bench.timing import Timed, Variant, alternate
from corpusmill.tasks import Task
from worker.device import DeviceChoice

#: Whether two outputs, by the text's index, are as good as each other to the plain model.
NearTie = Callable[[int, str, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSize:
    """Texts for our engine, and how many of them the slower programs are given: rates are compared, not seconds."""

    rounds: int
    texts: int
    plain: int
    sources: int
    plain_sources: int
    exact: int
    system: int


LARGE = GpuSize(rounds=3, texts=32_768, plain=2_048, sources=4_096, plain_sources=128, exact=64, system=131_072)
SMALL = GpuSize(rounds=1, texts=64, plain=32, sources=12, plain_sources=6, exact=6, system=64)
#: Texts that are tokenized together, while those before them run.
_SHARD = 4_096
#: Sources in a batch of CTranslate2 on a GPU, which sorts by length itself.
_RIVAL_BATCH = 256


def _never(*_: object) -> bool:
    return False


class GpuBench:
    """One device, a folder for models, and a size."""

    def __init__(self, root: Path, device: DeviceChoice, *, tiny: bool) -> None:
        self._root, self._device, self._tiny = root, device, tiny
        self._size = SMALL if tiny else LARGE
        self._half = "bfloat16" if device == "cuda" else "float32"
        self._peak: Callable[[], float] = partial(device_peak, device, self._half, 256 if tiny else 8_192)

    def encoder(self, kind: str) -> Iterator[Group]:
        """A classifier in half precision by rate, and in float32 by its answers."""
        directory = make_classifier(
            kind, self._root / kind, corpora.paragraphs(STANDARD, seed=5).texts, tiny=self._tiny
        )
        texts = corpora.paragraphs(self._size.texts)
        some = texts.texts[: self._size.plain]
        plain = Pipeline(directory, self._device, getattr(torch, self._half))
        engine = self._engine(kind, Task.CLASSIFICATION, {"dtype": self._half})
        name = pipeline_of(32)
        variants = [Variant(name, partial(plain.run, some, 32)), self._ours(engine, texts.texts)]
        compiled, skipped = optional(
            COMPILED, lambda: self._engine(kind, Task.CLASSIFICATION, {"dtype": self._half, "engine": "compiled"})
        )
        if compiled is not None:
            variants.append(Variant(COMPILED, partial(labelled, compiled, texts.texts)))
        reading = {OURS: engine, COMPILED: compiled}
        peaks: list[float] = []
        lengths = plain.lengths(texts.texts)
        rows, notes = [], [f"our engine ran as {engine.runtime.get('engine')}, {engine.runtime.get('attention')}"]
        for one in self._timed(variants, lambda: peaks.append(self._peak())):
            count = len(one.output.scores)
            facts = {"tokens": float(sum(lengths[:count]))}
            if one.name == name:
                facts["padding_share"] = padding_share(lengths[:count], 32)
            one_read = reads_one(reading.get(one.name))
            operations = encoder_operations(plain.model.config, lengths[:count], one_read=one_read)
            facts["share_of_peak"] = operations / one.wall_seconds / sorted(peaks)[len(peaks) // 2]
            if "model_seconds" in one.output.facts:
                alone = operations / one.output.facts["model_seconds"] / sorted(peaks)[len(peaks) // 2]
                notes.append(f"{alone:.2f} of the peak while it computes, in the first round")
            rows.append((one, count, facts))
        first = rows[0][0].output
        told = [
            row_of(one, count, self._agreement(first, one.output), gated=False, **facts) for one, count, facts in rows
        ]
        if skipped:
            told.append(skipped)
        yield Group(
            key=f"gpu/{kind}", title=f"{kind}, {texts.name}, {self._half}", corpus=described(texts, lengths), reference=name,
            rows=told, facts={"peak": sorted(peaks)[len(peaks) // 2]}, by_wall=True,
            notes=notes,
        )  # fmt: skip
        exact = some[: self._size.exact]
        plain = Pipeline(directory, self._device, torch.float32)
        engine = self._engine(kind, Task.CLASSIFICATION, {"dtype": "float32"})
        yield self._exact(kind, Variant(name, partial(plain.run, exact, 32)), self._ours(engine, exact))

    def decoder(self, kind: str, beams: int) -> Iterator[Group]:
        """A translator in half precision by rate, and in float32 by its outputs."""
        directory = make_translator(kind, self._root / kind, tiny=self._tiny)
        texts = corpora.joined_sentences(self._size.sources, 30, 0.7, 4, 256)
        some = texts.texts[: self._size.plain_sources]
        settings: dict[str, Any] = {"num_beams": beams} | ({"early_stopping": True} if beams > 1 else {})
        plain = Generate(directory, self._device, getattr(torch, self._half))
        engine = self._engine(kind, Task.TRANSLATION, {"dtype": self._half, "generation": settings})
        name, longest = generate_in(32), TRANSLATORS[kind].longest
        variants = [Variant(name, partial(plain.run, some, 32, **settings)), self._ours(engine, texts.texts)]

        def competitor() -> ctranslate.Translator:
            converted = ctranslate.convert(directory, self._root / ".others" / kind)
            return ctranslate.Translator(
                directory, converted, "float16" if self._device == "cuda" else "float32", self._device
            )

        (self._root / ".others").mkdir(exist_ok=True)
        rival = CT2_HALF if self._device == "cuda" else CT2
        other, skipped = optional(rival, competitor)
        if other:
            many = texts.texts[: 8 * self._size.plain_sources]
            variants.append(Variant(rival, partial(other.run, many, longest - 1, beams, _RIVAL_BATCH)))
        timed = self._timed(variants)
        first = timed[0].output
        rows = [
            row_of(
                one, len(one.output.texts), self._agreement(first, one.output), gated=False, **_generated(one.output)
            )
            for one in timed
        ]
        yield Group(
            key=f"gpu/{kind}", title=f"{kind}, {'greedy' if beams == 1 else f'beam {beams}'}, {self._half}", reference=name,
            corpus=outputs_described(texts, first.texts, longest), rows=[*rows, *([skipped] if skipped else [])],
            notes=[f"our engine ran as {engine.runtime.get('engine')}"], by_wall=True,
        )  # fmt: skip
        exact = some[: self._size.exact]
        plain = Generate(directory, self._device, torch.float32)
        engine = self._engine(kind, Task.TRANSLATION, {"dtype": "float32", "generation": settings})
        reference = Variant(name, partial(plain.run, exact, 32, **settings))
        yield self._exact(
            kind, reference, self._ours(engine, exact),
            lambda place, a, b: plain.near_tie(exact[place], a, b, beams),
        )  # fmt: skip

    def system(self) -> Iterator[Group]:
        """The whole system against the engine alone; nothing where the server's packages are missing."""
        try:
            from bench.system import system_groups
        except ImportError as error:
            print(f"the whole system is not measured: not installed: {error.name}", file=sys.stderr)
            return
        known = hasattr(os, "sched_getaffinity")
        cores = frozenset(os.sched_getaffinity(0) if known else range(os.cpu_count() or 1))
        size = replace(FULL, system=self._size.system, rounds=self._size.rounds)
        yield from system_groups(size, self._root, cores, self._device, tiny=self._tiny)

    def _engine(self, kind: str, task: Task, params: dict[str, Any]) -> OurEngine:
        classifies = task is Task.CLASSIFICATION
        own, shard = (AS_PIPELINE, _SHARD) if classifies else ({}, None)
        return OurEngine(self._root, kind, task, {**own, **params}, device=self._device, shard=shard)

    @staticmethod
    def _ours(engine: OurEngine, texts: tuple[str, ...]) -> Variant[Answers]:
        return Variant(OURS, partial(labelled if engine.task is Task.CLASSIFICATION else written, engine, texts))

    def _timed(
        self, variants: list[Variant[Answers]], between: Callable[[], object] = lambda: None
    ) -> list[Timed[Answers]]:
        """All variants in turn after a first run of each that is not timed: it compiles, captures and measures memory."""
        for variant in variants:
            variant.run()
        return alternate(variants, self._size.rounds, between)

    @staticmethod
    def _agreement(reference: Answers, answers: Answers, near_tie: NearTie = _never) -> Agreement:
        """Of the texts that both answered, which are the first."""
        if reference.scores:
            count = min(len(reference.scores), len(answers.scores))
            return agreement_of_scores(Answers(scores=reference.scores[:count]), Answers(scores=answers.scores[:count]))
        count = min(len(reference.texts), len(answers.texts))
        return agreement_of_texts(
            Answers(texts=reference.texts[:count]), Answers(texts=answers.texts[:count]), near_tie
        )

    def _exact(
        self, kind: str, reference: Variant[Answers], ours: Variant[Answers], near_tie: NearTie = _never
    ) -> Group:
        """Both once in float32, where answers must be equal."""
        timed = alternate([reference, ours], 1)
        rows = [
            row_of(
                one, len(one.output.scores or one.output.texts),
                self._agreement(timed[0].output, one.output, near_tie), gated=True,
            )
            for one in timed
        ]  # fmt: skip
        return Group(
            key=f"gpu/{kind}/exact", title=f"{kind}, float32", corpus=f"the first {rows[0].documents} of them",
            reference=reference.name, rows=rows, by_wall=True, notes=["one round, for its answers"],
        )  # fmt: skip


def _generated(answers: Answers) -> dict[str, float]:
    return {} if "generated_tokens" in answers.facts else {"generated_tokens": words_in(answers)}
