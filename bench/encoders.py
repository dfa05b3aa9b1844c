"""Classification side by side: pipelines, our engine, ONNX Runtime and CTranslate2 on the same weights and texts.

Knows which variants there are and what each row tells. Must not know how a variant works.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench import corpora, ctranslate, onnx_runtime
from bench.answers import Answers, agreement_of_scores
from bench.models import LABELS, make_classifier, whole_words, word_pieces
from bench.names import CT2, CT2_INT8, INT8, ONNX, OURS, pipeline_of
from bench.ours import LATER, OurEngine
from bench.peak import encoder_operations, matrix_peak
from bench.plain import Pipeline, padding_share
from bench.sizes import Size
from bench.tables import Group, Row, optional, row_of
from bench.timing import Variant, alternate
from corpusmill.tasks import Task

#: Padded tokens of the other programs' sorted batches: of 256, 512, 1,024 and 2,048, the fastest on a CPU for CTranslate2
#: and, within 3 %, for ONNX Runtime.
BUDGET = 512
#: The seed of a sample of 32 paragraphs that pads like all of them: 82 % in a batch of 32, all of them 83 %.
TYPICAL = 2
#: Texts that the heads are standardized on, none of them measured.
STANDARD = 48
#: Parameters with which our engine does what the pipelines are told: cut long texts, and give every label's score.
AS_PIPELINE = {"long_documents": "truncate", "top_k": len(LABELS)}
SINGLE = pipeline_of(1)


def encoder_groups(size: Size, root: Path) -> Iterator[Group]:
    """DistilBERT and BERT-base on texts with a long tail, and DistilBERT where packing gains little or nothing."""
    standard = corpora.paragraphs(STANDARD, seed=5).texts
    for kind, count, seed in (("distilbert", size.distilbert, 0), ("bert-base", size.bert, TYPICAL)):
        make_classifier(kind, root / kind, standard)
        bench = _Classifier(root, kind)
        yield bench.compare(f"{kind}/paragraphs", corpora.paragraphs(count, seed), size.rounds, others=True)
        if kind == "distilbert":
            known = whole_words(word_pieces(), corpora.plain_words())
            yield bench.compare("distilbert/uniform", corpora.uniform(size.uniform, 126, known), size.rounds)
            if whole := corpora.mails(size.mails):
                yield bench.compare("distilbert/mails", whole, size.rounds)


class _Classifier:
    """One model's variants, loaded once."""

    def __init__(self, root: Path, kind: str) -> None:
        self._directory = root / kind
        self._kind = kind
        self._pipeline = Pipeline(self._directory)
        self._ours = self._engine(root)
        self._int8, self._no_int8 = optional(INT8, lambda: self._engine(root, engine="int8"))
        self._others: dict[str, Any] = {}
        self._skipped = [self._no_int8] if self._no_int8 else []

    def _engine(self, root: Path, **params: Any) -> OurEngine:
        return OurEngine(root, self._kind, Task.CLASSIFICATION, {**AS_PIPELINE, **params}, threads=1)

    def compare(self, key: str, texts: corpora.Texts, rounds: int, *, others: bool = False) -> Group:
        """All variants on the texts; with `others` also other programs' and int8."""
        if others:
            self._load_others()
        variants = self._variants(texts.texts, others=others)
        _warm(self._variants(texts.texts[:3], others=others))
        peaks: list[float] = []
        timed = alternate(variants, rounds, between=lambda: peaks.append(matrix_peak()))
        peak = sorted(peaks)[len(peaks) // 2]
        lengths = self._pipeline.lengths(texts.texts)
        operations = partial(encoder_operations, self._pipeline.model.config, lengths)
        reading = {OURS: self._ours, INT8: self._int8}
        reference = next(one.output for one in timed if one.name == SINGLE)
        rows = []
        for one in timed:
            asked = operations(one_read=reads_one(reading.get(one.name)))
            facts = {"tokens": float(sum(lengths)), "share_of_peak": asked / one.cpu_seconds / peak}
            if one.name.startswith("pipeline"):
                facts["padding_share"] = padding_share(lengths, int(one.name.split("=")[1][:-1]))
            exact = one.name not in {INT8, CT2_INT8}
            rows.append(row_of(one, len(lengths), agreement_of_scores(reference, one.output), gated=exact, **facts))
        skipped = self._skipped if others else []
        return Group(
            key=key, title=f"{self._kind}, {texts.name}", corpus=described(texts, lengths), reference=SINGLE,
            rows=[*rows, *skipped], facts={"peak": peak, "operations": operations()},
            notes=[f"our engine ran as {_engine_of(self._ours.runtime)}"],
        )  # fmt: skip

    def _variants(self, texts: tuple[str, ...], *, others: bool) -> list[Variant[Answers]]:
        sizes = (1, 8, 32) if others and self._kind == "distilbert" else (1, 32)
        found = [Variant(pipeline_of(count), partial(self._pipeline.run, texts, count)) for count in sizes]
        found.append(Variant(OURS, partial(labelled, self._ours, texts)))
        if others and self._int8:
            found.append(Variant(INT8, partial(labelled, self._int8, texts, first=LATER)))
        if others:
            found += [Variant(name, partial(one.run, texts, BUDGET)) for name, one in self._others.items()]
        return found

    def _load_others(self) -> None:
        folder = self._directory.parent / ".others" / self._kind
        folder.mkdir(parents=True, exist_ok=True)
        model = self._pipeline.model

        def session() -> onnx_runtime.Session:
            return onnx_runtime.Session(
                self._directory, onnx_runtime.export(model, folder / "model.onnx"), model.config.id2label
            )

        converted, fault = optional(CT2, lambda: ctranslate.convert(self._directory, folder / "ct2"))
        for name, make in (
            (ONNX, session),
            (CT2, lambda: ctranslate.Encoder(self._directory, converted, "float32", model)),
            (CT2_INT8, lambda: ctranslate.Encoder(self._directory, converted, "int8", model)),
        ):
            if fault is not None and name.startswith(CT2):
                self._skipped.append(Row(name=name, skipped=fault.skipped))
                continue
            made, skipped = optional(name, make)
            if skipped:
                self._skipped.append(skipped)
            else:
                self._others[name] = made


def reads_one(engine: OurEngine | None) -> bool:
    """Whether an engine runs its last layer for one token of each text, where a plain model runs it for all."""
    return engine is not None and str(engine.runtime.get("last_layer", "")).startswith("one token")


def labelled(engine: OurEngine, texts: tuple[str, ...], first: int = 0) -> Answers:
    """Our engine's labels with its own count of padding."""
    ran = engine.run(texts, first)
    usage = ran.usage
    facts = {"padding_share": 1 - usage.tokens / usage.padded_tokens} if usage.padded_tokens else {}
    facts["model_seconds"] = usage.seconds["model"]
    return Answers(scores=[dict(result.output["scores"]) for result in ran.results if result.output], facts=facts)


def _warm(variants: list[Variant[Answers]]) -> None:
    for variant in variants:
        variant.run()


def _engine_of(runtime: Mapping[str, Any]) -> str:
    told = ", ".join(str(runtime[name]) for name in ("engine", "attention", "dtype") if runtime.get(name))
    return f"{told}, its last layer for {runtime['last_layer']}" if "last_layer" in runtime else told


def described(texts: corpora.Texts, lengths: list[int]) -> str:
    """The texts in a sentence, with the lengths that a classifier sees."""
    ordered = sorted(lengths)
    middle, high = ordered[len(ordered) // 2], ordered[int(0.9 * len(ordered))]
    mean = sum(ordered) / len(ordered)
    return f"{len(lengths)} {texts.origin}: median {middle}, mean {mean:.0f}, 90th percentile {high} tokens, cut at 512"
