"""BLEU, chrF and TER: sacreBLEU's, from sums, with the settings that suit the target language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER, lib_ter

import evaluation
from corpusmill.documents import Document, Reference, Result
from corpusmill.tasks import Task, TranslationParams
from evaluation import Metric, bleu
from evaluation.edits import edits

FIXTURE = Path(__file__).parents[2].parent / "shared" / "data" / "sacrebleu_fixture"
SYSTEMS = sorted(path.stem for path in FIXTURE.glob("newstest2017.*.txt"))


def figures(
    references: list[Any], outputs: list[str], target_lang: str | None = None, *, intervals: bool = False
) -> dict[str, Metric]:
    params = TranslationParams(target_lang=target_lang)
    documents = [Document(position=i, id=str(i), text="x", reference=text) for i, text in enumerate(references)]
    results = [Result(position=i, document_id=str(i), output={"translation": text}) for i, text in enumerate(outputs)]
    statistics = evaluation.document_statistics(Task.TRANSLATION, documents, results, params)
    partial = evaluation.partial_of(Task.TRANSLATION, results, statistics, params)
    kept = statistics if intervals else None
    report = evaluation.report(Task.TRANSLATION, partial, kept, total=len(outputs), usage=None, wall_seconds=None)
    return {metric.name: metric for metric in report.metrics}


def fixture(system: str, most: int | None = None) -> tuple[list[str], list[str]]:
    if not FIXTURE.exists():
        pytest.skip("shared/data/sacrebleu_fixture is not beside the checkout")
    read = [(FIXTURE / name).read_text(encoding="utf-8").splitlines() for name in ("reference.txt", f"{system}.txt")]
    return read[0][:most], read[1][:most]


@pytest.mark.parametrize("system", SYSTEMS or ["newstest2017"])
def test_a_part_of_each_system_scores_as_sacrebleu_scores_it(system: str) -> None:
    references, outputs = fixture(system, 30)
    found = figures(references, outputs)
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())):
        assert found[name].value == pytest.approx(metric.corpus_score(outputs, [references]).score, abs=1e-9)
        assert found[name].signature == str(metric.get_signature())


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS or ["newstest2017"])
def test_each_whole_system_has_its_published_scores(system: str) -> None:
    references, outputs = fixture(system)
    expected = json.loads((FIXTURE / "expected_sacrebleu_2.6.0.json").read_text(encoding="utf-8"))[system]
    found = figures(references, outputs, intervals=True)
    for name, value in expected.items():
        metric = found[name]
        assert metric.value == pytest.approx(value, abs=5.01e-5)
        assert metric.ci_low is not None
        assert metric.ci_high is not None
        assert metric.ci_low < value < metric.ci_high


words = st.lists(st.sampled_from("aabbccdefghij"), max_size=12)


@given(start=words, shuffle=st.randoms(use_true_random=False), noise=words)
@settings(max_examples=60, deadline=None)
def test_edits_are_those_of_sacrebleu_for_shifted_and_changed_texts(
    start: list[str], shuffle: Any, noise: list[str]
) -> None:
    output, reference = start * 2, list(start * 2)
    for word in noise[:4]:
        low, middle, high = sorted(shuffle.randrange(len(reference) + 1) for _ in range(3))
        reference = [*reference[:low], *reference[middle:high], word, *reference[low:middle], *reference[high:]]
    for left, right in ((output, reference), (reference, output), (noise, reference), (output, noise)):
        assert edits(left, right) == lib_ter.translation_edit_rate(left, right)[0]


def test_edits_are_those_of_sacrebleu_where_the_beam_cuts() -> None:
    base = [f"w{index % 37}" for index in range(60)]
    for output, reference in (
        (base[:45], base[30:45] + base[:30]),
        (base[:4], base),
        (base, base[:2]),
        (base, base[:1] + ["x"] * 30 + base[5:25]),
    ):
        assert edits(output, reference) == lib_ter.translation_edit_rate(output, reference)[0]


def test_edits_are_those_of_sacrebleu_where_the_candidates_run_out() -> None:
    output, reference = list("abcabdabe" * 4), list("dabcbaeab" * 4)
    assert edits(output, reference) == lib_ter.translation_edit_rate(output, reference)[0]


@pytest.mark.parametrize(
    ("code", "tokenizer"),
    [
        (None, "13a"), ("de", "13a"), ("fra_Latn", "13a"), ("zh", "zh"), ("zh_CN", "zh"), ("zho_Hans", "zh"),
        (">>cmn_Hans<<", "zh"), ("th", "char"), ("tha_Thai", "char"), ("khm_Khmr", "char"), ("mya_Mymr", "char"),
    ],
)  # fmt: skip
def test_bleu_is_tokenized_as_the_target_language_needs(code: str | None, tokenizer: str) -> None:
    assert bleu.bleu_tokenizer(bleu.language_of(code)) == tokenizer


@pytest.mark.parametrize(("code", "module"), [("ja_XX", "MeCab"), ("kor_Hang", "mecab_ko")])
def test_japanese_and_korean_are_tokenized_by_mecab_only_where_it_is_installed(
    code: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    language = bleu.language_of(code)
    monkeypatch.setattr(bleu, "find_spec", lambda name: None)
    assert bleu.bleu_tokenizer(language) == "char"
    monkeypatch.setattr(bleu, "find_spec", lambda name: name)
    assert bleu.bleu_tokenizer(language) == f"{language[:2]}-mecab"


def test_chinese_is_scored_by_characters_and_its_signatures_say_so() -> None:
    references, outputs = ["你好世界朋友们。", "今天天气很好"], ["你好世界朋友。", "今天的天气好"]
    found = figures(references, outputs, "zho_Hans")
    for name, metric in (
        ("bleu", BLEU(tokenize="zh")),
        ("chrf", CHRF()),
        ("ter", TER(normalized=True, asian_support=True)),
    ):
        assert found[name].value == pytest.approx(metric.corpus_score(outputs, [references]).score, abs=1e-9)
        assert found[name].signature == str(metric.get_signature())
    ter = found["ter"].value
    assert ter is not None
    assert 0 < ter < 50


def test_a_blank_reference_is_none_and_a_varying_number_of_them_shows_in_the_signature() -> None:
    references: list[Reference] = ["a b c d", ["a b c d", " ", "a b d c e"], "", [""]]
    found = figures(references, ["a b c d"] * 4)
    streams = [["a b c d"] * 2, [None, "a b d c e"]]
    assert found["bleu"].n == 2
    for name, metric in (("bleu", BLEU()), ("ter", TER())):
        assert found[name].value == pytest.approx(metric.corpus_score(["a b c d"] * 2, streams).score, abs=1e-9)
        assert (found[name].signature or "").startswith("nrefs:var|")


def test_an_empty_translation_counts_and_does_not_break() -> None:
    found = figures(["a b c d"], [""], intervals=True)
    assert (found["bleu"].value, found["chrf"].value, found["ter"].value) == (0.0, 0.0, 100.0)


def test_documents_beyond_the_bounds_are_left_out_and_n_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bleu, "MOST_TER_WORDS", 6)
    monkeypatch.setattr(bleu, "MOST_CHARACTERS", 40)
    references = ["a b c d e", "a b c d e f g", "word " * 20]
    found = figures(references, references, intervals=True)
    assert {name: found[name].n for name in ("bleu", "chrf", "ter")} == {"bleu": 2, "chrf": 2, "ter": 1}
    assert found["length_ratio"].n == 3


def test_the_tokenizers_keep_no_texts_once_a_shard_is_scored() -> None:
    figures(["a b c d"], ["a b c d"])
    figures(["你好"], ["你好"], "zh")
    for target in (None, "zh"):
        for tokenizer in (bleu.scorers(target)._bleu.tokenizer, bleu.scorers(target)._ter.tokenizer):
            remembered: Any = type(tokenizer).__call__
            assert remembered.cache_info().currsize == 0
