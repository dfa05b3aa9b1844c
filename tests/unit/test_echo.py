"""The model `echo` says what the contract says it says, and stops when it is told to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.resolution import ECHO
from corpusmill.documents import Document, Result
from corpusmill.tasks import Task, parse_params
from worker.engines.base import Usage
from worker.engines.echo import EchoEngine


def answers(task: Task, texts: list[str], stops_after: int | None = None, **raw: Any) -> list[Result]:
    engine, usage = EchoEngine(ECHO), Usage()
    asked = iter(range(10**9))
    documents = [Document(position=index, id=f"d{index}", text=text) for index, text in enumerate(texts)]
    prepared = engine.prepare(documents, parse_params(task, raw), usage)
    batches = engine.run(prepared, usage, lambda: stops_after is not None and next(asked) >= stops_after)
    return [result for batch in batches for result in batch]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_a_label_is_the_texts_checksum_and_a_translation_the_text_reversed(text: str) -> None:
    label = str(crc32(text.encode()) % 4)
    (result,) = answers(Task.CLASSIFICATION, [text])
    assert result.output == {"label": label, "score": 1.0, "scores": {label: 1.0}}
    (result,) = answers(Task.TRANSLATION, [text])
    assert result.output == {"translation": text[::-1]}


def test_several_labels_are_a_list_of_the_one() -> None:
    (result,) = answers(Task.CLASSIFICATION, ["text"], multi_label=True)
    assert result.output is not None
    assert result.output["labels"] == [result.output["label"]]


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("One sentence. Another one.", "One sentence."),
        ("  No end at all  ", "No end at all"),
        ("It costs 3.50 a piece. Really.", "It costs 3.50 a piece."),
        ('He said "Stop!" Then he left.', 'He said "Stop!"'),
        ("A title\nand a text. More.", "A title"),
        ("这是一句话。这是另一句。", "这是一句话。"),
        ("What?! Yes.", "What?!"),
        ("...", "..."),
        ("Wait… what? No.", "Wait…"),
    ],
)
def test_a_summary_is_the_first_sentence(text: str, summary: str) -> None:
    (result,) = answers(Task.SUMMARIZATION, [text])
    assert result.output == {"summary": summary}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_summary_is_never_empty_and_begins_the_text(text: str) -> None:
    (result,) = answers(Task.SUMMARIZATION, [text])
    if result.error is None:
        assert result.output is not None
        assert result.output["summary"]
        assert text.strip().startswith(result.output["summary"])


def test_results_come_in_order_with_their_words_counted() -> None:
    texts = [f"word {'x ' * (index % 7)}" for index in range(3000)]
    results = answers(Task.CLASSIFICATION, texts)
    assert [(result.position, result.document_id) for result in results] == [(i, f"d{i}") for i in range(3000)]
    assert [result.n_tokens for result in results] == [len(text.split()) for text in texts]
    assert all((result.n_segments, result.truncated, result.error) == (1, False, None) for result in results)


def test_a_blank_document_fails_and_the_others_do_not() -> None:
    results = answers(Task.TRANSLATION, ["a", " \n\t", "", "b"])
    assert [result.error and result.error.code for result in results] == [None, "empty_text", "empty_text", None]


def test_it_stops_between_batches() -> None:
    assert len(answers(Task.CLASSIFICATION, ["text"] * 5000, stops_after=2)) == 2048


def test_it_stops_while_it_sleeps() -> None:
    assert answers(Task.CLASSIFICATION, ["text"] * 3, stops_after=2, delay_ms=60_000) == []


def test_a_delay_is_slept_for_each_document() -> None:
    engine, usage = EchoEngine(ECHO), Usage()
    documents = [Document(position=index, id="d", text="a b") for index in range(20)]
    prepared = engine.prepare(documents, parse_params(Task.CLASSIFICATION, {"delay_ms": 5}), usage)
    batches = [len(batch) for batch in engine.run(prepared, usage, lambda: False)]
    assert usage.seconds["model"] >= 0.1
    assert (sum(batches), max(batches)) == (20, 10), "results come every twentieth of a second"
    assert (usage.tokens, usage.padded_tokens, usage.batches) == (40, 40, 2)


def test_it_needs_no_torch_on_a_machine_without_a_gpu() -> None:
    code = (
        "import sys; from catalog.resolution import ECHO; from corpusmill.tasks import *; from worker.models import *;"
        "from worker.device import *;"
        "load_engine(ECHO, Task.CLASSIFICATION, parse_params(Task.CLASSIFICATION, {}), pick_device('cpu'));"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
